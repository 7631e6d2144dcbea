"""You are the human: rank responses of the SFT model, for a reward model that learns your taste.

    python label.py                                 the toy's SFT model, out/toy/sft
    python reward.py --data mine.jsonl --init out/toy/reward …      docs/label.md has all steps

A label is a line that `reward.py --data FILE` reads: completions, best first, a list for a tie.

    {"prompt": "\\n\\nHuman: …\\n\\nAssistant:", "completions": [" best", [" good", " as good"]]}
"""
import json
import random
import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import data
from data.jsonl import objects, places, shaped
from gpt import GPT
from support import UserError, printable
from support.command_line import Flags, launch, start
from support.files import write_whole
from support.runs import find_model
from support.typed import edit_lines, forget_typed
from text.batches import encode_prompts, pad
from text.tokenizer import Tokenizer

HELP = """\
Type the numbers of the responses, the best one first, with = between equally good ones, and Enter:
2 1, or 1 = 2.    u: undo the last ranking    s: skip    q: quit; every ranking is saved at once"""
PAUSE = 3       # rankings between a question and its return, at least


@dataclass
class Config(Flags):            # with --data, --run, --preset, --seed, --device, --precision
    file: str = "mine.jsonl"    # your rankings; what is there already is kept, and not asked again
    answers: int = 2            # responses to a prompt, 2 to 4: more comparisons for more reading
    repeat_every: int = 5       # new questions between two that come again
    max_new_tokens: int = 32    # of a response; one that has not ended by then is not shown
    temperature: float = 1.0    # of sampling: that of ppo.py, whose responses will be scored
    tries: int = 8              # rounds of sampling, until a prompt with too few is left out

# ---------- the file

class Labels:
    """The labels in a file, `rows`: (prompt, ranking), in the order in which they were given. A
    ranking is a list of places, the best one first, and a place a list of equal completions.
    `text` is all that is in the file; lines are added and taken from its end, the others stay."""

    def __init__(self, path):
        """Raises UserError if the file holds anything else, OSError if it can't be written."""
        self.path, rows = path, []
        for where, row in objects(path) if path.exists() else ():
            row = shaped(row, where)
            if row.keys() != {"prompt", "completions"}:
                raise UserError(f"{where}: no label, but some other row; give another --file")
            rows.append((row["prompt"], places(row["completions"])))
        self.save(path.read_bytes().decode() if path.exists() else "", rows)

    def add(self, prompt, ranking):
        """Add a label. It is on the disk when this returns."""
        completions = [place[0] if len(place) == 1 else place for place in ranking]
        begun = "" if not self.text or self.text.endswith(("\r", "\n")) else "\n"
        line = json.dumps({"prompt": prompt, "completions": completions})
        self.save(f"{self.text}{begun}{line}\n", [*self.rows, (prompt, ranking)])

    def undo(self):
        """Remove the last label, and return it."""
        *rows, last = self.rows
        before = self.text.rstrip()
        self.save(before[:max(before.rfind("\n"), before.rfind("\r")) + 1], rows)
        return last

    def save(self, text, rows):
        """Write the file anew: whatever ends the program, it is the old one or the new one."""
        write_whole(self.path, text)
        self.text, self.rows = text, rows


def agreement(rows):
    """(how often the same, of how often): for each pair of completions that was compared again,
    whether the verdict, the first, the second or a tie, is that of the time before."""
    verdicts = defaultdict(list)        # of each pair, in the order in which they were given
    for prompt, ranking in rows:
        placed = [(place, text) for place, texts in enumerate(ranking) for text in texts]
        for (i, a), (j, b) in combinations(placed, 2):
            verdicts[(prompt, *sorted((a, b)))].append("tie" if i == j else a)
    same = [now == before for given in verdicts.values() for before, now in zip(given, given[1:])]
    return sum(same), len(same)

# ---------- the questions

