"""experiments/figures.py draws all its pictures from short runs."""
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from support.normal import read_normal

sys.path.append(str(Path(__file__).resolve().parent.parent / "experiments"))


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
