"""A run that was stopped and resumed is the run that was never stopped, bit for bit."""
import importlib
import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import ppo
import reward
import sft
import tiny
from conftest import PPO
from support import Stopped, UserError
from support.files import write_whole
from support.lock import hold
from support.runs import find_model, run_folder

ROOT = Path(__file__).parent.parent


def weights(folder):
    return {f"{path.parent.name}/{name}": tensor for path in sorted(folder.rglob("model.safetensors"))
            for name, tensor in load_file(path).items()}


def interrupted(run_stage, quiet, script, stop, **flags):
    """End a run as a power cut would, in the middle of the step `stop`: a number, or (loop, number)."""
    quiet.stop = stop
    with pytest.raises(tiny.Stop):
        run_stage(script, **flags)
    quiet.stop = None


STAGES = {"base": (sft, []), "sft": (sft, []), "reward": (reward, [sft]), "ppo": (ppo, [sft, reward])}


@pytest.mark.parametrize("stage, flags, save_every, stop", [
    ("sft", dict(pretrain_steps=2), 2, 3),                      # stopped while it learned to answer
    ("sft", dict(pretrain_steps=2, train="lora:2"), 3, 3),
    ("sft", dict(pretrain_steps=2, train="last:1", micro_batch_size=3), 1, 2),
    ("sft", dict(pretrain_steps=2, train="lora:2"), 9, 1),      # base/ is finished, and nothing of sft/ is saved
    ("base", dict(pretrain_steps=4, steps=2), 2, 3),            # stopped while it read
    ("reward", dict(), 1, 1),
    ("reward", dict(train="lora:2"), 2, 3),
    ("reward", dict(train="last:1", micro_batch_size=1), 3, 3),
    ("ppo", dict(train="lora:2"), 2, 3),
    ("ppo", dict(train="last:1", micro_batch_size=4), 1, 1),
    ("ppo", dict(micro_batch_size=1, sample_every=1), 3, 3),
    ("ppo", dict(kl_target=0.01, kl_horizon=10, kl_coef=0.5), 2, 3)])
def test_a_resumed_run_is_the_run_that_was_never_stopped(run_stage, quiet, stage, flags, save_every, stop):
    script, before = STAGES[stage]
    flags = {"steps": 4, **flags}
    for earlier in before:
        run = run_stage(earlier)
    run = run_stage(script, **flags)
    whole, whole_log = weights(run), dict(quiet.runs[stage])
    configs = {path: path.read_text() for path in run.rglob("config.json")}
    for folder in ("base", "sft") if script is sft else (stage,):
        shutil.rmtree(run / folder)
    quiet.runs.clear()

    interrupted(run_stage, quiet, script, (stage, stop), save_every=save_every, **flags)
    torch.manual_seed(12345)                                    # a new process has other random numbers
    run_stage(script, resume=True, **flags)
    resumed = weights(run)
    assert resumed.keys() == whole.keys()
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in whole.items())
    assert all(path.read_text() == text for path, text in configs.items())
    assert quiet.runs[stage] == whole_log                       # every metric and every sample text, too
    assert not list(run.rglob("resume.pt"))                     # nothing is left to resume


@pytest.mark.parametrize("stage, module, function", [
    ("base", "sft", "finish"), ("sft", "sft", "finish"), ("reward", "reward", "finish"), ("ppo", "ppo", "finish"),
    ("reward", "reward", "accuracy"), ("reward", "reward", "fit_normalisation"), ("sft", "sft", "test_loss"),
    ("ppo", "support.checkpoint", "write_whole"), ("reward", "support.checkpoint", "write_whole")])
