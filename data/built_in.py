"""Rows and vocabularies of the built-in data sets: sums.py makes its own, the toys' are in files
that toy.py writes into data/toy and data/toy2."""
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import data.sums as sums
from data.jsonl import objects, read_jsonl
from support import UserError
from text.tokenizer import FILE as TOKENIZER_FILE, Tokenizer, read_tokens

FOLDER = Path(__file__).parent
TRAINS_ON = ("text", "demonstrations", "comparisons", "prompts")
HELD_OUT = ("test", "test_noisy", "validation", "validation_noisy")


def load(name):
    """(training rows, held-out rows, noisy held-out rankings, their ceiling) of "toy", "toy2" or
    "sums", which hold out the test, or "toy:validation" and so on."""
    world, _, split = name.partition(":")
    if world == "sums":
        return *sums.load(split), [], None
    folder, split = make(world), split or "test"
    train = [row for kind in TRAINS_ON for row in read_jsonl(folder / f"{kind}.jsonl")]
    noisy = [row for _, row in objects(folder / f"{split}_noisy.jsonl")]
    rankings = [(row["prompt"], row["completions"]) for row in noisy]
    return train, read_jsonl(folder / f"{split}.jsonl"), rankings, ceiling(noisy)


def ceiling(noisy):
    """The share of the pairs of all rankings which the person ordered as the judge's points do,
    half of those with equal points: no reward model can be expected to agree with more."""
    pairs = [pair for row in noisy for pair in combinations(row["points"], 2)]
    return sum((better > worse) + (better == worse) / 2 for better, worse in pairs) / len(pairs)


def vocabulary(name):
    world = name.partition(":")[0]
    return sums.vocabulary() if world == "sums" else Tokenizer.words(read_tokens(make(world)))


def make(world):
    """The folder of a world. Writes its files if they are not there or older than their program. It
    runs as a process of its own, so that the judge, which lives in it, is never in a training
    script's memory."""
    folder, number = FOLDER / world, {"toy": "1", "toy2": "2"}[world]
    files = [folder / TOKENIZER_FILE,
             *(folder / f"{kind}.jsonl" for kind in (*TRAINS_ON, *HELD_OUT))]
    changed = max(path.stat().st_mtime for path in FOLDER.glob("toy*.*"))
    if any(not file.exists() or file.stat().st_mtime < changed for file in files):
        made = subprocess.run([sys.executable, "-m", "data.toy", "--world", number],
                              cwd=FOLDER.parent, capture_output=True, text=True)
        if made.returncode:
            why = made.stderr.strip().splitlines()[-1]
            raise UserError(f"the toy's files could not be written to {folder}: {why}")
    return folder
