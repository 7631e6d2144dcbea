"""Is this run normal? Compares its curves with five good runs of the toy.

normal.csv has, for each metric of `python ppo.py` and every eighth update, the band in which 95% of
further seeds should lie. experiments/figures.py writes it, `python evaluate.py --compare` reads it.
"""
import csv
from pathlib import Path
from statistics import fmean

import torch

from support import UserError
from support.screen import read_curves

NORMAL = Path(__file__).with_suffix(".csv")
SETTINGS = ("lr", "kl_coef", "objective/non_score_reward")      # they follow from the flags
SIGNED = ("loss/policy", "objective/scores", "objective/kl", "objective/score_total",
          "returns/mean", "val/mean", "val/var_explained")      # all others are at least 0
SHARES = ("clipfrac", "eos_rate", "var_explained")              # at most 1
T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)    # t of 2 to 10 runs, for 95%
EVERY = 8               # every so many updates there is a row, and one for the last
NEIGHBOURS = 5          # updates on both sides: averaged, since the variance of five runs is rough
INSIDE = 1 / 2          # a metric with fewer of its updates inside is named; good runs have 64%


def band(runs, every=EVERY):
    """{metric: {update: (low, high)}} from the curves of n runs: mean ± t √(1 + 1/n) s.

    If runs are normally distributed, a further run lies in it with a chance of 95% (n = 5: within
    3.04 standard deviations s).
    """
    n = len(runs)
    bands = {}
    for name in [name for name in runs[0] if name not in SETTINGS]:
        curves = torch.tensor([list(run[name].values()) for run in runs], dtype=torch.double)
        mean, variance = curves.mean(0), curves.var(0)                              # (updates) each
        last = len(mean) - 1
        bands[name] = {}
        for update in (*range(0, last, every), last):
            near = variance[max(0, update - NEIGHBOURS):update + NEIGHBOURS + 1]
            reach = T[n - 2] * (1 + 1 / n) ** 0.5 * near.mean().sqrt()
            bands[name][update] = (mean[update] - reach).item(), (mean[update] + reach).item()
    return bands


def write_normal(runs, path=NORMAL):
    """Write the band of several runs' curves as CSV."""
    rows = [f"{name},{update},{low:.4g},{high:.4g}" for name, ends in band(runs).items()
            for update, (low, high) in ends.items()]
    path.write_text("\n".join(["metric,update,low,high", *rows]) + "\n")


def read_normal(path=NORMAL):
    """{metric: {update: (low, high)}}, without what no number of that metric can be."""
    bands = {}
    for name, update, low, high in list(csv.reader(path.read_text().splitlines()))[1:]:
        low = float(low) if name in SIGNED else max(0.0, float(low))
        high = min(1.0, float(high)) if name.endswith(SHARES) else float(high)
        bands.setdefault(name, {})[int(update)] = low, high
    return bands


def compare(folder, path=NORMAL):
    """What `--compare` prints: the verdict, then a line for each metric that was outside."""
    curves, bands = read_curves(folder), read_normal(path)
    if not bands.keys() <= curves.keys():
        raise UserError(f"{folder}: there are no curves of this ppo.py, "
                        "so train with `python ppo.py` first")
    lines, odd, verdicts = [], [], []
    for name, ends in bands.items():
        curve = curves[name]
        inside = {update: low <= curve[update] <= high for update, (low, high) in ends.items()
                  if update in curve}
        verdicts += inside.values()
        share, last = fmean(inside.values()), max(inside)
        if share < 1:
            low, high = ends[last]
            lines.append(f"{name:24}{share:8.0%}{curve[last]:11.3g}   {low:.3g} to {high:.3g}")
        if share < INSIDE:
            first = min(update for update, there in inside.items() if not there)
            odd.append(f"{name} (first outside at update {first})")
    said = "this run is not normal: look at " + ", ".join(odd) if odd else "this run is normal"
    counted = (f"{fmean(verdicts):.1%} of {len(verdicts)} numbers lie in the band that five good "
               "runs of the toy with the default flags have; 95% or more is usual")
    head = [f"{'sometimes outside:':24}{'inside':>8}{'last':>11}   normal then"] if lines else []
    return "\n".join([said, counted, *head, *lines])
