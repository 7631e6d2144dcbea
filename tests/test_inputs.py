"""What other people's files do to us: each kind of odd row has its right value or its right sentence, and is counted."""
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

import data
import evaluate
import label
import ppo
import reward
import sft
from chat import Speaker
from data.jsonl import read_jsonl
from data.split import split
from gpt import GPT
from support import UserError
from text.tokenizer import EOS, PATTERNS, Tokenizer
from tiny import ROWS, words, write_rows

U, A = "\n\nHuman: ", "\n\nAssistant:"


def user(text):
    return {"role": "user", "content": text}


def said(text):
    return {"role": "assistant", "content": text}


BIRD = f"{U}Name a bird.{A}"
PAIR = {"prompt": BIRD, "completions": [" An owl.", " A stone."]}
SHOWN = {"prompt": BIRD, "completion": " An owl."}
FINE = {"prompt": f"{U}Name a fish.{A}", "completion": " A carp."}


@pytest.fixture
def read(tmp_path):
    """The rows of a file with these."""
    def read(*rows):
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return read_jsonl(path)
    return read

# ----------------------------------------------------------------------------- a label may reverse a row's meaning


@pytest.mark.parametrize("label", [
    {"label": False}, {"label": 0}, {"label": "0"}, {"label": "undesirable"}, {"label": "False"}, {"labels": 0},
    {"kto_tag": False}, {"desirable": False}, {"score": -1.5}, {"rating": -1}, {"reward": -0.1}, {"label": 0.0}, {"label": "-1"},
    {"is_good": False}, {"preference": 0}, {"feedback": "negative"}, {"label": [False]}, {"label": ["Undesirable"]}, {"Label": False},
    {"is_correct": False}, {"quality": "bad"}, {"scores": [-2.0]}])
@pytest.mark.parametrize("row", [SHOWN, {"prompt": [user("Name a bird.")], "completion": [said("An owl.")]},
                                 {"messages": [user("Name a bird."), said("An owl.")]}, {"question": BIRD, "answer": " An owl."}])
def test_a_completion_that_a_label_calls_bad_is_never_learned(read, capsys, row, label):
    assert read({**row, **label}, FINE) == [FINE]
    name = next(iter(label))
    assert f'2 rows read, 1 used; 1 dropped: its "{name}" says that the completion is bad' in capsys.readouterr().out


@pytest.mark.parametrize("label", [{"label": True}, {"label": 1}, {"label": "desirable"}, {"score": 0.5}, {"label": None}, {"rating": 5},
                                   {"label": [True]}, {"label": [1, 0]}, {"Label": "good"}])
def test_one_that_a_label_calls_good_is_learned(read, label):
    assert read({**SHOWN, **label}) == [SHOWN]


def test_the_class_of_a_page_is_no_verdict_and_the_score_of_a_pair_neither(read):
    assert read({"text": "A page.", "label": 0}) == [{"text": "A page."}]
    pair = {"prompt": BIRD, "chosen": " An owl.", "rejected": " A stone.", "score": -1}
    assert read(pair) == [PAIR]



@pytest.mark.parametrize("key, numbers", [("labels", [True, False]), ("scores", [1, 5]), ("rewards", [-1.5, 2.0]), ("ranks", [2, 1])])
def test_a_ranking_that_numbers_may_give_another_order_is_not_learned(read, capsys, key, numbers):
    assert read({"prompt": BIRD, "completions": [" A stone.", " An owl."], key: numbers}, FINE) == [FINE]
    assert f'1 dropped: its "{key}" may give the completions another order' in capsys.readouterr().out


@pytest.mark.parametrize("mark", [{"weight": 0}, {"weight": 0.0}, {"train": False}])
def test_a_last_message_that_is_not_to_be_learned_is_not(read, capsys, mark):
    assert read({"messages": [user("Name a bird."), {**said("Go away."), **mark}]}, FINE) == [FINE]
    assert "1 dropped: its last message is not to be learned" in capsys.readouterr().out
    first = {"messages": [user("Hello."), {**said("Go away."), **mark}, user("Name a bird."), {**said("An owl."), "weight": 1}]}
    assert read(first)[0]["completion"] == " An owl."

# ----------------------------------------------------------------------------- strings and messages, mixed