def test_killed_after_the_last_step_it_goes_on_there(run_stage, quiet, monkeypatch, stage, module, function):
    """In what follows the last step, and between the files of the finished folder."""
    script, before = STAGES[stage]
    for earlier in before:
        run = run_stage(earlier)
    run = run_stage(script)
    whole = weights(run)
    for folder in ("base", "sft") if script is sft else (stage,):
        shutil.rmtree(run / folder)

    place = importlib.import_module(module)
    real, killed = getattr(place, function), []

    def killed_here(*given, **named):
        folders = [str(part) for part in given if isinstance(part, Path)]
        if function in ("finish", "write_whole") and not any(stage in path for path in folders) or "model.safe" in str(folders):
            return real(*given, **named)
        killed.append(1)
        raise tiny.Stop
    with monkeypatch.context() as patch:
        patch.setattr(place, function, killed_here)
        with pytest.raises(tiny.Stop):
            run_stage(script)
    quiet.runs.clear()
    run_stage(script, resume=True)
    assert killed and not any(isinstance(step, int) and step < 4 for step in quiet.runs.get(stage, {}))   # no step twice
    assert all(torch.equal(tensor, weights(run)[name]) for name, tensor in whole.items())


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
    with pytest.raises(UserError, match="--resume: .* has no resume.pt, so there is nothing to go on with; start without --resume"):
        run_stage(script, resume=True)

# ----------------------------------------------------------------------------- signals


@pytest.fixture(autouse=True)
def ctrl_c_is_heeded():
    """A shell that starts the tests in the background lets them ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_the_step_and_saves(run_stage, quiet, monkeypatch, stage, number):
    script, before = STAGES[stage]
    for earlier in before:
        run_stage(earlier)
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    add = tiny.SilentLoop.add

    def signalled(loop, name, value, step):
        if (loop.folder.name, step) == (stage, 1):
            if name in ("loss", "lr"):                          # once in this step
                os.kill(os.getpid(), number) if loop.signal is None else None
        add(loop, name, value, step)
    with monkeypatch.context() as patch:
        patch.setattr(tiny.SilentLoop, "add", signalled)
        with pytest.raises(Stopped, match="stopped after step 2 of 4, which is saved.*--resume continues from there") as stop:
            run_stage(script)
    assert stop.value.args[0] == number
    assert torch.load(Path("run") / stage / "resume.pt", weights_only=True)["state"]["step"] == 2
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    run_stage(script, resume=True)


def test_a_second_ctrl_c_stops_at_once(run_stage, quiet, monkeypatch):
    twice = []

    def impatient(loop, name, value, step):
        os.kill(os.getpid(), signal.SIGINT)
        twice.append(step)
        os.kill(os.getpid(), signal.SIGINT)
    monkeypatch.setattr(tiny.SilentLoop, "add", impatient)
    with pytest.raises(KeyboardInterrupt) as stop:
        run_stage(sft)
    assert twice == [0] and not stop.value.args and not Path("run/base/resume.pt").exists()


FLAT = """
import json, os, sys
import torch
import data, ppo, tiny
torch.set_num_threads(1)
data.tokenizer_for = lambda name: tiny.words()
add = tiny.SilentLoop.add
def measured(loop, name, value, step):
    if name == "objective/kl":
        pages = int(open("/proc/self/statm").read().split()[1])
        print(step, pages * os.sysconf("SC_PAGE_SIZE") / 2 ** 20, len(os.listdir("/proc/self/fd")), file=sys.stderr)
    loop.logged.clear()                                         # what this test would keep is no leak
