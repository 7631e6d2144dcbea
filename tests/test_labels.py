"""You are the human: what label.py keeps, asks and shows, through a real terminal, killed and started again."""
import json
import os
import pty
import random
import re
import select
import signal
import subprocess
import sys
import termios
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
import torch

import data
import reward
import tiny
import label
from data.jsonl import read_jsonl
from labels import Labels, Session, agreement
from gpt import GPT, ScalarGPT
import keys
from support import UserError
from support.command_line import launch

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


def test_undo_takes_back_label_after_label(tmp_path):
    labels = Labels(tmp_path / "mine.jsonl")
    labels.add("p", [[" ä"], [" 😀"]])
    first = (tmp_path / "mine.jsonl").read_bytes()
    labels.add("q", [[" a"], [" b"]])
    labels = Labels(tmp_path / "mine.jsonl")                            # a later start can do it, too
    assert labels.undo() == ("q", [[" a"], [" b"]]) and (tmp_path / "mine.jsonl").read_bytes() == first
    labels.add("r", [[" c"], [" d"]])
    assert [labels.undo()[0], labels.undo()[0], labels.rows] == ["r", "p", []]
    assert (tmp_path / "mine.jsonl").read_bytes() == b""


ROW = b'{"prompt": "p", "completions": [" a", " b"]}'


@pytest.mark.parametrize("end, kept, left", [
    (ROW, 2, ROW + b"\n" + ROW + b"\n"),                                # an editor that ends no last line
    (ROW[:-1], 1, ROW + b"\n"), (ROW[:30], 1, ROW + b"\n"), (b"{", 1, ROW + b"\n"),     # a power cut
    (b"\n", 1, ROW + b"\n\n")])
def test_a_line_that_was_cut_off_is_asked_again(tmp_path, end, kept, left):
    (tmp_path / "mine.jsonl").write_bytes(ROW + b"\n" + end)
    labels = Labels(tmp_path / "mine.jsonl")
    assert len(labels.rows) == kept and (tmp_path / "mine.jsonl").read_bytes() == left
    labels.add("q", [[" c"], [" d"]])
    assert len(Labels(tmp_path / "mine.jsonl").rows) == kept + 1


@pytest.mark.parametrize("content, message", [
    (b"my diary", "line 1: not JSON"), (ROW + b"\nmy diary", "line 2: not JSON"), (b'{"prompt": "p"}\n', "line 1: no label"),
    (ROW[:20] + b"\n" + ROW + b"\n", "line 1: not JSON"), (b"\xff\xfe\n", "line 1: cannot be read as UTF-8")])
def test_a_file_of_something_else_is_refused_and_stays_as_it_is(tmp_path, content, message):
    (tmp_path / "mine.jsonl").write_bytes(content)
    with pytest.raises(UserError, match=f"mine.jsonl, {message}"):
        Labels(tmp_path / "mine.jsonl")
    assert (tmp_path / "mine.jsonl").read_bytes() == content


def test_a_file_that_somebody_else_has_changed_is_left_alone(tmp_path):
    labels = Labels(tmp_path / "mine.jsonl")
    labels.add("p", [[" a"], [" b"]])
    Labels(tmp_path / "mine.jsonl").add("q", [[" a"], [" b"]])
    content = (tmp_path / "mine.jsonl").read_bytes()
    for change in (labels.undo, lambda: labels.add("r", [[" a"], [" b"]])):
        with pytest.raises(UserError, match="changed by another program"):
            change()
    assert (tmp_path / "mine.jsonl").read_bytes() == content


def test_on_a_full_disk_no_half_of_a_line_stays(tmp_path, monkeypatch):
    labels = Labels(tmp_path / "mine.jsonl")
    labels.add("p", [[" a"], [" b"]])

    def full(path):
        raise OSError(28, "No space left on device")
    monkeypatch.setattr("labels.flush", full)
    with pytest.raises(OSError, match="No space left on device: '.*mine.jsonl'"):
        labels.add("q", [[" a"], [" b"]])
    monkeypatch.undo()
    labels.add("r", [[" a"], [" b"]])
    assert [prompt for prompt, _ in Labels(tmp_path / "mine.jsonl").rows] == ["p", "r"]


