"""What every lesson begins with: the scripts on the path, models to look at, and checks of what you
write.

`toy_run`, `practised`, `scarce` and `pushed` train what a lesson needs when it is first asked for,
and keep it in out/notebooks, where the next kernel finds it. These models are the lessons' own:
smaller than the scripts' default run, of seed 0 where no other is named. To have them trained anew,
delete that folder.
"""
import copy
import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))   # the lessons import the scripts, which lie one folder up

import torch
from IPython.display import clear_output

import data
import ppo
import reward
from experiments.runs import opinion, read
from gpt import GPT, ScalarGPT
from support.optimizer import adamw
from text.batches import batch_at
from text.examples import encode_comparisons
from text.tokenizer import Tokenizer

torch.set_num_threads(1)        # for models as small as these, more only wait for each other

OWN = Path(os.environ.get("LESSONS_RUN", ROOT / "out" / "notebooks"))
SFT = "sft.py --pretrain_steps 800 --steps 400"
COMMANDS = {"base": SFT, "sft": SFT, "reward": "reward.py --steps 800"}

# ---------- models

def show(text):
    """One line below the cell, in the place of the one before."""
    clear_output(wait=True)
    print(text, flush=True)


def toy_run(*stages):
    """The folder of the lessons' own run with these stages, some of "base", "sft" and "reward":
    what is missing, or has another vocabulary than today's, is trained now."""
    today = data.tokenizer_for("toy").fingerprint
    for stage in stages:
        there = (OWN / stage / "config.json").exists()
        if not there or Tokenizer.load(OWN / stage).fingerprint != today:
            train(COMMANDS[stage], OWN)
    show("models: the lessons’ own, in out/notebooks")
    return OWN


def train(command, folder):
    """Run a script as you would in a terminal, with `--run folder`, and show its progress bar."""
    words = [sys.executable, *command.split(), "--run", str(folder)]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    lines = []
    with subprocess.Popen(words, cwd=ROOT, env=env, text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT) as process:
        for line in filter(str.strip, process.stdout):  # \r ends each state of the bar, and a line
            lines.append(line.strip())
            show(f"python {command}\n{lines[-1]}")
    if process.returncode:
        raise SystemExit("\n".join(lines[-5:]))


def practised(kl_coef=0.05, fast=False):
    """Actor and critic after PPO on the lessons' own models, and what happened on the way: actor,
    critic, [{"score", "judge", "ideal", "kl", "entropy", "length"} of each rollout].

    As ppo.py does it by default; `fast` takes half the responses, in two minibatches, at four times
    the actor's rate."""
    settings = {"batch_size": 64, "minibatches": 2, "lr": 1e-3} if fast else {}
    run, cfg = toy_run("sft", "reward"), ppo.Config(kl_coef=kl_coef, **settings)
    cpu = torch.device("cpu")
    models = ppo.four_models(run / "sft", run / "reward", cfg.train, cpu, bf16=False)
    title = f"{'a fast run' if fast else 'a run'} of PPO with β = {kl_coef}"
    return practise(models, OWN / f"ppo{'-fast' * fast}-{kl_coef}", cfg, title)


def practise(models, folder, cfg, title):
    """PPO on the four models, with the judge listening, unless the folder has it already. Returns
    what `practised` does."""
    if not (folder / "history.json").exists():
        actor, critic, *_ = models
        tokenizer, history = Tokenizer.load(OWN / "sft"), []
        prompts = list(map(tokenizer.encode, data.load("toy")[0].prompts))
        torch.manual_seed(cfg.seed)
        for step, e, metrics in ppo.train(
                *models, adamw(actor), adamw(critic), prompts, ppo.first_state(cfg), cfg):
            row = opinion(e, tokenizer)
            history.append(row | {"entropy": metrics["policy/entropy"]})
            show(f"PPO with β = {cfg.kl_coef}: update {step + 1} of {cfg.steps}")
        actor.save_pretrained(folder / "actor", tokenizer)
        critic.save_pretrained(folder / "critic", tokenizer)
        (folder / "history.json").write_text(json.dumps(history))
    show(f"{title}: the lessons’ own, in out/notebooks")
    return (GPT.from_pretrained(folder / "actor"), ScalarGPT.from_pretrained(folder / "critic"),
            read(folder, "history.json"))


