"""What every notebook begins with: the scripts on the path, and models to look at.

`toy_run("sft", "reward")` is the folder of a run that holds these models: `out/toy` if you have trained there with
today's vocabulary, else a temporary folder in which the scripts' own `main` trains smaller ones now.
"""
import os
import sys
import tempfile
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPO))               # the notebooks import the scripts, which lie one folder up
os.environ["TQDM_DISABLE"] = "1"            # a progress bar would fill a saved notebook with its frames

import torch

import data
import reward
import sft
from data.tokenizer import Tokenizer

torch.set_num_threads(1)                    # for models as small as these, more threads only wait for each other

TEMPORARY = tempfile.TemporaryDirectory(prefix="plainrlhf-")


def toy_run(*stages):
    """The folder of a toy run with these stages: some of "base", "sft", "reward"."""
    run, today = REPO / "out" / "toy", data.tokenizer_for("toy").fingerprint
    if all((run / stage / "config.json").exists() and Tokenizer.load(run / stage).fingerprint == today for stage in stages):
        print("using the models in out/toy")
        return run
    run = Path(TEMPORARY.name)
    steps = 1 if set(stages) == {"base"} else 400
    with redirect_stdout(StringIO()):
        sft.main(sft.Config(run=str(run), pretrain_steps=800, steps=steps))
        if "reward" in stages:
            reward.main(reward.Config(run=str(run), steps=400))
    print("no fitting models in out/toy, so small ones were trained in a temporary folder")
    return run


def check(given, is_right, praise, hint):
    """Say whether the answer to an exercise is right. `...` stands for an answer that is not given yet."""
    if given is ...:
        print("Not done yet.")
        return
    try:
        right = bool(is_right(given))
    except Exception:                       # a list where a number is asked for is no crash, but a wrong answer
        right = False
    print(f"Right. {praise}" if right else f"Not yet. {hint}")
