"""You are the human: rank responses of the SFT model, for a reward model that learns your taste.

    python label.py                                 the toy's SFT model, out/toy/sft
    python reward.py --data mine.jsonl --init out/toy/reward …      docs/label.md has all steps

A label is a line that `reward.py --data FILE` reads: completions, best first, a list for a tie.

    {"prompt": "\\n\\nHuman: …\\n\\nAssistant:", "completions": [" best", [" good", " as good"]]}
"""
import json
import random
import re
from dataclasses import dataclass
from pathlib import Path

import data
from data.jsonl import objects, places, shaped
from gpt import GPT
from support import UserError
from support.command_line import Flags, launch, start
from support.files import write_whole
from support.runs import find_model
from support.typed import edit_lines
from text.batches import encode_prompts, pad
from text.tokenizer import Tokenizer

HELP = """\
Type the numbers of the responses, the best one first, with = between equally good ones, and Enter:
2 1, or 1 = 2.    s: skip    q: quit; every ranking is saved at once"""


@dataclass
class Config(Flags):            # with --data, --run, --preset, --seed, --device, --precision
    file: str = "mine.jsonl"    # file of your rankings, which are kept, and not asked again
    answers: int = 2            # responses to a prompt, 2 to 4: more comparisons for more reading
    max_new_tokens: int = 32    # maximum response length: an unfinished response is not shown
    temperature: float = 1.0    # sampling temperature: ppo.py's, whose responses will be scored
    tries: int = 8              # rounds of sampling; then a prompt with too few is left out

# ---------- the file

class Labels:
    """The labels in a file, `rows`: (prompt, ranking), in the order in which they were given. A
    ranking is a list of places, the best one first, and a place a list of equal completions. Lines
    are added to the file's `text`; what is there stays as it is."""

    def __init__(self, path):
        """Raises UserError if the file holds anything else, OSError if it can't be written."""
        self.path, self.rows = path, []
        for where, row in objects(path) if path.exists() else ():
            row = shaped(row, where)
            if row.keys() != {"prompt", "completions"}:
                raise UserError(f"{where}: no label, but some other row; give another --file")
            self.rows.append((row["prompt"], places(row["completions"])))
        self.text = path.read_bytes().decode() if path.exists() else ""
        write_whole(path, self.text)

    def add(self, prompt, ranking):
        """Add a label. It is on the disk when this returns: the file is written anew, so whatever
        ends the program, it is the old one or the new one."""
        completions = [place[0] if len(place) == 1 else place for place in ranking]
        begun = "" if not self.text or self.text.endswith(("\r", "\n")) else "\n"
        line = json.dumps({"prompt": prompt, "completions": completions})
        text = f"{self.text}{begun}{line}\n"
        write_whole(self.path, text)
        self.text = text
        self.rows.append((prompt, ranking))

# ---------- the questions

def questions(prompts, labels, respond, seed):
    """Yields (prompt, completions), both in a random order, for the prompts (str) without a label.
    `respond`: prompt -> completions, all different, or None, which leaves the prompt out."""
    rng = random.Random(seed)
    labelled = {prompt for prompt, _ in labels.rows}
    for prompt in rng.sample(prompts, len(prompts)):
        if prompt not in labelled and (completions := respond(prompt)):
            yield prompt, rng.sample(completions, len(completions))


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
    """The places of `count` completions, from "2 1 = 3" or "21=3": [[1], [0, 2]] says that the
    second one is the best, and that the others are equally good. None if it is no ranking of
    all."""
    typed = "".join(typed.split())
    found = re.findall(r"\d(?:=\d)*", typed)            # "2", "1=3"
    order = [[int(number) - 1 for number in place.split("=")] for place in found]
    whole = "".join(found) == typed and sorted(sum(order, [])) == list(range(count))
    return order if whole else None


def ask(labels, questions):
    """Ask until a person quits or nothing is left."""
    print(HELP)
    for prompt, completions in questions:
        print(f"\n{'-' * 60} {len(labels.rows)} saved\n{prompt.strip()}\n")
        for i, completion in enumerate(completions, start=1):
            print(f"  {i}  " + completion.strip().replace("\n", "\n     "))
        while (typed := input("\n> ").strip().lower()) != "s":
            if typed == "q":
                return
            if order := read_order(typed, len(completions)):
                labels.add(prompt, [[completions[i] for i in place] for place in order])
                break
            print(HELP)
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
        ask(labels, questions(prompts, labels, respond, cfg.seed))
    except EOFError:                                    # Ctrl-D, or the input has ended
        print()
    finally:
        print(f"\n{labels.path} has {len(labels.rows)} ranking{'s' * (len(labels.rows) != 1)}.")


if __name__ == "__main__":
    launch(main, Config, "label")
