"""The pictures of docs/results.md and docs/ablations.md, and the band of normal runs.

    python experiments/figures.py       trains what is missing in out/figures, then draws: an hour
                                        of one core

Writes curves.svg and over_optimisation.svg in docs/pictures, and judges/normal.csv. Prints the
table of over-optimisation in docs/ablations.md.
"""
import shutil
from statistics import fmean

import matplotlib
import matplotlib.pyplot as plt

from runs import (       # first: it puts the scripts on the path
    ROOT, SEEDS, STYLES, cell, heard, make, results, seed_models, spread, table)
import ppo
import reward
from judges.normal import NORMAL, write_normal

matplotlib.use("svg")
plt.style.use(STYLES)
GREY = plt.rcParams["text.color"]
PROXY, JUDGE = "#2f6fab", "#b85c00"

OUT = ROOT / "out" / "figures"
PICTURES = ROOT / "docs" / "pictures"
FEW = reward.Config.steps // 10           # a reward model that has read a tenth of the comparisons
RUNS = {                    # title -> flags of ppo.py
    "default": {},
    f"reward model of {reward.Config.steps:,} steps, β 0": {"kl_coef": 0.0, "steps": 200},
    f"of {FEW} steps, β 0": {"kl_coef": 0.0, "steps": 200},
    f"of {FEW} steps, β {ppo.Config.kl_coef}": {"steps": 200}}
PLAIN = ("good reward model, no penalty", "weak reward model, no penalty",
         "weak reward model, penalty")     # what the picture calls the last three


def run(title, seed):
    weak = OUT / f"weak{seed}" / "reward" if title.startswith(f"of {FEW}") else None
    return {"rollouts": heard(ppo.Config(seed=seed, **RUNS[title]), weak)}

# ---------- pictures

def curves(runs):
    """Proxy, judge and KL over the updates of the default run: the mean of the seeds as a line, and
    all of them between two edges."""
    figure, axes = plt.subplots(1, 3, figsize=(9, 2.6))
    shown = {"score": ("reward model's score (the proxy)", PROXY),
             "judge": ("judge's score, hidden from training", JUDGE),
             "kl": ("KL to SFT, nats per response", GREY)}
    for axis, (key, (title, colour)) in zip(axes, shown.items()):
        updates = list(zip(*([row[key] for row in rows] for rows in runs)))
        x, least, most = range(len(updates)), list(map(min, updates)), list(map(max, updates))
        axis.fill_between(x, least, most, color=colour, alpha=0.25, lw=0)
        axis.plot(x, list(map(fmean, updates)), color=colour, ls="-")
        axis.set(title=title, xlabel="update")
    figure.savefig(PICTURES / "curves.svg", metadata={"Date": None})


def smooth(rows, key, reach=3):
    """Means over a few neighbours: single rollouts are noisy."""
    values = [row[key] for row in rows]
    return [fmean(values[max(0, i - reach):i + reach + 1]) for i in range(len(values))]


def over_optimisation(kinds):
    """Proxy and judge over √KL (Gao et al., arXiv:2210.10760), both in standard deviations of the
    SFT model's responses, which are those of the first rollout. A line for each seed, a plot for
    each of `kinds`, {title: runs}."""
    figure, axes = plt.subplots(1, len(kinds), figsize=(10, 3), sharex=True, sharey=True,
                                squeeze=False)
    for axis, title, runs in zip(axes[0], PLAIN, kinds.values()):
        for rows in runs:
            start = rows[0]
            gains = [{"way": max(row["kl"], 0) ** 0.5, "proxy": row["score"] - start["score"],
                      "judge": (row["judge"] - start["judge"]) / (start["judge_std"] or 1)}
                     for row in rows]
            for key, colour in (("proxy", PROXY), ("judge", JUDGE)):
                axis.plot(smooth(gains, "way"), smooth(gains, key), color=colour, ls="-", lw=1)
        axis.set(xlabel="√KL to SFT, √nats", title=title)
    axes[0][0].set_ylabel("gain, deviations of SFT's responses")
    axes[0][0].legend(axes[0][0].lines[:2], ["reward model (proxy)", "judge"])
    figure.savefig(PICTURES / "over_optimisation.svg", metadata={"Date": None})


def ends(kinds):
    """Prints the judge's best score, after how many updates it was, and where the runs end: means
    of the last ten rollouts."""
    rows = []
    for title, runs in kinds.items():
        judged = [smooth(rollouts, "judge") for rollouts in runs]
        last = [{key: fmean(row[key] for row in rollouts[-10:])
                 for key in ("judge", "score", "ideal", "kl")} for rollouts in runs]
        at = [curve.index(max(curve)) for curve in judged]
        rows.append([title, spread(list(map(max, judged))), f"{min(at)} to {max(at)}",
                     *(cell(last, key) for key in last[0])])
    print(table(["", "judge at its best", "after updates", "judge in the end", "proxy", "ideal",
                 "KL"], rows))

# ---------- all of it

def main():
    seed_models()
    for seed in SEEDS:
        shutil.copytree(ROOT / "out" / f"seed{seed}" / "sft", OUT / f"weak{seed}" / "sft",
                        dirs_exist_ok=True)
    make({OUT / f"weak{seed}" / "reward" / "config.json": [
        ROOT / "reward.py", "--run", OUT / f"weak{seed}", "--seed", seed, "--steps", FEW]
        for seed in SEEDS})
    found = {title: [end["rollouts"] for end in ends]
             for title, ends in results(OUT, "figures", RUNS, SEEDS).items()}
    default = found.pop("default")
    curves(default)
    write_normal([{name: {update: row["metrics"][name] for update, row in enumerate(rows)}
                   for name in rows[0]["metrics"]} for rows in default], NORMAL)
    over_optimisation(found)
    ends(found)


if __name__ == "__main__":
    main()
