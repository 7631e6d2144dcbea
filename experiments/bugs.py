"""Twelve bugs and healthy runs: the picture and the numbers of docs/bugs.md.

    python experiments/bugs.py      three seeds each, on the lessons' own models: about ten minutes
                                    of one core, kept in out/bugs

Draws docs/pictures/bugs.svg. Prints, for each bug and for healthy runs, what the probes read.
"""
import sys

import matplotlib
import matplotlib.pyplot as plt

from runs import ROOT, STYLES, results, table       # first: it puts the scripts on the path

sys.path.append(str(ROOT / "notebooks"))
import broken

matplotlib.use("svg")
plt.style.use(STYLES)
GREY, WRONG = plt.rcParams["text.color"], "#b85c00"
SEEDS = (0, 1, 2)
HEALTHY = "healthy"
CURVES = {                  # the metric that each panel shows
    **dict.fromkeys(broken.BUGS, "objective/scores"),
    "rate twenty times too high": "objective/kl", "reference one token late": "objective/kl",
    "KL earned": "objective/kl", "values one token late": "val/var_explained",
    "wrong side of the clip": "objective/kl", "end never trained": "length",
    "old log-probs recomputed": "policy/clipfrac"}


def run(point, seed):
    """The metrics of each update, what the probes read, and which unit tests fail."""
    cfg = broken.settings(seed)
    seen = broken.watch(None if point == HEALTHY else point, cfg=cfg, updates=cfg.steps)
    return {"rollouts": seen.metrics,
            "probes": {name: probe(seen) for name, probe in broken.PROBES.items()},
            "failed": [name for name, test in broken.UNIT_TESTS.items() if not test(seen.module)]}

# ---------- the picture and the table

def picture(found, healthy):
    """A panel for each bug: one metric of its runs, and the band of the healthy ones."""
    ends = broken.edges(healthy)
    figure, axes = plt.subplots(3, 4, figsize=(10, 6), sharex=True)
    for number, (axis, (bug, runs)) in enumerate(zip(axes.flat, found.items()), 1):
        name = CURVES[bug]
        low, high = zip(*ends[name])
        axis.fill_between(range(len(low)), low, high, color=GREY, alpha=0.3, lw=0)
        for rows in runs:
            axis.plot([row[name] for row in rows], color=WRONG, ls="-", lw=1)
        axis.set_title(f"{number} {bug}")
        axis.set_ylabel(name.split("/")[-1])
        if name == "objective/kl" and max(axis.get_ylim()) > 30:    # linear up to 10 nats
            axis.set_yscale("symlog", linthresh=10)
            axis.set_ylim(bottom=-1)
            axis.set_yticks([0, 10, 100], ["0", "10", "100"])
    for axis in axes[-1]:
        axis.set_xlabel("update")
    figure.savefig(ROOT / "docs" / "pictures" / "bugs.svg", metadata={"Date": None})


def readings(ends):
    """The cells of a table: from the least to the largest that the runs of a bug read."""
    shown = (("ratio", "before the first step"), ("ratio", "before the last step"),
             ("kl", "of a token, largest"), ("sums", "rewards - (score - β KL), largest"),
             ("sums", "their deviation"))
    columns = [[end["probes"][probe][what] for end in ends] for probe, what in shown]
    columns.append([end["rollouts"][0]["objective/scores"] for end in ends])
    cells = [" to ".join(dict.fromkeys(f"{x:.2g}" if abs(x) > 1e-4 else "0"     # 0 but for rounding
                                       for x in (min(column), max(column)))) for column in columns]
    return [*cells, ", ".join(ends[0]["failed"]) or "-"]


def main():
    folder = ROOT / "out" / "bugs"
    broken.start(broken.ppo)                    # trains the models, if they are not there
    healthy = results(folder, "bugs", [HEALTHY], broken.SEEDS)
    found = results(folder, "bugs", broken.BUGS, SEEDS)
    picture({bug: [end["rollouts"] for end in ends] for bug, ends in found.items()},
            [end["rollouts"] for end in healthy[HEALTHY]])
    print(table(["", "ratio first", "ratio last", "KL", "rewards", "deviation", "first score",
                 "fails"], [[name, *readings(ends)] for name, ends in (healthy | found).items()]))


if __name__ == "__main__":
    main()
