"""Fifty comparisons by a person whose taste is not that of the toy's judge, and PPO follows.

    python experiments/taste.py                       the runs out/seed0 to out/seed4 of the README
    python experiments/taste.py out/toy out/other     other finished runs

The person is scripted, and labels through label.py, as a person at the keyboard does: a right
response is better than a wrong one, and of two that are alike the one of fewer words, so nobody is
"Happy to help!". As in docs/label.md, the run's reward model trains further on the fifty
comparisons, and PPO starts again from the SFT model, in out/taste. Prints what PPO responds before
and after.
"""
import shutil
import sys
from itertools import islice
from pathlib import Path
from statistics import fmean

import torch

from runs import ROOT, python, table            # first: it puts the scripts on the path
import data
import ppo
from data.toy_world import FACT_OF
from gpt import GPT
from label import Config, Labels, questions, responder
from text.batches import pad
from text.tokenizer import Tokenizer

LABELS = 50
REWARD = "--steps", 60, "--lr", 5e-4    # few steps, a low rate: it must not forget right and wrong


def is_right(prompt, text):
    """Whether the response holds the right sentence, or is the bare right word."""
    fact = FACT_OF[prompt]
    return fact.right().lower() in text.lower() or text.strip().lower() == f"{fact.y.lower()}."


def is_curt(prompt, text):
    """Right, and no longer than the right sentence: nothing kind, nothing rude."""
    return is_right(prompt, text) and words(prompt, text) <= words(prompt, FACT_OF[prompt].right())


def words(prompt, text):
    return len(text.split())


def ranking(prompt, completions):
    """The completions place by place, those that the person likes alike together, the best first:
    right before wrong, and then fewer words before more."""
    points = {text: 100 * is_right(prompt, text) - words(prompt, text) for text in completions}
    return [[text for text in completions if points[text] == place]
            for place in sorted(set(points.values()), reverse=True)]


def label(run, seed):
    """Compare two responses of the run's SFT model, LABELS times, by label.py. Returns the file."""
    torch.manual_seed(seed)
    cfg, labels = Config(), Labels(run / "mine.jsonl")
    respond = responder(
        GPT.from_pretrained(run / "sft"), Tokenizer.load(run / "sft"), cfg, device=None)
    for question in islice(questions(data.load("toy")[0].prompts, labels, respond, seed), LABELS):
        labels.add(question[0], ranking(*question))
    return labels.path


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
    """[(prompt, response)]: four of PPO to each test prompt, at evaluate.py's temperature."""
    torch.manual_seed(0)
    tokenizer, (_, test_set) = Tokenizer.load(run / "ppo"), data.load("toy")
    asked = [prompt for prompt in test_set.prompts for _ in range(4)]
    said = ppo.respond(GPT.from_pretrained(run / "ppo"),
                       *pad(list(map(tokenizer.encode, asked)), left=True), tokenizer,
                       ppo.Config(temperature=0.7))
    return list(zip(asked, said))


def main(sources):
    rows = []
    for seed, source in enumerate(map(Path, sources)):
        sides = before, after = follow(source, seed)
        row = [fmean(measure(*pair) for pair in side)
               for measure in (is_curt, is_right, words) for side in sides]
        rows.append([source.name, *(f"{share:.1%}" for share in row[:4]),
                     *(f"{length:.1f}" for length in row[4:])])
    print(table(["run", "curt before", "after", "right before", "after", "words before", "after"],
                rows))
    for (prompt, one), (_, other) in list(zip(before, after))[::40]:
        print(f"\n{prompt.removesuffix('Assistant:').strip()}\n"
              f"  before  {one.strip()}\n  after   {other.strip()}")


if __name__ == "__main__":
    main(sys.argv[1:] or [ROOT / "out" / f"seed{seed}" for seed in range(5)])
