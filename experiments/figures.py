"""The pictures of README and docs, the table of model sizes, and the band of normal runs.

    python experiments/figures.py           trains what is missing in out/figures, then draws: hours
                                            on one core
    python experiments/figures.py --draw    draws what there is

Writes docs/pictures/*.svg, which read on a light and on a dark page, and judges/normal.csv; prints
the tables of docs/ablations.md (over-optimisation) and docs/sizes.md.
"""
import sys
from pathlib import Path
from statistics import fmean, stdev

import matplotlib
import matplotlib.pyplot as plt

from runs import ROOT, make, read, spread, table        # first: it puts the scripts on the path
import ppo
import reward
import sft
from judges.normal import NORMAL, write_normal
from support.screen import read_curves

matplotlib.use("svg")
plt.style.use(ROOT / "notebooks" / "lessons.mplstyle")
GREY = "#8a8a8a"            # of text and axes: it reads on white and on black
plt.rcParams.update({key: GREY for key in (
    "text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")})
plt.rcParams.update({"savefig.transparent": True, "legend.frameon": False,
                     "font.size": 9, "axes.titlesize": 10})
PROXY, JUDGE = "#3d85c6", "#e07b20"

OUT = ROOT / "out" / "figures"
PICTURES = ROOT / "docs" / "pictures"
WIDTHS = (32, 64, 128)      # channels: about 75 thousand, 250 thousand, 0.9 million weights
DEFAULT = 64
UNIFIED = 1e-3              # one rate for all stages, at the default width
STEPS = reward.Config.steps
FEW = STEPS // 10           # a reward model that has read a tenth of the comparisons
PUSHED = {                  # 200 updates against each
    "no penalty": f"reward model of {STEPS:,} steps, β 0",
    "weak reward model": f"of {FEW} steps, β 0",
    "weak reward model penalised": f"of {FEW} steps, β {ppo.Config.kl_coef}"}

# ---------- runs

def rates(width, unified):
    """The flags of a model of this width. Its rates fall as 1/width, the usual rule of thumb; they
    are each stage's own, or one for SFT, reward model, actor and critic."""
    def rate(own):
        return DEFAULT / width * (UNIFIED if unified else own)
    pages = DEFAULT / width * sft.Config.pretrain_lr
    return {"sft": {"n_embd": width, "pretrain_lr": pages, "lr": rate(sft.Config.lr)},
            "reward": {"lr": rate(reward.Config.lr)},
            "ppo": {"lr": rate(ppo.Config.lr), "critic_lr": rate(ppo.Config.critic_lr)}}


def plan(seeds):
    """{kind: what `story` is given for each seed}; a run that starts from another's models comes
    after it."""
    kinds = {}

    def add(kind, flags, models=None, copied=("sft", "reward")):
        kinds[kind] = [{"run": str(OUT / kind.replace(" ", "_") / str(seed)), "seed": seed,
                        "flags": flags, "models": kinds[models][seed]["run"] if models else None,
                        "copied": copied} for seed in seeds]

    for width in WIDTHS:
        add(f"{width}", rates(width, unified=False))
        add(f"{width} unified", rates(width, unified=True))
    usual, free = f"{DEFAULT}", {"kl_coef": 0.0, "steps": 200}
    add("no penalty", {"ppo": free}, usual)
    add("weak reward model", {"ppo": free, "reward": {"steps": FEW}}, usual, copied=("sft",))
    add("weak reward model penalised", {"ppo": {"steps": 200}}, "weak reward model")
    return kinds

# ---------- pictures

def save(figure, name):
    figure.savefig(PICTURES / f"{name}.svg", metadata={"Date": None})
    plt.close(figure)


def heard(runs):
    return [read(run["run"], "heard.json") for run in runs]


def curves(runs):
    """Proxy, judge and KL over the updates of the default run: the mean of the seeds as a line, and
    all of them between two edges."""
    figure, axes = plt.subplots(1, 3, figsize=(9, 2.6))
    shown = {"score": ("reward model's score (the proxy)", PROXY),
             "judge": ("judge's score, hidden from training", JUDGE),
             "kl": ("KL to SFT, nats an answer", GREY)}
    for axis, (key, (title, colour)) in zip(axes, shown.items()):
        updates = list(zip(*([row[key] for row in rows] for rows in heard(runs))))
        x, least, most = range(len(updates)), list(map(min, updates)), list(map(max, updates))
        axis.fill_between(x, least, most, color=colour, alpha=0.25, lw=0)
        axis.plot(x, list(map(fmean, updates)), color=colour, ls="-")
        axis.set(title=title, xlabel="update")
    save(figure, "curves")


def smooth(rows, key, reach=3):
    """Means over a few neighbours: single rollouts are noisy."""
    values = [row[key] for row in rows]
    return [fmean(values[max(0, i - reach):i + reach + 1]) for i in range(len(values))]