def scarce(seed, tenth=0):
    """A frozen reward model that has read a tenth of what the lessons' own has: 800 rankings, three
    times over. `seed` is that of its head and of the order; another `tenth` has other rankings."""
    folder = OWN / f"scarce-{tenth}-{seed}"
    if not (folder / "config.json").exists():
        run, train_set = toy_run("sft"), data.load("toy")[0]
        tokenizer, cfg = Tokenizer.load(run / "sft"), reward.Config(steps=150, seed=seed)
        torch.manual_seed(seed)
        model = ScalarGPT.from_pretrained(run / "sft", new_head=True)
        rankings = train_set.comparisons[800 * tenth:800 * (tenth + 1)]
        examples = encode_comparisons(rankings, tokenizer, model.config.block_size)
        for step, _, _ in reward.train(model, adamw(model), examples, {"step": 0}, cfg):
            show(f"a reward model of a tenth, seed {seed}: step {step + 1} of {cfg.steps}")
        asked = batch_at(train_set.prompts, cfg.normalise_samples, step=0, seed=0)
        sft, prompts = GPT.from_pretrained(run / "sft"), list(map(tokenizer.encode, asked))
        reward.fit_normalisation(model, sft, prompts, cfg, torch.device("cpu"))
        model.save_pretrained(folder, tokenizer)
    show(f"a reward model that has read a tenth of the comparisons, seed {seed}: the lessons’ own, "
         "in out/notebooks")
    return ScalarGPT.from_pretrained(folder, frozen=True)


def pushed(name, kl_coef, reward_model, start, seed=0):
    """The actor after 50 updates at four times the usual rate, and what happened on the way, as of
    `practised`.

    `reward_model` is anything with `reward(ids, mask)`; the critic begins as the ScalarGPT `start`.
    The run is kept under its name, β and seed, so another reward model needs another name."""
    run, critic = toy_run("sft"), copy.deepcopy(start).requires_grad_(True)
    actor = GPT.from_pretrained(run / "sft")
    reference = GPT.from_pretrained(run / "sft", frozen=True)
    cfg = ppo.Config(kl_coef=kl_coef, seed=seed, steps=50, batch_size=64, epochs=1, lr=1e-3,
                     max_new_tokens=20)
    folder = OWN / f"pushed-{name.replace(' ', '-')}-{kl_coef}-{seed}"
    actor, _, history = practise((actor, critic, reference, reward_model), folder, cfg,
                                 f"PPO against {name}, β = {kl_coef}")
    return actor, history

# ---------- exercises

def check(given, is_right, praise, hint):
    """Say whether the answer to an exercise is right. `...` is one that is not given yet."""
    if given is ...:
        print("Not done yet.")
        return
    try:
        right = is_right(given)
    except NotImplementedError:
        print("Not done yet.")
    except Exception as error:          # of the learner's own code: it is part of the lesson
        print(f"It stopped with {type(error).__name__}: {error}")
    else:
        print(f"Right. {praise}" if right else f"Not yet. {hint}")


def same(mine, real, cases):
    """Whether two functions agree on all cases, lists of arguments; says where they differ."""
    for case in cases:
        got, wanted = mine(*case), torch.as_tensor(real(*case))
        if got is None:
            raise NotImplementedError       # the body is still `...`
        got = torch.as_tensor(got)
        if got.shape != wanted.shape:
            print(f"Yours has the shape {tuple(got.shape)}, it should be {tuple(wanted.shape)}.")
            return False
        if not torch.allclose(got.to(wanted.dtype), wanted, atol=1e-5):
            print(f"The largest difference is {(got - wanted).abs().max():.3g}.")
            return False
    return True
