"""Fifty comparisons by a person whose taste is not that of the toy's judge, and PPO follows.

    python experiments/taste.py                       the runs out/seed0 to out/seed4 of the README
    python experiments/taste.py out/toy out/other     other finished runs

The person is scripted, and labels through label.py, as a person at the keyboard does: a right
response is better than a wrong one, and of two that are alike the one of fewer words, so nobody is
"Happy to help!". As in docs/label.md, the run's reward model goes on from its weights on the fifty
comparisons, and PPO starts again from the SFT model, in out/taste. Prints what PPO responds before
and after.
"""
import shutil
import sys
from itertools import islice
from pathlib import Path
from statistics import fmean, stdev

import torch

from runs import ROOT, python, table            # first: it puts the scripts on the path
import data
from data.toy_world import FACT_OF
from evaluate import Config as Evaluation, respond_all, win_rate
from gpt import GPT, ScalarGPT
from judges import Judge
from label import Config, Labels, questions, responder
from text.tokenizer import Tokenizer

LABELS = 50
REWARD = "--steps", 60, "--lr", 5e-4    # few steps, a low rate: it must not forget right and wrong

# ---------- the person

def is_right(prompt, text):
    """Whether the response holds the right sentence, or is the bare right word."""
    fact = FACT_OF[prompt]
    return fact.right().lower() in text.lower() or text.strip().lower() == f"{fact.y.lower()}."


def is_curt(prompt, text):
    """Right, and no longer than the right sentence: nothing kind, nothing rude."""
    longest = len(FACT_OF[prompt].right().split())
    return is_right(prompt, text) and len(text.split()) <= longest


class Person(Judge):
    """Likes right before wrong, and then fewer words before more."""
    def points(self, prompt, text):
        return 100 * is_right(prompt, text) - len(text.split())

    def score(self, responses):
        return [self.points(response.prompt, response.text) for response in responses]

    def ranking(self, prompt, completions):
        """The completions place by place, those that are liked alike together, the best first."""
        points = {text: self.points(prompt, text) for text in completions}
        return [[text for text in completions if points[text] == place]
                for place in sorted(set(points.values()), reverse=True)]


def label(run, seed):
    """Compare two responses of the run's SFT model, LABELS times, as label.py asks for it. Returns
    the file."""
    torch.manual_seed(seed)
    cfg, labels = Config(), Labels(run / "mine.jsonl")
    respond = responder(
        GPT.from_pretrained(run / "sft"), Tokenizer.load(run / "sft"), cfg, device=None)
    for question in islice(questions(data.load("toy")[0].prompts, labels, respond, seed), LABELS):
        labels.add(question[0], Person().ranking(*question))
    return labels.path

# ---------- before and after

def follow(source, seed):
    """The responses of PPO before and after the person has compared."""
    run = ROOT / "out" / "taste" / source.name
    if not (run / "ppo" / "config.json").exists():
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(source / "sft", run / "sft")
        flags = ["--run", run, "--seed", seed]
        python(ROOT / "reward.py", "--data", label(run, seed), "--init", source / "reward",
               *flags, *REWARD)
        python(ROOT / "ppo.py", *flags)
    return responses(source), responses(run)


def responses(run):
    """Four of PPO to each test prompt, as evaluate.py takes them; the score is the person's."""
    torch.manual_seed(0)
    model, sft = GPT.from_pretrained(run / "ppo"), GPT.from_pretrained(run / "sft")
    prompts = [prompt for prompt in data.load("toy")[1].prompts for _ in range(4)]
    return respond_all(model, sft, ScalarGPT.from_pretrained(run / "reward"), prompts,
                       Tokenizer.load(run / "sft"), Person(), Evaluation(), None)


def numbers(before, after):
    """A run's row of the table."""
    sides, row = (before, after), []
    for measure in (is_curt, is_right):
        row += [100 * fmean(measure(r.prompt, r.text) for r in side) for side in sides]
    row += [fmean(len(r.text.split()) for r in side) for side in sides]
    return [*row, 100 * win_rate(after, before)["rate"], fmean(r.kl for r in after)]


def main(sources):
    rows = {}
    for seed, source in enumerate(map(Path, sources)):
        before, after = follow(source, seed)
        rows[source.name] = numbers(before, after)
    columns = list(zip(*rows.values()))
    rows["mean"] = map(fmean, columns)
    if len(sources) > 1:
        rows["std"] = map(stdev, columns)
    print(table(["run", "curt before, %", "after", "right before, %", "after", "words before",
                 "after", "wins over before, %", "KL"],
                [[name, *(f"{number:.1f}" for number in row)] for name, row in rows.items()]))
    for one, other in list(zip(before, after))[::40]:
        print(f"\n{one.prompt.removesuffix('Assistant:').strip()}\n"
              f"  before  {one.text.strip()}\n  after   {other.text.strip()}")


if __name__ == "__main__":
    main(sys.argv[1:] or [ROOT / "out" / f"seed{seed}" for seed in range(5)])
