"""What the experiments share: whole runs of the toy, each a process of its own, and the judge
listening to PPO."""
import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import fmean, stdev
from unittest import mock

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import evaluate
import ppo
import reward
import sft
from data.toy_world import is_ideal, judge
from gpt import GPT
from support.trainable import parameter_count
from text.tokenizer import Tokenizer

# ---------- processes

def python(*words):
    """Run `python` with these words, on one core. Raises RuntimeError with the end of what it
    said."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1",
           "PYTHONPATH": f"{ROOT}:{ROOT / 'experiments'}"}
    command = [sys.executable, *map(str, words)]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])


def make(runs):
    """Make the runs {folder: Python code} that are not finished yet, WORKERS at a time, by default
    as many as there are cores."""
    def one(folder):
        python("-c", runs[folder])
        print(f"{folder}: done", flush=True)
    with ThreadPoolExecutor(int(os.environ.get("WORKERS", os.cpu_count()))) as pool:
        list(pool.map(one, (folder for folder in runs if not is_finished(folder))))


def is_finished(folder):
    return (Path(folder) / "evaluation.json").exists()


def read(folder, name):
    """The numbers in a JSON file of a run."""
    return json.loads((Path(folder) / name).read_text())

# ---------- a run

def story(run, seed, flags, models=None, copied=("sft", "reward")):
    """All stages in the folder `run`; those of `copied` are taken from the run `models`, if that is
    given. `flags` has those of each script by its name. Leaves evaluation.json, heard.json, and
    stages.json: the number of weights and, of the stages that were trained, the SFT model's
    held-out loss (nats a token) and the reward model's held-out accuracy."""
    run, said, numbers = Path(run), io.StringIO(), {}
    copied = copied if models else ()
    common = {"run": str(run), "seed": seed, "device": "cpu"}
    for stage in copied:
        shutil.copytree(Path(models) / stage, run / stage, dirs_exist_ok=True)
    with contextlib.redirect_stdout(said):
        if "sft" not in copied:
            sft.main(sft.Config(**common, **flags.get("sft", {})))
            numbers["sft_loss"] = float(re.search(r"held-out loss ([\d.]+)", said.getvalue())[1])
        if "reward" not in copied:
            reward.main(reward.Config(**common, **flags.get("reward", {})))
            numbers["accuracy"] = float(re.search(r"accuracy ([\d.]+)%", said.getvalue())[1])
    numbers["weights"] = parameter_count(GPT.from_pretrained(run / "sft"))[1]
    (run / "stages.json").write_text(json.dumps(numbers))
    with mock.patch.object(ppo, "train", heard(ppo.train, run)):
        ppo.main(ppo.Config(**common, **flags.get("ppo", {})))
    evaluate.main(evaluate.Config(
        **common, **flags.get("evaluate", {}), json=str(run / "evaluation.json")))


def heard(train, run):
    """ppo.train with the judge listening. What it thinks of each rollout ends up in heard.json; the
    training never sees that."""
    def listening(*args, **kwargs):
        tokenizer, rows = Tokenizer.load(run / "sft"), []
        for step, experience, metrics in train(*args, **kwargs):
            rows.append(opinion(experience, tokenizer) | {
                "proxy": metrics["objective/scores"], "kl": metrics["objective/kl"]})
            yield step, experience, metrics
        (run / "heard.json").write_text(json.dumps(rows))
    return listening


def opinion(e, tokenizer):
    """The judge's points for the rollout e, their deviation, and the share of ideal responses."""
    asked = tokenizer.texts(e.ids[:, :e.P], e.mask[:, :e.P])
    said = tokenizer.texts(e.ids[:, e.P:], e.response_mask)
    points = list(map(judge, asked, said))
    return {"judge": fmean(points), "judge_std": stdev(points),
            "ideal": fmean(map(is_ideal, asked, said))}
