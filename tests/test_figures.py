"""The pictures are drawn from short runs, and a run is laid beside the band of normal ones."""
import math
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

from support import UserError
from support.normal import NORMAL, band, compare, inside, read_normal, write_normal

sys.path.append(str(Path(__file__).resolve().parent.parent / "experiments"))


def wandering(seed, level=1.0, updates=30):
    generator = torch.Generator().manual_seed(seed)
    return {name: {u: level + 0.1 * torch.randn((), generator=generator).item() for u in range(updates)}
            for name in ("objective/kl", "length")}


def test_the_band_holds_95_percent_of_further_runs(tmp_path):
    shares = []
    for seed in range(40):
        write_normal([wandering(100 * seed + i) for i in range(5)], tmp_path / "band.csv")
        bands, new = read_normal(tmp_path / "band.csv"), wandering(100 * seed + 50)
        shares += [there for name in new for there in inside(new[name], bands[name]).values()]
    assert 0.93 < sum(shares) / len(shares) < 0.995     # wider than 95%: the spread is known from more than five numbers


def test_a_band_by_hand():
    runs = [{"objective/kl": {0: value}} for value in (1.0, 2.0, 3.0)]
    mean, low, high = (row.item() for row in band(runs)["objective/kl"])
    assert mean == 2 and high - mean == pytest.approx(4.303 * math.sqrt(4 / 3)) and mean - low == pytest.approx(high - mean)


def log(folder, curves):
    from torch.utils.tensorboard import SummaryWriter
    writer = SummaryWriter(folder)
    for name, curve in curves.items():
        for update, value in curve.items():
            writer.add_scalar(name, value, update)
    writer.close()


def test_a_run_that_leaves_the_band_is_named_with_its_metric(tmp_path):
    write_normal([wandering(i) for i in range(5)], tmp_path / "band.csv")
    log(tmp_path / "good", wandering(7))
    drifting = wandering(8)
    drifting["objective/kl"] = {u: value + 0.1 * u for u, value in drifting["objective/kl"].items()}
    log(tmp_path / "bad", drifting)
    assert "no curve is out of the ordinary" in compare(tmp_path / "good", tmp_path / "band.csv")
    said = compare(tmp_path / "bad", tmp_path / "band.csv")
    assert "not normal: look at objective/kl (first outside" in said and "length (" not in said


def test_without_curves_it_says_what_to_run(tmp_path):
    with pytest.raises(UserError, match="train with `python ppo.py`"):
        compare(tmp_path / "nothing")


def test_the_committed_band_has_every_update_of_the_default_run_and_every_metric_once():
    bands = read_normal()
    assert {"objective/kl", "objective/scores", "policy/entropy", "val/var_explained", "length"} <= bands.keys()
    assert all(list(rows) == list(range(80)) for rows in bands.values())
    assert all(low <= mean <= high for rows in bands.values() for mean, low, high in rows.values())
    assert NORMAL.stat().st_size < 100_000


@pytest.mark.slow
def test_all_pictures_are_drawn_from_short_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TQDM_DISABLE", "1")
    import figures
    monkeypatch.setattr(figures, "WIDTHS", (64,))
    short = {"sft": {"steps": 2, "pretrain_steps": 2, "n_layer": 1, "n_head": 1}, "reward": {"steps": 2, "normalise_samples": 64},
             "ppo": {"steps": 3, "batch_size": 8, "minibatches": 1}, "evaluate": {"samples": 2, "prompts": 6, "best_of": 2}}
    figures.main(2, tmp_path / "runs", tmp_path / "pictures", tmp_path / "normal.csv", short)
    for name in ("curves", "over_optimisation", "by_length", "sizes"):
        text = (tmp_path / "pictures" / f"{name}.svg").read_text()
        assert ElementTree.fromstring(text).tag.endswith("svg") and len(text) < 200_000
        assert "nan" not in text and "fill: #ffffff" not in text        # no background: it reads on dark pages, too
    assert len(read_normal(tmp_path / "normal.csv")["objective/kl"]) == 3
    assert capsys.readouterr().out.count("one for all stages") == 1
