"""Fixtures. The models are so small that a second thread would only get in the way, here and in the scripts that
tests start."""
import os

import pytest
import torch

from support.runs import run_folder
import data
import ppo
import reward
import sft
import tiny

torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"

MATHS = ("exact", "golden", "gpt", "gradients", "invariances", "maths", "methods", "optimum", "ppo", "reward", "sft")


def pytest_collection_modifyitems(items):
    """`-m maths` runs the fast tests of these files. In one of several workers the lessons come first: what takes longest
    must not be alone at the end."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=lambda item: item.path.stem != "test_notebooks")
    for item in items:
        if item.path.stem.removeprefix("test_") in MATHS and not item.get_closest_marker("slow"):
            item.add_marker("maths")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """`-n 2` runs two files at a time, since the tests of a file share what they have trained. They start in the order of
    collection: xdist would begin with those that have the most tests."""
    from xdist.scheduler import LoadFileScheduling
    config.option.loadscopereorder = False
    return LoadFileScheduling(config, log)


@pytest.fixture
def quiet(monkeypatch):
    """The three loops log into memory: quiet.runs[loop][step] is a dict of metrics."""
    monkeypatch.setattr(tiny.SilentLoop, "runs", {})
    monkeypatch.setattr(tiny.SilentLoop, "stop", None)
    for script in (sft, reward, ppo):
        monkeypatch.setattr(script, "Loop", tiny.SilentLoop)
    return tiny.SilentLoop


@pytest.fixture
def world(tmp_path, monkeypatch, quiet):
    """A folder with a small data file. Returns flags for any stage's Config."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(data, "tokenizer_for", lambda name: tiny.words())
    tiny.write_rows(tmp_path / "rows.jsonl")
    return dict(data="rows.jsonl", run="run", device="cpu")


SFT = dict(steps=4, pretrain_steps=4, batch_size=4, n_layer=1, n_head=2, n_embd=8, block_size=64, lr=1e-2)
REWARD = dict(steps=4, batch_size=4, max_new_tokens=6, lr=1e-2)
PPO = dict(steps=4, batch_size=6, max_new_tokens=6, sample_every=2, lr=1e-2, critic_lr=1e-2)


@pytest.fixture
def run_stage(world):
    """Call a stage's main in this process on the small world, with tiny settings and the flags given."""
    def run(script, **flags):
        defaults = {sft: SFT, reward: REWARD, ppo: PPO}[script]
        script.main(script.Config(**{**world, **defaults, **flags}))
        return run_folder(script.Config(**world))
    return run


@pytest.fixture(scope="module")
def once(tmp_path_factory):
    """A place for a run folder from which several tests of a file start."""
    return tmp_path_factory.mktemp("once") / "run"


@pytest.fixture
def optimizers(monkeypatch):
    """Every AdamW that is made from here on."""
    made = []

    class Recorded(torch.optim.AdamW):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            made.append(self)
    monkeypatch.setattr(torch.optim, "AdamW", Recorded)
    return made