tiny.SilentLoop.add = measured
ppo.Loop = tiny.SilentLoop
ppo.main(ppo.Config(**json.loads(sys.argv[1])))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="there is no /proc to read memory and open files from")
def test_memory_and_open_files_stay_flat_over_300_updates(run_stage, world):
    run_stage(sft)
    run_stage(reward)
    # A process of its own: in this one, what other tests have left moves with every collection of garbage.
    cfg = {**world, **PPO, **dict(steps=300, save_every=10, sample_every=50, lr=1e-4, critic_lr=1e-4)}
    done = subprocess.run([sys.executable, "-c", FLAT, json.dumps(cfg)], capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"})
    seen = {int(step): (float(size), int(files)) for step, size, files in re.findall(r"^(\d+) (\S+) (\d+)$", done.stderr, re.M)}
    assert done.returncode == 0 and len(seen) == 300, done.stderr
    assert seen[299][1] == seen[50][1] and seen[299][0] < seen[50][0] + 8, (seen[50], seen[299])     # MiB


# ----------------------------------------------------------------------------- it must be the same run


@pytest.fixture
def stopped(run_stage, quiet, once):
    """A PPO run, stopped in its fourth step and saved after its second."""
    if not once.exists():
        run_stage(sft)
        run_stage(reward)
        interrupted(run_stage, quiet, ppo, 3, save_every=2)
        Path("run").rename(once)
    shutil.copytree(once, "run")
    return Path("run/ppo/resume.pt")


@pytest.mark.parametrize("changes, says", [
    (dict(seed=1), "written with --seed 0, and now it is 1"), (dict(lr=0.5), "written with --lr 0.01, and now it is 0.5"),
    (dict(train="last:1"), "written with --train all, and now it is last:1"), (dict(batch_size=5), "written with --batch_size 6"),
    (dict(kl_coef=0.3), "written with --kl_coef 0.05"), (dict(max_new_tokens=5), "written with --max_new_tokens 6"),
    (dict(temperature=0.9), "written with --temperature 1.0"), (dict(steps=1), "has 2 steps behind it, more than the 1")])
def test_another_flag_is_named_and_stops_the_run(run_stage, stopped, changes, says):
    before = stopped.read_bytes()
    with pytest.raises(UserError, match=says):
        run_stage(ppo, resume=True, **changes)
    assert stopped.read_bytes() == before


def test_other_rows_are_noticed(run_stage, stopped):
    rows = tiny.ROWS[1:] + [{"prompt": "\n\nHuman: New?\n\nAssistant:", "completions": [" Yes.", " No."]}]
    tiny.write_rows(Path("rows.jsonl"), rows)
    with pytest.raises(UserError, match="written when the rows of --data were others: make that as it was, or start without"):
        run_stage(ppo, resume=True)


@pytest.mark.parametrize("script, role", [(sft, "actor"), (reward, "critic")])
def test_other_first_weights_are_noticed(run_stage, stopped, script, role):
    run_stage(script, steps=5)
    with pytest.raises(UserError, match=f"written when the first weights of the {role} were others"):
        run_stage(ppo, resume=True)


@pytest.mark.parametrize("changes", [dict(steps=6), dict(save_every=1), dict(sample_every=3), dict(micro_batch_size=2),
                                     dict(device="cpu:0")])
def test_what_changes_no_gradient_may_change(run_stage, quiet, stopped, changes):
    quiet.runs.clear()
    run_stage(ppo, resume=True, **changes)
    assert min(step for step in quiet.runs["ppo"] if step != "texts") == 2 and not stopped.exists()


def test_the_same_rows_in_another_place_are_the_same_run(run_stage, stopped):
    Path("rows.jsonl").rename("moved.jsonl")
    Path("run").rename("elsewhere")
    run_stage(ppo, resume=True, data="moved.jsonl", run="elsewhere")
    assert Path("elsewhere/ppo/config.json").exists()


class Malice:
    """Unpickled, it leaves a folder behind."""

    def __reduce__(self):
        return os.mkdir, ("executed",)


@pytest.mark.parametrize("content", [b"", b"PK", pickle.dumps({"step": 2}, protocol=2), pickle.dumps(Malice(), protocol=2)])
def test_a_damaged_or_pickled_checkpoint_is_refused_and_never_executed(run_stage, stopped, content):
    stopped.write_bytes(content)
    with pytest.raises(UserError, match="run/ppo/resume.pt is damaged .*start without --resume"):
        run_stage(ppo, resume=True)
    assert not Path("executed").exists()


def test_a_checkpoint_cut_off_anywhere_is_refused(run_stage, stopped):
    content = stopped.read_bytes()
    for share in (0.01, 0.3, 0.6, 0.9, 0.999):
        stopped.write_bytes(content[:int(share * len(content))])
        with pytest.raises(UserError, match="is damaged"):
            run_stage(ppo, resume=True)

# ----------------------------------------------------------------------------- what was there before


@pytest.mark.slow
@pytest.mark.parametrize("script, stages", [(sft, ["base", "sft"]), (reward, ["reward"]), (ppo, ["ppo"])])
def test_a_finished_run_is_kept_once_under_another_name(run_stage, capsys, script, stages):
    for stage in (sft, reward, ppo):
        run = run_stage(stage)
    for stage in stages:
        (run / "logs" / stage).mkdir(parents=True)
    first = weights(run)
    capsys.readouterr()
    for seed in (1, 2):
        run_stage(script, seed=seed)
        for stage in stages:
            assert f"run/{stage} was there from an earlier run, now kept as run/{stage}.old" in capsys.readouterr().out or stage == "sft"
            assert seed == 2 or not (run / "logs" / stage).exists() and (run / "logs" / f"{stage}.old").exists()
        if seed == 1:
            kept = weights(run)
            assert all(torch.equal(first[f"{stage}/model.safetensors"[:-len("/model.safetensors")] + name[len(stage):]], tensor)
                       for stage in stages for name, tensor in kept.items()
                       if name.startswith(f"{stage}.old/") for name in [name.replace(".old/", "/")])
    assert sorted(path.name for path in run.iterdir() if ".old" in path.name) == sorted(f"{stage}.old" for stage in stages)


def test_what_an_abandoned_run_left_is_kept_apart_and_not_gone_on_from(run_stage, quiet, stopped):
    left = stopped.read_bytes()
    interrupted(run_stage, quiet, ppo, 1, lr=0.5)               # a new run with other flags, killed before it saved
    assert Path("run/ppo.unfinished/resume.pt").read_bytes() == left and not stopped.exists()
    with pytest.raises(UserError, match="run/ppo has no resume.pt"):
        run_stage(ppo, resume=True, lr=0.5)


@pytest.mark.slow
@pytest.mark.parametrize("script", [sft, reward, ppo])
def test_a_finished_run_can_not_go_on(run_stage, script):
    for stage in (sft, reward, ppo):
        run_stage(stage)
    with pytest.raises(UserError, match="run/.* is finished"):
        run_stage(script, resume=True)

# ----------------------------------------------------------------------------- numbers that go wrong


@pytest.mark.parametrize("script, stage, module, function", [
    (sft, "base", "sft", "sft_loss"), (reward, "reward", "reward", "pairwise_loss"), (ppo, "ppo", "ppo", "value_loss")])
def test_a_step_that_is_not_finite_stops_the_run(run_stage, quiet, monkeypatch, script, stage, module, function):
    for earlier in STAGES[stage][1]:
        run_stage(earlier)
    place, calls = importlib.import_module(module), []
    real = getattr(place, function)

    def goes_wrong(*given):
        calls.append(1)
        result = real(*given)
        wrong = float("nan") if len(calls) == {"base": 3, "reward": 5, "ppo": 17}[stage] else 1.0
        return (result[0] * wrong, *result[1:]) if isinstance(result, tuple) else result * wrong
    monkeypatch.setattr(place, function, goes_wrong)
    saved = Path("run") / stage / "resume.pt"
    with pytest.raises(UserError, match="is nan at step 2, so the training has failed"):
        run_stage(script, save_every=1, **({"minibatches": 4, "epochs": 2} if script is ppo else {}))
    assert torch.load(saved, weights_only=True)["state"]["step"] == 2    # the last save, of before that step


def spoilt_moments(saved):
    saved["optimizer"]["state"][0]["exp_avg"] = torch.zeros(3)


def spoilt_weights(saved):
    name = next(iter(saved["model"]))
    saved["model"][name] = saved["model"][name][:1]


def other_key(saved):
    saved["model"]["more"] = torch.zeros(1)


def missing_part(saved):
    del saved["optimizer"]


def halved(saved):
    saved["optimizer"]["state"][0]["exp_avg_sq"] = saved["optimizer"]["state"][0]["exp_avg_sq"].half()


def vector_of_steps(saved):
    saved["optimizer"]["state"][0]["step"] = torch.zeros(4)


@pytest.mark.parametrize("spoil", [spoilt_moments, spoilt_weights, other_key, missing_part, halved, vector_of_steps])
def test_a_save_with_other_tensors_is_one_sentence_and_no_crash(run_stage, quiet, spoil):
    interrupted(run_stage, quiet, sft, ("base", 2), save_every=1)
    path = Path("run/base/resume.pt")
    saved = torch.load(path, weights_only=True)
    spoil(saved)
    torch.save(saved, path)
    with pytest.raises(UserError, match="--resume: run/base/resume.pt is damaged: its (model|optimizer) has other tensors"):
        run_stage(sft, resume=True)

# ----------------------------------------------------------------------------- files


def test_a_checkpoint_brings_the_random_numbers_back(tmp_path):
    torch.manual_seed(7)
    part = torch.nn.Linear(2, 1)
    first = {name: tensor.clone() for name, tensor in part.state_dict().items()}
    state = {"step": 0, "kl_coef": 0.3}
    loop = tiny.SilentLoop(tmp_path, 9, ppo.Config(), [], state, part=part)
    loop.start()
    with torch.no_grad():
        weights = part.weight.add_(1).clone()                   # what two steps may have made of it
    state["step"] = 3
    loop.save()
    expected = torch.rand(3)
    torch.manual_seed(8)
    other = torch.nn.Linear(2, 1)
    torch.manual_seed(9)
    state = {"step": 0, "kl_coef": 0.1}
    with pytest.raises(UserError, match="the first weights of the part were others"):
        tiny.SilentLoop(tmp_path, 9, ppo.Config(resume=True), [], state, part=other).start()
    other.load_state_dict(first)
    tiny.SilentLoop(tmp_path, 9, ppo.Config(resume=True), [], state, part=other).start()
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(other.weight, weights)
    assert state == {"step": 3, "kl_coef": 0.3}


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


def test_a_file_is_on_the_disk_before_it_takes_the_old_ones_place(tmp_path, monkeypatch):
    done = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: done.append(Path(f"/proc/self/fd/{descriptor}").resolve().name))
    real = os.replace
    monkeypatch.setattr(os, "replace", lambda *names: done.append("replace") or real(*names))
    write_whole(tmp_path / "file", "new\n")
    assert re.fullmatch(r"\.file\..{8}\.partial", done[0]) and done[1:] == ["replace", tmp_path.name]


