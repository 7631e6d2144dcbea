"""The commands of the README as a user starts them: each script a process of its own, on the toy, in few steps."""
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.slow
STAGES = {
    "sft.py": "--steps 4 --pretrain_steps 4 --n_layer 1 --n_head 2 --n_embd 16",
    "reward.py": "--steps 4 --normalise_samples 500",
    "ppo.py": "--steps 3 --batch_size 8 --sample_every 2",
    "evaluate.py": "--prompts 6 --samples 1 --best_of 2"}


def python(run, command, feed=None):
    return subprocess.run([sys.executable, *command.split(), *(["--run", str(run)] if run else [])], cwd=ROOT, input=feed,
                          capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run folder after all four commands, and what each of them printed."""
    run = tmp_path_factory.mktemp("runs") / "toy"
    printed = {}
    for script, flags in STAGES.items():
        more = f" --json {run / 'numbers.json'}" if script == "evaluate.py" else ""
        done = python(run, f"{script} --device cpu {flags}{more}")
        assert done.returncode == 0, done.stderr
        printed[script] = done.stdout + done.stderr
    return run, printed


def test_the_four_commands_leave_a_folder_for_each_stage_and_its_curves(finished):
    run, _ = finished
    for stage in ("base", "sft", "reward", "ppo"):
        assert {"config.json", "model.safetensors", "tokenizer.tiktoken"} <= {path.name for path in (run / stage).iterdir()}
        assert list((run / "logs" / stage).glob("events*"))
        assert not (run / stage / "resume.pt").exists()


def test_the_evaluation_ends_with_who_won(finished):
    run, printed = finished
    report = json.loads((run / "numbers.json").read_text())
    assert report["judge"] == "gold" and set(report["models"]) == {"base", "sft", "best_of_n", "ppo"}
    for row in report["models"].values():
        assert {"score", "ideal", "eos_rate", "length", "kl"} <= set(row) and 0 <= row["ideal"] <= 1
    assert {"win", "tie", "loss", "rate", "ci95"} <= set(report["win_rates"]["ppo_vs_sft"])
    assert "ppo vs sft" in printed["evaluate.py"]


def test_no_command_warns(finished):
    for script, text in finished[1].items():
        assert "Warning" not in text, script


def test_every_metric_of_the_rollout_reaches_tensorboard(finished):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    events = EventAccumulator(str(finished[0] / "logs" / "ppo"))
    events.Reload()
    for name in ("objective/kl", "objective/scores", "objective/entropy", "objective/non_score_reward", "objective/score_total",
                 "policy/approxkl", "policy/clipfrac", "policy/entropy", "val/clipfrac", "val/ratio", "val/ratio_var", "val/var_explained",
                 "returns/mean", "returns/var", "val/mean", "val/var", "val/error", "val/num_eos_tokens", "lr", "kl_coef"):
        assert [event.step for event in events.Scalars(name)] == [0, 1, 2], name
    assert any("samples" in name for name in events.Tags()["tensors"])


def test_a_checkpoint_can_be_talked_to(finished):
    done = python(None, f"chat.py {finished[0] / 'ppo'}", feed="What is the opposite of hot?\n\n")
    assert done.returncode == 0 and "Assistant:" in done.stdout


@pytest.mark.parametrize("command, code, message", [
    ("ppo.py --device cpu", 1, "run `python sft.py` first"),
    ("sft.py --no_such_flag 1", 2, "no_such_flag"),
    ("reward.py --data nothing.jsonl", 1, "no such file"),
    ("chat.py", 1, "give the folder of a model"),
    ("chat.py nowhere", 1, "nowhere: no model here")])
def test_a_mistake_is_one_plain_sentence(tmp_path, command, code, message):
    done = python(None if command.startswith("chat.py") else tmp_path / "empty", command)
    assert done.returncode == code and message in done.stderr and "Traceback" not in done.stderr


def test_ones_own_data_goes_through_all_stages(finished, tmp_path):
    """Rows of several shapes in one file, gzipped, starting from a model that is already there."""
    import gzip
    rows = [{"prompt": f"\n\nHuman: What is {i}?\n\nAssistant:", "chosen": f" It is {i}.", "rejected": " No.", "id": i} for i in range(12)]
    rows += [{"chosen": f"\n\nHuman: Is {i} odd?\n\nAssistant: Yes.", "rejected": f"\n\nHuman: Is {i} odd?\n\nAssistant: No."} for i in range(12)]
    path = tmp_path / "mine.jsonl.gz"
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    for command in (f"sft.py --init {finished[0] / 'sft'} --steps 2", "reward.py --steps 2 --normalise_samples 500",
                    "ppo.py --steps 1 --batch_size 4", "evaluate.py --samples 1 --best_of 2"):
        done = python(tmp_path / "run", f"{command} --data {path} --device cpu")
        assert done.returncode == 0, done.stderr
    assert "judge: reward_model" in done.stdout


def test_the_benchmark_measures_ours_beside_transformers(tmp_path):
    """It also checks for itself that greedy tokens are the same."""
    command = f"tests/bench.py --sizes S --work generation --repeats 1 --scaling= --json {tmp_path / 'bench.json'}"
    done = python(None, command)
    assert done.returncode == 0, done.stderr
    [row] = json.loads((tmp_path / "bench.json").read_text())["rows"]
    assert row["unit"] == "tokens/s" and row["rate"] * row["seconds"] == pytest.approx(32 * 64)
    assert row["ratio"] == pytest.approx(row["theirs"] / row["seconds"]) and row["of_peak"] > 0 and row["mib"] > 1
