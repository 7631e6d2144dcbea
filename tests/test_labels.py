"""You are the human: what label.py keeps, asks and shows, through a real terminal, killed and started again."""
import codecs
import json
import os
import pty
import random
import re
import select
import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest
import torch
import tyro

import data
import label
import ppo
import reward
import tiny
from data.jsonl import read_jsonl
from gpt import GPT, ScalarGPT
from label import Labels, questions, read_order
from support import UserError
from support.command_line import launch
from support.runs import run_folder
from text.batches import pad

ROOT = Path(__file__).parent.parent
PROMPTS = [f"\n\nHuman: What is {i}?\n\nAssistant:" for i in range(400)]

# ----------------------------------------------------------------------------- the file


def test_a_label_is_one_line_that_reward_reads(tmp_path):
    labels = Labels(tmp_path / "deep" / "mine.jsonl")
    labels.add("p", [[" b"], [" a"]])
    labels.add("q", [[" b", " c"], [" a"]])
    labels.add("r", [[" a", " b"]])
    lines = (tmp_path / "deep" / "mine.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"prompt": "p", "completions": [" b", " a"]}, {"prompt": "q", "completions": [[" b", " c"], " a"]},
        {"prompt": "r", "completions": [[" a", " b"]]}]
    assert read_jsonl(tmp_path / "deep" / "mine.jsonl") == [            # a tie teaches nothing about its two
        {"prompt": "p", "completions": [" b", " a"]}, {"prompt": "q", "completions": [" b", " a"]},
        {"prompt": "q", "completions": [" c", " a"]}]
    assert Labels(tmp_path / "deep" / "mine.jsonl").rows == labels.rows


ROW = b'{"prompt": "p", "completions": [" a", " b"]}'


@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"])
def test_line_ends_of_other_systems_and_a_last_line_without_one_are_no_damage(tmp_path, end, last):
    """And what somebody else wrote stays as it is, byte for byte: line ends, blank lines, spaces, letters."""
    before = b'\xef\xbb\xbf { "completions":[" \xc3\xa4", " b"],"prompt":"p" }' + end + b"  " + end + ROW + end * last
    (tmp_path / "mine.jsonl").write_bytes(before)
    labels = Labels(tmp_path / "mine.jsonl")
    assert (tmp_path / "mine.jsonl").read_bytes() == before
    labels.add("q", [[" c"], [" d"]])
    assert len(labels.rows) == 3 and Labels(tmp_path / "mine.jsonl").rows == labels.rows
    assert (tmp_path / "mine.jsonl").read_bytes().startswith(before)


@pytest.mark.parametrize("content, message", [
    (b"my diary", "line 1: not JSON"), (ROW + b"\nmy diary", "line 2: not JSON"), (b'{"prompt": "p"}\n', "line 1: no label"),
    (b'{"prompt": "p"}', "line 1: no label"), (ROW[:20], "line 1: not JSON"), (b"diary\n" + ROW[:20], "line 1: not JSON"),
    (ROW[:20] + b"\r" + ROW, "line 1: not JSON"),
    (ROW[:20] + b"\n" + ROW + b"\n", "line 1: not JSON"), (b"\xff\xfe\n", "cannot be read as UTF-8")])
def test_a_file_of_something_else_is_refused_and_stays_as_it_is(tmp_path, content, message):
    (tmp_path / "mine.jsonl").write_bytes(content)
    with pytest.raises(UserError, match=f"mine.jsonl(, |: ){message}"):
        Labels(tmp_path / "mine.jsonl")
    assert (tmp_path / "mine.jsonl").read_bytes() == content


def test_a_label_is_on_the_disk_before_the_next_question(tmp_path, monkeypatch):
    """And never half: it is written beside the old file, flushed, moved."""
    labels, flushed = Labels(tmp_path / "mine.jsonl"), []
    monkeypatch.setattr("support.files.flush", lambda path: flushed.append((path.name, path.is_file() and path.read_bytes())))
    labels.add("p", [[" a"], [" b"]])
    (beside, added), (folder, _) = flushed
    assert beside != "mine.jsonl" and added == ROW + b"\n" and folder == tmp_path.name


