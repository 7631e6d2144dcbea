"""Fifty comparisons by a person whose taste is not that of the toy's judge, and PPO follows that person.

    python experiments/taste.py                       the runs out/seed0 to out/seed4, which the README makes
    python experiments/taste.py out/toy out/other     other finished runs

The person is scripted, and labels through label.py, as a person at the keyboard does: a right answer is better
than a wrong one, and of two that are alike the one of fewer words, so nobody is "Happy to help!". As in docs/label.md,
the run's reward model goes on from its weights on the fifty comparisons, and PPO starts again from the SFT model, in
out/taste. Prints what PPO answers before and after.
"""
import os
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import fmean, stdev

import torch

from runs import ROOT

import data
from label import Config, Labels, Session, responder
from text.tokenizer import Tokenizer
from data.toy_world import FACT_OF
from evaluate import Config as Evaluation, answer_all, win_rate
from gpt import GPT, ScalarGPT
from judges import Judge

OUT = ROOT / "out" / "taste"
LABELS = 50
REWARD = "--steps 60 --lr 5e-4"     # few steps at a low rate: what it knew about right and wrong is to stay

# ----------------------------------------------------------------------------- the person

def is_right(prompt, text):
    """Whether the answer holds the right sentence, or is the bare right word."""
    fact = FACT_OF[prompt]
    return fact.right().lower() in text.lower() or text.strip().lower() == f"{fact.y.lower()}."


def is_curt(prompt, text):
    """Right, and no longer than the right sentence: nothing kind, nothing rude."""
    return is_right(prompt, text) and len(text.split()) <= len(FACT_OF[prompt].right().split())


def points(prompt, text):
    """What the person feels: right before wrong, and then fewer words before more."""
    return 100 * is_right(prompt, text) - len(text.split())


class Person(Judge):
    def score(self, answers):
        return [points(answer.prompt, answer.text) for answer in answers]


def order(prompt, completions):
    """The places of the completions, as the person ranks them."""
    felt = [points(prompt, text) for text in completions]
    return [[i for i, one in enumerate(felt) if one == place] for place in sorted(set(felt), reverse=True)]


def label(run, seed):
    """Compare two answers of the run's SFT model, LABELS times, as label.py asks for it. Returns the file."""
    torch.manual_seed(seed)
    cfg, file = Config(), run / "mine.jsonl"
    respond = responder(GPT.from_pretrained(run / "sft"), Tokenizer.load(run / "sft"), cfg, None)
    session = Session(Labels(file), data.load("toy")[0].prompts, respond, cfg.repeat_every, seed)
    while len(session.labels.rows) < LABELS and (question := session.next()):
        session.answer(order(*question))
    return file

# ----------------------------------------------------------------------------- before and after

def script(command):
    """Run one of the scripts. Raises RuntimeError with the end of what it said."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
    done = subprocess.run([sys.executable, *map(str, command)], env=env, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])


def answers(run):
    """Four answers of PPO to each test prompt, as evaluate.py takes them; the score is the person's."""
    torch.manual_seed(0)
    model, sft = GPT.from_pretrained(run / "ppo"), GPT.from_pretrained(run / "sft")
    prompts = [prompt for prompt in data.load("toy")[1].prompts for _ in range(4)]
    return answer_all(model, sft, ScalarGPT.from_pretrained(run / "reward"), prompts, Tokenizer.load(run / "sft"),
                      Person(), Evaluation(), None)


def follow(source, seed):
    """The answers of PPO before and after the person has compared."""
    run = OUT / source.name
    if not (run / "ppo" / "config.json").exists():
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(source / "sft", run / "sft")
        script(["reward.py", "--data", label(run, seed), "--run", run, "--init", source / "reward", "--seed", seed,
                *REWARD.split()])
        script(["ppo.py", "--run", run, "--seed", seed])
    return answers(source), answers(run)


def numbers(before, after):
    """What the table says of a run."""
    row = []
    for measure in (lambda a: 100 * is_curt(a.prompt, a.text), lambda a: 100 * is_right(a.prompt, a.text),
                    lambda a: len(a.text.split())):
        row += [fmean(map(measure, before)), fmean(map(measure, after))]
    return [*row, 100 * win_rate(after, before)["rate"], fmean(a.kl for a in after)]


def line(name, row):
    """A line of the table."""
    curt, curt_now, right, right_now, words, words_now, rate, kl = row
    return (f"| {name} | {curt:.1f}% | {curt_now:.1f}% | {right:.1f}% | {right_now:.1f}% "
            f"| {words:.1f} | {words_now:.1f} | {rate:.1f}% | {kl:.1f} |")


def main(sources):
    rows = []
    print("| run | curt before | after | right before | after | words before | after | wins over before | KL |")
    print("|---" * 9 + "|")
    for seed, source in enumerate(map(Path, sources)):
        before, after = follow(source, seed)
        rows.append(numbers(before, after))
        print(line(source.name, rows[-1]), flush=True)
    print(line("mean", map(fmean, zip(*rows))))
    if len(rows) > 1:
        print(line("std", map(stdev, zip(*rows))))
    for one, other in list(zip(before, after))[::40]:
        print(f"\n{one.prompt.removesuffix('Assistant:').strip()}\n"
              f"  before  {one.text.strip()}\n  after   {other.text.strip()}")


if __name__ == "__main__":
    main(sys.argv[1:] or [ROOT / "out" / f"seed{seed}" for seed in range(5)])
