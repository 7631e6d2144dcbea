"""The chat: what is streamed, what a model still sees of its dialogue, several models side by side, their scores."""
import io
import os
import pty
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import tiny
from chat import Config, Speaker, chat, main, settled
from gpt import GPT
from support.endings import plain_endings
from text.dialogue import HUMAN, dialogue

WORDS = tiny.words()
SHAPE = dict(vocab_size=WORDS.vocab_size, eos_token_id=WORDS.eos)


class Parrot(GPT):
    """A model that says what it is told to, and remembers when it computed what."""

    def head(self, hidden):
        self.heads = getattr(self, "heads", 0) + 1
        return torch.nn.functional.one_hot(torch.tensor([self.script.pop(0)]), WORDS.vocab_size) * 1e4


def parrot(*answers, block_size=64):
    """One that gives these answers, each closed by its end."""
    made = tiny.model(Parrot, **SHAPE, block_size=block_size)
    made.script = sum((WORDS.encode("", answer)[1] for answer in answers), [])
    return made


def said(speaker, question="Is owl a bird?", temperature=0.7, **more):
    """The pieces that are written, and the remark."""
    *pieces, remark = speaker.respond(question, temperature, **more)
    return [piece for piece in pieces if piece], remark

# ----------------------------------------------------------------------------- streaming


@pytest.mark.parametrize("temperature", [0, 0.7, 1.5])
def test_what_is_streamed_is_what_the_model_generates(temperature):
    """A random model writes bytes as well as words, and so halves of characters."""
    for seed in range(20):
        model = tiny.model(seed=seed, **SHAPE, block_size=64)
        torch.manual_seed(seed)
        pieces, _ = said(Speaker("m", model, WORDS), temperature=temperature)
        ids = torch.tensor([WORDS.encode(dialogue("Is owl a bird?"))])
        torch.manual_seed(seed)
        tokens, mask, _ = model.generate(ids, torch.ones_like(ids), 32, temperature)
        assert "".join(pieces) == WORDS.decode(tokens[0].tolist()).partition(HUMAN)[0]


def test_each_word_is_written_before_the_next_one_is_computed():
    model = parrot(" Yes, owl is.")
    pieces = Speaker("m", model, WORDS).respond("Is owl a bird?", 0.7)
    when = [(piece, model.heads) for piece in pieces if piece]
    assert when == [(" Yes", 1), (",", 2), (" owl", 3), (" is", 4), (".", 5)]


def test_a_character_is_written_when_it_is_whole():
    pieces, _ = said(Speaker("m", parrot(" é😀. \ufffd!"), WORDS))
    assert pieces == [" ", "é", "😀", ".", " ", "\ufffd!"]
    model = parrot("")
    model.script = [*"😀".encode()][:2] + [WORDS.eos]       # ids of single bytes are the bytes; this one has no end
    assert said(Speaker("m", model, WORDS))[0] == ["\ufffd"]


@pytest.mark.parametrize("text, shown", [
    ("", ""), ("Yes", "Yes"), ("Yes\n", "Yes"), ("Yes\n\nHum", "Yes"), ("Yes\n\nHuman", "Yes"), ("Yes\n\nHummus", "Yes\n\nHummus"),
    ("a\n\n\n", "a\n"), ("Yes\ufffd", "Yes"), ("\ufffda", "\ufffda"), ("Yes\n\ufffd", "Yes")])
def test_nothing_is_shown_that_may_become_another(text, shown):
    assert settled(text) == shown


def test_an_answer_ends_where_the_model_begins_the_next_turn():
    model = parrot(" Yes.\n\nHuman: Is hen a bird?\n\nAssistant: no")
    speaker = Speaker("m", model, WORDS)
    pieces, remark = said(speaker)
    assert pieces == [" Yes", "."] and remark == "   (not ended)"
    assert model.heads == 3                                             # it is not asked for the rest
    assert speaker.turns == [dialogue("Is owl a bird?") + " Yes."]

# ----------------------------------------------------------------------------- what a model still sees


def test_the_newest_turns_that_fit_are_kept_whole():
    """Room for 16 of 32 tokens; a turn of question and answer below has 7 or 8, a new question 6."""
    model = parrot(" Yes.", " no.", " Yes, owl is.", block_size=32)
    speaker, seen = Speaker("m", model, WORDS), []
    model.transformer.register_forward_pre_hook(lambda module, given: seen.append(given[0]) if given[0].shape[1] > 1 else None)
    remarks = [said(speaker, question)[1] for question in ("Is owl a bird?", "Is hen a bird?", "Is cow a bird?")]
    seen = [WORDS.decode(ids[0].tolist()) for ids in seen]
    first, second, third = (dialogue(f"Is {thing} a bird?") for thing in ("owl", "hen", "cow"))
    assert seen == [first, first + " Yes." + second, second + " no." + third]
    assert remarks == ["", "", "   (oldest turns forgotten: 1)"]
    assert speaker.turns == [second + " no.", third + " Yes, owl is."]


