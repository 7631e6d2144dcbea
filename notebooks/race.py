"""The race of lesson 7: PPO and the methods of methods.py from the same models, with the same
number of responses.

    python notebooks/race.py                five seeds, with ppo.py's budget
    python notebooks/race.py RLOO DPO 0 1   only these methods and seeds
    python notebooks/race.py tune           half and twice the rates in the short race, on two seeds
                                            of their own

A seed's SFT and reward model are those in out/seed0 to out/seed4; what is missing is trained first.
Each run leaves out/race/METHOD-SEED.json; one that is there is not made again. Once all methods
have run, the table is printed and docs/pictures/race.svg is drawn. WORKERS=1 makes one run at a
time.
"""
import json
import multiprocessing
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from statistics import fmean as mean

import prepare                              # first: it puts the scripts on the path
import matplotlib.pyplot as plt
import torch

import data
import methods
import ppo
from evaluate import Config as EvaluateConfig, best_of, best_of_kl, respond_all, summary
from experiments import tables
from judges import Gold
from support.files import write_whole
from support.optimizer import adamw, set_learning_rate
from text.batches import batch_at, encode_comparisons
from text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Method:
    """How a method spends a rollout, and how its line looks."""
    colour: str
    line: str
    rates: tuple = ()               # the actor's peak rates in the short race and in the long one
    update: object = None           # function of methods.py
    k: int = 1                      # responses to each prompt
    one_step: bool = False          # a rollout; else two passes in minibatches of 32


# From the least machinery to the most. The short rates are those that `tune` found. PPO's long one
# is the default of ppo.py: 6.7 times as many steps at a quarter of the rate. The others follow:
# rate times number of steps grows by 5/3.
METHODS = {
    "SFT": Method("#999999", "-"),
    "best of 8": Method("#000000", ":"),
    "DPO": Method("#c2185b", "--", (1e-3, 7e-4)),
    "rejection": Method("#8c3fa0", "-.", (5e-4, 1.25e-4), methods.rejection, k=4),
    "REINFORCE": Method("#5a5a5a", ":", (1e-3, 5e-4), methods.reinforce, one_step=True),
    "RLOO": Method("#0a8a6a", "-.", (2e-3, 1e-3), methods.rloo, k=4, one_step=True),
    "GRPO": Method("#d1600a", "--", (5e-4, 1.25e-4), methods.grpo, k=4),
    "Dr. GRPO": Method("#e8a33d", "-", (1e-3, 2.5e-4), partial(methods.grpo, divide=False), k=4),
    "PPO": Method("#0b3c6f", "-", (1e-3, 2.5e-4)),
}


@dataclass(frozen=True)
class Budget:
    """What every method may spend, and on which models."""
    updates: int                # rollouts
    responses: int              # of a rollout
    rankings: int               # that the reward model has read, and DPO reads
    seeds: tuple
    out: Path                   # folder of the results
    own: bool                   # each seed has models of its own; else all start from the lessons'

    def models(self, seed):
        """(folder of the SFT and the reward model, the seed they were trained with)."""
        return (prepare.REPO / "out" / f"seed{seed}", seed) if self.own else (prepare.OWN, 0)

    def file(self, name, seed, lr=None):
        return self.out / f"{name.replace(' ', '_')}-{seed}{f'-{lr:g}' if lr else ''}.json"


SHORT = Budget(24, 64, 500 * 16, (1, 2, 3), prepare.OWN / "race", own=False)
FULL = Budget(80, 128, 1200 * 16, (0, 1, 2, 3, 4), prepare.REPO / "out" / "race", own=True)

# ---------- one run

