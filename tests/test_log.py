"""support.loop.Loop: what a loop says while it runs. test_resume.py has what it saves."""
import shutil
from types import SimpleNamespace

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from support.loop import Loop


def steps_from(state, steps):
    """A loop that learns nothing."""
    for step in range(state["step"], steps):
        state["step"] = step + 1
        yield step


def logged(folder, start, steps):
    state = {"step": start}
    loop = Loop(folder / "ppo", steps, SimpleNamespace(resume=start > 0, save_every=100), [], state)
    loop.start()
    for step in loop.run(steps_from(state, steps)):
        loop.log({"loss": step + 0.5, "lr": 0.25}, show=["loss"])
    loop.text("samples", "An owl hoots.")
    loop.close()


def test_numbers_and_texts_reach_the_screen_and_tensorboard(tmp_path, capsys):
    logged(tmp_path, 0, 3)
    said = capsys.readouterr()
    assert "An owl hoots." in said.out and "3/3" in said.err and "loss=2.5" in said.err
    events = EventAccumulator(str(tmp_path / "logs" / "ppo"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(0, 0.5), (1, 1.5), (2, 2.5)]
    assert [event.value for event in events.Scalars("lr")] == [0.25] * 3


@pytest.mark.parametrize("broken", ["deleted", "a file", "a link to nothing"])
def test_curves_that_cannot_be_written_end_no_run(tmp_path, capfd, broken):
    state, logs = {"step": 0}, tmp_path / "logs"
    loop = Loop(tmp_path / "ppo", 6, SimpleNamespace(resume=False, save_every=2), [], state)
    loop.start()
    for step in loop.run(steps_from(state, 6)):
        if step == 1:
            shutil.rmtree(logs)
            if broken != "deleted":
                logs.write_text("") if broken == "a file" else logs.symlink_to("nothing")
        loop.log({"loss": step + 0.5})
    loop.text("samples", "An owl hoots.")
    loop.close()
    said = capfd.readouterr()
    assert "6/6" in said.err and "An owl hoots." in said.out and (tmp_path / "ppo" / "resume.pt").exists()
    assert said.err.count("WARNING: curves in") == 1 and "training continues without" in said.err and "Traceback" not in said.err


@pytest.mark.parametrize("method", ["update", "set_postfix", "write"])
def test_a_screen_that_is_full_or_gone_ends_no_run(tmp_path, monkeypatch, capsys, method):
    state = {"step": 0}
    loop = Loop(tmp_path / "ppo", 4, SimpleNamespace(resume=False, save_every=2), [], state)
    loop.start()
    monkeypatch.setattr(loop.bar.made, method, lambda *given, **named: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    for step in loop.run(steps_from(state, 4)):
        loop.log({"loss": step + 0.5}, show=["loss"])
        loop.text("samples", "An owl hoots.")
    loop.close()
    assert state["step"] == 4 and capsys.readouterr().err.count("WARNING: the progress bar: No space left on device") == 1


def test_a_resumed_loop_goes_on_where_it_was_and_draws_no_step_twice(tmp_path, capsys):
    logged(tmp_path, 0, 3)
    logged(tmp_path, 1, 4)
    assert "4/4" in capsys.readouterr().err
    events = EventAccumulator(str(tmp_path / "logs" / "ppo"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == [0, 1, 2, 3]