def test_a_label_is_on_the_disk_before_the_next_question(tmp_path, monkeypatch):
    flushed = []
    monkeypatch.setattr("labels.flush", lambda path: flushed.append((path, path.is_file() and path.read_bytes())))
    labels = Labels(tmp_path / "mine.jsonl")
    labels.add("p", [[" a"], [" b"]])
    labels.undo()
    assert flushed == [(tmp_path, False), (tmp_path / "mine.jsonl", ROW + b"\n"), (tmp_path / "mine.jsonl", b"")]

# ----------------------------------------------------------------------------- what is asked


def test_agreement_is_counted_as_by_hand():
    rows = [("p", [["a"], ["b"]]), ("q", [["a"], ["b"], ["c"]]), ("p", [["b"], ["a"]]),     # p: other way round, 0 of 1
            ("q", [["a"], ["b", "c"]]),         # a>b as before, a>c as before, b>c is a tie now: 2 of 3
            ("q", [["b", "c"], ["a"]]),         # against the time before: the tie as before, the others not: 1 of 3
            ("r", [["a", "b"]]), ("r", [["b", "a"]]), ("s", [["a"], ["b"]]),                # the same tie: 1 of 1
            ("t", [["a", "b"]]), ("t", [["a"], ["b"]]), ("t", [["a", "b"]])]                # a tie, none, a tie: 0 of 2
    assert agreement(rows) == (0 + 2 + 1 + 1 + 0, 1 + 3 + 3 + 1 + 2)
    assert agreement([]) == (0, 0) and agreement(rows[:2]) == (0, 0)


def session(path, prompts=PROMPTS, repeat_every=5, seed=0, respond=None):
    return Session(Labels(path), prompts, respond or (lambda prompt: [" yes", " no"]), repeat_every, seed)


def test_each_prompt_comes_once_and_after_every_five_an_old_question_comes_again(tmp_path):
    talk, asked = session(tmp_path / "mine.jsonl", PROMPTS[:20]), []
    while (question := talk.next()) and len(asked) < 99:
        asked.append(question)
        talk.answer([[0], [1]])
        if len(asked) % 7 == 0:                                         # another start goes on where this one stopped
            talk = session(tmp_path / "mine.jsonl", PROMPTS[:20])
    prompts = [prompt for prompt, _ in asked]
    assert set(prompts) == set(PROMPTS[:20]) and max(Counter(prompts).values()) == 2 and len(prompts) == 24
    again = [i for i, prompt in enumerate(prompts) if prompt in prompts[:i]]
    assert again == [5, 11, 17, 23] and all(i - prompts.index(prompts[i]) > 3 for i in again)
    assert prompts[:20] != PROMPTS[:20] and len({tuple(order) for _, order in asked}) == 2      # shuffled


def test_what_comes_again_has_the_same_answers_in_an_order_that_tells_nothing(tmp_path):
    fresh = iter(range(10_000))
    talk = session(tmp_path / "mine.jsonl", repeat_every=1, respond=lambda prompt: [f" {next(fresh)}", f" {next(fresh)}"])
    seen, better_first = {}, []
    for _ in range(300):
        prompt, completions = talk.next()
        if prompt in seen:
            assert sorted(completions) == sorted(seen[prompt])
            better_first.append(completions[0] == seen[prompt][1])
        seen[prompt] = completions
        talk.answer([[1], [0]])                                         # the best one is the second on the screen
    assert max(Counter(prompt for prompt, _ in talk.labels.rows).values()) == 2
    assert len(better_first) > 140 and 0.38 < sum(better_first) / len(better_first) < 0.62