@pytest.mark.parametrize("row, expected", [
    ({"prompt": [user("Name a bird.")], "completion": "An owl."}, SHOWN),
    ({"prompt": "Name a bird.", "completion": [said("An owl.")]}, SHOWN),
    ({"prompt": BIRD, "completion": [said("An owl.")]}, SHOWN),
    ({"prompt": BIRD, "completion": said("An owl.")}, SHOWN),
    ({"prompt": [user("Name a bird.")], "completions": ["An owl.", "A stone."]}, PAIR),
    ({"messages": [user("Name a bird.")], "completion": "An owl."}, SHOWN), ({"messages": [user("Name a bird.")], "response": [said("An owl.")]}, SHOWN),
    ({"messages": [user("Name a bird.")], "completions": ["An owl.", "A stone."]}, PAIR),
    ({"prompt": user("Name a bird."), "chosen": "An owl.", "rejected": "A stone."}, PAIR),
    ({"prompt": [user("Name a bird.")], "completions": [[said("An owl.")], [said("A stone.")]]}, PAIR),
    ({"prompt": [user("Name a bird.")], "chosen": "An owl.", "rejected": [said("A stone.")]}, PAIR),
    ({"prompt": "Name a bird.", "chosen": [said("An owl.")], "rejected": [said("A stone.")]}, PAIR),
    ({"prompt": "Name a bird.", "chosen": said("An owl."), "rejected": said("A stone.")}, PAIR),
    ({"prompt": "Name a bird.", "chosen": [user("Name a bird."), said("An owl.")],
      "rejected": [user("Name a bird."), said("A stone.")]}, PAIR)])
def test_a_string_here_and_messages_there_are_the_row_that_they_say(read, row, expected):
    assert read(row) == [expected]


def test_a_tie_among_strings_after_a_conversation_stays_a_tie(read):
    row = {"prompt": [user("Name a bird.")], "completions": ["An owl.", ["A stone.", "A chair."]]}
    assert read(row) == [{"prompt": BIRD, "completions": [" An owl.", other]} for other in (" A stone.", " A chair.")]

# ----------------------------------------------------------------------------- other names


@pytest.mark.parametrize("row, expected", [
    ({"prompt": BIRD, "response": " An owl."}, SHOWN), ({"question": BIRD, "answer": " An owl."}, SHOWN),
    ({"instruction": BIRD, "input": "", "output": " An owl."}, SHOWN),
    ({"instruction": "Name an animal.", "input": "It flies.", "output": "An owl."},
     {"prompt": "Name an animal.\n\nIt flies.", "completion": "An owl."}),
    ({"input": BIRD, "output": " An owl."}, SHOWN),
    ({"query": BIRD, "response": " An owl.", "rejected_response": " A stone."}, PAIR),
    ({"prompt": BIRD, "preferred": " An owl.", "dispreferred": " A stone."}, PAIR),
    ({"prompt": BIRD, "chosen_response": " An owl.", "rejected_response": " A stone."}, PAIR),
    ({"messages": [user("Name a bird.")], "chosen": said("An owl."), "rejected": said("A stone.")}, PAIR),
    ({"messages": [user("Name a bird."), said("An owl.")], "rejected_response": "A stone."}, PAIR),
    ({"input": {"messages": [user("Name a bird.")]}, "preferred_output": [said("An owl.")],
      "non_preferred_output": [said("A stone.")]}, PAIR)])
def test_rows_under_other_names_are_read(read, row, expected):
    assert read(row) == [expected]


@pytest.mark.parametrize("key", ["best_reply", "model_response", "gpt4_output", "betterText", "winner", "text", "summary", "solution",
                                 "Completion", "win"])
def test_a_prompt_with_something_that_looks_like_an_answer_is_no_bare_prompt(read, capsys, key):
    assert read({"prompt": BIRD, key: " An owl."}, FINE) == [FINE]
    assert f'1 dropped: "{key}" may be an answer, but the known names are text, prompt' in capsys.readouterr().out


def test_other_keys_are_nobodys_business(read):
    assert read({"prompt": BIRD, "id": 3, "source": "a book", "label": 1}) == [{"prompt": BIRD}]


@pytest.mark.parametrize("row, expected", [
    ({"text": None, "prompt": BIRD, "completion": " An owl."}, SHOWN), ({**SHOWN, "chosen": None, "rejected": None}, SHOWN),
    ({"messages": None, "prompt": BIRD}, {"prompt": BIRD}), ({"prompt": BIRD, "completion": None}, {"prompt": BIRD})])
def test_null_is_absent(read, row, expected):
    assert read(row) == [expected]

