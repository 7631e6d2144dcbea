"""People's own rows: JSON lines, gzipped or not, in TRL's shapes or HH's raw form. The rows of
every data set pass `read_rows`."""
import gzip
import re
import zlib
from collections import Counter
from itertools import combinations
from pathlib import Path

from data.messages import Dropped, plain
from support import UserError, reason
from support.files import parse_json
from text.dialogue import ASSISTANT, HUMAN, is_blank

# A row that has a key on the left must have all those on the right; the first such line counts.
# A row that has none of these keys must be a page.
SHAPES = (({"chosen", "rejected"}, ("prompt", "chosen", "rejected")),
          ({"completions"}, ("prompt", "completions")),
          ({"completion"}, ("prompt", "completion")),
          ({"prompt"}, ("prompt",)),
          (set(), ("text",)))
ROWS_ARE = ("; each row is an object on a line of its own, as `jq -c .` writes objects and "
            "`jq -c '.[]'` those of an array")
AN_END = re.compile(r"(<\|\w+\|>|</s>)\s*$")         # in letters, as models write it
HUMAN_INSIDE = "a human's turn in the completion"


def load(name):
    """(rows, None) of the file `name`, which has no test split. Raises UserError."""
    path = Path(name)
    if path.is_dir():
        raise UserError(f"--data {name}: a folder; give a file of rows in it, .jsonl or .jsonl.gz")
    if not path.exists():
        raise UserError(f"--data {name}: no such file (and no data set of that name; there are: "
                        "toy, toy2, hh, tldr, reviews, sums)")
    return read_jsonl(path), None


def read_jsonl(path):
    """Rows of a file, each {"text"}, {"prompt"}, {"prompt", "completion"} or {"prompt",
    "completions"} (best first, no ties). Raises UserError with the line."""
    return read_rows(path, objects(path))


def objects(path):
    """(where, object) of every line that is not blank. Raises UserError."""
    try:
        opened = gzip.open if path.suffix == ".gz" else open
        with opened(path, "rt", encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                where = f"{path}, line {number}"
                if line.strip():
                    yield where, parse_json(line, where, ROWS_ARE)
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read as UTF-8 text ({reason(error)})") from error


def read_rows(name, pairs):
    """Rows as of `read_jsonl` from pairs (where, object): `plain` makes strings of messages,
    `shaped` checks the keys, `learnable` drops what teaches nothing. Prints how many rows of `name`
    are dropped, and why. Raises UserError if none is usable."""
    read, used, rows, dropped = 0, 0, [], Counter()
    for where, row in pairs:
        read += 1
        try:
            rows += learnable(shaped(plain(row, where), where), where)
            used += 1
        except Dropped as why:
            dropped[str(why)] += 1
    if dropped:
        kinds = "; ".join(f"{count} dropped: {why}" for why, count in dropped.items())
        print(f"{name}: {read:,} rows read, {used:,} used; {kinds}")
    if not rows:
        raise UserError(f"{name}: no usable row in it")
    ends = {(AN_END.search(text) or [""])[0].strip() for row in rows
            for text in row.get("completions", [row.get("completion")]) if text}
    if len(ends) == 1 and (end := ends.pop()):
        print(f"{name}: all completions end with {end} in letters, which a model learns as "
              "letters; the end is added by itself, so take them away")
    return rows


def shaped(row, where):
    """The row with just the keys of its shape, each present and of the right type."""
    keys = next(keys for some, keys in SHAPES if not some or some & row.keys())
    if "rejected" in keys and "prompt" not in row:
        keys = ("chosen", "rejected")
    for key in keys:
        if key not in row:
            there = ", ".join(list(row)[:9]) or "nothing"
            raise UserError(f'{where}: the key "{key}" is missing (the row has: {there}); '
                            "docs/data.md shows the rows that can be read")
        strings, kind = [row[key]], "a string"
        if key == "completions":
            kind = "a list of strings, with a list in it for each tie"
            strings = sum(places(row[key]), []) if isinstance(row[key], list) else [None]
        if not all(isinstance(string, str) for string in strings):
            raise UserError(f'{where}: "{key}" must be {kind}')
        if re.search("[\ud800-\udfff]", "".join(strings)):
            raise UserError(f'{where}: "{key}" has one half of a character, such as \\ud83d; '
                            "write all of it or none")
    return {key: row[key] for key in keys}


def learnable(row, where):
    """The rows that a shaped row stands for. Raises Dropped if nothing can be learned from it."""
    if "chosen" in row or "completions" in row:
        return without_ties(*rank(row if "prompt" in row else split_dialogues(row, where)))
    if HUMAN in row.get("completion", ""):
        raise Dropped(HUMAN_INSIDE)
    if is_blank(row.get("completion", row.get("text", row.get("prompt")))):
        raise Dropped("empty")
    return [row]

# ---------- comparisons

def split_dialogues(row, where):
    """HH's raw form as a pair with a prompt: two dialogues that should differ in the last turn.
    They are split at the LAST "Assistant:", for their completions may begin alike."""
    parts = []
    for key in ("chosen", "rejected"):
        if ASSISTANT not in row[key]:
            raise UserError(f'{where}: "{key}" has no turn that begins with {ASSISTANT!r}, '
                            'and there is no "prompt"')
        prompt, _, completion = row[key].rpartition(ASSISTANT)
        parts.append((prompt + ASSISTANT, completion))
    (prompt, chosen), (other, rejected) = parts
    if prompt != other:
        raise Dropped("the dialogues differ before the last turn")
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def rank(row):
    """(prompt, completions place by place) of a pair or a ranking, without empty ones and with each
    once: blanks around it make no other. Raises Dropped if no pair is left, since one of equal
    completions has no gradient."""
    ranking = places(row.get("completions", [row.get("chosen"), row.get("rejected")]))
    if ASSISTANT in row["prompt"]:      # some say the whole prompt once more before each
        ranking = [[text.removeprefix(row["prompt"]) for text in place] for place in ranking]
    if any(HUMAN in text for place in ranking for text in place):
        raise Dropped(HUMAN_INSIDE)
    distinct, seen = [], set()
    for place in ranking:
        new = []
        for text in place:
            if text.strip() and text.strip() not in seen:
                seen.add(text.strip())
                new.append(text)
        if new:
            distinct.append(new)
    if len(distinct) > 1:
        return row["prompt"], distinct
    if len(seen) > 1:
        raise Dropped("a tie")
    full = all(text.strip() for place in ranking for text in place)
    raise Dropped("identical replies" if full else "an empty reply")


def places(ranking):
    """The completions of a ranking, place by place: a string has its own, a list is a tie."""
    return [place if isinstance(place, list) else [place] for place in ranking]


def without_ties(prompt, ranking):
    """The rows that say the same without ties. A ranking with ties becomes its pairs of different
    places: Bradley-Terry has no ties, so nothing is learned about two that share a place."""
    if all(len(place) == 1 for place in ranking):
        return [{"prompt": prompt, "completions": sum(ranking, [])}]
    return [{"prompt": prompt, "completions": [a, b]}
            for better, worse in combinations(ranking, 2) for a in better for b in worse]
