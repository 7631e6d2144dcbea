"""support.log.Log: what a loop says while it runs."""
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from support.log import Log


def logged(folder, start, steps):
    log = Log(folder, "loop", 9, start)
    for step in steps:
        log(step, {"loss": torch.tensor(step + 0.5, requires_grad=True), "lr": 0.25}, show=["loss"])
    log.text(steps[-1], "samples", "An owl hoots.")
    log.close()


def test_numbers_and_texts_reach_the_screen_and_tensorboard(tmp_path, capsys):
    logged(tmp_path, 0, [0, 1, 2])
    said = capsys.readouterr()
    assert "An owl hoots." in said.out and "3/9" in said.err and "loss=2.5" in said.err
    events = EventAccumulator(str(tmp_path / "logs" / "loop"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(0, 0.5), (1, 1.5), (2, 2.5)]
    assert [event.value for event in events.Scalars("lr")] == [0.25] * 3


def test_a_resumed_loop_goes_on_where_it_was_and_draws_no_step_twice(tmp_path, capsys):
    logged(tmp_path, 0, [0, 1, 2])
    logged(tmp_path, 1, [1, 2, 3])
    assert "4/9" in capsys.readouterr().err
    events = EventAccumulator(str(tmp_path / "logs" / "loop"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == [0, 1, 2, 3]