def test_undo_asks_again_and_then_what_was_asked_now(tmp_path):
    talk = session(tmp_path / "mine.jsonl")
    first = talk.next()
    assert talk.undo() is False and talk.next() == first                # nothing to undo: the question stays
    talk.answer([[1], [0]])
    second = talk.next()
    talk.answer([[1], [0]])
    third = talk.next()
    assert talk.undo() and talk.next()[0] == second[0] and talk.undo() and talk.next()[0] == first[0]
    assert talk.labels.rows == [] and sorted(talk.question[1]) == sorted(first[1])
    for question in (first, second, third):
        assert talk.question[0] == question[0]
        talk.answer([[0], [1]])
        talk.next()
    assert [prompt for prompt, _ in talk.labels.rows] == [first[0], second[0], third[0]]


def test_what_is_skipped_comes_again_at_the_next_start_alone(tmp_path):
    talk = session(tmp_path / "mine.jsonl", PROMPTS[:3])
    skipped = talk.next()[0]
    talk.skip()
    rest = []
    while (question := talk.next()) and len(rest) < 99:
        rest.append(question[0])
        talk.answer([[0], [1]])
    assert set(rest) == set(PROMPTS[:3]) - {skipped}
    assert session(tmp_path / "mine.jsonl", PROMPTS[:3]).next()[0] == skipped


def test_a_prompt_with_too_few_answers_is_left_out(tmp_path):
    talk = session(tmp_path / "mine.jsonl", PROMPTS[:4], respond=lambda prompt: None if prompt in PROMPTS[:2] else [" a", " b"])
    asked = []
    while (question := talk.next()) and len(asked) < 99:
        asked.append(question[0])
        talk.answer([[0], [1]])
    assert sorted(asked) == PROMPTS[2:4]

# ----------------------------------------------------------------------------- the answers


class Written:
    """A model that writes given texts, in turn: one a row."""
    config = GPT.Config()

    def __init__(self, tokenizer, *texts):
        self.tokenizer, self.texts = tokenizer, list(texts)

    def generate(self, ids, mask, max_new_tokens, temperature):
        rows = [self.tokenizer.encode("", self.texts.pop(0))[1][:max_new_tokens] for _ in ids]
        tokens, mask = text.batches.pad(rows)
        return tokens, mask, None


def test_answers_are_different_whole_and_not_empty():
    tokenizer, cfg = tiny.words(), label.Config(max_new_tokens=4, answers=2, tries=3)
    model = Written(tokenizer, " Yes", " Yes", " Yes ", " may be a bird is", "  ", " no")
    respond = label.responder(model, tokenizer, cfg, None)
    assert respond("Is owl a bird?") == [" Yes", " no"] and model.texts == []
    model.texts = [" Yes"] * 6
    assert respond("Is owl a bird?") is None and model.texts == []

# ----------------------------------------------------------------------------- a person at a terminal


class Gone(Exception):
    """The program has ended."""


class Terminal:
    """label.py behind a terminal of its own, in a copy of this process: starting Python takes longer than all the rest."""

    def __init__(self, *flags):
        self.pid, self.file = pty.fork()
        self.screen = ""
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
            self.screen += read.decode().replace("\r\n", "\n")
        shown, _, self.screen = self.screen.partition(text)
        return shown + text

    def question(self):
        """(prompt, answers) on the screen."""
        shown = self.until("\n> ")
        prompt = re.search(r"answered\n(.*?)\n\n  1  ", shown, re.DOTALL)[1]
        return f"\n\n{prompt}", [" " + answer for answer in re.findall(r"^  \d  (.*)$", shown, re.MULTILINE)]

    def press(self, pressed):
        os.write(self.file, pressed.encode())

    def flags(self):
        """Whether the terminal shows what is typed, and waits for Enter."""
        mode = termios.tcgetattr(self.file)[3]
        return bool(mode & termios.ECHO), bool(mode & termios.ICANON)

    def end(self):
        """(exit code, the last that was shown)."""
        with pytest.raises(Gone):
            self.until("this is never shown")
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        flags = self.flags()
        os.close(self.file)
        return code, self.screen, flags


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """A folder with a run whose SFT model is never asked: the answers are numbered, and no two are the same."""
    monkeypatch.chdir(tmp_path)
    tokenizer = tiny.words()
    tiny.model(vocab_size=tokenizer.vocab_size, eos_token_id=tokenizer.eos).save_pretrained(tmp_path / "run" / "sft", tokenizer)
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


