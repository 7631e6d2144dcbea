"""Fifty comparisons by a person whose taste is not that of the toy's judge, and PPO follows that person.

    python tests/taste.py                       the runs out/seed0 to out/seed4, which the README makes
    python tests/taste.py out/toy out/other     other finished runs

The person is scripted, and labels through data/labels.py, as a person at the keyboard does: a right answer is better than
a wrong one, and of two that are alike the one of fewer words, so nobody is "Happy to help!". As in docs/label.md, the
run's reward model goes on from its weights on the fifty comparisons, and PPO starts again from the SFT model, in
out/taste. Prints what PPO answers before and after.
"""
import os
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import fmean as mean, stdev

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import data                                                                     # noqa: E402
from data.label import Config, responder                                        # noqa: E402
from data.labels import Labels, Session                                         # noqa: E402
from data.tokenizer import Tokenizer                                            # noqa: E402
from data.toy_world import FACT_OF                                              # noqa: E402
from evaluate import Config as Evaluation, answer_all, win_rate                 # noqa: E402
from gpt import GPT, ScalarGPT                                                  # noqa: E402
from judges import Judge                                                        # noqa: E402

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
    """Compare LABELS times two answers of the run's SFT model, as `python data/label.py` asks for it. Returns the file."""
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
        script(["reward.py", "--data", label(run, seed), "--run", run, "--init", source / "reward", "--seed", seed, *REWARD.split()])
        script(["ppo.py", "--run", run, "--seed", seed])
    return answers(source), answers(run)


def main(sources):
    rows = []
    print("| run | curt: before | after | right: before | after | words: before | after | after beats before (ties half) | KL after |")
    print("|---" * 9 + "|")
    for seed, source in enumerate(map(Path, sources)):
        before, after = follow(source, seed)
        columns = [(100 * mean(is_curt(a.prompt, a.text) for a in some), 100 * mean(is_right(a.prompt, a.text) for a in some),
                    mean(len(a.text.split()) for a in some)) for some in (before, after)]
        rows.append([x for pair in zip(*columns) for x in pair] + [100 * win_rate(after, before)["rate"], mean(a.kl for a in after)])
        print(line(source.name, rows[-1]), flush=True)
    print(line("mean", map(mean, zip(*rows))))
    if len(rows) > 1:
        print(line("std", map(stdev, zip(*rows))))
    for one, other in list(zip(before, after))[::40]:
        print(f"\n{one.prompt.removesuffix('Assistant:').strip()}\n  before  {one.text.strip()}\n  after   {other.text.strip()}")


def line(name, numbers):
    curt, curt2, right, right2, words, words2, rate, kl = numbers
    return (f"| {name} | {curt:.1f}% | {curt2:.1f}% | {right:.1f}% | {right2:.1f}% | {words:.1f} | {words2:.1f} "
            f"| {rate:.1f}% | {kl:.1f} |")


if __name__ == "__main__":
    main(sys.argv[1:] or [ROOT / "out" / f"seed{seed}" for seed in range(5)])