def compare(actor, reference, reward_model, optimizer, prompts, rankings, cfg):
    """DPO on the rankings that the reward model has read. Yields ten rollouts, which it does not
    learn from, as ppo.train does."""
    steps, beta = len(rankings) // 16, cfg.kl_coef * reward_model.config.reward_std
    for step in range(steps):               # PPO's β is the price of a nat in normalised scores
        if step % (steps // 10) == 0:
            batch = batch_at(prompts, cfg.batch_size, step, cfg.seed)
            yield step, methods.rollout(actor, reference, reward_model, batch, cfg), {}
        set_learning_rate(optimizer, cfg.lr, step, steps)
        batch = batch_at(rankings, 16, step, cfg.seed)
        methods.dpo(batch, actor, reference, optimizer, beta)


def run(name, seed, budget, lr=None):
    """One run: {"history": a row for each rollout, "test": evaluate.py's row at the end, "tokens"
    generated for training, "seconds": of the processor, for training}."""
    method, (folder, models_seed) = METHODS[name], budget.models(seed)
    cfg = ppo.Config(seed=seed, batch_size=budget.responses, steps=budget.updates,
                     lr=lr or (method.rates or (0, 0))[budget.own],
                     lam=0.95 if name == "PPO" else 1.0, epochs=1 if method.one_step else 2,
                     minibatches=1 if method.one_step else budget.responses // 32)
    models = ppo.four_models(folder / "sft", folder / "reward", "all", torch.device("cpu"), False)
    actor, critic, *frozen = models
    tokenizer, (train_set, test_set) = Tokenizer.load(folder / "sft"), data.load("toy")
    prompts, optimizer = list(map(tokenizer.encode, train_set.prompts)), adamw(actor)
    torch.manual_seed(seed)

    start, updates = time.process_time(), ()
    if name == "PPO":
        updates = ppo.train(*models, optimizer, adamw(critic), prompts, ppo.first_state(cfg), cfg)
    elif name == "DPO":
        rankings = encode_comparisons(train_set.comparisons, tokenizer, actor.config.block_size)
        rankings = batch_at(rankings, budget.rankings, 0, models_seed)
        updates = compare(actor, *frozen, optimizer, prompts, rankings, cfg)
    elif method.update:
        updates = methods.train(method.update, actor, *frozen, optimizer, prompts, cfg, method.k)
    history, tokens = [], 0
    for _, experience, _ in updates:
        history.append(prepare.measured(experience, tokenizer) | {"tokens": tokens})
        tokens += experience.response_mask.sum().item() * (name != "DPO")
    seconds = time.process_time() - start

    history += arrived(actor, *frozen, prompts, tokenizer, tokens, cfg, name == "best of 8")
    test = tested(actor, *frozen, test_set.prompts, tokenizer, name == "best of 8")
    return {"history": history, "test": test, "tokens": tokens, "seconds": seconds}


def arrived(actor, reference, reward_model, prompts, tokenizer, tokens, cfg, choosing):
    """The last rows of a history: of a rollout of the actor, or of the responses that the reward
    model chooses among 1, 2, 4 and 8."""
    size, k = (len(prompts), 8) if choosing else (256, 1)
    batch = batch_at(prompts, size, 0 if choosing else cfg.steps, cfg.seed)
    e = methods.rollout(actor, reference, reward_model, batch, cfg, k)
    if not choosing:
        return [prepare.measured(e, tokenizer) | {"tokens": tokens}]
    rows = []
    for n in (1, 2, 4, 8):
        best = e.scores.view(-1, k)[:, :n].argmax(1) + k * torch.arange(size)       # (size)
        row = prepare.measured(e[best], tokenizer)
        rows.append(row | {"kl": best_of_kl(n), "tokens": tokens})
    return rows


def tested(actor, reference, reward_model, prompts, tokenizer, choosing):
    """evaluate.py's row on the test prompts, of the actor or of the best of eight responses."""
    cfg, n = EvaluateConfig(), 8 if choosing else 1
    asked = [prompt for prompt in prompts for _ in range(cfg.samples * n)]
    responses = respond_all(actor, reference, reward_model, asked, tokenizer, Gold(), cfg, "cpu")
    row = summary(best_of(responses, n))
    return row | {"kl": best_of_kl(n)} if choosing else row

# ---------- all runs

def results(budget, names=tuple(METHODS), seeds=()):
    """{method: [its run with each seed]}. What is not in budget.out yet is made now."""
    seeds = seeds or budget.seeds
    make(budget, list(product(names, seeds)))
    return {name: [json.loads(budget.file(name, seed).read_text()) for seed in seeds]
            for name in names}


def make(budget, wanted):
    """Make the runs (method, seed) or (method, seed, lr) that are not there yet, one on each core
    at a time."""
    missing = [one for one in wanted if not budget.file(*one).exists()]
    for folder, seed in sorted({budget.models(one[1]) for one in missing}) * budget.own:
        for stage in ("sft", "reward"):
            if not (folder / stage / "config.json").exists():
                prepare.train(f"{stage}.py --seed {seed}", folder)
    workers = int(os.environ.get("WORKERS", os.cpu_count()))
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        for done, (name, *_) in enumerate(pool.map(partial(save, budget), missing), 1):
            prepare.show(f"the race: {done} of {len(missing)} runs, the last one of {name}")


def save(budget, one):
    """Make one run, write it into its file, return what it was asked for."""
    name, seed, *lr = one
    write_whole(budget.file(*one), json.dumps(run(name, seed, budget, *lr)) + "\n")
    return one


def tune(names, seeds=(101, 102)):
    """Print the score less β times the KL that each method reaches in the short race with half its
    rate, its rate and twice its rate: the mean over two seeds that do not race. The judge has no
    say: who trains a model has none."""
    rates = {name: [factor * METHODS[name].rates[0] for factor in (0.5, 1, 2)]
             for name in names if METHODS[name].rates}
    make(SHORT, [(name, seed, lr) for name in rates for lr in rates[name] for seed in seeds])
    for name in rates:
        earned = {}
        for lr in rates[name]:
            files = [SHORT.file(name, seed, lr) for seed in seeds]
            ends = [json.loads(file.read_text())["history"][-1] for file in files]
            earned[lr] = mean(end["score"] - ppo.Config.kl_coef * end["kl"] for end in ends)
        print(f"{name:10}", *(f"{lr:g}: {value:.2f}  " for lr, value in earned.items()))

# ---------- what a person reads

def table(found):
    """A row a method: means over the seeds on the test prompts, ± their standard deviation."""
    rows = []
    for name, runs in found.items():
        ideal, judge, proxy, kl = ([one["test"][key] for one in runs]
                                   for key in ("ideal", "score", "proxy", "kl"))
        rows.append([name, tables.spread(ideal, 1, percent=True), f"{min(ideal):.1%}",
                     tables.spread(judge), tables.spread(proxy), f"{round(mean(kl), 1) + 0.0:.1f}",
                     f"{mean(one['tokens'] for one in runs):,.0f}",
                     f"{mean(one['seconds'] for one in runs):.0f}"])
    return tables.table(["", "ideal", "worst seed", "judge", "proxy", "KL", "answers' tokens",
                         "seconds"], rows)


def smooth(curves):
    """Curves (seeds, T) -> each number with the mean of it and its two neighbours; the ends stay as
    they are."""
    x = torch.tensor(curves, dtype=torch.float32)
    inner = (x[:, :-2] + x[:, 1:-1] + x[:, 2:]) / 3
    return torch.cat([x[:, :1], inner, x[:, -1:]], dim=1) if x.shape[1] > 2 else x


AXES = {"judge": "judge, points", "ideal": "share of ideal answers",
        "tokens": "tokens generated for training",
        "kl": "KL to the SFT model, nats an answer (√ scale)"}


def draw_race(found):
    """Judge and ideal share against the tokens generated so far (left) and against the KL (right):
    means over the seeds of the rollouts on the way, smoothed over three, and the band from the
    lowest seed to the highest."""
    fig, axes = plt.subplots(2, 2, figsize=(11, 6.5), sharey="row")
    for name, runs in found.items():
        look = {"color": METHODS[name].colour, "ls": METHODS[name].line}
        columns = {key: smooth([[max(row[key], 0) for row in one["history"]] for one in runs])
                   for key in AXES}                                             # (seeds, T) each
        for (key, right), ax in zip(product(("judge", "ideal"), ("tokens", "kl")), axes.flat):
            y, x = columns[key], columns[right].mean(0)                         # (seeds, T), (T)
            if right == "tokens" and not x.any():       # nothing was generated: a line at its end
                ax.axhline(y[:, -1].mean(), **look, lw=1)
            else:
                ax.plot(x, y.mean(0), **look, label=name, marker="." if len(x) < 12 else None)
                ax.fill_between(x, y.amin(0), y.amax(0), color=look["color"], alpha=0.12, lw=0)
            ax.set(ylabel=AXES[key], xlabel=AXES[right])
    for ax in axes[:, 1]:
        ax.set_xscale("function", functions=(lambda x: x.clip(0) ** 0.5, lambda x: x ** 2))
        ax.set_xticks([0, 0.1, 0.5, 1, 2, 4, 8])
    lines = axes[0, 1].get_legend_handles_labels()
    fig.legend(*lines, loc="outside right center", frameon=False)
    return fig


def main(words):
    names = [word for word in words if word in METHODS] or list(METHODS)
    seeds = [int(word) for word in words if word.isdigit()]
    known = {*METHODS, *map(str, seeds), "tune"}
    if wrong := [word for word in words if word not in known]:
        raise SystemExit(f"no method is called {', '.join(wrong)}; "
                         f"there are: {', '.join(METHODS)}")
    if "tune" in words:
        return tune(names)
    found = results(FULL, names, seeds)
    if names == list(METHODS) and len(seeds) != 1:
        print(table(found))
        plt.style.use(Path(__file__).parent / "lessons.mplstyle")
        picture = prepare.REPO / "docs" / "pictures" / "race.svg"
        draw_race(found).savefig(picture, metadata={"Date": None})


if __name__ == "__main__":
    main(sys.argv[1:])
