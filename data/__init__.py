"""One door to all data sets: `load(name)` gives a training and a test `Dataset` of plain strings.

    toy                     the embedded world, see toy.py
    hh, hh:SUBSET[+…]       Anthropic's helpful and harmless dialogues, see hh.py
    tldr                    Reddit posts and their summaries, see tldr.py
    hub:OWNER/NAME[:SPLIT]  a data set of Hugging Face's Hub, see hub_set.py
    FILE.jsonl[.gz]         your own rows, in any mixture of these shapes, see jsonl.py

docs/data.md shows the shapes. What a data set lacks is taken from what it has: prompts from its
pairs, demonstrations from the better completions, texts from the demonstrations.
"""
import hashlib
from dataclasses import dataclass, field

from support import UserError
from text.dialogue import ASSISTANT
from text.tokenizer import Tokenizer

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
            raise UserError(f"--data {name} has no {kind}; docs/data.md shows rows that hold them")
        return getattr(self, kind)


def load(name):
    """(train, test) of the data set `name`, whose module alone is imported. Raises UserError."""
    if name == "toy":
        from data import built_in
        train, test = built_in.load()
    elif name.partition(":")[0] == "hh":
        from data import hh
        train, test = hh.load(name)
    elif name == "tldr":
        from data import tldr
        train, test = tldr.load()
    elif name.startswith("hub:") or name.endswith(".parquet"):
        from data import hub_set
        train, test = (hub_set.load if name.startswith("hub:") else hub_set.load_file)(name)
    else:
        from data import jsonl
        train, test = jsonl.load(name)
    return split(train, name) if test is None else (collect(train), collect(test))


def tokenizer_for(name):
    """The tokenizer of a model that is trained from scratch on the data set `name`."""
    if name != "toy":
        return Tokenizer.gpt2()
    from data import built_in
    return built_in.vocabulary()


def collect(rows):
    """A Dataset of rows as `jsonl.read_jsonl` has them."""
    texts = [row["text"] for row in rows if "text" in row]
    demonstrations = [(row["prompt"], row["completion"]) for row in rows if "completion" in row]
    comparisons = [(row["prompt"], row["completions"]) for row in rows if "completions" in row]
    prompts = [row["prompt"] for row in rows if row.keys() == {"prompt"}]
    demonstrations = demonstrations or [(prompt, ranking[0]) for prompt, ranking in comparisons]
    prompts = prompts or [prompt for prompt, _ in demonstrations if prompt.strip()]
    texts = texts or [prompt + completion for prompt, completion in demonstrations]
    return Dataset(texts, demonstrations, comparisons, list(dict.fromkeys(prompts)))


def split(rows, name):
    """(train, test): all dialogues that begin alike go to one side, chosen by hash, so the split
    never changes. Pages are split apart from them."""
    pages = [row for row in rows if "text" in row]
    dialogues = [row for row in rows if "text" not in row]
    parts = [in_two(some, key) for some, key in ((pages, page), (dialogues, first_turn)) if some]
    train, test = (sum(side, []) for side in zip(*parts))
    if not test:
        raise UserError(f"{name}: 1 different prompt; training and test need at least one each")
    return collect(train), collect(test)


def in_two(rows, key):
    """(rows, held-out rows); none of the latter if there is but one key."""
    keys = {key(row) for row in rows}
    order = sorted(keys, key=lambda one: hashlib.sha256(one.encode()).digest())
    held_out = set(order[:max(1, int(TEST_SHARE * len(order)))] if len(order) > 1 else [])
    return ([row for row in rows if key(row) not in held_out],
            [row for row in rows if key(row) in held_out])


def page(row):
    return row["text"]


def first_turn(row):
    """The prompt of a row as far as its first question goes."""
    question, assistant, _ = row["prompt"].partition(ASSISTANT)
    return question + assistant
