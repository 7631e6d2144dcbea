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
from pathlib import Path
from statistics import fmean, stdev

import torch

from runs import ROOT, python                   # first: it puts the scripts on the path
import data
from data.toy_world import FACT_OF
from evaluate import Config as Evaluation, respond_all, win_rate
from gpt import GPT, ScalarGPT
from judges import Judge
from label import Config, Labels, Session, responder
from tables import table
from text.tokenizer import Tokenizer

OUT = ROOT / "out" / "taste"
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


def points(prompt, text):
    """What the person feels: right before wrong, and then fewer words before more."""
    return 100 * is_right(prompt, text) - len(text.split())


class Person(Judge):
    def score(self, responses):
        return [points(response.prompt, response.text) for response in responses]


def order(prompt, completions):
    """The places of the completions, as the person ranks them."""
    felt = [points(prompt, text) for text in completions]
    return [[i for i, one in enumerate(felt) if one == place]
            for place in sorted(set(felt), reverse=True)]


def label(run, seed):
    """Compare two responses of the run's SFT model, LABELS times, as label.py asks for it. Returns
    the file."""
    torch.manual_seed(seed)
    cfg, labels = Config(), Labels(run / "mine.jsonl")
    respond = responder(
        GPT.from_pretrained(run / "sft"), Tokenizer.load(run / "sft"), cfg, device=None)
    session = Session(labels, data.load("toy")[0].prompts, respond, cfg.repeat_every, seed)
    while len(labels.rows) < LABELS and (question := session.next()):
        session.answer(order(*question))
    return labels.path

# ---------- before and after

def responses(run):
    """Four of PPO to each test prompt, as evaluate.py takes them; the score is the person's."""
    torch.manual_seed(0)
    model, sft = GPT.from_pretrained(run / "ppo"), GPT.from_pretrained(run / "sft")
    prompts = [prompt for prompt in data.load("toy")[1].prompts for _ in range(4)]
    return respond_all(model, sft, ScalarGPT.from_pretrained(run / "reward"), prompts,
                       Tokenizer.load(run / "sft"), Person(), Evaluation(), None)


def follow(source, seed):
    """The responses of PPO before and after the person has compared."""
    run = OUT / source.name
    if not (run / "ppo" / "config.json").exists():
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(source / "sft", run / "sft")
        flags = ["--run", run, "--seed", seed]
        python(ROOT / "reward.py", "--data", label(run, seed), "--init", source / "reward",
               *flags, *REWARD)
        python(ROOT / "ppo.py", *flags)
    return responses(source), responses(run)


def numbers(before, after):
    """What the table says of a run."""
    measures = (lambda r: 100 * is_curt(r.prompt, r.text),
                lambda r: 100 * is_right(r.prompt, r.text), lambda r: len(r.text.split()))
    means = [fmean(map(measure, some)) for measure in measures for some in (before, after)]
    return [*means, 100 * win_rate(after, before)["rate"], fmean(r.kl for r in after)]


def line(name, row):
    """A line of the table."""
    forms = ["{:.1f}%"] * 4 + ["{:.1f}"] * 2 + ["{:.1f}%", "{:.1f}"]
    return [name, *(form.format(number) for form, number in zip(forms, row))]


def main(sources):
    rows, lines = [], []
    for seed, source in enumerate(map(Path, sources)):
        before, after = follow(source, seed)
        rows.append(numbers(before, after))
        lines.append(line(source.name, rows[-1]))
    lines.append(line("mean", map(fmean, zip(*rows))))
    if len(rows) > 1:
        lines.append(line("std", map(stdev, zip(*rows))))
    print(table(["run", "curt before", "after", "right before", "after", "words before", "after",
                 "wins over before", "KL"], lines))
    for one, other in list(zip(before, after))[::40]:
        print(f"\n{one.prompt.removesuffix('Assistant:').strip()}\n"
              f"  before  {one.text.strip()}\n  after   {other.text.strip()}")


if __name__ == "__main__":
    main(sys.argv[1:] or [ROOT / "out" / f"seed{seed}" for seed in range(5)])
