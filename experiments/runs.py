"""What the experiments share: whole runs of the toy, each a process of its own, with the judge listening to PPO."""
import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
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


def process(code):
    """Run Python code with the scripts on its path. Raises RuntimeError with the end of what it said."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1", "PYTHONPATH": f"{ROOT}:{ROOT / 'experiments'}"}
    done = subprocess.run([sys.executable, "-c", code], env=env, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])


class Heard(ppo.Loop):
    """ppo.py's loop, with the judge listening. It writes what it thinks of each rollout into heard.json; the training
    never sees that."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.rows = []

    def log(self, metrics, show=(), batch=None):
        super().log(metrics, show, batch)
        P = batch.ids.shape[1] - batch.response_mask.shape[1]
        asked = self.texts(batch.ids[:, :P], batch.mask[:, :P])
        said = self.texts(batch.ids[:, P:], batch.response_mask)
        points = list(map(judge, asked, said))
        self.rows.append({
            "judge": fmean(points), "judge_std": stdev(points), "ideal": fmean(map(is_ideal, asked, said)),
            "proxy": float(metrics["objective/scores"]), "kl": float(metrics["objective/kl"])})

    def texts(self, ids, mask):
        """Rows of ids (B, T), as far as the mask is True, as text."""
        return [self.tokenizer.decode(row[real].tolist()) for row, real in zip(ids, mask)]

    def close(self):
        super().close()
        (self.folder.parent / "heard.json").write_text(json.dumps(self.rows))


def story(run, seed, flags, models=None, copied=("sft", "reward")):
    """All stages in the folder `run`, those of `copied` taken from the run `models` if that is given. `flags` has those
    of each script by its name. Leaves evaluation.json, heard.json, and stages.json: the number of weights and, of the
    stages that were trained, the SFT model's held-out loss (nats a token) and the reward model's held-out accuracy."""
    run, said, numbers, copied = Path(run), io.StringIO(), {}, copied if models else ()
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
    with mock.patch.object(ppo, "Loop", Heard):
        ppo.main(ppo.Config(**common, **flags.get("ppo", {})))
    evaluate.main(evaluate.Config(**common, **flags.get("evaluate", {}), json=str(run / "evaluation.json")))