@pytest.mark.parametrize("pressed, order", [
    ("132", [0, 2, 1]), ("321", [2, 1, 0]), ("1=32", [[0, 2], 1]), ("13=2", [0, [2, 1]]), ("2=1=3", [[1, 0, 2]]),
    ("=11x9043\r=2", [0, [2, 1]]),                                      # what means nothing here, and a number twice
    ("12\x7f312", [2, 0, 1]), ("1=\b213", [1, 0, 2]), ("\x1b[1;5C2\x1b[A3\x1bOP1", [1, 2, 0]), ("1==2=3", [[0, 1, 2]])])
def test_a_ranking_is_what_was_pressed(desk, pressed, order):
    person = Terminal("--answers", "3")
    prompt, answers = person.question()
    assert len(answers) == 3 and prompt in PROMPTS and person.flags() == (False, False)
    person.press(pressed)
    person.until("saved")
    name = lambda place: [answers[i] for i in place] if isinstance(place, list) else answers[place]
    assert saved(desk) == [(prompt, [name(place) for place in order])]
    person.question()
    person.press("q")
    code, shown, flags = person.end()
    assert code == 0 and "mine.jsonl has 1 ranking. No comparison has come again yet." in shown and flags == (True, True)


def test_skip_undo_and_quit(desk):
    person = Terminal()
    skipped, _ = person.question()
    person.press("1s")                                                  # it can be skipped when it was half answered
    person.until("skipped")
    first, _ = person.question()
    person.press("u")
    person.until("there is no answer to undo")
    assert person.question()[0] == first
    person.press("12")
    second, _ = person.question()
    assert len(saved(desk)) == 1
    person.press("U")
    person.until("undone")
    assert saved(desk) == []
    again, answers = person.question()
    person.press("21")
    assert again == first and person.question()[0] == second
    assert saved(desk) == [(first, answers[::-1])]
    person.press("q")
    assert person.end()[0] == 0

    person = Terminal()                                                 # the next start asks neither again, but what was skipped
    assert person.question()[0] == skipped
    person.press("\x04")
    assert person.end()[0] == 0


def test_keys_that_were_pressed_before_a_question_stood_there_do_not_answer_it(desk):
    person = Terminal()
    person.question()
    person.press("121212")
    person.until("saved")
    person.question()
    person.press("q")
    person.end()
    assert len(saved(desk)) == 1


def test_it_says_how_often_one_agrees_with_oneself(desk):
    person, before, flips = Terminal("--repeat_every", "1"), {}, iter([True, False, False, True])
    agreed = asked_again = 0
    while asked_again < 4:
        prompt, answers = person.question()
        best = min(answers)
        if prompt in before:
            asked_again += 1
            agreed += not (flip := next(flips))
            best = max(answers) if flip else before[prompt]
        before[prompt] = best
        person.press("12" if answers[0] == best else "21")
    person.question()
    person.press("q")
    code, shown, _ = person.end()
    assert agreed == 2 and "Of 4 comparisons that came again you decided 2 as before (50%)." in shown


@pytest.mark.parametrize("how, code, says", [
    ("\x03", 130, "label.py: stopped; the same command goes on"), (signal.SIGTERM, 143, "label.py: stopped; the same command"),
    ("other program", 1, "label.py: mine.jsonl has been changed by another program")])
