"""What a user does wrong is answered with one plain sentence and an exit code, never with a traceback."""
import sys

import pytest

from support import UserError
from support.command_line import launch
import evaluate
import ppo
import reward
import sft
from tiny import write_rows


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """Run a script's command line in this process; returns (exit code, what it said)."""
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "rows.jsonl")

    def run(script, *flags):
        monkeypatch.setattr(sys, "argv", [f"{script.__name__}.py", *flags])
        with pytest.raises(SystemExit) as ended:
            launch(script.main, script.Config, script.__name__)
        said = capsys.readouterr()
        if isinstance(ended.value.code, str):                   # sys.exit(text) prints it and exits with 1
            return 1, ended.value.code
        return ended.value.code, said.err + said.out
    return run


ROWS = ("--data", "rows.jsonl", "--device", "cpu")


@pytest.mark.parametrize("script, missing, first", [
    (reward, "sft", "sft.py"), (ppo, "sft", "sft.py"), (evaluate, "sft", "sft.py")])
def test_a_stage_before_its_turn_says_what_to_run_first(command, script, missing, first):
    code, said = command(script, *ROWS)
    assert code == 1 and said.startswith(f"{script.__name__}.py: no {missing} model in out/rows/{missing}: run `python {first}` first")


@pytest.mark.parametrize("script", [sft, reward, ppo, evaluate])
def test_a_flag_that_does_not_exist_ends_with_code_2(command, script):
    code, said = command(script, "--stepps", "3")
    assert code == 2 and "--stepps" in said


@pytest.mark.parametrize("script, flag, value", [
    (sft, "steps", "-1"), (sft, "batch_size", "0"), (sft, "save_every", "0"), (sft, "n_head", "0"), (sft, "lr", "-1"), (sft, "lr", "nan"),
    (reward, "steps", "-3"), (reward, "normalise_samples", "1"), (ppo, "epochs", "0"), (ppo, "minibatches", "0"),
    (ppo, "max_new_tokens", "0"), (ppo, "sample_every", "0"), (ppo, "temperature", "-1"), (evaluate, "samples", "0"), (evaluate, "best_of", "0"),
    (ppo, "temperature", "0"), (ppo, "kl_horizon", "0"), (ppo, "clip", "-0.1"), (ppo, "value_clip", "-1"), (ppo, "critic_lr", "-1")])
def test_a_value_that_makes_no_sense_is_named(command, script, flag, value):
    code, said = command(script, *ROWS, f"--{flag}", value)
    assert code == 1 and said.startswith(f"{script.__name__}.py: --{flag} ") and "\n" not in said


def test_heads_that_do_not_divide_the_channels_are_refused(run_stage):
    with pytest.raises(UserError, match="8 channels can't be divided evenly among 3 heads"):
        run_stage(sft, n_head=3)


def test_a_word_where_a_number_belongs_ends_with_code_2(command):
    code, said = command(sft, "--steps", "many")
    assert code == 2 and "--steps" in said


def test_a_device_that_is_not_there_is_named(command):
    code, said = command(sft, "--data", "rows.jsonl", "--device", "warp")
    assert code == 1 and "--device warp: this machine can't use it" in said and "\n" not in said


@pytest.mark.parametrize("content, message", [
    ("{", "bad.jsonl, line 1: not JSON"), ('{"prompt": "p"}\n{"completion": "c"}', 'bad.jsonl, line 2: the key "prompt" is missing'),
    ("", "bad.jsonl: no usable row in this file")])
def test_bad_data_is_named_by_file_and_line(command, tmp_path, content, message):
    (tmp_path / "bad.jsonl").write_text(content)
    for script in (sft, reward, ppo, evaluate):
        code, said = command(script, "--data", "bad.jsonl", "--device", "cpu")
        assert code == 1 and message in said


def test_a_missing_file_is_named(command):
    code, said = command(sft, "--data", "gone.jsonl")
    assert code == 1 and "--data gone.jsonl: no such file" in said


def test_a_run_that_is_stopped_by_hand_says_how_to_go_on(command, monkeypatch):
    def stopped(cfg):
        raise KeyboardInterrupt
    monkeypatch.setattr(sft, "main", stopped)
    code, said = command(sft)
    assert code == 130 and "--resume" in said


def test_data_that_lacks_what_a_stage_needs_is_named(run_stage, tmp_path):
    texts = write_rows(tmp_path / "texts.jsonl", [{"text": f"page {i}"} for i in range(9)])
    demonstrations = write_rows(tmp_path / "demonstrations.jsonl", [{"prompt": f"p{i}", "completion": " c"} for i in range(9)])
    run_stage(sft)
    run_stage(reward)
    for script, path, kind in ((sft, texts, "demonstrations"), (reward, demonstrations, "comparisons"), (ppo, texts, "prompts"),
                               (evaluate, texts, "prompts")):
        with pytest.raises(UserError, match=f"has no {kind}"):
            if script is evaluate:
                evaluate.main(evaluate.Config(data=str(path), run="run"))
            else:
                run_stage(script, data=str(path), **({"run": "elsewhere"} if script is sft else {}))
