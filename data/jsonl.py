"""People's own rows: JSON lines, gzipped or not, in TRL's shapes or HH's raw form."""
import gzip
import re
import zlib
from collections import Counter
from itertools import combinations

from data.messages import Dropped, plain
from support import UserError, reason
from support.files import parse_json

TURN = "\n\nAssistant:"
# A row with one of these keys must have all of those; one with none of them must be a page.
SHAPES = (({"chosen", "rejected"}, ("prompt", "chosen", "rejected")), ({"completions"}, ("prompt", "completions")),
          ({"completion"}, ("prompt", "completion")), ({"prompt"}, ("prompt",)), (set(), ("text",)))


def read_jsonl(path):
    """Rows of a file, each {"text"}, {"prompt"}, {"prompt", "completion"} or {"prompt", "completions"}
    (best first, no ties). Odd rows are counted by kind and the counts printed. Raises UserError with the line."""
    return read_rows(path, objects(path))


def read_rows(name, pairs):
    """Rows as of `read_jsonl` from pairs (where, object). Raises UserError if `name` has no usable row."""
    rows, odd = [], Counter()
    for where, row in pairs:
        try:
            rows.append((where, shaped(plain(row, where), where)))
        except Dropped as dropped:
            odd[f"dropped: {dropped}"] += 1
    rows = usable(name, rows, odd)
    if not rows:
        raise UserError(f"{name}: no usable row in this file")
    return rows


def objects(path):
    """(where, object) of every line that is not blank; `where` names file and line. Raises UserError."""
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield f"{path}, line {number}", parse_json(line, f"{path}, line {number}")
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read as UTF-8 text ({reason(error)})") from error


def shaped(row, where):
    """The row with just the keys of its shape, each present and of the right type."""
    keys = next(keys for some, keys in SHAPES if not some or some & row.keys())
    if "rejected" in keys and "prompt" not in row:
        keys = ("chosen", "rejected")
    for key in keys:
        if key not in row:
            there = ", ".join(list(row)[:9]) or "nothing"
            raise UserError(f'{where}: the key "{key}" is missing (the row has: {there})')
        strings, kind = [row[key]], "a string"
        if key == "completions":
            kind = "a list of strings, with a list in it for each tie"
            strings = sum(places(row[key]), []) if isinstance(row[key], list) else [None]
        if not all(isinstance(string, str) for string in strings):
            raise UserError(f'{where}: "{key}" must be {kind}')
        if any("\ud800" <= c <= "\udfff" for string in strings if not string.isascii() for c in string):
            raise UserError(f'{where}: "{key}" has one half of a character, such as \\ud83d; write all of it or none')
    return {key: row[key] for key in keys}


def usable(name, rows, odd=()):
    """The rows, of (where, row), that something can be learned from. Prints how many of `name` are odd, those that
    were dropped before, counted by kind in `odd`, among them."""
    rows, odd = list(rows), Counter(odd)
    read = len(rows) + odd.total()
    used = [rank(row, where, odd) if "chosen" in row or "completions" in row else drop_empty(row, odd)
            for where, row in rows]
    used = [row for row in used if row]
    if odd:
        print(f"{name}: {read:,} rows read, {len(used):,} used; "
              + "; ".join(f"{count} {kind}" for kind, count in odd.items()))
    return [part for row in used for part in without_ties(row)]


def drop_empty(row, odd):
    """The row, or None if it has no text to read or no completion to learn from."""
    if not row.get("completion", row.get("text", row.get("prompt"))).strip():
        odd["dropped: empty"] += 1
        return None
    return row


def rank(row, where, odd):
    """{"prompt", "completions"}, place by place, from a pair, a ranking or two whole dialogues; None if nothing can
    be learned from it: an identical pair has loss ln 2 and no gradient, an empty reply is no reply."""
    if "prompt" not in row:
        row = split_dialogues(row, where, odd)
        if row is None:
            return None
    ranking, distinct, seen = places(row.get("completions", [row.get("chosen"), row.get("rejected")])), [], set()
    for place in ranking:
        new = [text for text in dict.fromkeys(place) if text.strip() and text not in seen]
        seen.update(new)
        distinct += [new] * bool(new)
    if len(distinct) < 2:
        empty = not all(map(str.strip, sum(ranking, [])))
        odd["dropped: " + ("a tie" if len(seen) > 1 else "an empty reply" if empty else "identical replies")] += 1
        return None
    return {"prompt": row["prompt"], "completions": distinct}


def places(ranking):
    """The completions of a ranking, place by place: a string has its place alone, a list of strings is a tie."""
    return [place if isinstance(place, list) else [place] for place in ranking]


def without_ties(row):
    """The rows that say the same without ties. A ranking with ties becomes its pairs of different places: the
    Bradley-Terry model has no ties, so nothing is learned about two completions that share a place."""
    if "completions" not in row:
        return [row]
    ranking = row["completions"]
    if all(len(place) == 1 for place in ranking):
        return [{**row, "completions": sum(ranking, [])}]
    return [{**row, "completions": [a, b]} for better, worse in combinations(ranking, 2) for a in better for b in worse]


def split_dialogues(row, where, odd):
    """HH's raw form: two dialogues that should differ in the last turn alone. They are split at the LAST
    "\\n\\nAssistant:"; splitting at their common prefix would give the prompt a part of the answer."""
    parts = {}
    for key in ("chosen", "rejected"):
        if TURN not in row[key]:
            raise UserError(f'{where}: "{key}" has no turn that begins with "\\n\\nAssistant:", '
                            'and there is no "prompt"')
        prompt, _, completion = row[key].rpartition(TURN)
        parts[key] = prompt + TURN, completion
    (prompt, chosen), (other, rejected) = parts.values()
    if "\n\nHuman:" in chosen + rejected:
        odd["dropped: a human has the last turn"] += 1
        return None
    if prompt != other:
        odd["dropped: the dialogues differ before the last turn"] += 1
        return None
    speakers = re.findall(r"\n\n(Human|Assistant):", prompt)
    if any(first == second for first, second in zip(speakers, speakers[1:])):
        odd["kept: a speaker has two turns in a row"] += 1
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}
