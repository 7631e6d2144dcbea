"""The data sets' one door: tokens, rows, splits, batches."""
import gzip
import itertools
import json

import pytest
import torch

import data
from support import UserError
from text.batches import batch_at, pad
from text.examples import fit
from data.jsonl import read_jsonl
from text.tokenizer import Tokenizer
from tiny import critic, words, write_rows

# ----------------------------------------------------------------------------- tokens


@pytest.fixture(scope="module")
def tokenizer():
    return words()


def test_prompt_and_completion_are_encoded_apart_and_the_end_closes_the_completion(tokenizer):
    prompt, completion = tokenizer.encode("\n\nHuman: Is owl", " a bird?")
    assert prompt == tokenizer.encode("\n\nHuman: Is owl")
    assert completion == tokenizer.encode(" a bird?") + [tokenizer.eos]
    prompt, completion = tokenizer.encode("Is ow", "l a bird")              # no token spans the seam
    assert (prompt, completion) == (tokenizer.encode("Is ow"), tokenizer.encode("l a bird") + [tokenizer.eos])


def test_any_text_is_encoded_and_comes_back(tokenizer):
    for text in ("\n\nHuman: Is owl a bird?\n\nAssistant: Yes.", "never seen: ünïcode 😀\t12 345", "", "  two  spaces\n"):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_words_are_one_token_each(tokenizer):
    assert [tokenizer.decode([i]) for i in tokenizer.encode("\n\nHuman: Is owl a bird?\n\nAssistant:")] == [
        "\n\nHuman:", " Is", " owl", " a", " bird", "?", "\n\nAssistant:"]


def test_text_that_spells_the_end_token_is_plain_text(tokenizer):
    ids = tokenizer.encode("<|endoftext|>", "<|endoftext|>")
    assert tokenizer.eos not in ids[0] and ids[1].count(tokenizer.eos) == 1
    assert tokenizer.decode(ids[0]) == "<|endoftext|>"


def test_the_end_token_is_the_last_id_and_is_not_shown(tokenizer):
    assert tokenizer.eos == tokenizer.vocab_size - 1
    assert tokenizer.decode(tokenizer.encode("", " Yes.")[1]) == " Yes."


def test_a_vocabulary_lies_beside_its_model_and_is_recognised(tokenizer, tmp_path):
    critic(vocab_size=tokenizer.vocab_size, eos_token_id=tokenizer.eos).save_pretrained(tmp_path, tokenizer)
    back = Tokenizer.load(tmp_path)
    assert (back.fingerprint, back.eos) == (tokenizer.fingerprint, tokenizer.eos)
    assert back.encode("Is owl a bird?") == tokenizer.encode("Is owl a bird?")


def test_another_vocabulary_beside_a_model_is_refused(tokenizer, tmp_path):
    critic(vocab_size=tokenizer.vocab_size, eos_token_id=tokenizer.eos).save_pretrained(tmp_path, tokenizer)
    lines = (tmp_path / "tokenizer.tiktoken").read_text().splitlines()
    lines[-2:] = reversed(lines[-2:])                           # two words change places
    (tmp_path / "tokenizer.tiktoken").write_text("\n".join(lines) + "\n")
    with pytest.raises(UserError, match="is not that of its model"):
        Tokenizer.load(tmp_path)

# ----------------------------------------------------------------------------- batches


def test_a_prompt_is_cut_from_the_left_to_make_room_for_the_longest_completion():
    assert fit([1, 2, 3, 4], [[5], [6, 7, 8]], 5) == ([3, 4], [[5], [6, 7, 8]])
    assert fit([1, 2], [[5], [6, 7, 8]], 5) == ([1, 2], [[5], [6, 7, 8]])
    assert fit([1, 2, 3], [[4, 5]], 9) == ([1, 2, 3], [[4, 5]])


def test_a_completion_that_leaves_no_room_for_a_prompt_does_not_fit():
    assert fit([1, 2], [[3], [4, 5, 6]], 3) is None
    assert fit([1, 2], [[3], [4, 5]], 3) == ([2], [[3], [4, 5]])


def test_masks_come_from_lengths_whatever_the_ids_are():
    ids, mask = pad([[0, 7, 0], [5]])
    assert ids.tolist() == [[0, 7, 0], [5, 0, 0]] and mask.tolist() == [[True] * 3, [True, False, False]]
    ids, mask = pad([[0, 7, 0], [5]], left=True)
    assert ids.tolist() == [[0, 7, 0], [0, 0, 5]] and mask.tolist() == [[True] * 3, [False, False, True]]