def test_what_could_not_be_written_is_not_counted(tmp_path, monkeypatch):
    labels = Labels(tmp_path / "mine.jsonl")
    labels.add("p", [[" a"], [" b"]])
    monkeypatch.setattr("support.files.os.replace", lambda *names: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError):
        labels.add("q", [[" a"], [" b"]])
    assert labels.rows == [("p", [[" a"], [" b"]])] and (tmp_path / "mine.jsonl").read_bytes() == ROW + b"\n"

# ----------------------------------------------------------------------------- what is asked


def asked(path, prompts=PROMPTS, respond=lambda prompt: [" yes", " no"]):
    return questions(prompts, Labels(path), respond, seed=0)


def test_each_prompt_without_a_label_comes_once_in_an_order_that_tells_nothing(tmp_path):
    all_of_them = list(asked(tmp_path / "mine.jsonl"))
    prompts = [prompt for prompt, _ in all_of_them]
    assert sorted(prompts) == sorted(PROMPTS) and prompts != PROMPTS
    assert 0.4 < sum(completions[0] == " yes" for _, completions in all_of_them) / len(PROMPTS) < 0.6
    labels = Labels(tmp_path / "mine.jsonl")
    for prompt in prompts[:7]:
        labels.add(prompt, [[" yes"], [" no"]])
    assert [prompt for prompt, _ in asked(tmp_path / "mine.jsonl")] == prompts[7:]      # another start goes on


def test_a_prompt_with_too_few_answers_is_left_out(tmp_path):
    few = asked(tmp_path / "mine.jsonl", PROMPTS[:4], lambda prompt: None if prompt in PROMPTS[:2] else [" a", " b"])
    assert sorted(prompt for prompt, _ in few) == PROMPTS[2:4]

# ----------------------------------------------------------------------------- the answers


class Written:
    """A model that writes given texts, in turn: one a row."""
    config = GPT.Config()

    def __init__(self, tokenizer, *texts):
        self.tokenizer, self.texts = tokenizer, list(texts)

    def generate(self, ids, mask, max_new_tokens, temperature):
        rows = [self.tokenizer.encode("", self.texts.pop(0))[1][:max_new_tokens] for _ in ids]
        tokens, mask = pad(rows)
        return tokens, mask, None


def test_answers_are_different_whole_and_not_empty():
    tokenizer, cfg = tiny.words(), label.Config(max_new_tokens=4, answers=2, tries=3)
    model = Written(tokenizer, " Yes", " Yes", " Yes ", " may be a bird is", "  ", " no")
    respond = label.responder(model, tokenizer, cfg, None)
    assert respond("Is owl a bird?") == [" Yes", " no"] and model.texts == []
    model.texts = [" Yes"] * 6
    assert respond("Is owl a bird?") is None and model.texts == []

# ----------------------------------------------------------------------------- a person at a terminal


@pytest.mark.parametrize("typed, order", [
    ("132", [[0], [2], [1]]), ("3 2 1", [[2], [1], [0]]), ("1=32", [[0, 2], [1]]), (" 1  3 = 2 ", [[0], [2, 1]]),
    ("2=1=3", [[1, 0, 2]]), ("1= 2 =3", [[0, 1, 2]]),
    ("", None), ("12", None), ("1232", None), ("124", None), ("120", None), ("123=", None), ("=123", None), ("1==23", None),
    ("1,2,3", None), ("1 2 3 u", None), ("-1 2 3", None), ("\x1b[A123", None), ("²13", None), ("\ufffd", None)])
def test_a_ranking_is_what_was_typed_or_none(typed, order):
    assert read_order(typed, 3) == order


class Gone(Exception):
    """The program has ended."""


