"""The pictures of README and docs, the table of model sizes, and the band of normal runs.

    python experiments/figures.py           trains what is missing in out/figures, then draws: hours
                                            on one core
    python experiments/figures.py --draw    draws what there is

Writes docs/pictures/*.svg, which read on a light and on a dark page, and judges/normal.csv; prints
the tables of docs/ablations.md (over-optimisation) and docs/sizes.md.
"""
import argparse
from pathlib import Path
from statistics import fmean, stdev

import matplotlib
import matplotlib.pyplot as plt

from runs import ROOT, is_finished, make, read      # first: it puts the scripts on the path
import ppo
import reward
import sft
from judges.normal import NORMAL, read_curves, write_normal
from judges.report import place
from tables import spread, table

matplotlib.use("svg")
plt.style.use(ROOT / "notebooks" / "lessons.mplstyle")
GREY = "#8a8a8a"            # of text and axes: it reads on white and on black
plt.rcParams.update({key: GREY for key in (
    "text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")})
plt.rcParams.update({"savefig.transparent": True, "legend.frameon": False,
                     "font.size": 9, "axes.titlesize": 10})
PROXY, JUDGE = "#3d85c6", "#e07b20"

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


def plan(out, seeds, short):
    """{kind: what `story` is given for each seed}; a run that starts from another's models comes
    after it. The flags of `short` go before its own."""
    kinds = {}

    def add(kind, flags, models=None, copied=("sft", "reward")):
        flags = {stage: flags.get(stage, {}) | short.get(stage, {})
                 for stage in ("sft", "reward", "ppo", "evaluate")}
        kinds[kind] = [{"run": str(out / kind.replace(" ", "_") / str(seed)), "seed": seed,
                        "flags": flags, "models": kinds[models][seed]["run"] if models else None,
                        "copied": copied} for seed in seeds]

    usual, free = f"{DEFAULT}", {"kl_coef": 0.0, "steps": 200}
    add(usual, {})
    add("no penalty", {"ppo": free}, usual)
    add("weak reward model", {"ppo": free, "reward": {"steps": FEW}}, usual, copied=("sft",))
    add("weak reward model penalised", {"ppo": {"steps": 200}}, "weak reward model")
    for unified in (False, True):
        for width in WIDTHS:
            if (width, unified) != (DEFAULT, False):
                add(f"{width}{' unified' * unified}", rates(width, unified))
    return kinds

# ---------- pictures

def band(axis, x, rows, colour):
    """The mean of several seeds' curves (rows of equal length) as a line, and all of them between
    two edges."""
    columns = list(zip(*rows))
    axis.fill_between(x, list(map(min, columns)), list(map(max, columns)),
                      color=colour, alpha=0.25, lw=0)
    axis.plot(x, list(map(fmean, columns)), color=colour, ls="-")


def save(figure, folder, name):
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
    plt.close(figure)


def heard(runs):
    return [read(run["run"], "heard.json") for run in runs]


def curves(runs, folder):
    """Proxy, judge and KL over the updates of the default run."""
    figure, axes = plt.subplots(1, 3, figsize=(9, 2.6))
    shown = {"proxy": ("reward model's score (the proxy)", PROXY),
             "judge": ("judge's score, hidden from training", JUDGE),
             "kl": ("KL to SFT, nats an answer", GREY)}
    for axis, (key, (title, colour)) in zip(axes, shown.items()):
        lines = [[row[key] for row in rows] for rows in heard(runs)]
        band(axis, range(len(lines[0])), lines, colour)
        axis.set(title=title, xlabel="update")
    save(figure, folder, "curves")


def over_optimisation(kinds, folder):
    """Proxy and judge over √KL (Gao et al., arXiv:2210.10760), both in standard deviations of the
    SFT model's responses, which are those of the first rollout. A line for each seed, a plot for
    each of `kinds`, {title: runs}."""
    figure, axes = plt.subplots(1, len(kinds), figsize=(10, 3), sharey=True, squeeze=False)
    for axis, (title, runs) in zip(axes[0], kinds.items()):
        for rows in heard(runs):
            start = rows[0]
            way = smooth([max(row["kl"], 0) ** 0.5 for row in rows])
            proxy = [row["proxy"] - start["proxy"] for row in rows]
            judge = [(row["judge"] - start["judge"]) / (start["judge_std"] or 1) for row in rows]
            axis.plot(way, smooth(proxy), color=PROXY, ls="-", lw=1)
            axis.plot(way, smooth(judge), color=JUDGE, ls="-", lw=1)
        axis.set(xlabel="√KL to SFT, √nats", title=title)
    axes[0][0].set_ylabel("gain, deviations of SFT's answers")
    axes[0][0].legend(axes[0][0].lines[:2], ["reward model (proxy)", "judge"])
    save(figure, folder, "over_optimisation")


