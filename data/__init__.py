"""All data sets: `load(name)` gives a training and a test `Dataset` of plain strings.

    toy, toy2[:validation]  embedded worlds, with their test or validation held out, see toy.py
    hh, hh:SUBSET[+…]       Anthropic's helpful and harmless dialogues, see hh.py
    tldr                    Reddit posts and their summaries, see tldr.py
    sums[:validation]       sums, worked in the answer, and a program that checks them, see sums.py
    reviews[:others]        sentences about films, rated by real people, see reviews.py
    hub:OWNER/NAME[:SPLIT]  a data set of Hugging Face's Hub, see hub_set.py
    FILE.jsonl[.gz]         your own rows, in any mixture of these shapes, see jsonl.py

docs/data.md shows the shapes. What a data set lacks is taken from what it has: prompts from its
pairs, demonstrations from the better completions, texts from the demonstrations.
"""
from dataclasses import dataclass, field, replace

from support import UserError
from text.dialogue import is_blank
from text.tokenizer import Tokenizer

TOYS = ("toy", "toy2", "toy:validation", "toy2:validation")
BUILT_IN = (*TOYS, "sums", "sums:validation")


@dataclass
class Dataset:
    """One split. A completion starts with the space that follows "Assistant:"."""
    texts: list = field(default_factory=list)           # str
    demonstrations: list = field(default_factory=list)  # (prompt, completion)
    comparisons: list = field(default_factory=list)     # (prompt, [best completion, …, worst])
    prompts: list = field(default_factory=list)         # str
    # The toy's and the reviews' held-out comparisons have little noise. These have as much as those
    # for training. `ceiling` is the accuracy on them if you know what people want.
    noisy: list = field(default_factory=list)           # as comparisons
    ceiling: float = None

    def need(self, kind, name):
        """The rows of one kind. Raises UserError if the data set `name` has none."""
        if not getattr(self, kind):
            raise UserError(f"--data {name} has no {kind}; docs/data.md shows rows that hold them")
        return getattr(self, kind)


def load(name):
    """(train, test) of the data set `name`. Only its module is imported. Raises UserError."""
    noisy, ceiling = [], None
    if name in BUILT_IN:
        from data import built_in
        train, test, noisy, ceiling = built_in.load(name)
    elif name.partition(":")[0] == "reviews":
        from data import reviews
        train, test, noisy, ceiling = reviews.load(name)
    elif name.partition(":")[0] == "hh":
        from data import hh
        train, test = hh.load(name)
    elif name == "tldr":
        from data import tldr
        train, test = tldr.load()
    elif name.startswith("hub:") or name.endswith(".parquet"):
        from data import hub_set
        train, test = hub_set.load(name)
    else:
        from data import jsonl
        train, test = jsonl.load(name)
    if test is None:
        from data.split import split
        train, test = split(train, name)
    train, test = collect(train), replace(collect(test), noisy=noisy, ceiling=ceiling)
    if train.demonstrations and not train.prompts:
        raise UserError(f"--data {name}: all prompts are blank, and nothing can be asked with them")
    return train, test


def tokenizer_for(name):
    """The tokenizer of a model that is trained from scratch on the data set `name`."""
    if name not in BUILT_IN:
        return Tokenizer.gpt2()
    from data import built_in
    return built_in.vocabulary(name)


def collect(rows):
    """A Dataset of rows as `jsonl.read_jsonl` has them."""
    texts = [row["text"] for row in rows if "text" in row]
    demonstrations = [(row["prompt"], row["completion"]) for row in rows if "completion" in row]
    comparisons = [(row["prompt"], row["completions"]) for row in rows if "completions" in row]
    prompts = [row["prompt"] for row in rows if row.keys() == {"prompt"}]
    demonstrations = demonstrations or [(prompt, ranking[0]) for prompt, ranking in comparisons]
    prompts = prompts or [prompt for prompt, _ in demonstrations if not is_blank(prompt)]
    texts = texts or [prompt + completion for prompt, completion in demonstrations]
    return Dataset(texts, demonstrations, comparisons, list(dict.fromkeys(prompts)))