class Terminal:
    """label.py behind a terminal of its own, in a copy of this process: starting Python takes longer than all the rest."""

    def __init__(self, *flags):
        self.pid, self.file = pty.fork()
        self.screen, self.decode = "", codecs.getincrementaldecoder("utf-8")().decode      # a read may end within a character
        if self.pid == 0:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")
            sys.argv = ["label.py", "--data", "rows.jsonl", "--run", "run", "--device", "cpu", *flags]
            code = 0
            try:
                launch(label.main, label.Config, "label")
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else print(end.code) or 1
            except BaseException as error:
                print("Traceback", error)
                code = 99
            sys.stdout.flush()
            os._exit(code)

    def until(self, text):
        """What is shown up to a text, and with it. Raises Gone if the program ends before."""
        while text not in self.screen:
            assert select.select([self.file], [], [], 60)[0], f"nothing is shown any more, after {self.screen}"
            try:
                read = os.read(self.file, 65536)
            except OSError:                                             # what Linux says of a terminal without a program
                read = b""
            if not read:
                raise Gone
            self.screen = (self.screen + self.decode(read)).replace("\r\n", "\n")
        shown, _, self.screen = self.screen.partition(text)
        return shown + text

    def question(self):
        """(prompt, responses) on the screen, and how many rankings are said to be saved."""
        shown = self.until("\n> ")
        count, prompt = re.search(r"-- (\d+) saved\n(.*?)\n\n  1  ", shown, re.DOTALL).groups()
        self.saved = int(count)
        return f"\n\n{prompt}", [" " + text for text in re.findall(r"^  \d  (.*)$", shown, re.MULTILINE)]

    def type(self, line, enter="\n"):
        os.write(self.file, (line + enter).encode())

    def end(self):
        """(exit code, the last that was shown)."""
        with pytest.raises(Gone):
            self.until("this is never shown")
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        os.close(self.file)
        return code, self.screen


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """A folder with a run whose SFT model is never asked: the responses are numbered, and no two are the same."""
    monkeypatch.chdir(tmp_path)
    tokenizer = tiny.words()
    model = tiny.model(vocab_size=tokenizer.vocab_size, eos_token_id=tokenizer.eos, block_size=64)
    with torch.no_grad():                                               # for the test that does ask it: responses end soon
        model.transformer.ln_f.bias.add_(3 * model.transformer.wte.weight[tokenizer.eos])
    model.save_pretrained(tmp_path / "run" / "sft", tokenizer)
    GPT.from_pretrained(tmp_path / "run" / "sft")                       # what torch imports now, no copy needs to import
    tiny.write_rows(tmp_path / "rows.jsonl", [{"prompt": prompt} for prompt in PROMPTS])
    written = iter(range(10 ** 9))

    def responder(model, tokenizer, cfg, device):
        return lambda prompt: [f" {os.getpid()}-{next(written)}" for _ in range(cfg.answers)]
    monkeypatch.setattr(label, "responder", responder)
    return tmp_path


def saved(desk):
    file = desk / "mine.jsonl"
    return [(row["prompt"], row["completions"]) for row in map(json.loads, file.read_text().splitlines())] if file.exists() else []


def test_what_is_typed_is_saved_and_what_means_nothing_asks_the_same_again(desk):
    person = Terminal("--answers", "3")
    prompt, responses = person.question()
    assert len(responses) == 3 and prompt in PROMPTS
    for typed in ("", "9043", "1 2", "yes", "é\t"):
        person.type(typed)
        assert "Type the numbers" in person.until("\n> ") and saved(desk) == []
    person.type("3 = 1 2")
    person.question()
    assert saved(desk) == [(prompt, [[responses[2], responses[0]], responses[1]])] and person.saved == 1
    person.type("Q")
    code, shown = person.end()
    assert code == 0 and "mine.jsonl has 1 ranking." in shown


def test_skip_and_quit(desk):
    person = Terminal()
    skipped, _ = person.question()
    person.type("s")
    first, responses = person.question()
    person.type("21")
    assert person.question()[0] not in (skipped, first) and saved(desk) == [(first, responses[::-1])] and person.saved == 1
    person.type("q")
    assert person.end()[0] == 0

    person = Terminal()                                                 # the next start asks what was skipped
    assert person.question()[0] == skipped
    person.type("\x04", enter="")                                       # Ctrl-D
    code, shown = person.end()
    assert code == 0 and "mine.jsonl has 1 ranking." in shown


@pytest.mark.parametrize("how, code", [("\x03", 130), (signal.SIGTERM, 143)])
def test_however_it_ends_the_labels_are_there(desk, how, code):
    person = Terminal()
    person.question()
    person.type("12")
    person.question()
    told = False
    while not told:                     # a signal between the prompt and the reading is heeded at the next one
        person.type(how, enter="") if isinstance(how, str) else os.kill(person.pid, how)
        told = person.file in select.select([person.file], [], [], 1)[0]
    ended, shown = person.end()
    assert ended == code and "label.py: stopped" in shown and "Traceback" not in shown
    assert "mine.jsonl has 1 ranking." in shown and len(saved(desk)) == 1


