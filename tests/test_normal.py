"""judges/normal.py: a run is laid beside the band of normal ones."""
import math

import pytest
import torch

from support import UserError
from judges.normal import NORMAL, band, compare, read_normal, write_normal


def wandering(seed, level=1.0, updates=30):
    generator = torch.Generator().manual_seed(seed)
    return {name: {u: level + 0.1 * torch.randn((), generator=generator).item() for u in range(updates)}
            for name in ("objective/kl", "length")}


def test_the_band_holds_95_percent_of_further_runs(tmp_path):
    shares = []
    for seed in range(40):
        write_normal([wandering(100 * seed + i, updates=150) for i in range(5)], tmp_path / "band.csv")
        bands, new = read_normal(tmp_path / "band.csv"), wandering(100 * seed + 50, updates=150)
        shares += [low <= new[name][update] <= high for name, ends in bands.items() for update, (low, high) in ends.items()]
    assert 0.93 < sum(shares) / len(shares) < 0.995     # wider than 95%: the spread is known from more than five numbers


def test_a_band_by_hand():
    # variances 1 and 0 at two updates, ½ on average; t is that of three runs
    runs = [{"objective/kl": {0: value, 1: 5.0}} for value in (1.0, 2.0, 3.0)]
    reach = 4.303 * math.sqrt(4 / 3) * math.sqrt(0.5)
    assert band(runs) == {"objective/kl": {0: pytest.approx((2 - reach, 2 + reach)), 1: pytest.approx((5 - reach, 5 + reach))}}


@pytest.mark.parametrize("updates, rows", [(1, [0]), (8, [0, 7]), (9, [0, 8]), (10, [0, 8, 9])])
def test_every_eighth_update_has_a_row_and_the_last_one(updates, rows):
    assert [list(ends) for ends in band([wandering(i, updates=updates) for i in range(2)]).values()] == [rows, rows]


def log(folder, curves):
    from torch.utils.tensorboard import SummaryWriter
    writer = SummaryWriter(folder)
    for name, curve in curves.items():
        for update, value in curve.items():
            writer.add_scalar(name, value, update)
    writer.close()


@pytest.mark.parametrize("shift", [5, -5])
def test_a_run_that_leaves_the_band_is_named_with_its_metric(tmp_path, shift):
    write_normal([wandering(i) for i in range(5)], tmp_path / "band.csv")
    log(tmp_path / "good", wandering(7))
    drifting = wandering(8)
    drifting["objective/kl"] = {u: value + shift * (u >= 10) for u, value in drifting["objective/kl"].items()}
    log(tmp_path / "bad", drifting)
    assert compare(tmp_path / "good", tmp_path / "band.csv").startswith("this run is normal\n100.0% of ")
    said = compare(tmp_path / "bad", tmp_path / "band.csv").splitlines()
    assert said[0] == "this run is not normal: look at objective/kl (first outside at update 16)"
    assert [line.split()[0] for line in said[2:]] == ["sometimes", "objective/kl"]      # the verdict, then only what lies outside


def test_without_curves_it_says_what_to_run(tmp_path):
    with pytest.raises(UserError, match="train with `python ppo.py`"):
        compare(tmp_path / "nothing")


def test_the_committed_band_spans_the_default_run_and_has_every_metric_once():
    bands = read_normal()
    assert {"objective/kl", "objective/scores", "policy/entropy", "val/var_explained", "length"} <= bands.keys()
    assert all(list(ends) == [*range(0, 80, 8), 79] for ends in bands.values())
    assert all(low >= 0 for name in ("val/var", "policy/entropy", "length") for low, _ in bands[name].values())
    assert all(high <= 1 for name in ("val/var_explained", "eos_rate", "val/clipfrac") for _, high in bands[name].values())
    assert min(low for low, _ in bands["objective/scores"].values()) < 0            # a score may be negative
    assert all(low <= high for ends in bands.values() for low, high in ends.values())
    assert len(NORMAL.read_text().splitlines()) == 1 + sum(map(len, bands.values())) < 300
