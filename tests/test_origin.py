"""run.json: each stage's folder knows what it was made from, and a mismatch is said."""
import json
import shutil

import pytest
from safetensors.torch import load_file

import evaluate
import ppo
import reward
import sft
import tiny
from support import UserError


def interrupted_before_the_first_save_of_the_second_stage(run_stage, quiet, **flags):
    quiet.stop = ("sft", 0)
    with pytest.raises(tiny.Stop):
        run_stage(sft, **flags)
    quiet.stop = None


def weights(folder):
    return load_file(folder / "model.safetensors")


def test_resumed_between_two_stages_it_is_the_run_that_was_never_stopped(run_stage, quiet):
    run = run_stage(sft)
    whole = weights(run / "sft")
    shutil.rmtree(run)
    interrupted_before_the_first_save_of_the_second_stage(run_stage, quiet)
    assert not (run / "sft" / "resume.pt").exists() and (run / "base" / "config.json").exists()
    base = (run / "base" / "model.safetensors").read_bytes()
    run_stage(sft, resume=True)
    assert (run / "base" / "model.safetensors").read_bytes() == base        # it was not made again
    assert all((tensor == whole[name]).all() for name, tensor in weights(run / "sft").items())


@pytest.mark.parametrize("flag, value", [("n_embd", 16), ("seed", 5), ("n_layer", 2), ("block_size", 32), ("pretrain_lr", 0.5)])
def test_between_two_stages_another_flag_is_named(run_stage, quiet, flag, value):
    interrupted_before_the_first_save_of_the_second_stage(run_stage, quiet)
    with pytest.raises(UserError, match=f"--resume: run/base was written with --{flag} .*, and now it is {value}"):
        run_stage(sft, resume=True, **{flag: value})


def test_between_two_stages_other_rows_are_noticed(run_stage, quiet, tmp_path):
    interrupted_before_the_first_save_of_the_second_stage(run_stage, quiet)
    tiny.write_rows(tmp_path / "rows.jsonl", tiny.ROWS[:-1])
    with pytest.raises(UserError, match="run/base was written when the rows of --data were others"):
        run_stage(sft, resume=True)


def test_a_stage_made_from_another_model_says_so(run_stage, quiet, capsys):
    run_stage(sft)
    run = run_stage(reward)
    run_stage(ppo, steps=1)
    assert "WARNING" not in capsys.readouterr().out
    run_stage(sft, seed=1)                                  # the reward model is now that of an older SFT model
    run_stage(ppo, steps=1)
    assert "WARNING: run/reward was made from another sft model than the one that is in run/sft now" in capsys.readouterr().out
    shutil.rmtree(run / "base")                             # what is gone cannot be compared
    evaluate.main(evaluate.Config(data="rows.jsonl", run="run", device="cpu", samples=1, prompts=2, best_of=2, max_new_tokens=4))
    said = capsys.readouterr().out
    assert "run/reward was made from another sft model" in said and "another base" not in said


def test_a_folder_from_elsewhere_has_no_origin_and_no_warning(run_stage, quiet, capsys):
    run = run_stage(sft)
    run_stage(reward)
    for stage in ("sft", "reward"):
        origin = json.loads((run / stage / "run.json").read_text())
        assert set(origin["came_from"]) == {{"sft": "base", "reward": "sft"}[stage]}
        (run / stage / "run.json").unlink()
    run_stage(sft, seed=1)
    run_stage(ppo, steps=1)
    assert "WARNING" not in capsys.readouterr().out
