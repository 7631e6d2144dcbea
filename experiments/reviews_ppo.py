"""PPO by real people's ratings, five seeds: the tables, the picture and the samples of
docs/reviews.md.

    python experiments/reviews_ppo.py       trains what is missing in out/reviews_ppo: somewhat
                                            more than an hour of one core

Each seed trains all stages with the defaults of `--data reviews`, and PPO a second time, longer and
without the penalty. Every snapshot of PPO responds to the test prompts once, at temperature 1. Two
judges read the responses: a reward model of other people's ratings of other sentences, and VADER's
lexicon (`pip install vaderSentiment`). No stage has seen either.
"""
import shutil
from functools import cache, partial
from statistics import fmean

import matplotlib
import matplotlib.pyplot as plt
import torch

from runs import ROOT, SEEDS, STYLES, make, results, spread, table     # first: the path
import data
import evaluate
from evaluate import distinct_2, respond_all, summary
from gpt import GPT, ScalarGPT
from judges import HeldOutRewardModel, Lexicon, Proxy
from reviews import agreement, pairs_of, reward_model
from text.tokenizer import Tokenizer

matplotlib.use("svg")
plt.style.use(STYLES)

OUT = ROOT / "out" / "reviews_ppo"
OTHERS = OUT / "others" / "reward"
CFG = evaluate.Config(data="reviews", max_new_tokens=48, temperature=1.0, batch_size=256)
KINDS = {"penalty": [],                                     # flags of ppo.py
         "no penalty": ["--kl_coef", 0, "--steps", 120, "--snapshot_every", 20]}
COLOURS = {"penalty": "#2f6fab", "no penalty": "#b85c00"}
MEASURES = {"proxy": "reward model (proxy)", "others": "other people's reward model",
            "vader": "VADER's lexicon", "distinct_2": "distinct pairs of words"}
SAMPLES = 20
BINS = 5                    # of the calibration, from a chance of 50% to one of 100%


def folder(kind, seed):
    return OUT / f"{kind.replace(' ', '_')}{seed}"


def train():
    """All runs that are not there yet."""
    runs = {OUT / "others": ["--data", "reviews:others", "--seed", 100]}
    runs |= {folder("penalty", seed): ["--data", "reviews", "--seed", seed] for seed in SEEDS}
    for stage in ("sft", "reward", "ppo"):
        make({run / stage / "config.json": [ROOT / f"{stage}.py", "--run", run, *flags]
              for run, flags in runs.items() if stage != "ppo" or run.name != "others"})
    for seed in SEEDS:
        for stage in ("sft", "reward"):
            shutil.copytree(folder("penalty", seed) / stage, folder("no penalty", seed) / stage,
                            dirs_exist_ok=True)
    make({folder("no penalty", seed) / "ppo" / "config.json":
          [ROOT / "ppo.py", "--run", folder("no penalty", seed), "--data", "reviews",
           "--seed", seed, *KINDS["no penalty"]] for seed in SEEDS})

# ---------- what the judges say

def run(kind, seed):
    """What the judges say of the SFT model and of each snapshot, {"updates": [row, …], "samples":
    [[prompt, SFT's response, PPO's], …]}. A row has means, and the win rates against SFT."""
    place, device = folder(kind, seed), torch.device("cpu")
    tokenizer = Tokenizer.load(place / "sft")
    sft = GPT.from_pretrained(place / "sft", device, frozen=True)
    rm = ScalarGPT.from_pretrained(place / "reward", device, frozen=True)
    prompts = data.load("reviews")[1].prompts[:CFG.prompts]
    judges = {"others": HeldOutRewardModel(OTHERS, CFG, device, False), "vader": Lexicon()}
    respond = partial(respond_all, sft=sft, reward_model=rm, prompts=prompts, tokenizer=tokenizer,
                      judge=Proxy(), cfg=CFG, device=device)
    snapshots = sorted((place / "ppo" / "snapshots").iterdir(), key=lambda path: int(path.name))
    torch.manual_seed(seed)
    rows, first = [], respond(sft)
    before = {name: judge.score(first) for name, judge in judges.items()}
    actors = {0: place / "sft"} | {int(path.name): path / "actor" for path in snapshots}
    for update, path in actors.items():
        now = respond(GPT.from_pretrained(path, device, frozen=True))
        row = {"update": update, **summary(now), "distinct_2": distinct_2(now)}
        for name, judge in judges.items():
            after = judge.score(now)
            row[name] = fmean(after)
            row[f"{name}_wins"] = fmean((a > b) + (a == b) / 2
                                        for a, b in zip(after, before[name]))
        rows.append(row)
    samples = [[old.prompt, old.text, new.text] for old, new in zip(first, now)][:SAMPLES]
    return {"updates": rows, "samples": samples}