def test_every_row_comes_once_an_epoch_in_a_new_order_each_time():
    rows = list(range(10))
    walk = sum((batch_at(rows, 3, step, seed=0) for step in range(100)), [])   # batches reach over the epochs' ends
    epochs = [walk[i:i + 10] for i in range(0, 300, 10)]
    assert all(sorted(epoch) == rows for epoch in epochs) and len({tuple(epoch) for epoch in epochs}) == 30


@pytest.mark.parametrize("size", [4, 10, 25])
def test_batches_of_any_size_are_pieces_of_one_walk(size):
    rows = list(range(10))
    walk = sum((batch_at(rows, 1, step, seed=3) for step in range(100)), [])
    assert [batch_at(rows, size, step, seed=3) for step in range(4)] == [walk[i * size:(i + 1) * size] for i in range(4)]


def test_a_batch_is_a_function_of_step_and_seed_alone():
    torch.manual_seed(1)
    first = batch_at(range(100), 8, 17, seed=0)
    torch.manual_seed(2)
    assert batch_at(range(100), 8, 17, seed=0) == first
    assert batch_at(range(100), 8, 17, seed=1) != first

# ----------------------------------------------------------------------------- people's own rows


def rows_of(tmp_path, *rows, name="rows.jsonl"):
    path = tmp_path / name
    text = "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


H, A = "\n\nHuman: ", "\n\nAssistant:"


def test_all_shapes_of_rows_are_read_and_extra_keys_ignored(tmp_path):
    rows = read_jsonl(rows_of(
        tmp_path, {"text": "a page", "id": 3}, {"prompt": "p", "completion": " c"}, "", {"prompt": "q"},
        {"prompt": "r", "chosen": " good", "rejected": " bad"}, {"prompt": "s", "completions": [" 1", " 2", " 3"]},
        {"chosen": f"{H}x{A} good", "rejected": f"{H}x{A} bad"}))
    assert rows == [{"text": "a page"}, {"prompt": "p", "completion": " c"}, {"prompt": "q"},
                    {"prompt": "r", "completions": [" good", " bad"]}, {"prompt": "s", "completions": [" 1", " 2", " 3"]},
                    {"prompt": f"{H}x{A}", "completions": [" good", " bad"]}]


def test_gzipped_files_are_read_too(tmp_path):
    assert read_jsonl(rows_of(tmp_path, {"prompt": "ä"}, name="rows.jsonl.gz")) == [{"prompt": "ä"}]


def test_whole_dialogues_are_split_at_the_last_turn_and_not_at_their_common_beginning(tmp_path):
    start = f"{H}a{A} b{H}c"
    rows = read_jsonl(rows_of(tmp_path, {"chosen": f"{start}{A} I can't.\n\nSorry", "rejected": f"{start}{A} I can."}))
    assert rows == [{"prompt": start + A, "completions": [" I can't.\n\nSorry", " I can."]}]


def test_odd_rows_are_counted_by_kind(tmp_path, capsys):
    read_jsonl(rows_of(
        tmp_path, {"prompt": "p", "chosen": " x", "rejected": " x"}, {"prompt": "p", "chosen": "", "rejected": " x"},
        {"chosen": f"{H}a{A} x", "rejected": f"{H}b{A} y"}, {"chosen": f"{H}a{H}b{A} x", "rejected": f"{H}a{H}b{A} y"},
        {"prompt": "p", "completion": " "}, {"text": " "}))
    out = capsys.readouterr().out
    assert "6 rows read, 1 used" in out
    for kind in ("1 dropped: identical replies", "1 dropped: an empty reply", "2 dropped: empty",
                 "1 dropped: the dialogues differ before the last turn"):
        assert kind in out


def test_equal_or_empty_completions_leave_a_ranking_and_not_the_ranking_the_file(tmp_path):
    assert read_jsonl(rows_of(tmp_path, {"prompt": "p", "completions": [" a", " b", " a", "", " c"]})) == [
        {"prompt": "p", "completions": [" a", " b", " c"]}]


@pytest.mark.parametrize("ranking, pairs", [
    ([" a", [" b", " c"]], [" a b", " a c"]), ([[" a", " b"], " c"], [" a c", " b c"]),
    ([" a", [" b", " c"], " d"], [" a b", " a c", " a d", " b d", " c d"]), ([[" a", " a"], " b", [" a", "", " c"]], [" a b", " a c", " b c"])])