def ends(kinds):
    """Prints where the same runs end, as means of the last ten rollouts, and where the judge's
    score was best."""
    lines = []
    for title, runs in kinds.items():
        stories = heard(runs)
        judged = [smooth([row["judge"] for row in rows]) for rows in stories]
        at = [curve.index(max(curve)) for curve in judged]
        best_kl = [smooth([row["kl"] for row in rows])[i] for rows, i in zip(stories, at)]
        judge, proxy, ideal, kl = ([fmean(row[key] for row in rows[-10:]) for rows in stories]
                                   for key in ("judge", "proxy", "ideal", "kl"))
        lines.append([title, f"{fmean(map(max, judged)):.2f}", f"{min(at)} to {max(at)}",
                      f"{min(best_kl):.1f} to {max(best_kl):.1f}", f"{fmean(judge):.2f}",
                      f"{fmean(proxy):.2f}", f"{fmean(ideal):.1%}", f"{min(ideal):.1%}",
                      f"{min(kl):.1f} to {max(kl):.1f}"])
    print(table(["", "judge at its best", "after updates", "at a KL of", "judge in the end",
                 "proxy", "ideal", "worst seed", "KL"], lines))


def smooth(values, reach=3):
    """Means over a few neighbours: single rollouts are noisy."""
    return [fmean(values[max(0, i - reach):i + reach + 1]) for i in range(len(values))]


def by_length(runs, folder):
    """Win rate of PPO over SFT in bins of the difference in length: the mean over the seeds, and
    their range."""
    views = [read(run["run"], "evaluation.json")["by_length"]["difference"] for run in runs]
    figure, axis = plt.subplots(figsize=(6.5, 3))
    filled = [rows for rows in zip(*views) if any(row["pairs"] for row in rows)]
    for x, rows in enumerate(filled):
        rates = [row["rate"] for row in rows if row["pairs"]]
        axis.plot([x, x], [min(rates), max(rates)], color=PROXY, ls="-", lw=2, alpha=0.5)
        axis.plot(x, fmean(rates), "o", color=PROXY)
        axis.text(x, 1.04, str(sum(row["pairs"] for row in rows)), ha="center", fontsize=8)
    axis.axhline(0.5, color=GREY, ls=":", lw=1)
    axis.set_title("by length; above, the pairs of all seeds")
    axis.set(ylim=(0, 1.12), xlabel="PPO's length − SFT's, tokens", ylabel="PPO beats SFT",
             yticks=(0, 0.25, 0.5, 0.75, 1), yticklabels=("0%", "25%", "50%", "75%", "100%"))
    labels = [place(rows[0]).replace("-", "−") for rows in filled]
    axis.set_xticks(range(len(filled)), labels, fontsize=8)
    save(figure, folder, "by_length")


def size_numbers(run):
    """SFT's loss, the reward model's accuracy, PPO's ideal share and win rate."""
    stages, evaluation = read(run["run"], "stages.json"), read(run["run"], "evaluation.json")
    return (stages["sft_loss"], stages["accuracy"], 100 * evaluation["models"]["ppo"]["ideal"],
            100 * evaluation["win_rates"]["ppo_vs_sft"]["rate"])


def sizes(kinds, folder):
    """The numbers over the size of the models; prints them as a table, too."""
    titles = ("SFT: held-out loss, nats a token", "reward model's accuracy, %",
              "PPO: ideal answers, %", "PPO beats SFT, %")
    figure, axes = plt.subplots(1, 4, figsize=(11, 2.6))
    lines = []
    for suffix, name, colour in (("", "each stage's own", PROXY),
                                 (" unified", "one for all stages", JUDGE)):
        points = {}         # number of weights -> four columns of the seeds' numbers
        for runs in filter(None, (kinds.get(f"{width}{suffix}") for width in WIDTHS)):
            weights = read(runs[0]["run"], "stages.json")["weights"]
            points[weights] = list(zip(*map(size_numbers, runs)))
            cells = map(spread, points[weights], (3, 1, 1, 1))
            lines.append([f"{weights:,}", name, *cells])
        for axis, *columns in zip(axes if points else (), *points.values()):
            axis.errorbar(list(points), list(map(fmean, columns)), list(map(stdev, columns)),
                          color=colour, ls="-", marker="o", ms=4, capsize=2, lw=1, label=name)
    for axis, title in zip(axes, titles):
        axis.set(title=title, xscale="log", xlabel="weights")
    axes[0].legend(fontsize=7, title="learning rate")
    print(table(["weights", "rates", *titles], lines))
    save(figure, folder, "sizes")

# ---------- all of it

def main(seeds=5, out=ROOT / "out" / "figures", pictures=ROOT / "docs" / "pictures", normal=NORMAL,
         short=None, draw=False):
    """`short` has flags by script, for runs that only try the drawing."""
    kinds = plan(Path(out), range(seeds), short or {})
    if not draw:
        for runs in kinds.values():
            make({run["run"]: f"from runs import story; story(**{run!r})" for run in runs})
    there = {kind: runs for kind, runs in kinds.items()
             if all(is_finished(run["run"]) for run in runs)}
    if default := there.get(f"{DEFAULT}"):
        curves(default, pictures)
        by_length(default, pictures)
        logs = [Path(run["run"]) / "logs" / "ppo" for run in default]
        write_normal(list(map(read_curves, logs)), normal)
    if pushed := {title: there[kind] for kind, title in PUSHED.items() if kind in there}:
        over_optimisation(pushed, pictures)
        ends(pushed)
    if set(map(str, WIDTHS)) <= there.keys():
        sizes(there, pictures)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--draw", action="store_true", help="train nothing")
    flags = parser.parse_args()
    main(flags.seeds, draw=flags.draw)