def test_of_a_question_that_does_not_fit_the_end_is_seen():
    speaker, seen = Speaker("m", parrot(" no.", " no.", block_size=16), WORDS), []
    said(speaker, "Is?")
    speaker.model.transformer.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    _, remark = said(speaker, "Is the brown cow a bird?")
    assert remark == "   (only the end of the question fits)"
    assert WORDS.decode(seen[0][0].tolist()) == dialogue("Is the brown cow a bird?").removeprefix(HUMAN)


def test_turns_limit_what_is_seen_and_no_limit_is_none():
    speaker = Speaker("m", parrot(*[" Yes."] * 6, block_size=128), WORDS)
    for limit, kept in ((1, 1), (1, 1), (2, 2), (2, 2), (0, 3), (0, 4)):
        _, remark = said(speaker, most_turns=limit)
        assert len(speaker.turns) == kept and remark == ""

# ----------------------------------------------------------------------------- scores


def test_the_score_is_that_of_the_dialogue_with_its_end():
    rm = tiny.critic(**SHAPE, block_size=64, reward_mean=0.3, reward_std=2.0)
    speaker = Speaker("m", parrot(" Yes.", " no."), WORDS, rm)
    first = dialogue("Is owl a bird?") + " Yes."
    for text in (first, first + dialogue("Is hen?") + " no."):
        _, remark = said(speaker, "Is owl a bird?" if "hen" not in text else "Is hen?")
        ids = torch.tensor([WORDS.encode(text) + [WORDS.eos]])
        with torch.no_grad():
            raw = rm.score(rm.transformer(ids))[0, -1, 0]
        assert remark == f"   (score {(raw - 0.3) / 2.0:.2f})"


def test_an_answer_without_an_end_has_no_score():
    for rm, remark in ((tiny.critic(**SHAPE), "   (not ended, so no score)"), (None, "   (not ended)")):
        assert said(Speaker("m", parrot(" Yes" * 20, block_size=24), WORDS, rm))[1] == remark


def test_the_reward_model_must_be_able_to_read_the_answer():
    speaker = Speaker("m", tiny.model(**SHAPE, block_size=64), WORDS, tiny.critic(**SHAPE, block_size=24))
    assert speaker.room == 12

