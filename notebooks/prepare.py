"""What every lesson begins with: the scripts on the path, models to look at, and checks of what you
write.

`toy_run`, `sums_run`, `practised`, `scarce` and `pushed` train what a lesson needs when it is first
asked for, and keep it in out/notebooks, where the next kernel finds it. These models are the
lessons' own: smaller than the scripts' default run, of seed 0 where no other is named. To have them
trained anew, delete that folder.
"""
import copy
import dis
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


def sums_run(seed=0):
    """The folder of the SFT model that has seen people add, trained now if it is not there."""
    folder = OWN / f"sums-{seed}"
    if not (folder / "sft" / "config.json").exists():
        train(f"sft.py --data sums --seed {seed}", folder)
    show("an SFT model for sums: the lessons’ own, in out/notebooks")
    return folder / "sft"


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


def practised(kl_coef=0.05):
    """Actor and critic after PPO on the lessons' own models, as ppo.py does it by default, and what
    happened on the way: actor, critic, [{"score", "judge", "ideal", "kl", "entropy", "length"} of
    each rollout]."""
    run, cfg = toy_run("sft", "reward"), ppo.Config(kl_coef=kl_coef)
    cpu = torch.device("cpu")
    models = ppo.four_models(run / "sft", run / "reward", cfg.train, cpu, bf16=False)
    return practise(models, OWN / f"ppo-{kl_coef}", cfg, f"a run of PPO with β = {kl_coef}")


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


def scarce(seed, part=0):
    """A frozen reward model that has read 800 rankings, three times over, where the lessons' own
    has read 12,800. `seed` is that of its head and of the order; another `part` has other
    rankings."""
    folder = OWN / f"scarce-{part}-{seed}"
    if not (folder / "config.json").exists():
        run, train_set = toy_run("sft"), data.load("toy")[0]
        tokenizer, cfg = Tokenizer.load(run / "sft"), reward.Config(steps=150, seed=seed)
        torch.manual_seed(seed)
        model = ScalarGPT.from_pretrained(run / "sft", new_head=True)
        rankings = train_set.comparisons[800 * part:800 * (part + 1)]
        examples = encode_comparisons(rankings, tokenizer, model.config.block_size)
        for step, _, _ in reward.train(model, adamw(model), examples, {"step": 0}, cfg):
            show(f"a reward model of 800 rankings, seed {seed}: step {step + 1} of {cfg.steps}")
        asked = batch_at(train_set.prompts, cfg.normalise_samples, step=0, seed=0)
        sft, prompts = GPT.from_pretrained(run / "sft"), list(map(tokenizer.encode, asked))
        reward.fit_normalisation(model, sft, prompts, cfg, torch.device("cpu"))
        model.save_pretrained(folder, tokenizer)
    show(f"a reward model that has read 800 rankings, seed {seed}: the lessons’ own, in "
         "out/notebooks")
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

def blank(given):
    """Whether this is a function that does nothing yet: a docstring and `...`."""
    def empty(): ...
    steps, of_empty = ([(step.opname, step.argval) for step in dis.get_instructions(function)]
                       if hasattr(function, "__code__") else None for function in (given, empty))
    return steps == of_empty


def check(given, is_right, praise, hint):
    """Say whether the answer to an exercise is right. `...` is one that is not given yet."""
    if given is ... or blank(given):
        print("Not done yet.")
        return
    try:
        right = bool(is_right(given))
    except Exception as error:          # an answer of another kind, or the learner's own code
        right = False
        if callable(given):
            print(f"It stopped with {type(error).__name__}: {error}")
            return
    print(f"Right. {praise}" if right else f"Not yet. {hint}")


def word(given):
    """A word as it is compared: ' Up ' is 'up'."""
    return str(given).strip().lower()


def same(mine, real, cases, slopes=0, seen=lambda result, *case: result):
    """Whether two functions agree on all cases, which are lists of arguments: in what they return,
    as far as `seen` shows it, and in its gradients by the first `slopes` arguments. Says where they
    differ."""
    for case in cases:
        if said := difference(mine, real, case, slopes, seen):
            print(said)
            return False
    return True


def difference(mine, real, case, slopes, seen):
    """One sentence on how mine(*case) differs from real(*case); None if it does not."""
    ours, own = ([x.clone().requires_grad_(i < slopes) if torch.is_tensor(x) else x
                  for i, x in enumerate(case)] for _ in range(2))   # neither can change the other's
    wanted, got = torch.as_tensor(real(*ours)), mine(*own)
    if got is None:
        return "It returns None: is a `return` missing?"
    if not isinstance(got, (torch.Tensor, list, int, float)):
        return f"It returns a {type(got).__name__}, it should return a tensor."
    got = torch.as_tensor(got)
    if got.shape != wanted.shape:
        return f"Yours has the shape {tuple(got.shape)}, it should be {tuple(wanted.shape)}."
    if wanted.dtype == torch.bool != got.dtype:
        return f"Yours holds {got.dtype} numbers, it should be boolean."
    pairs = [("", seen(wanted, *ours), seen(got, *own))]
    for i in range(slopes):
        by_wanted, by_got = (slope(x, given[i]) for x, given in ((wanted, ours), (got, own)))
        pairs.append((f" in the gradient by argument {i + 1}", by_wanted, by_got))
    for where, right, given in pairs:
        right, given = right.double(), given.double()
        error = (given - right).abs()
        if not (error <= 1e-5 * (1 + right.abs())).all():       # NaN is not
            return f"The largest difference{where} is {error.max():.3g}."


def slope(result, argument):
    """The gradient of the sum of a result by an argument; 0 if none flows."""
    if not result.requires_grad:
        return torch.zeros_like(argument)
    by, = torch.autograd.grad(result.sum(), argument, retain_graph=True, allow_unused=True)
    return torch.zeros_like(argument) if by is None else by
