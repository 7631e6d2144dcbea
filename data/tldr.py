"""tldr: posts from Reddit, their writers' own summaries, and which of two summaries people prefer.

    demonstrations  a post and its writer's summary             116,722 for training, 6,553 to test
    comparisons     a post and two summaries, the better first  some 93,000 and 51,000

Stiennon et al., arXiv:2009.01325. OpenAI keeps the files in its public store: the posts are Syed et
al.'s TL;DR corpus (CC BY 4.0), the choices have OpenAI's modified MIT licence. PPO practises on the
demonstrations' prompts.
"""
import os
from http.client import HTTPException
from pathlib import Path
from urllib.request import urlopen

from data.jsonl import objects, read_rows
from support import UserError, reason
from support.files import write_whole
from text.tokenizer import Tokenizer

STORE = "https://openaipublic.blob.core.windows.net/summarize-from-feedback"
POSTS = {"train": "datasets/tldr_3_filtered/train.jsonl",
         "test": "datasets/tldr_3_filtered/test.jsonl"}
# There is no batch21, and batch0_cnndm, cnndm0 and cnndm2 are about news.
BATCHES = [*(f"batch{i}" for i in range(3, 21)), "batch22", "edit_b2_eval_test"]
COMPARISONS = [f"dataset/comparisons/{name}.json" for name in BATCHES]      # of JSON lines
# The paper chose between models by valid1 and reported valid2, so only that is a test.
SPLITS = {"train": "train", "valid1": None, "valid2": "test"}
PROMPT_TOKENS = 512


def load():
    """(training rows, test rows). Downloads what is not yet there."""
    files = {file: download(f"{STORE}/{file}", cache_folder() / "tldr" / file.split("/")[-1])
             for file in [*POSTS.values(), *COMPARISONS]}
    tokenizer = Tokenizer.gpt2()
    rows = {"train": [], "test": [], None: []}
    for split, file in POSTS.items():
        rows[split] += read(files[file], demonstration, tokenizer)
    for file in COMPARISONS:
        for where, row in read(files[file], comparison, tokenizer):
            rows[row["split"]].append((where, row))
    return read_rows("tldr, training", rows["train"]), read_rows("tldr, test", rows["test"])


def read(path, convert, tokenizer):
    """(where, converted row) of every line. Raises UserError if one has another form."""
    for where, row in objects(path):
        try:
            row = convert(row, tokenizer)
        except (AttributeError, IndexError, KeyError, TypeError) as error:
            what = f"{type(error).__name__}: {error}"
            raise UserError(f"{where}: not a row as OpenAI published them ({what})") from error
        yield where, row


def demonstration(row, tokenizer):
    return {"prompt": post_prompt(row, tokenizer),
            "completion": summary_completion(row["summary"])}


def comparison(row, tokenizer):
    better, worse = row["summaries"][row["choice"]], row["summaries"][1 - row["choice"]]
    return {"prompt": post_prompt(row["info"], tokenizer),
            "chosen": summary_completion(better["text"]),
            "rejected": summary_completion(worse["text"]), "split": SPLITS[row["split"]]}


def summary_completion(summary):
    """One space before it, as after any "TL;DR:": those of the comparisons have it, others not."""
    return " " + summary.strip()


def post_prompt(post, tokenizer):
    """A post in the paper's frame. One that is too long loses what follows its last newline, again
    and again, so that "TL;DR:" always survives; a post of one line loses its last word, one of a
    single word its last letter."""
    text = post["post"]
    head = "SUBREDDIT: r/" + post["subreddit"] + "\n\nTITLE: " + post["title"] + "\n\nPOST: "
    while True:
        whole = head + text + "\n\nTL;DR:"
        if not text or len(tokenizer.encode(whole)) <= PROMPT_TOKENS:
            return whole
        text = text.rpartition("\n")[0] or text.rpartition(" ")[0] or text[:-1]

# ----------------------------------------------------------------------------- downloads

def cache_folder():
    """Where downloads are kept: $XDG_CACHE_HOME/plainrlhf, by default ~/.cache/plainrlhf."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "plainrlhf"


def download(address, path):
    """Download `address` to `path` unless it is there; return `path`. Raises UserError."""
    try:
        if not path.exists():
            write_whole(path, lambda temporary: receive(address, temporary, path.name))
    except (OSError, HTTPException, ValueError, OverflowError) as error:    # two for odd proxies
        raise UserError(f"{address} could not be downloaded to {path} ({reason(error)}); "
                        "connect once, and it is read from there ever after") from error
    return path


def receive(address, path, name):
    """Write what `address` sends to `path`. Raises OSError if the end is missing."""
    from tqdm import tqdm                           # slow to import, and mostly the files are there
    with urlopen(address, timeout=60) as response, open(path, "wb") as file:
        if not response.headers["Content-Length"]:
            raise OSError("the server does not say how long the file is, so it may be incomplete")
        size = int(response.headers["Content-Length"])
        with tqdm(total=size, desc=name, unit="B", unit_scale=True, dynamic_ncols=True) as bar:
            while piece := response.read(1 << 20):
                file.write(piece)
                bar.update(len(piece))
    if path.stat().st_size != size:                 # `read` raises nothing when the connection ends
        raise OSError(f"the connection broke off after {path.stat().st_size:,} of {size:,} bytes")
