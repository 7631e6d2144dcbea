"""What experiments, lessons and the race share: runs of the toy in processes of their own, the
judge listening to a training, and tables."""
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

import torch

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
    path = os.pathsep.join(str(ROOT / name) for name in ("", "experiments", "notebooks"))
    env = {**os.environ, "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1", "PYTHONPATH": path}
    command = [sys.executable, *map(str, words)]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])


def make(commands, say=print):
    """Run the commands {file: words for `python`} whose files are not there yet, WORKERS at a time,
    by default as many as there are cores. The file is the last that a command writes."""
    def one(file):
        python(*commands[file])
        return file

    missing = [file for file in commands if not file.exists()]
    with ThreadPoolExecutor(int(os.environ.get("WORKERS", os.cpu_count()))) as pool:
        for done, file in enumerate(pool.map(one, missing), 1):
            say(f"{file}: done, {done} of {len(missing)}")


def read(folder, name):
    """The numbers in a JSON file."""
    return json.loads((Path(folder) / name).read_text())

# ---------- a run

def story(run, seed, flags, models=None, copied=("sft", "reward")):
    """All stages in the folder `run`; those of `copied` are taken from the run `models`, if that is
    given. `flags` has those of each script by its name. Leaves evaluation.json, heard.json, and
    stages.json: the number of weights and, of the stages that were trained, the SFT model's
    held-out loss (nats a token) and the reward model's held-out accuracy."""
    run, said, numbers = Path(run), io.StringIO(), {}
    common = {"run": str(run), "seed": seed, "device": "cpu"}
    copied = copied if models else ()
    for stage in copied:
        shutil.copytree(Path(models) / stage, run / stage, dirs_exist_ok=True)
    for script, name, printed in ((sft, "sft_loss", r"held-out loss ([\d.]+)"),
                                  (reward, "accuracy", r"accuracy ([\d.]+)%")):
        stage = script.__name__
        if stage not in copied:
            with contextlib.redirect_stdout(said):
                script.main(script.Config(**common, **flags.get(stage, {})))
            numbers[name] = float(re.search(printed, said.getvalue())[1])
    numbers["weights"] = parameter_count(GPT.from_pretrained(run / "sft"))[1]
    (run / "stages.json").write_text(json.dumps(numbers))
    with mock.patch.object(ppo, "train", heard(ppo.train, run)):
        ppo.main(ppo.Config(**common, snapshot_every=0, **flags.get("ppo", {})))
    evaluate.main(evaluate.Config(
        **common, **flags.get("evaluate", {}), json=str(run / "evaluation.json")))


def heard(train, run):
    """ppo.train with the judge listening. What it thinks of each rollout ends up in heard.json; the
    training never sees that."""
    def listening(*args, **kwargs):
        tokenizer, rows = Tokenizer.load(run / "sft"), []
        for step, experience, metrics in train(*args, **kwargs):
            columns = opinions(experience, tokenizer)
            rows.append(means(columns) | {"judge_std": columns["judge"].std().item()})
            yield step, experience, metrics
        (run / "heard.json").write_text(json.dumps(rows))
    return listening


def opinions(e, tokenizer):
    """What is known of each response of the rollout `e`, and what the judge says: {name: (B)}."""
    asked = tokenizer.texts(e.ids[:, :e.P], e.mask[:, :e.P])
    said = tokenizer.texts(e.ids[:, e.P:], e.response_mask)
    columns = {"score": e.scores, "judge": list(map(judge, asked, said)),
               "ideal": list(map(is_ideal, asked, said)),
               "kl": e.kl.sum(1), "length": e.response_mask.sum(1)}
    return {name: torch.as_tensor(column).float() for name, column in columns.items()}


def means(columns):
    return {name: column.mean().item() for name, column in columns.items()}

# ---------- tables

SHARES = ("ideal", "eos_rate", "win", "tie", "loss", "rate")


def table(head, rows):
    """Rows of cells, any objects, under their heads, in Markdown."""
    lines = [head, *rows]
    text = ["| " + " | ".join(map(str, cells)) + " |" for cells in lines]
    return "\n".join([text[0], "|" + "---|" * len(head), *text[1:]])


def spread(values, digits=2, unit=""):
    """Mean ± standard deviation."""
    deviation = stdev(values) if len(values) > 1 else 0.0
    mean = round(fmean(values), digits) + 0.0                   # + 0.0: no "-0.00"
    return f"{mean:.{digits}f}{unit} ± {deviation:.{digits}f}"


def cell(rows, key, digits=2):
    """The spread of what evaluate.py's rows have under a key, if any has; of shares in percent."""
    values = [row[key] for row in rows if row[key] is not None]
    if not values:
        return "-"
    return spread([100 * x for x in values], 1, "%") if key in SHARES else spread(values, digits)
