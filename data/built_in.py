"""The toy's rows and vocabulary, from the files that toy.py writes into data/toy."""
import subprocess
import sys
from pathlib import Path

from data.jsonl import read_jsonl
from support import UserError
from text.tokenizer import FILE as TOKENIZER_FILE, Tokenizer, read_tokens

FOLDER = Path(__file__).parent / "toy"
TRAINS_ON = ("text", "demonstrations", "comparisons", "prompts")


def load():
    """(training rows, test rows)."""
    make()
    train = [row for kind in TRAINS_ON for row in read_jsonl(FOLDER / f"{kind}.jsonl")]
    return train, read_jsonl(FOLDER / "test.jsonl")


def vocabulary():
    make()
    return Tokenizer.words(read_tokens(FOLDER))


def make():
    """Write the files if they are not there or older than their program. It runs as a process of
    its own, so that the judge, which lives in it, is never in a training script's memory."""
    files = [FOLDER / TOKENIZER_FILE, *(FOLDER / f"{kind}.jsonl" for kind in (*TRAINS_ON, "test"))]
    changed = max(path.stat().st_mtime for path in FOLDER.parent.glob("toy*.*"))
    if any(not file.exists() or file.stat().st_mtime < changed for file in files):
        made = subprocess.run([sys.executable, "-m", "data.toy"], cwd=FOLDER.parent.parent,
                              capture_output=True, text=True)
        if made.returncode:
            why = made.stderr.strip().splitlines()[-1]
            raise UserError(f"the toy's files could not be written to {FOLDER}: {why}")
