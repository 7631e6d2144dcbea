"""A person's labels: the file that keeps them, what is asked next, and how often the person agrees with themselves.

A label is a line that `reward.py --data FILE` reads: a prompt and completions, best first, a tie as a list in the list.

    {"prompt": "\\n\\nHuman: …\\n\\nAssistant:", "completions": [" best", [" as good", " as this"], " worst"]}

The file is the whole memory: whenever a program that asks is killed, the next one goes on from what stands there.
"""
import json
import os
import random
from collections import Counter
from itertools import combinations

from data.jsonl import places, shaped
from support import UserError, reason
from support.files import flush, parse_json

BEGINNING = b'{"prompt": "'
PAUSE = 3           # answers between a question and its return, at least


class Labels:
    """The labels in a file, `rows`: (prompt, places), in the order in which they were given; a place is a list of
    equally good completions. A label is on the disk when `add` returns, and gone from it when `undo` does."""

    def __init__(self, path):
        """Raises UserError if the file holds anything else, OSError if it can't be written."""
        self.path, self.rows, self.starts, self.size = path, [], [], 0      # starts: where each label begins
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a+b") as file:
            file.seek(0)
            lines = list(file)
        flush(path.parent)
        for number, line in enumerate(lines, start=1):
            where = f"{path}, line {number}"
            if cut_off(line):
                print(f"{where} was cut off while it was written. It is removed, and its prompt will be asked again")
                os.truncate(path, self.size)
                break
            if line.strip():
                self.rows.append(read_label(line, where))
                self.starts.append(self.size)
            self.size += len(line)
        else:
            if lines and not line.endswith(b"\n"):              # some editors leave it out
                with open(path, "ab") as file:
                    self.size += file.write(b"\n")

    def add(self, prompt, ranking):
        """Append one label; `ranking` has the completions place by place. Raises OSError if the disk is full."""
        row = {"prompt": prompt, "completions": [place if len(place) > 1 else place[0] for place in ranking]}
        line = json.dumps(row).encode() + b"\n"
        self.check()
        try:
            with open(self.path, "ab") as file:
                file.write(line)
            flush(self.path)
        except OSError as error:
            os.truncate(self.path, self.size)                   # no half of a line stays
            raise OSError(error.errno, reason(error), str(self.path)) from error
        self.rows.append((prompt, ranking))
        self.starts.append(self.size)
        self.size += len(line)

    def undo(self):
        """Remove the last label, and return it."""
        self.check()
        self.size = self.starts.pop()
        os.truncate(self.path, self.size)
        flush(self.path)
        return self.rows.pop()

    def check(self):
        """Raise UserError if somebody else has written into the file, and labels begin who knows where."""
        if self.path.stat().st_size != self.size:
            raise UserError(f"{self.path} has been changed by another program since it was read: start again")


def cut_off(line):
    """Whether this is the beginning of a line alone, as a power cut may leave it."""
    if line.endswith(b"\n") or not line.startswith(BEGINNING[:len(line)]):
        return False
    try:
        return not json.loads(line)
    except ValueError:
        return True


def read_label(line, where):
    """(prompt, places) of one line. Raises UserError if it is no label."""
    try:
        row = shaped(parse_json(line.decode(), where), where)
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: cannot be read as UTF-8 text ({reason(error)})") from error
    if row.keys() != {"prompt", "completions"}:
        raise UserError(f'{where}: no label, which has "prompt" and "completions"; give another --file')
    return row["prompt"], places(row["completions"])


def unordered(prompt, ranking):
    """What was asked, in whatever order the answers stood."""
    return prompt, frozenset(sum(ranking, []))


def agreement(rows):
    """(how often the same, of how often): for each pair of completions that was compared again, whether the verdict,
    the first, the second or a tie, is that of the time before."""
    verdicts, same, again = {}, 0, 0
    for prompt, ranking in rows:
        placed = [(place, text) for place, texts in enumerate(ranking) for text in texts]
        for (i, a), (j, b) in combinations(placed, 2):
            pair, verdict = (prompt, *sorted((a, b))), "tie" if i == j else a
            if pair in verdicts:
                again += 1
                same += verdicts[pair] == verdict
            verdicts[pair] = verdict
    return same, again


class Session:
    """Asks for labels: `question` is (prompt, completions in a random order), None when nothing is left to ask."""

    def __init__(self, labels, prompts, respond, repeat_every, seed):
        """`prompts` (str) come once each, in a random order. `respond`: prompt -> completions, all different, or None.
        After each `repeat_every` new questions an old one comes again."""
        self.labels, self.respond, self.repeat_every = labels, respond, repeat_every
        self.random = random.Random(seed)
        self.prompts = self.random.sample(prompts, len(prompts))
        self.left_out, self.undone = set(), []      # prompts and questions that were skipped; what to ask first
        self.question = None

    def next(self):
        """Set the question, and return it."""
        self.question = self.undone.pop() if self.undone else self.old() or self.new()
        return self.question

    def answer(self, order):
        """`order` has the places of the completions: [[1], [0, 2]] says that the second one is the best, and that the
        others are equally good."""
        prompt, completions = self.question
        self.labels.add(prompt, [[completions[i] for i in place] for place in order])

    def skip(self):
        """The question does not come again before the next start."""
        prompt, completions = self.question
        self.left_out |= {prompt, (prompt, frozenset(completions))}

    def undo(self):
        """Remove the last label; it is asked for next, and then the question of now. Returns whether there was one."""
        self.undone.append(self.question)
        if not self.labels.rows:
            return False
        prompt, ranking = self.labels.undo()
        self.undone.append((prompt, self.shuffled(sum(ranking, []))))
        return True

    def old(self):
        """A question that is to come again, None if none is due."""
        asked = Counter(unordered(*row) for row in self.labels.rows)
        if asked.total() - len(asked) >= len(asked) // self.repeat_every:
            return None
        recent = {unordered(*row) for row in self.labels.rows[-PAUSE:]}
        due = [key for key, times in asked.items() if times == 1 and key not in recent | self.left_out]
        if not due:
            return None
        prompt, completions = self.random.choice(due)
        return prompt, self.shuffled(completions)

    def new(self):
        """A prompt that has no label yet, with fresh completions; None if there is none left."""
        known = {prompt for prompt, _ in self.labels.rows} | self.left_out
        for prompt in self.prompts:
            if prompt not in known:
                if completions := self.respond(prompt):
                    return prompt, self.shuffled(completions)
                self.left_out.add(prompt)
        return None

    def shuffled(self, completions):
        return self.random.sample(sorted(completions), len(completions))