def over_optimisation(kinds):
    """Proxy and judge over √KL (Gao et al., arXiv:2210.10760), both in standard deviations of the
    SFT model's responses, which are those of the first rollout. A line for each seed, a plot for
    each of `kinds`, {title: runs}."""
    figure, axes = plt.subplots(1, len(kinds), figsize=(10, 3), sharey=True, squeeze=False)
    for axis, (title, runs) in zip(axes[0], kinds.items()):
        for rows in heard(runs):
            start = rows[0]
            gains = [{"way": max(row["kl"], 0) ** 0.5, "proxy": row["score"] - start["score"],
                      "judge": (row["judge"] - start["judge"]) / (start["judge_std"] or 1)}
                     for row in rows]
            for key, colour in (("proxy", PROXY), ("judge", JUDGE)):
                axis.plot(smooth(gains, "way"), smooth(gains, key), color=colour, ls="-", lw=1)
        axis.set(xlabel="√KL to SFT, √nats", title=title)
    axes[0][0].set_ylabel("gain, deviations of SFT's answers")
    axes[0][0].legend(axes[0][0].lines[:2], ["reward model (proxy)", "judge"])
    save(figure, "over_optimisation")


def ends(kinds):
    """Prints where the same runs end, as means of the last ten rollouts, and where the judge's
    score was best."""
    lines = []
    for title, runs in kinds.items():
        stories = heard(runs)
        judged = [smooth(rows, "judge") for rows in stories]
        at = [curve.index(max(curve)) for curve in judged]
        best_kl = [smooth(rows, "kl")[i] for rows, i in zip(stories, at)]
        judge, proxy, ideal, kl = ([fmean(row[key] for row in rows[-10:]) for rows in stories]
                                   for key in ("judge", "score", "ideal", "kl"))
        lines.append([title, f"{fmean(map(max, judged)):.2f}", f"{min(at)} to {max(at)}",
                      f"{min(best_kl):.1f} to {max(best_kl):.1f}", f"{fmean(judge):.2f}",
                      f"{fmean(proxy):.2f}", f"{fmean(ideal):.1%}", f"{min(ideal):.1%}",
                      f"{min(kl):.1f} to {max(kl):.1f}"])
    print(table(["", "judge at its best", "after updates", "at a KL of", "judge in the end",
                 "proxy", "ideal", "worst seed", "KL"], lines))


def size_numbers(run):
    """SFT's loss, the reward model's accuracy, PPO's ideal share and win rate."""
    stages, evaluation = read(run["run"], "stages.json"), read(run["run"], "evaluation.json")
    return (stages["sft_loss"], stages["accuracy"], 100 * evaluation["models"]["ppo"]["ideal"],
            100 * evaluation["win_rates"]["ppo_vs_sft"]["rate"])


def sizes(kinds):
    """The numbers over the size of the models; prints them as a table, too."""
    titles = ("SFT: held-out loss, nats a token", "reward model's accuracy, %",
              "PPO: ideal answers, %", "PPO beats SFT, %")
    figure, axes = plt.subplots(1, 4, figsize=(11, 2.6))
    lines = []
    for suffix, name, colour in (("", "each stage's own", PROXY),
                                 (" unified", "one for all stages", JUDGE)):
        points = {}         # number of weights -> four columns of the seeds' numbers
        for width in WIDTHS:
            runs = kinds[f"{width}{suffix}"]
            weights = read(runs[0]["run"], "stages.json")["weights"]
            points[weights] = list(zip(*map(size_numbers, runs)))
            lines.append([f"{weights:,}", name, *map(spread, points[weights], (3, 1, 1, 1))])
        for axis, *columns in zip(axes, *points.values()):
            axis.errorbar(list(points), list(map(fmean, columns)), list(map(stdev, columns)),
                          color=colour, ls="-", marker="o", ms=4, capsize=2, lw=1, label=name)
    for axis, title in zip(axes, titles):
        axis.set(title=title, xscale="log", xlabel="weights")
    axes[0].legend(fontsize=7, title="learning rate")
    print(table(["weights", "rates", *titles], lines))
    save(figure, "sizes")

# ---------- all of it

def main(seeds=range(5), draw=False):
    kinds = plan(seeds)
    files = {kind: {Path(run["run"]) / "evaluation.json":
                    ["-c", f"from runs import story; story(**{run!r})"] for run in runs}
             for kind, runs in kinds.items()}
    if not draw:
        for commands in files.values():
            make(commands)
    there = {kind: runs for kind, runs in kinds.items()
             if all(file.exists() for file in files[kind])}
    if default := there.get(f"{DEFAULT}"):
        curves(default)
        write_normal([read_curves(Path(run["run"]) / "logs" / "ppo") for run in default], NORMAL)
    if pushed := {title: there[kind] for kind, title in PUSHED.items() if kind in there}:
        over_optimisation(pushed)
        ends(pushed)
    if all(f"{width}{suffix}" in there for width in WIDTHS for suffix in ("", " unified")):
        sizes(there)


if __name__ == "__main__":
    if sys.argv[1:] not in ([], ["--draw"]):
        sys.exit("the only flag is --draw")
    main(draw="--draw" in sys.argv)
