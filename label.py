"""You are the human: rank answers of the SFT model, for a reward model that learns what you prefer.

    python label.py                                the toy's SFT model, out/toy/sft
    python reward.py --data mine.jsonl --run out/toy --init out/toy/reward …        docs/label.md has the whole path

You see a prompt and a few answers, in a random order. Press their numbers, the best one first, `=` between two that are
equally good. Each ranking is on the disk before the next question comes. Some questions come again: at the end it says
how often you agree with yourself.
"""
import signal
from dataclasses import dataclass
from pathlib import Path

import torch

import data
from text.batches import pad
from text.encode import encode_prompts
from labels import Labels, Session, agreement
from text.tokenizer import Tokenizer
from gpt import GPT
from support import UserError, printable
from support.command_line import Flags, launch, start
from support.endings import Stopped
from keys import Keys
from support.runs import find_model

KEYS = """\
Rank the answers: press their numbers, the best one first, = between two that are equally good (2 1, or 1 = 2).
backspace: start this one again    u: undo the last one    s: skip    q: quit; every ranking is saved at once"""


@dataclass
class Config(Flags):            # with --data, --run, --preset, --seed, --device, --precision
    file: str = "mine.jsonl"    # your rankings, one line each; what is there already is kept, and not asked again
    answers: int = 2            # to a prompt, 2 to 4: more comparisons for a little more reading
    repeat_every: int = 5       # new questions between two that come again
    max_new_tokens: int = 32    # of an answer; one that has not ended by then is not shown
    temperature: float = 1.0    # of sampling: that of ppo.py, whose answers will be scored
    tries: int = 8              # rounds of sampling, until a prompt without so many different answers is left out

# ----------------------------------------------------------------------------- answers

def responder(model, tokenizer, cfg, device):
    """A function prompt (str) -> cfg.answers different completions (str), or None if the model has fewer. A completion
    that does not end is none: the reward model will take each for whole."""
    def respond(prompt):
        ids = encode_prompts([prompt] * cfg.answers, tokenizer, model.config.block_size, cfg.max_new_tokens)
        found = {}
        for _ in range(cfg.tries):
            tokens, mask, _ = model.generate(*pad(ids, left=True, device=device), cfg.max_new_tokens, cfg.temperature)
            for row, real in zip(tokens, mask):
                text = tokenizer.decode(row[real].tolist())
                if (row[real] == tokenizer.eos).any() and text.strip():
                    found.setdefault(text.strip(), text)        # blanks around it make no other answer
            if len(found) >= cfg.answers:
                return list(found.values())[:cfg.answers]
        return None
    return respond

# ----------------------------------------------------------------------------- the screen

def show(text, indent=""):
    print("\n".join(indent + printable(line) for line in text.strip().split("\n")))


def read_order(keys, count):
    """What a person presses for `count` answers: places, as Session.answer takes them, or "s", "u" or "q"."""
    order, tie = [], False
    while sum(map(len, order)) < count:
        key = keys.press().lower() or "q"               # the terminal is gone
        if key in "suq":
            return key
        if key in "\b\x7f":                             # backspace: begin this one again
            print("\r" + " " * 40 + "\r> ", end="", flush=True)
            order, tie = [], False
        elif key == "=" and order and not tie:
            tie = True
            print("= ", end="", flush=True)
        elif key.isdecimal() and 0 <= int(key) - 1 < count and int(key) - 1 not in sum(order, []):
            order[-1:] = [order[-1] + [int(key) - 1]] if tie else [*order[-1:], [int(key) - 1]]
            tie = False
            print(key, end=" ", flush=True)
    return order


def ask(session, keys):
    """Ask until a person quits or nothing is left."""
    print(KEYS)
    while question := session.next():
        prompt, completions = question
        keys.forget()
        print(f"\n{'-' * 60} {len(session.labels.rows)} answered")
        show(prompt)
        print()
        for i, completion in enumerate(completions, start=1):
            show(f"{i}  " + completion.strip().replace("\n", "\n   "), "  ")
        print("\n> ", end="", flush=True)
        order = read_order(keys, len(completions))
        if order == "q":
            return
        elif order == "s":
            session.skip()
            print("skipped")
        elif order == "u":
            print("the last answer is undone" if session.undo() else "there is no answer to undo")
        else:
            session.answer(order)
            print("  saved")
    print("\nNothing is left to ask: each prompt has its ranking, or the model has too few different answers to it.")


def report(labels):
    """What there is, and how often the person agrees with themselves."""
    same, again = agreement(labels.rows)
    print(f"\n{labels.path} has {len(labels.rows)} ranking{'s' * (len(labels.rows) != 1)}. " + (
        f"Of {again} comparisons that came again you decided {same} as before ({same / again:.0%})." if again else
        "No comparison has come again yet."))


def main(cfg):
    run, device, bf16 = start(cfg)
    folder = find_model(run, "sft")
    if not cfg.file.endswith(".jsonl"):
        raise UserError(f"--file {cfg.file}: must end with .jsonl, for `reward.py --data` to read it")
    with Keys() as keys:
        prompts = data.load(cfg.data)[0].need("prompts", cfg.data)
        labels, tokenizer = Labels(Path(cfg.file)), Tokenizer.load(folder)
        model = GPT.from_pretrained(folder, device, bf16, frozen=True)
        session = Session(labels, prompts, responder(model, tokenizer, cfg, device), cfg.repeat_every, cfg.seed)
        try:
            ask(session, keys)
        except KeyboardInterrupt as stop:               # Ctrl-C, or a Stopped with its signal's number
            raise Stopped(*stop.args[:1] or [signal.SIGINT], "stopped; the same command goes on") from stop
        finally:
            report(labels)


if __name__ == "__main__":
    launch(main, Config, "label")