def test_what_a_killed_script_left_half_written_is_removed_by_the_next_one_of_its_stage(tmp_path):
    left = [tmp_path / "run" / name for name in ("ppo/.resume.pt.0a1b2c3d.partial", "ppo/critic/.config.json.0a1b2c3d.partial",
                                                 "sft/.resume.pt.0a1b2c3d.partial")]
    for path in left:
        write_whole(path, "half")
    hold(tmp_path / "run" / "ppo")
    assert [path.exists() for path in left] == [False, False, True]


def test_a_model_folder_gets_its_config_last(tmp_path, monkeypatch):
    from support import checkpoint
    from text import tokenizer
    names = []
    for module in (checkpoint, tokenizer):
        monkeypatch.setattr(module, "write_whole", lambda path, content: names.append(path.name))
    words = tiny.words()
    tiny.model(vocab_size=words.vocab_size, eos_token_id=words.eos).save_pretrained(tmp_path, words)
    assert names[0] == "model.safetensors" and names[-1] == "config.json" and "tokenizer.tiktoken" in names


@pytest.mark.parametrize("stage, script", [("base", "sft"), ("sft", "sft"), ("reward", "reward"), ("ppo", "ppo")])
def test_a_missing_model_says_what_to_run_first(tmp_path, stage, script):
    with pytest.raises(UserError, match=f"no {stage} model in .*{stage}: run `python {script}.py` first"):
        find_model(tmp_path, stage)
    write_whole(tmp_path / stage / "config.json", "{}")
    assert find_model(tmp_path, stage) == tmp_path / stage


@pytest.mark.parametrize("flags, folder", [
    (dict(data="toy"), "out/toy"), (dict(data="toy:validation"), "out/toy"), (dict(data="toy2:validation"), "out/toy2"), (dict(data="my/rows.jsonl"), "out/rows"), (dict(data="rows.jsonl.gz"), "out/rows"),
    (dict(data="toy", run="here"), "here")])
def test_a_run_is_a_folder_named_after_its_data(flags, folder):
    assert str(run_folder(sft.Config(**flags))) == folder