# ---------- the reward model

def calibration(score, std, pairs):
    """{bin of the probability σ(|r₁ - r₂|): [whether the preferred text was better, …]} of (better,
    worse) pairs. Raw scores r are `score`'s, which are normalised, times their deviation `std`."""
    bins = {i: [] for i in range(BINS)}
    for better, worse in pairs:
        apart = torch.tensor((score(better) - score(worse)) * std)
        chance = apart.abs().sigmoid().item()
        bins[min(BINS - 1, int((chance - 0.5) * 2 * BINS))].append(float(apart > 0))
    return bins


def reward_models():
    """Prints how often the reward models are right, and how sure they are."""
    test = data.load("reviews")[1]
    by_mean, single = pairs_of(test.comparisons), pairs_of(test.noisy)
    places = [folder("penalty", seed) / "reward" for seed in SEEDS]
    scores = [cache(reward_model(place)) for place in places]   # a text is in several pairs
    shares = {"reward model, five seeds": scores,
              "other people's reward model": [cache(reward_model(OTHERS))]}
    rows = [[name, *(spread([100 * agreement(score, pairs) for score in models], 1, "%")
                     for pairs in (by_mean, single))] for name, models in shares.items()]
    print(table(["", "means apart by 0.3", "single people"], rows), end="\n\n")
    bins = [calibration(score, ScalarGPT.from_pretrained(place).config.reward_std, single)
            for score, place in zip(scores, places)]
    print(table(["it says", "right", "pairs of a seed"], [
        [f"{50 + 10 * i}% to {60 + 10 * i}%",
         spread([100 * fmean(found[i]) for found in bins if found[i]], 1, "%"),
         round(fmean(len(found[i]) for found in bins))] for i in range(BINS)]), end="\n\n")

# ---------- tables and picture

def ends(found):
    """Prints where the runs with the penalty end, each seed and all."""
    columns = {"KL": "kl", "proxy": "proxy", "wins: others": "others_wins",
               "wins: VADER": "vader_wins", "ends": "eos_rate", "length": "length",
               "distinct pairs": "distinct_2"}
    for kind, runs in found.items():
        last = [run["updates"][-1] for run in runs]
        sft = [run["updates"][0] for run in runs]
        rows = [["SFT", *(spread([row[key] for row in sft]) for key in columns.values())]]
        rows += [[seed, *(f"{row[key]:.2f}" for key in columns.values())]
                 for seed, row in zip(SEEDS, last)]
        rows.append(["PPO", *(spread([row[key] for row in last]) for key in columns.values())])
        print(table([kind, *columns], rows), end="\n\n")


def best_stops(runs):
    """Prints after how many updates each judge's mean is best, of the runs without the penalty."""
    rows = []
    for key in ("proxy", "others", "vader"):
        best = [max(run["updates"], key=lambda row: row[key]) for run in runs]
        rows.append([MEASURES[key], ", ".join(str(row["update"]) for row in best),
                     spread([row["kl"] for row in best], 1)])
    print(table(["best for", "after updates, each seed", "KL there"], rows), end="\n\n")


def picture(found):
    """Proxy, both judges and distinct pairs over √KL: a line for each seed and kind."""
    figure, axes = plt.subplots(1, len(MEASURES), figsize=(11, 2.9))
    for axis, (key, title) in zip(axes, MEASURES.items()):
        for kind, runs in found.items():
            for one in runs:
                rows = one["updates"]
                axis.plot([max(row["kl"], 0) ** 0.5 for row in rows], [row[key] for row in rows],
                          color=COLOURS[kind], ls="-", lw=1, marker=".", ms=3)
        axis.set(title=title, xlabel="√KL to SFT, √nats")
    handles = [axes[0].lines[i] for i in (0, len(SEEDS))]
    axes[0].legend(handles, list(found))
    figure.savefig(ROOT / "docs" / "pictures" / "reviews.svg", metadata={"Date": None})


def main():
    train()
    found = results(OUT, "reviews_ppo", KINDS, SEEDS)
    reward_models()
    ends(found)
    best_stops(found["no penalty"])
    picture(found)
    print(table(["prompt", "SFT", "PPO"], [[text.strip() for text in row]
                                          for row in found["penalty"][0]["samples"]]))


if __name__ == "__main__":
    main()
