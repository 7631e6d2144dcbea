"""Is this run normal? Its curves beside those of five good runs of the toy.

normal.csv has, for each metric and update of `python ppo.py`, the mean over five seeds and the band in which 95% of
further seeds should lie. experiments/figures.py writes it; `python evaluate.py --compare` reads it.
"""
import csv
from pathlib import Path

import torch

from support import UserError

NORMAL = Path(__file__).with_suffix(".csv")
SETTINGS = ("lr", "kl_coef", "objective/non_score_reward")      # they tell the flags, not how the run went
NEIGHBOURS = 5          # updates on both sides whose spread is averaged: that of five seeds alone is too rough
INSIDE = 2 / 3          # a metric with fewer of its updates inside is named


def read_curves(folder):
    """{metric: {update: value}} of a stage's TensorBoard logs. Raises UserError if there are none."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator     # slow to import
    logs = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    if folder.is_dir():
        logs.Reload()
    names = logs.Tags()["scalars"]
    curves = {name: {event.step: event.value for event in logs.Scalars(name)} for name in names}
    if "objective/kl" not in curves:
        raise UserError(f"{folder}: there are no curves of ppo.py, so train with `python ppo.py` first")
    return {name: curve for name, curve in curves.items() if name not in SETTINGS}


def band(runs):
    """{metric: (mean, low, high), each (updates)} of several runs' curves: mean ± t √(1 + 1/n) s, in which a further
    run lies with a chance of 95% if runs are normally distributed (n = 5: 3.04 standard deviations s)."""
    t = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 8: 2.365, 10: 2.262}[len(runs)]
    bands = {}
    for name in runs[0]:
        x = torch.tensor([list(run[name].values()) for run in runs], dtype=torch.double)    # (n, updates)
        rough = x.var(0)                                                                    # (updates)
        variance = torch.stack([rough[max(0, i - NEIGHBOURS):i + NEIGHBOURS + 1].mean() for i in range(len(rough))])
        reach = t * (1 + 1 / len(runs)) ** 0.5 * variance.sqrt()                            # (updates)
        bands[name] = x.mean(0), x.mean(0) - reach, x.mean(0) + reach
    return bands


def write_normal(runs, path=NORMAL):
    """Write the band of several runs' curves as CSV."""
    with open(path, "w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["metric", "update", "mean", "low", "high"])
        for name, columns in band(runs).items():
            for update, row in enumerate(zip(*columns)):
                table.writerow([name, update, *(f"{number:.4g}" for number in row)])


def read_normal(path=NORMAL):
    """{metric: {update: (mean, low, high)}}."""
    bands = {}
    with open(path, newline="") as file:
        for row in csv.DictReader(file):
            numbers = tuple(float(row[column]) for column in ("mean", "low", "high"))
            bands.setdefault(row["metric"], {})[int(row["update"])] = numbers
    return bands


def inside(curve, bands):
    """Whether each update of one metric lies in the band, where there is one: {update: bool}."""
    return {update: bands[update][1] <= value <= bands[update][2] for update, value in curve.items() if update in bands}


def compare(folder, path=NORMAL):
    """What `--compare` prints: a line a metric, and a verdict."""
    curves, bands = read_curves(folder), read_normal(path)
    lines, verdicts, odd = [f"{'':24}{'inside':>8}{'last':>11}   normal then"], [], []
    for name in bands:
        if name not in curves:
            raise UserError(f"{folder}: the logs have no {name}, so they are of another version of ppo.py")
        found = inside(curves[name], bands[name])
        verdicts += found.values()
        share, last = sum(found.values()) / len(found), max(found)
        _, low, high = bands[name][last]
        lines.append(f"{name:24}{share:8.0%}{curves[name][last]:11.3g}   {low:.3g} to {high:.3g}")
        if share < INSIDE:
            first = min(update for update, there in found.items() if not there)
            odd.append(f"{name} (first outside at update {first})")
    lines.append(f"{sum(verdicts) / len(verdicts):.1%} of {len(verdicts)} numbers lie in the band that five good runs "
                 "of the toy with the default flags have; 95% or more is usual")
    lines.append("this run is not normal: look at " + ", ".join(odd) if odd else "no curve is out of the ordinary")
    return "\n".join(lines)