def test_ten_kills_lose_no_label_and_double_none(desk):
    """Lines are typed as fast as questions come, and the program is killed at any time. What it has said to be saved is in
    the file; the line that was typed last may have come through or not."""
    rng, rows, acts = random.Random(), [], Counter()
    print("seed", seed := rng.randrange(10 ** 6))
    rng.seed(seed)
    for _ in range(10):
        person, before = Terminal("--seed", str(rng.randrange(100))), rng.randrange(2, 9)
        killer, either, act = threading.Timer(rng.uniform(0, 0.02), os.kill, (person.pid, signal.SIGKILL)), rows, None
        try:
            while True:
                prompt, (a, b) = person.question()
                rows, before = either, before - 1
                acts[act] += 1
                assert person.saved == len(rows)
                if before == 0:
                    killer.start()
                act = rng.choice(["12", "2 1", "1=2", "s"])
                either = {"s": rows, "1=2": rows + [(prompt, [[a, b]])], "12": rows + [(prompt, [a, b])]
                          }.get(act, rows + [(prompt, [b, a])])
                person.type(act)
        except Gone:
            killer.join()
        assert os.waitstatus_to_exitcode(os.waitpid(person.pid, 0)[1]) == -signal.SIGKILL
        os.close(person.file)
        there = saved(desk)
        assert there == rows or there == either
        rows = there
    assert acts.total() >= 20, acts
    assert len({prompt for prompt, _ in rows}) == len(rows)             # none is asked twice


@pytest.mark.slow
def test_a_process_of_its_own_reads_what_is_piped_into_it(desk):
    command = [sys.executable, ROOT / "label.py", "--data", "rows.jsonl", "--run", "run", "--device", "cpu"]
    done = subprocess.run(command, input=b"12\n\xff\n1=2\n", capture_output=True)
    shown = done.stdout.decode()
    assert done.returncode == 0 and not done.stderr and "\x1b" not in shown and "mine.jsonl has 2 rankings." in shown
    assert [len(completions) for _, completions in saved(desk)] == [2, 1]

# ----------------------------------------------------------------------------- what is learned from it


def test_the_reward_model_goes_on_from_its_weights_and_learns_the_labels(run_stage, world, tmp_path):
    import sft
    run_stage(sft)
    run = run_stage(reward, max_new_tokens=40)
    labels = Labels(tmp_path / "mine.jsonl")
    for row in tiny.ROWS:
        a, b, c = row["completions"]
        labels.add(row["prompt"], [[c], [a, b]])                        # the other way round than in ROWS
    before = ScalarGPT.from_pretrained(run / "reward")
    reward.main(reward.Config(**{**world, "data": "mine.jsonl"}, init=str(run / "reward"), steps=60, batch_size=8, lr=1e-2,
                              max_new_tokens=40))
    after = ScalarGPT.from_pretrained(run / "reward")
    assert (run / "reward.old" / "config.json").exists()
    examples = reward.encode_comparisons(data.load("mine.jsonl")[0].comparisons, tiny.words(), 64)
    assert len(examples) == 2 * 19                                      # c > a and c > b of 19 prompts; one is for the test
    chosen, rejected = reward.score_pairs(after, examples)
    assert (chosen > rejected).float().mean() > 0.95
    chosen, rejected = reward.score_pairs(before, examples)
    assert (chosen > rejected).float().mean() < 0.9


@pytest.mark.parametrize("text", [label.__doc__, (ROOT / "docs" / "label.md").read_text()], ids=["label.py", "docs/label.md"])
def test_no_command_there_replaces_the_run_that_it_starts_from(text):
    commands = [line.replace("…", "").split("  ")[0].split() for line in map(str.strip, text.splitlines())
                if line.startswith(("python reward.py", "python ppo.py"))]
    assert commands
    for _, script, *flags in commands:
        cfg = tyro.cli({"reward.py": reward.Config, "ppo.py": ppo.Config}[script], args=flags)
        assert run_folder(cfg) == Path("out/mine")


@pytest.mark.slow
def test_the_command_of_the_readme(tmp_path):
    done = subprocess.run([sys.executable, "label.py", "--run", str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and "label.py: no sft model in" in done.stderr and "Traceback" not in done.stderr
    done = subprocess.run([sys.executable, "label.py", "--help"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "--max-new-tokens" in done.stdout.replace("_", "-")
