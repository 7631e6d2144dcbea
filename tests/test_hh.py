"""Anthropic's HH: which files are read, and what is made of dialogues as they really are."""
import gzip
import json
from types import SimpleNamespace

import pytest
from huggingface_hub import constants

from support.runs import run_folder
import data
from support import UserError

H, A = "\n\nHuman:", "\n\nAssistant:"


def pair(chosen, rejected, before=f"{H} Why is the sky blue?"):
    """A row of HH: two whole dialogues, here with the same turns before the last one."""
    return {"chosen": before + A + chosen, "rejected": before + A + rejected}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A cache of Hugging Face's as a download would leave it, and no network. Returns a function that puts a
    file of HH into it: rows, or bytes as they are."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    folder = tmp_path / "datasets--Anthropic--hh-rlhf"

    def put(file, *rows):
        path = folder / "snapshots" / "0a1b2c" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        (folder / "refs").mkdir(exist_ok=True)
        (folder / "refs" / "main").write_text("0a1b2c")
        lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
        path.write_bytes(gzip.compress(b"".join(line + b"\n" for line in lines)))
        return path
    return put


def put_subset(hub, subset):
    """A subset whose answers tell where they are from: two rows for training, one for the test."""
    hub(f"{subset}/train.jsonl.gz", pair(f" {subset} 1", " no"), pair(f" {subset} 2", " no"))
    hub(f"{subset}/test.jsonl.gz", pair(f" {subset} 3", " no"))


@pytest.fixture
def read(hub):
    """The comparisons of a training file with these rows."""
    def read(*rows):
        hub("helpful-base/train.jsonl.gz", *rows, pair(" Air scatters blue light.", " Magic."))
        hub("helpful-base/test.jsonl.gz", pair(" It is not, at night.", " So what."))
        return data.load("hh")[0].comparisons[:-1]
    return read

# ----------------------------------------------------------------------------- which files


@pytest.mark.parametrize("name, subsets", [
    ("hh", ["helpful-base"]), ("hh:harmless-base", ["harmless-base"]), ("hh:helpful-online", ["helpful-online"]),
    ("hh:helpful-rejection-sampled+helpful-base", ["helpful-rejection-sampled", "helpful-base"])])
def test_a_name_stands_for_subsets_and_the_test_rows_are_those_of_their_test_files(hub, name, subsets):
    for subset in subsets:
        put_subset(hub, subset)
    train, test = data.load(name)
    assert [ranking[0] for _, ranking in train.comparisons] == [f" {subset} {i}" for subset in subsets for i in (1, 2)]
    assert [ranking[0] for _, ranking in test.comparisons] == [f" {subset} 3" for subset in subsets]


@pytest.mark.parametrize("name, unknown", [("hh:helpful", "helpful"), ("hh:helpful-base+", ""),
                                           ("hh:helpful-base+red-team-attempts", "red-team-attempts")])
def test_a_subset_without_comparisons_is_refused_with_a_list_of_those_that_have_some(name, unknown):
    with pytest.raises(UserError) as error:
        data.load(name)
    assert str(error.value) == (f'--data {name}: there is no subset "{unknown}" with comparisons; there are: '
                                "helpful-base, helpful-online, helpful-rejection-sampled, harmless-base")


def test_what_nobody_has_downloaded_is_named_by_address_and_destination(hub, tmp_path):
    with pytest.raises(UserError) as error:
        data.load("hh")
    message = str(error.value)
    assert "https://huggingface.co/datasets/Anthropic/hh-rlhf" in message and str(tmp_path) in message
    assert "\n" not in message


def test_a_damaged_file_is_named(hub):
    put_subset(hub, "helpful-base")
    path = hub("helpful-base/train.jsonl.gz", *[pair(f" {i * i}", f" {i}") for i in range(999)])
    content = path.read_bytes()
    path.write_bytes(content[:1000] + bytes(100) + content[1100:])
    with pytest.raises(UserError, match="helpful-base/train.jsonl.gz: cannot be read"):
        data.load("hh")


def test_a_line_warns_of_what_people_say(hub, capsys):
    put_subset(hub, "helpful-base")
    data.load("hh")
    said = capsys.readouterr().out
    assert "offensive" in said and said.count("\n") == 1


@pytest.mark.parametrize("name, folder", [("hh", "out/hh"), ("hh:harmless-base", "out/hh-harmless-base"),
                                          ("hh:helpful-base+harmless-base", "out/hh-helpful-base-harmless-base")])
def test_the_folder_of_a_run_has_neither_colons_nor_plus_signs(name, folder):
    assert str(run_folder(SimpleNamespace(data=name, run=""))) == folder

# ----------------------------------------------------------------------------- dialogues as they are


def test_all_turns_before_the_last_are_the_prompt_with_the_blank_lines_within_them(read):
    before = f"{H} Two questions.\n\nHow do I boil an egg?\n\nAnd how long?{A} In water.\n\n1. Boil it.{H} How long?"
    assert read(pair(" Seven minutes.", " Long.", before)) == [(before + A, [" Seven minutes.", " Long."])]


def test_answers_that_begin_alike_are_whole_even_if_one_is_the_beginning_of_the_other(read):
    assert read(pair(" I think so", " I think so, yes."), pair(" I like tea.", " I like teapots.")) == [
        (f"{H} Why is the sky blue?{A}", [" I think so", " I think so, yes."]),
        (f"{H} Why is the sky blue?{A}", [" I like tea.", " I like teapots."])]


def test_a_speakers_name_within_a_line_begins_no_turn(read):
    answer = " The label says\nAssistant: Anna\nHuman: Ben, or Human: Bea"
    assert read(pair(answer, " No idea.")) == [(f"{H} Why is the sky blue?{A}", [answer, " No idea."])]


def test_a_missing_reply_at_the_very_end_of_a_dialogue_teaches_nothing(read, capsys):
    assert read(pair("", " Good luck."), pair(" Good luck.", " ")) == []
    assert "3 rows read, 1 used; 2 dropped: an empty reply" in capsys.readouterr().out


def test_a_speaker_with_two_turns_in_a_row_is_kept_and_only_the_last_turn_answers(read):
    start = f"{H} Hello?{H} Anybody there?"
    twice = {"chosen": f"{start}{A} Yes.{A} Sorry, I was away.", "rejected": f"{start}{A} Yes.{A} Hm."}
    assert read(pair(" Here I am.", " No.", start), twice) == [
        (start + A, [" Here I am.", " No."]), (f"{start}{A} Yes.{A}", [" Sorry, I was away.", " Hm."])]


def test_a_dialogue_that_goes_on_where_the_other_has_ended_is_no_pair_with_it(read, capsys):
    assert read(pair(f" Air.{H} Just air?{A} Yes.", " Air.")) == []
    assert "2 rows read, 1 used; 1 dropped: the dialogues differ before the last turn" in capsys.readouterr().out


def test_a_dialogue_that_ends_with_a_question_has_no_answer_to_learn(read, capsys):
    question = f" It scatters.{H} What does?"
    assert read(pair(question, " Light."), pair(" Light.", question)) == []
    assert "3 rows read, 1 used; 2 dropped: a human's turn in the completion" in capsys.readouterr().out