OWL, STONE = [user("Name a bird."), said("An owl.")], [user("Name a bird."), said("A stone.")]


@pytest.mark.parametrize("row, key", [
    ({"chosen": json.dumps({"messages": OWL}), "rejected": json.dumps({"messages": STONE})}, "chosen"),
    ({"prompt": "Name a bird.", "chosen": json.dumps(OWL), "rejected": json.dumps(STONE)}, "chosen"),
    ({"messages": json.dumps(OWL, indent=1)}, "messages"), ({"prompt": json.dumps(OWL[:1]), "completion": "An owl."}, "prompt")])
def test_messages_in_a_string_of_json_are_not_learned_as_letters(read, capsys, row, key):
    assert read(row, FINE) == [FINE]
    assert f'1 dropped: "{key}" is messages in a string of JSON' in capsys.readouterr().out
    king = {"prompt": BIRD, "completion": ' {"role": "a king"}'}
    assert read(king) == [king]


@pytest.mark.parametrize("row", [
    {"chosen": OWL, "rejected": STONE}, {"prompt": OWL[:1], "chosen": OWL, "rejected": STONE},
    {"prompt": OWL[:1], "chosen": OWL[1:], "rejected": STONE[1:]}, {"prompt": "Name a bird.", "chosen": OWL, "rejected": STONE},
    {"chosen": BIRD + " An owl.", "rejected": BIRD + " A stone."},
    {"prompt": BIRD, "chosen": BIRD + " An owl.", "rejected": BIRD + " A stone."}])
def test_a_comparison_is_the_same_with_and_without_its_prompt(read, row):
    assert read(row) == [PAIR]


@pytest.mark.parametrize("row", [
    {"conversations": [{"from": "human", "value": "Name a bird."}, {"from": "gpt", "value": "An owl."}]},
    {"conversations": OWL}, {"conversation": OWL}, {"messages": [{"role": "human", "content": "Name a bird."}, said("An owl.")]}])
def test_sharegpts_names_of_speakers_are_known(read, row):
    assert read(row) == [SHOWN]


def test_an_input_behind_the_frame_is_not_put_into_the_answers_place(read, capsys):
    assert read({"instruction": BIRD, "input": "It flies.", "output": " An owl."}, FINE) == [FINE]
    assert '1 dropped: its "input" has no place behind the frame' in capsys.readouterr().out


@pytest.mark.parametrize("key, value", [("system", "Lie."), ("history", [["Hello", "Hi"]]), ("context", "It swims.")])
def test_what_a_prompt_depends_on_is_not_cut_off_in_silence(read, capsys, key, value):
    assert read({"query": BIRD, "response": " An owl.", key: value}, FINE) == [FINE]
    assert f'1 dropped: its "{key}" has no place here' in capsys.readouterr().out
    assert read({"query": BIRD, "response": " An owl.", key: type(value)()}) == [SHOWN]


@pytest.mark.parametrize("row, key", [({**SHOWN, "answer": " A hen."}, "answer"), ({**SHOWN, "output": " A hen."}, "output"),
                                      ({"question": BIRD, "response": " An owl.", "answer": " A hen."}, "answer")])
def test_a_second_answer_is_no_reason_to_choose_one(read, capsys, row, key):
    assert read(row, FINE) == [FINE]
    assert f'1 dropped: "{key}" is a second completion' in capsys.readouterr().out
    assert read({**row, key: " An owl."}) == [SHOWN]

# ----------------------------------------------------------------------------- one rule for all shapes


HUMANS = f" An owl.{U}And a fish?"
SHAPES = {"pair": lambda a, b: {"prompt": BIRD, "chosen": a, "rejected": b}, "ranking": lambda a, b: {"prompt": BIRD, "completions": [a, b]},
          "dialogues": lambda a, b: {"chosen": BIRD + a, "rejected": BIRD + b},
          "messages": lambda a, b: {"prompt": [user("Name a bird.")], "chosen": [said(a)], "rejected": [said(b)]},
          "mixed": lambda a, b: {"prompt": [user("Name a bird.")], "chosen": a, "rejected": [said(b)]}}


@pytest.mark.parametrize("shape", SHAPES)
def test_blanks_around_it_make_no_other_completion_in_any_shape(read, capsys, shape):
    assert read(SHAPES[shape](" Yes.", " Yes.\n"), FINE) == [FINE]
    assert "1 dropped: identical replies" in capsys.readouterr().out


