"""One door to all data sets: `load(name)` gives a training and a test `Dataset` of plain strings.

    toy                     the embedded world, see toy.py
    hh, hh:SUBSET[+…]       Anthropic's helpful and harmless dialogues, see hh.py
    tldr                    Reddit posts and their summaries, see tldr.py
    hub:OWNER/NAME[:SPLIT]  a data set of Hugging Face's Hub, see hub_set.py
    FILE.jsonl[.gz]         your own rows, in any mixture of these shapes (extra keys are ignored)

docs/data.md shows the shapes. What a file lacks is taken from what it has: prompts from its pairs, demonstrations
from the better completions, texts from the demonstrations.
"""
import hashlib
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from data import hh, hub_set, tldr
from data.jsonl import read_jsonl
from text.tokenizer import FILE as TOKENIZER_FILE, Tokenizer
from support import UserError

TOY = Path(__file__).parent / "toy"
KINDS = ("text", "demonstrations", "comparisons", "prompts")
TEST_SHARE = 0.05                   # of the prompts of a data set that has no test split of its own


@dataclass
class Dataset:
    """One split. A completion starts with the space that follows "Assistant:"."""
    texts: list = field(default_factory=list)           # str
    demonstrations: list = field(default_factory=list)  # (prompt, completion)
    comparisons: list = field(default_factory=list)     # (prompt, [best completion, …, worst])
    prompts: list = field(default_factory=list)         # str

    def need(self, kind, name):
        """The rows of one kind. Raises UserError if the data set `name` has none."""
        if not getattr(self, kind):
            raise UserError(f"--data {name} has no {kind}; docs/data.md lists the rows that hold them")
        return getattr(self, kind)


def load(name):
    """(train, test) of the data set `name`. Raises UserError when there is none or a row is malformed."""
    if name == "toy":
        make_toy()
        train = [read_jsonl(TOY / f"{kind}.jsonl") for kind in KINDS]
        return gather(sum(train, [])), gather(read_jsonl(TOY / "test.jsonl"))
    if name.partition(":")[0] == "hh":
        return tuple(map(gather, hh.load(name)))
    if name == "tldr":
        return tuple(map(gather, tldr.load()))
    if name.startswith("hub:"):
        train, test = hub_set.load(name)
        return (gather(train), gather(test)) if test else split(train, name)
    path = Path(name)
    if path.is_dir():
        raise UserError(f"--data {name}: a folder; give a file of rows in it, .jsonl or .jsonl.gz")
    if not path.exists():
        raise UserError(f"--data {name}: no such file (and no data set of that name; there are: toy, hh, tldr)")
    return split(read_jsonl(path), path)


def make_toy():
    """Write the toy's files if they are not there or older than their program. It runs as a process of
    its own, so that the judge, which lives in it, is never in the memory of a training script."""
    files = [TOY / TOKENIZER_FILE, *(TOY / f"{kind}.jsonl" for kind in (*KINDS, "test"))]
    changed = max(path.stat().st_mtime for path in TOY.parent.glob("toy*.*"))
    if any(not file.exists() or file.stat().st_mtime < changed for file in files):
        made = subprocess.run([sys.executable, "-m", "data.toy"], cwd=TOY.parent.parent, capture_output=True, text=True)
        if made.returncode:
            raise UserError(f"the toy's files could not be written to {TOY}: {made.stderr.strip().splitlines()[-1]}")


def tokenizer_for(name):
    """The tokenizer of a model that is trained from scratch on the data set `name`."""
    if name != "toy":
        return Tokenizer.gpt2()
    make_toy()
    return Tokenizer.read(TOY / TOKENIZER_FILE)


def gather(rows):
    """A Dataset of normalised rows; what they lack is taken from what they have."""
    texts = [row["text"] for row in rows if "text" in row]
    demonstrations = [(row["prompt"], row["completion"]) for row in rows if "completion" in row]
    comparisons = [(row["prompt"], row["completions"]) for row in rows if "completions" in row]
    prompts = [row["prompt"] for row in rows if row.keys() == {"prompt"}]

    demonstrations = demonstrations or [(prompt, ranking[0]) for prompt, ranking in comparisons]
    prompts = prompts or [prompt for prompt, _ in demonstrations if prompt.strip()]     # nothing asks for no answer
    texts = texts or [prompt + completion for prompt, completion in demonstrations]
    return Dataset(texts, demonstrations, comparisons, list(dict.fromkeys(prompts)))


def split(rows, path):
    """(train, test): whole prompts go to one side, chosen by their hash, so the split never changes."""
    keys = [row.get("prompt", row.get("text")) for row in rows]
    order = sorted(set(keys), key=lambda key: hashlib.sha256(key.encode()).digest())
    if len(order) < 2:
        raise UserError(f"{path}: {len(order)} different prompts; training and test need at least one each")
    held_out = set(order[:max(1, int(TEST_SHARE * len(order)))])
    return (gather([row for row, key in zip(rows, keys) if key not in held_out]),
            gather([row for row, key in zip(rows, keys) if key in held_out]))