def test_however_it_ends_the_terminal_is_as_before_and_the_labels_are_there(desk, how, code, says):
    person = Terminal()
    person.question()
    person.press("12")
    person.question()
    assert person.flags() == (False, False)
    if how == "other program":
        with open(desk / "mine.jsonl", "ab") as file:
            file.write(ROW + b"\n")
        person.press("12")
    else:
        person.press(how) if isinstance(how, str) else os.kill(person.pid, how)
    ended, shown, flags = person.end()
    assert (ended, flags) == (code, (True, True)) and says in shown and "Traceback" not in shown
    assert "mine.jsonl has 1 ranking." in shown and len(saved(desk)) == 1 + (how == "other program")


def test_ten_kills_lose_no_label_and_double_none(desk):
    """Keys are pressed as fast as questions come, and the program is killed at any time. What it has said to be saved is
    in the file; the key that was pressed last may have come through or not."""
    rng, rows, acts = random.Random(), [], Counter()
    print("seed", seed := rng.randrange(10 ** 6))
    rng.seed(seed)
    for _ in range(10):
        person, before = Terminal("--repeat_every", "3", "--seed", str(rng.randrange(100))), rng.randrange(2, 9)
        killer = threading.Timer(rng.uniform(0, 0.02), os.kill, (person.pid, signal.SIGKILL))
        try:
            while True:
                either, before = None, before - 1
                if before == 0:
                    killer.start()
                prompt, (a, b) = person.question()
                act = rng.choice(["12", "21", "1=2", "s", "u"] if rows else ["12", "21"])
                either = {"12": rows + [(prompt, [a, b])], "21": rows + [(prompt, [b, a])], "1=2": rows + [(prompt, [[a, b]])],
                          "s": rows, "u": rows[:-1]}[act]
                person.press(act)
                person.until({"s": "skipped", "u": "undone"}.get(act, "saved"))
                rows, acts[act] = either, acts[act] + 1
        except Gone:
            killer.join()
        assert os.waitstatus_to_exitcode(os.waitpid(person.pid, 0)[1]) == -signal.SIGKILL
        os.close(person.file)
        there = saved(desk)
        assert there == rows or there == either
        rows = there
    assert acts.total() >= 10, acts
    questions = {}
    for prompt, ranking in Labels(desk / "mine.jsonl").rows:
        questions.setdefault(prompt, []).append(sorted(sum(ranking, [])))
    for asked in questions.values():
        assert len(asked) <= 2 and asked[0] == asked[-1]               # a prompt comes again with its old answers alone


def test_where_nobody_can_press_a_key_it_says_so(desk, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["label.py", "--data", "rows.jsonl", "--run", "run", "--device", "cpu"])
    monkeypatch.setattr(sys, "stdin", open(os.devnull))
    with pytest.raises(SystemExit, match="label.py: single key presses need a terminal, and the standard input is none"):
        launch(label.main, label.Config, "label")
    monkeypatch.setitem(sys.modules, "termios", None)                   # as on Windows
    with pytest.raises(SystemExit, match="label.py: .* on Windows start this in WSL"):
        launch(label.main, label.Config, "label")
    assert not (desk / "mine.jsonl").exists()


def test_an_error_in_the_middle_gives_the_terminal_back():
    leader, follower = pty.openpty()
    before = termios.tcgetattr(follower)
    with pytest.MonkeyPatch.context() as patch, open(follower) as terminal:
        patch.setattr(sys, "stdin", terminal)
        with pytest.raises(RuntimeError), keys.Keys():
            assert not termios.tcgetattr(leader)[3] & termios.ECHO
            raise RuntimeError
        assert termios.tcgetattr(leader) == before
    os.close(leader)

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


@pytest.mark.slow
def test_the_command_of_the_readme(tmp_path):
    """A process of its own: the file lies in data/, and finds the scripts above."""
    done = subprocess.run([sys.executable, "label.py", "--run", str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and "label.py: no sft model in" in done.stderr and "Traceback" not in done.stderr
    done = subprocess.run([sys.executable, "label.py", "--help"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "--repeat-every" in done.stdout.replace("_", "-")