# ----------------------------------------------------------------------------- the command


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run of base, sft and reward, and a second one with sft alone."""
    monkeypatch.chdir(tmp_path)
    for i, stage in enumerate(("base", "sft")):
        model = tiny.model(seed=i, **SHAPE, block_size=64)
        with torch.no_grad():                                           # answers that end now and then
            model.transformer.ln_f.bias.add_(3 * model.transformer.wte.weight[WORDS.eos])
        model.save_pretrained(tmp_path / "run" / stage, WORDS)
    tiny.critic(**SHAPE, block_size=64).save_pretrained(tmp_path / "run" / "reward", WORDS)
    shutil.copytree("run/sft", "other/sft")
    return tmp_path


QUESTIONS = ["Is owl a bird?", "Is hen a pet?", "Is cow a word?"]


@pytest.fixture
def command(run, monkeypatch, capsys):
    """What `python chat.py …` prints after the first line, when the three questions are asked."""
    def start(flags):
        asked = iter([*QUESTIONS, ""])
        monkeypatch.setattr("builtins.input", lambda prompt: next(asked))
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
        monkeypatch.setattr(sys, "argv", ["chat.py", *flags.split()])
        main()
        return capsys.readouterr().out.removeprefix("Ask something; an empty line ends the talk.\n")
    return start


def test_several_models_answer_under_their_names_as_they_do_alone(command):
    alone = {name: command(f"run/{name}").split("Assistant:")[1:] for name in ("base", "sft")}
    both = command("run/base run/sft")
    assert both == "".join(f"  run/base {base}  run/sft  {sft}" for base, sft in zip(alone["base"], alone["sft"]))
    assert len(alone["sft"]) == 3 and "(score " in both and alone["base"] != alone["sft"]


def test_only_a_run_with_a_reward_model_has_scores(command):
    lines = command("run/sft other/sft").split("  other/sft ")
    assert lines[0].startswith("  run/sft   ") and len(lines) == 4
    assert "score" in "".join(lines) and not any("score" in line.split("  run/sft ")[0] for line in lines[1:])


def test_the_seed_decides_and_greedy_needs_none(command):
    assert command("run/sft --seed 3") == command("run/sft --seed 3") != command("run/sft --seed 4")
    assert command("run/sft --greedy --seed 3") == command("run/sft --greedy --seed 4")
    assert command("run/sft --temperature 0.01") == command("run/sft --greedy") != command("run/sft --temperature 1.5")


def test_a_model_of_single_questions_suggests_some_and_sees_one_turn(run, command):
    words = tiny.words()
    words.questions = ["Is owl a tool?", "Is hen a word?"]
    GPT.from_pretrained(run / "run" / "sft").save_pretrained(run / "run" / "sft", words)
    printed = command("run/sft")
    assert printed.startswith("It has learned to respond to one question at a time, such as these:\n  Is owl a tool?\n  Is hen a word?\n")
    assert command("run/sft --turns 1") == printed != command("run/sft --turns 9")


def test_a_long_talk_goes_on(monkeypatch, capsys):
    asked = iter(["Is owl a bird? " * n for n in (1, 2, 1, 40, 1, 1)] + [""])
    monkeypatch.setattr("builtins.input", lambda prompt: next(asked))
    chat([Speaker("m", tiny.model(**SHAPE, block_size=32), WORDS)], Config())
    assert list(asked) == [] and "only the end of the question fits" in capsys.readouterr().out


def test_no_control_character_of_a_model_reaches_the_terminal(monkeypatch, capsys):
    asked, speaker = iter([" Is owl? ", ""]), Speaker("m", parrot(" a\x1b[2J\n\x07b\r"), WORDS)
    monkeypatch.setattr("builtins.input", lambda prompt: next(asked))
    with plain_endings():
        chat([speaker], Config())
    assert capsys.readouterr().out.endswith("Assistant: a\\x1b[2J\n\\x07b\\r\n")
    assert speaker.turns[0].startswith(dialogue("Is owl?"))


def test_the_same_question_is_answered_anew(monkeypatch):
    speaker, asked, answered = Speaker("m", tiny.model(**SHAPE, block_size=32), WORDS), ["", *["Is owl a bird?"] * 3], []
    monkeypatch.setattr("builtins.input", lambda prompt: answered.extend(speaker.turns) or asked.pop())
    chat([speaker], Config(turns=1))
    assert len(answered) == len(set(answered)) == 3


PROGRAM = """
import select, sys
from chat import *
from support.typed import edit_lines, forget_typed
class Echo:
    name = "m"
    def respond(self, question, *more):
        yield f"{len(question)}={question[:60]!r}"
with plain_endings():
    edit_lines()
    try:
        chat([Echo()], Config())
    finally:
        forget_typed()
print("the shell gets something" if select.select([sys.stdin], [], [], 0.2)[0] else "the shell gets nothing")
"""


@pytest.mark.parametrize("typed, asked", [
    (["one\n\nrm -rf x\n\nlast\n", ""], "3='one'"),      # pasted into a terminal that tells no paste
    (["\x1b[200~one\n\ntwo\x1b[2J\x1b[201~", "\n", "\n"], "15='one\\n\\ntwo\\\\x1b[2J'"),    # into one that does
    (["x" * 20_000 + "\n", "\n"], "20000='xxxx")])
def test_what_is_pasted_is_one_question_or_its_first_line_and_nothing_is_left_to_the_shell(typed, asked):
    master, slave = pty.openpty()
    process = subprocess.Popen([sys.executable, "-c", PROGRAM], cwd=Path(__file__).parent.parent, stdin=slave, stdout=slave,
                               stderr=slave, start_new_session=True, env={**os.environ, "TERM": "xterm", "COLUMNS": "200"})
    os.close(slave)
    said = ""

    def read(until):
        nonlocal said
        end = time.time() + 30
        while until not in said and time.time() < end:
            if select.select([master], [], [], 0.1)[0]:
                said += os.read(master, 65536).decode()
    read("Human: ")
    for text in typed:
        for i in range(0, len(text), 1000):
            os.write(master, text[i:i + 1000].encode())
            time.sleep(0.01)
        read(asked) if text is typed[-2] else time.sleep(0.5)
    read("the shell gets nothing")
    process.kill()
    assert asked in said and said.count("Assistant:") == 1 and "the shell gets nothing" in said