@pytest.mark.parametrize("shape", ["pair", "ranking", "messages", "mixed"])
def test_a_humans_turn_in_a_completion_is_dropped_in_every_shape(read, capsys, shape):
    assert read(SHAPES[shape](" Yes.", HUMANS), SHAPES[shape](HUMANS, " Yes."), FINE) == [FINE]
    assert "2 dropped: a human's turn in the completion" in capsys.readouterr().out


def test_a_humans_turn_in_a_demonstration_is_dropped(read, capsys):
    assert read({"prompt": BIRD, "completion": HUMANS}, FINE) == [FINE]
    assert "1 dropped: a human's turn in the completion" in capsys.readouterr().out

# ----------------------------------------------------------------------------- what a file is


@pytest.mark.parametrize("text, sentence", [
    (json.dumps([SHOWN, FINE]), "line 1: must be an object, .* each row is an object on a line of its own"),
    (json.dumps([SHOWN, FINE], indent=1), "line 1: not JSON .* on a line of its own"),
    (json.dumps(SHOWN, indent=1) + "\n" + json.dumps(FINE, indent=1), "line 1: not JSON .* on a line of its own, as `jq -c .` writes"),
    ("prompt,completion\nName a bird.,An owl.\n", "line 1: not JSON .* on a line of its own"),
    (json.dumps(SHOWN) + '\n{"prompt": ', "line 2: not JSON"), ("nothing\n", "line 1: not JSON")])
def test_the_reason_that_is_said_is_the_true_one(tmp_path, text, sentence):
    path = tmp_path / "rows.jsonl"
    path.write_text(text)
    with pytest.raises(UserError, match=sentence):
        read_jsonl(path)


def test_a_parquet_file_of_ones_own_is_read(tmp_path):
    path = tmp_path / "rows.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([{**SHOWN, "text": None}, {**FINE, "text": None}]), path)
    train, test = data.load(str(path))
    assert sorted(train.demonstrations + test.demonstrations) == sorted((row["prompt"], row["completion"]) for row in (SHOWN, FINE))


@pytest.mark.parametrize("end", [EOS, EOS + "\n", " " + EOS, "</s>", "<|im_end|>\n"])
def test_an_end_in_letters_is_hinted_at(read, capsys, end):
    read(*({**row, "completion": row["completion"] + end} for row in (SHOWN, FINE)))
    assert f"all completions end with {end.strip()} in letters" in capsys.readouterr().out
    read({**SHOWN, "completion": f" An owl.{EOS}"}, FINE)       # one of several is somebody's text
    assert "in letters" not in capsys.readouterr().out

# ----------------------------------------------------------------------------- prompts that ask nothing


@pytest.mark.parametrize("row", [{"completion": " Yes {}."}, {"chosen": " Yes {}.", "rejected": " No."}, {}])
@pytest.mark.parametrize("script", [sft, reward, ppo, evaluate, label])
def test_blank_prompts_alone_train_nothing(world, monkeypatch, script, row):
    write_rows(Path("rows.jsonl"), [{"prompt": prompt, **{key: text.format(i) for key, text in row.items()}}
                                    for i, prompt in enumerate(["", " \n ", U + A, f"{U}  {A}"])])
    monkeypatch.setattr(label, "find_model", lambda *given: None)       # the others read the data first
    with pytest.raises(UserError, match="all prompts are blank" if row else "no usable row in it"):
        script.main(script.Config(**{key: value for key, value in world.items() if key in vars(script.Config())}))
    assert not list(Path("run").glob("*/*"))

# ----------------------------------------------------------------------------- splits


def test_pages_and_dialogues_are_split_apart():
    pages = [{"text": f"Page {i}."} for i in range(100)]
    pairs = [{"prompt": f"{U}Question {i}?{A}", "completions": [" Yes.", " No."]} for i in range(10)]
    train, test = map(data.collect, split(pages + pairs, "x"))
    assert len(test.texts) == 5 and len(train.texts) == 95
    assert len(test.comparisons) == 1 and len(train.comparisons) == 9 and len(test.prompts) == 1


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_dialogues_that_begin_alike_are_on_one_side(turns):
    openings = [f"{U}Opening {i}?{A}" for i in range(40)]
    rows = [{"prompt": opening + "".join(f" Well {j}.{U}And {j}?{A}" for j in range(n)), "completions": [" Yes.", " No."]}
            for opening in openings for n in range(turns)]
    train, test = map(data.collect, split(rows, "x"))
    begin = lambda dataset: {prompt.partition(A)[0] for prompt, _ in dataset.comparisons}
    assert len(begin(test)) == 2 and not begin(train) & begin(test)
    assert len(test.comparisons) == 2 * turns


