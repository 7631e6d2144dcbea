"""support.loop.Loop: what a loop says while it runs. test_resume.py has what it saves."""
from types import SimpleNamespace

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from support.loop import Loop


def steps_from(state, steps):
    """A loop that learns nothing."""
    for step in range(state["step"], steps):
        state["step"] = step + 1
        yield step


def logged(folder, start, steps):
    state = {"step": start}
    loop = Loop(folder / "ppo", steps, SimpleNamespace(resume=start > 0, save_every=100), [], None, state)
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


def test_a_resumed_loop_goes_on_where_it_was_and_draws_no_step_twice(tmp_path, capsys):
    logged(tmp_path, 0, 3)
    logged(tmp_path, 1, 4)
    assert "4/4" in capsys.readouterr().err
    events = EventAccumulator(str(tmp_path / "logs" / "ppo"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == [0, 1, 2, 3]