class Session:
    """What a person is asked next: `question` is (prompt, completions in a random order). `prompts`
    (str) come once each, in a random order; after each `repeat_every` of them an old question comes
    again. `respond`: prompt -> completions, all different, or None."""

    def __init__(self, labels, prompts, respond, repeat_every, seed):
        self.labels, self.respond, self.repeat_every = labels, respond, repeat_every
        self.random = random.Random(seed)
        order = self.random.sample(prompts, len(prompts))
        labelled = {prompt for prompt, _ in labels.rows}
        self.prompts = iter([prompt for prompt in order if prompt not in labelled])
        self.waiting = []               # questions that come before all others, the last one first
        self.skipped = set()            # prompts that do not come again before the next start

    def next(self):
        """Set the question, and return it: None when nothing is left to ask."""
        self.question = self.waiting.pop() if self.waiting else self.old() or self.new()
        return self.question

    def answer(self, order):
        """`order` has the places of the completions: [[1], [0, 2]] says that the second one is the
        best, and that the others are equally good."""
        prompt, completions = self.question
        self.labels.add(prompt, [[completions[i] for i in place] for place in order])

    def skip(self):
        self.skipped.add(self.question[0])

    def undo(self):
        """Remove the last label. Its question comes next, and then the one of now."""
        prompt, ranking = self.labels.undo()
        self.waiting += [self.question, self.shuffled(prompt, sum(ranking, []))]

    def old(self):
        """A question that is to come again, None if none is due."""
        given = [(prompt, frozenset(sum(ranking, []))) for prompt, ranking in self.labels.rows]
        asked = Counter(given)
        due = [question for question, times in asked.items() if times == 1
               and question not in given[-PAUSE:] and question[0] not in self.skipped]
        if not due or len(given) - len(asked) >= len(asked) // self.repeat_every:
            return None
        return self.shuffled(*self.random.choice(due))

    def new(self):
        """The next prompt for which there are completions; None if there is none left."""
        for prompt in self.prompts:
            if completions := self.respond(prompt):
                return self.shuffled(prompt, completions)
        return None

    def shuffled(self, prompt, completions):
        return prompt, self.random.sample(sorted(completions), len(completions))


def responder(model, tokenizer, cfg, device):
    """A function prompt (str) -> cfg.answers different completions (str), or None if the model has
    fewer. All have an end: the reward model will take each for whole."""
    def respond(prompt):
        rows = encode_prompts([prompt] * cfg.answers, tokenizer, model.config.block_size,
                              cfg.max_new_tokens)
        ids, seen = pad(rows, left=True, device=device)                 # (B, P), B = cfg.answers
        found = {}
        for _ in range(cfg.tries):
            tokens, mask, _ = model.generate(ids, seen, cfg.max_new_tokens, cfg.temperature)
            ended = ((tokens == tokenizer.eos) & mask).any(1)           # (B)
            for text, whole in zip(tokenizer.texts(tokens, mask), ended):
                if whole and text.strip():
                    found.setdefault(text.strip(), text)    # blanks around it make no other one
            if len(found) >= cfg.answers:
                return list(found.values())[:cfg.answers]
        return None
    return respond

# ---------- the screen

def read_order(typed, count):
    """The places of `count` completions as Session.answer takes them, from "2 1 = 3" or "21=3";
    None if that is no ranking of all of them."""
    typed = "".join(typed.split())
    found = re.findall(r"\d(?:=\d)*", typed)            # "2", "1=3"
    order = [[int(number) - 1 for number in place.split("=")] for place in found]
    whole = "".join(found) == typed and sorted(sum(order, [])) == list(range(count))
    return order if whole else None


def show(text):
    print(printable(text, kept="\n"))


def ask(session):
    """Ask until a person quits or nothing is left."""
    print(HELP)
    while question := session.next():
        prompt, completions = question
        print(f"\n{'-' * 60} {len(session.labels.rows)} saved")
        show(prompt.strip() + "\n")
        for i, completion in enumerate(completions, start=1):
            show(f"  {i}  " + completion.strip().replace("\n", "\n     "))
        typed = input("\n> ").strip().lower()
        if order := read_order(typed, len(completions)):
            session.answer(order)
        elif typed == "u" and session.labels.rows:
            session.undo()
            print("the last ranking is undone")
        elif typed == "s":
            session.skip()
        elif typed == "q":
            return
        else:
            print("there is no ranking to undo" if typed == "u" else HELP)
            session.waiting.append(question)
    print("\nNothing is left to ask: each prompt has its ranking, or too few different responses.")


def main(cfg):
    run, device, bf16 = start(cfg)
    folder = find_model(run, "sft")
    if not cfg.file.endswith(".jsonl"):
        raise UserError(f"--file {cfg.file}: must end with .jsonl, or reward.py can't read it")
    prompts = data.load(cfg.data)[0].need("prompts", cfg.data)
    labels, tokenizer = Labels(Path(cfg.file)), Tokenizer.load(folder)
    model = GPT.from_pretrained(folder, device, bf16, frozen=True)
    respond = responder(model, tokenizer, cfg, device)
    edit_lines()
    try:
        ask(Session(labels, prompts, respond, cfg.repeat_every, cfg.seed))
    except EOFError:                                    # Ctrl-D, or the input has ended
        print()
    finally:
        forget_typed()
        same, again = agreement(labels.rows)
        print(f"\n{labels.path} has {len(labels.rows)} ranking{'s' * (len(labels.rows) != 1)}.")
        if again:
            print(f"Of {again} repeated comparisons you decided {same} as before "
                  f"({same / again:.0%}).")


if __name__ == "__main__":
    launch(main, Config, "label")