def test_one_page_among_dialogues_is_read_and_not_held_out():
    rows = [{"text": "A page."}, *({"prompt": f"{U}Question {i}?{A}"} for i in range(4))]
    train, test = map(data.collect, split(rows, "x"))
    assert train.texts == ["A page."] and len(train.prompts) == 3 and len(test.prompts) == 1

# ----------------------------------------------------------------------------- pathological text


@pytest.mark.parametrize("name", PATTERNS)
@pytest.mark.parametrize("text", [" " * 1_000_000 + "x", "\n" * 300_000 + "x" + " " * 300_000, "\t " * 200_000 + "x"])
def test_a_very_long_run_of_blanks_is_encoded(text, name):
    tokenizer = Tokenizer.words([bytes([b]) for b in range(256)], name)
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_an_ordinary_text_has_the_ids_of_the_encoding_itself():
    tokenizer = words()
    for text in ("", " ", "Is owl a bird?", "a  b\n\n\n c" * 50, " " * 9_999 + "x"):
        assert tokenizer.encode(text) == tokenizer.encoding.encode_ordinary(text)

# ----------------------------------------------------------------------------- the frame of a dialogue


def bare(row):
    return {"prompt": row["prompt"].removeprefix(U).removesuffix(A), "completions": [text.strip() for text in row["completions"]]}


def asked(folder, monkeypatch):
    """What a model is given when somebody asks "Is owl a bird?"."""
    model, tokenizer, given = GPT.from_pretrained(folder), Tokenizer.load(folder), []
    monkeypatch.setattr(model, "stream", lambda ids, *rest: given.append(tokenizer.decode(ids[0].tolist())) or iter(()))
    speaker = Speaker("x", model, tokenizer)
    for _ in range(2):
        list(speaker.respond("Is owl a bird?", 1.0))
    return given


def test_a_model_of_bare_prompts_is_asked_as_it_was_trained(run_stage, tmp_path, monkeypatch, capsys):
    write_rows(tmp_path / "rows.jsonl", [bare(row) for row in ROWS])
    run = run_stage(sft)
    said = capsys.readouterr().out
    assert "19 of 19 prompts are without the frame of a dialogue" in said and "learned as they are" in said
    assert json.loads((run / "sft" / "config.json").read_text())["framed"] is False
    assert asked(run / "sft", monkeypatch) == ["Is owl a bird?"] * 2
    run_stage(reward)
    assert json.loads((run / "reward" / "config.json").read_text())["framed"] is False
    settings = json.loads((run / "sft" / "tokenizer_config.json").read_text())
    assert "Human" not in settings["chat_template"] and "Human" not in (run / "sft" / "README.md").read_text()


def test_a_model_of_dialogues_is_asked_within_the_frame(run_stage, monkeypatch, capsys):
    run = run_stage(sft)
    assert "without the frame" not in capsys.readouterr().out
    assert "framed" not in json.loads((run / "sft" / "config.json").read_text())
    assert asked(run / "sft", monkeypatch) == [f"{U}Is owl a bird?{A}"] * 2     # its rows have one turn, so it is shown one
    assert Tokenizer.load(run / "sft").questions == ["Is our cat a tool?"]       # the one held out


def test_a_model_of_longer_dialogues_is_shown_all_turns(run_stage, tmp_path, monkeypatch):
    write_rows(tmp_path / "rows.jsonl", [{**row, "prompt": f"{U}Call me {i}.{A} Hello." * (i % 2) + row["prompt"]} for i, row in enumerate(ROWS)])
    run = run_stage(sft)
    first, second = asked(run / "sft", monkeypatch)
    assert first == f"{U}Is owl a bird?{A}" and second == first * 2 and not Tokenizer.load(run / "sft").questions


@pytest.mark.parametrize("bare_rows, framed", [(6, True), (14, False)])
def test_the_frame_is_that_of_most_prompts(run_stage, tmp_path, bare_rows, framed, capsys):
    write_rows(tmp_path / "rows.jsonl", [bare(row) for row in ROWS[:bare_rows]] + ROWS[bare_rows:])
    run = run_stage(sft)
    assert "prompts are without the frame" in capsys.readouterr().out
    assert Tokenizer.load(run / "sft").framed is framed
