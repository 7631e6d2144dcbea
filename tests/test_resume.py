"""A run that was stopped and resumed is the run that was never stopped, bit for bit."""
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import ppo
import reward
import sft
import tiny
from support import UserError
from support.files import write_whole
from support.loop import Loop
from support.runs import find_model, run_folder


def weights(folder):
    return {f"{path.parent.name}/{name}": tensor for path in sorted(folder.rglob("model.safetensors"))
            for name, tensor in load_file(path).items()}


def interrupted(run_stage, quiet, script, stop, **flags):
    quiet.stop = stop
    with pytest.raises(tiny.Stop):
        run_stage(script, **flags)
    quiet.stop = None


@pytest.mark.parametrize("script, stage, before, flags", [
    (sft, "sft", [], dict(pretrain_steps=2, steps=4)),          # stopped while it learned to answer
    (sft, "base", [], dict(pretrain_steps=4, steps=2)),         # stopped while it read
    (reward, "reward", [sft], dict(steps=4)),
    (reward, "reward", [sft], dict(steps=4, train="lora:2")),
    (ppo, "ppo", [sft, reward], dict(steps=4, train="lora:2")),
    (ppo, "ppo", [sft, reward], dict(steps=4, kl_target=0.01, kl_horizon=10, kl_coef=0.5))])
def test_four_steps_are_two_and_two_more_after_resuming(run_stage, quiet, monkeypatch, script, stage, before, flags):
    for earlier in before:
        run = run_stage(earlier)
    run = run_stage(script, **flags)
    whole, whole_log = weights(run), dict(quiet.runs[stage])
    configs = {path: path.read_text() for path in run.rglob("config.json")}
    shutil.rmtree(run / stage)
    quiet.runs.clear()

    interrupted(run_stage, quiet, script, 3, save_every=2, **flags)
    torch.manual_seed(12345)                                    # a new process has other random numbers
    run_stage(script, resume=True, save_every=2, **flags)
    resumed = weights(run)
    assert resumed.keys() == whole.keys()
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in whole.items())
    assert all(path.read_text() == text for path, text in configs.items())
    assert quiet.runs[stage] == whole_log                       # every metric and every sample text, too
    assert not list(run.rglob("resume.pt"))                     # nothing is left to resume


def test_the_same_seed_is_the_same_run_and_another_seed_another(run_stage):
    runs = []
    for folder, seed in (("one", 1), ("again", 1), ("two", 2)):
        for script in (sft, reward, ppo):
            torch.rand(5)                                       # whatever was drawn before
            run_stage(script, run=folder, seed=seed)
        runs.append(weights(Path(folder)))
    assert all(torch.equal(tensor, runs[1][name]) for name, tensor in runs[0].items())
    assert not any(torch.equal(tensor, runs[2][name]) for name, tensor in runs[0].items() if "wte" in name)


def test_a_run_that_stopped_while_answering_is_not_read_to_again(run_stage, quiet):
    flags = dict(pretrain_steps=2, steps=4, save_every=2)
    interrupted(run_stage, quiet, sft, 3, **flags)
    quiet.runs.clear()
    run_stage(sft, resume=True, **flags)
    assert "base" not in quiet.runs and min(step for step in quiet.runs["sft"] if step != "texts") == 2


@pytest.mark.parametrize("script, before", [(reward, [sft]), (ppo, [sft, reward])])
def test_there_must_be_something_to_resume(run_stage, script, before):
    for earlier in before:
        run_stage(earlier)
    with pytest.raises(UserError, match="--resume: there is no .*resume.pt; start without --resume"):
        run_stage(script, resume=True)

# ----------------------------------------------------------------------------- files


def test_a_checkpoint_brings_the_random_numbers_back(tmp_path):
    torch.manual_seed(7)
    part = torch.nn.Linear(2, 1)
    weights = part.weight.detach().clone()
    loop = Loop(tmp_path, 9, ppo.Config(), {"kl_coef": 0.3}, part=part)
    loop.step = 3
    loop.save()
    expected = torch.rand(3)
    torch.manual_seed(8)
    other = torch.nn.Linear(2, 1)
    torch.manual_seed(9)
    values = {"kl_coef": 0.1}
    resumed = Loop(tmp_path, 9, ppo.Config(resume=True), values, part=other)
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(other.weight, weights)
    assert resumed.step == 3 and values == {"kl_coef": 0.3}


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "deep" / "file"
    write_whole(path, "old\n")

    def fails(temporary):
        temporary.write_text("ha")
        assert temporary.parent == path.parent                  # else moving it would be copying it
        assert path.read_text() == "old\n"
        raise OSError("disk full")
    with pytest.raises(OSError):
        write_whole(path, fails)
    assert path.read_text() == "old\n"
    write_whole(path, lambda temporary: temporary.write_text("new\n"))
    assert path.read_text() == "new\n"


@pytest.mark.parametrize("stage, script", [("base", "sft"), ("sft", "sft"), ("reward", "reward"), ("ppo", "ppo")])
def test_a_missing_model_says_what_to_run_first(tmp_path, stage, script):
    with pytest.raises(UserError, match=f"no {stage} model in .*{stage}: run `python {script}.py` first"):
        find_model(tmp_path, stage)
    write_whole(tmp_path / stage / "config.json", "{}")
    assert find_model(tmp_path, stage) == tmp_path / stage


@pytest.mark.parametrize("flags, folder", [
    (dict(data="toy"), "out/toy"), (dict(data="my/rows.jsonl"), "out/rows"), (dict(data="rows.jsonl.gz"), "out/rows"),
    (dict(data="toy", run="here"), "here")])
def test_a_run_is_a_folder_named_after_its_data(flags, folder):
    assert str(run_folder(sft.Config(**flags))) == folder