def test_a_tie_is_no_comparison_and_all_others_of_its_ranking_are_kept(tmp_path, ranking, pairs):
    rows = read_jsonl(rows_of(tmp_path, {"prompt": "p", "completions": ranking}))
    found = {"".join(pair) for row in rows for pair in itertools.combinations(row["completions"], 2)}
    assert sorted(found) == pairs and all(row["prompt"] == "p" for row in rows)
    assert sum(len(row["completions"]) * (len(row["completions"]) - 1) // 2 for row in rows) == len(pairs)     # none twice


def test_a_ranking_in_which_all_are_equal_teaches_nothing(tmp_path, capsys):
    ties = [{"prompt": "p", "completions": [[" a", " b"]]}, {"prompt": "p", "completions": []}, {"prompt": "p", "completions": [[" a", " a"]]}]
    assert len(read_jsonl(rows_of(tmp_path, *ties, {"prompt": "p", "completions": [" a", [" b"]]}))) == 1
    assert "4 rows read, 1 used; 1 dropped: a tie; 2 dropped: identical replies" in capsys.readouterr().out


@pytest.mark.parametrize("row, message", [
    ('{"prompt": ', "line 2: not JSON"),
    ('["p"]', "line 2: must be an object"),
    ({"completion": " c"}, 'line 2: the key "prompt" is missing'),
    ({"prompt": "p", "chosen": " c"}, 'line 2: the key "rejected" is missing'),
    ({"rejected": " c"}, 'line 2: the key "chosen" is missing'),
    ({"what": 1}, r'line 2: the key "text" is missing \(the row has: what\)'),
    ({"prompt": 3}, 'line 2: "prompt" must be a string'),
    ({"prompt": "p", "completions": ["a", 2]}, 'line 2: "completions" must be a list of strings'),
    ({"prompt": "p", "completions": ["a", ["b", ["c"]]]}, 'line 2: "completions" must be a list of strings, with a list in it'),
    ({"prompt": "p", "completions": "ab"}, 'line 2: "completions" must be a list of strings'),
    ({"chosen": "a", "rejected": f"{H}x{A} b"}, 'line 2: "chosen" has no turn')])
def test_a_malformed_row_is_named_by_file_and_line(tmp_path, row, message):
    with pytest.raises(UserError, match="rows.jsonl, " + message):
        read_jsonl(rows_of(tmp_path, {"prompt": "fine"}, row))


@pytest.mark.parametrize("content", [b"", b"\n\n", b'{"text": ""}\n'])
def test_a_file_without_a_usable_row_is_refused(tmp_path, content):
    (tmp_path / "rows.jsonl").write_bytes(content)
    with pytest.raises(UserError, match="no usable row"):
        read_jsonl(tmp_path / "rows.jsonl")


@pytest.mark.parametrize("name, content", [("a.jsonl", b"\xff\xfe"), ("a.jsonl.gz", b"not gzip")])
def test_a_file_that_is_no_text_is_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match="cannot be read as UTF-8 text"):
        read_jsonl(tmp_path / name)

# ----------------------------------------------------------------------------- data sets


def test_whole_prompts_go_to_training_or_to_test_and_always_to_the_same_side(tmp_path):
    rows = [{"prompt": f"p{i}", "chosen": f" {j}", "rejected": " x"} for i in range(40) for j in range(2)]
    train, test = data.load(str(rows_of(tmp_path, *rows)))
    assert not set(train.prompts) & set(test.prompts) and len(test.prompts) == 2 and len(train.prompts) == 38
    again = data.load(str(rows_of(tmp_path, *reversed(rows))))[1]
    assert set(again.prompts) == set(test.prompts)


def test_what_a_file_lacks_is_taken_from_what_it_has(tmp_path):
    rows = [{"prompt": f"p{i}", "completions": [f" good{i}", f" bad{i}"]} for i in range(3)]
    train, test = data.load(str(write_rows(tmp_path / "rows.jsonl", rows)))
    i = test.prompts[0][1:]
    assert test.comparisons == [(f"p{i}", [f" good{i}", f" bad{i}"])]
    assert test.demonstrations == [(f"p{i}", f" good{i}")] and test.texts == [f"p{i} good{i}"]
    assert len(train.prompts) == len(train.comparisons) == 2


def test_what_a_file_has_is_taken_as_it_is():
    rows = [{"text": "t"}, {"prompt": "d", "completion": " c"}, {"prompt": "r", "completions": [" 1", " 2"]}, {"prompt": "q"}]
    assert data.collect(rows) == data.Dataset(["t"], [("d", " c")], [("r", [" 1", " 2"])], ["q"])


def test_a_kind_of_row_that_is_needed_and_missing_is_named():
    with pytest.raises(UserError, match="--data x has no comparisons"):
        data.Dataset(texts=["t"]).need("comparisons", "x")
    assert data.Dataset(texts=["t"]).need("texts", "x") == ["t"]


def test_a_missing_file_and_a_file_with_one_prompt_are_refused(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        data.load(str(tmp_path / "nothing.jsonl"))
    with pytest.raises(UserError, match="1 different prompt; training and test need"):
        data.load(str(rows_of(tmp_path, {"prompt": "only"})))
