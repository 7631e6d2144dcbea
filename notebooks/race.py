"""The race of lesson 7: PPO and the methods of methods.py from the same models, with the same number of answers.

    python notebooks/race.py                    five seeds, with as many updates and answers as `python ppo.py`
    python notebooks/race.py RLOO DPO 0 1       only these methods and seeds
    python notebooks/race.py tune               half and twice the rates in the short race, on two seeds of their own

A seed's SFT and reward model are those in out/seed0 to out/seed4; what is missing is trained first. Each run leaves
out/race/METHOD-SEED.json; one that is there is not made again. Once all methods have run, the table is printed and
docs/pictures/race.svg is drawn. WORKERS=1 makes one run at a time.
"""
import json
import multiprocessing
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from statistics import fmean as mean, stdev

import prepare                              # first: it puts the scripts on the path
import matplotlib.pyplot as plt
import torch

import data
import methods
import ppo
from text.batches import batch_at, encode_comparisons, pad
from text.tokenizer import Tokenizer
from evaluate import Config as EvaluateConfig, answer_all, best_of, best_of_kl, summary
from judges import Gold
from support.files import write_whole
from support.optimizer import adamw, set_learning_rate


@dataclass(frozen=True)
class Method:
    """How a method spends a rollout."""
    rates: tuple                    # the actor's peak rates in the lesson's short race and in the long one
    update: object = None           # function of methods.py
    k: int = 1                      # answers to each prompt
    one_step: bool = False          # a rollout; else two passes in minibatches of 32
    penalty_in_reward: bool = True  # else in the loss, or there is none


# From the least machinery to the most. The short rates are those that `tune` found. PPO's long one is the default of
# ppo.py: 6.7 times as many steps at a quarter of the rate. The others follow: rate times number of steps grows by 5/3.
METHODS = {
    "SFT": Method(()),
    "best of 8": Method(()),
    "DPO": Method((1e-3, 7e-4)),
    "rejection": Method((5e-4, 1.25e-4), methods.rejection, k=4, penalty_in_reward=False),
    "REINFORCE": Method((1e-3, 5e-4), methods.reinforce, one_step=True),
    "RLOO": Method((2e-3, 1e-3), methods.rloo, k=4, one_step=True),
    "GRPO": Method((5e-4, 1.25e-4), methods.grpo, k=4, penalty_in_reward=False),
    "Dr. GRPO": Method((1e-3, 2.5e-4), partial(methods.grpo, divide=False), k=4, penalty_in_reward=False),
    "PPO": Method((1e-3, 2.5e-4)),
}

LOOKS = {"SFT": ("#999999", "-"), "best of 8": ("#000000", ":"), "DPO": ("#c2185b", "--"),
         "rejection": ("#8c3fa0", "-."), "REINFORCE": ("#5a5a5a", ":"), "RLOO": ("#0a8a6a", "-."),
         "GRPO": ("#d1600a", "--"), "Dr. GRPO": ("#e8a33d", "-"), "PPO": ("#0b3c6f", "-")}
AXES = {"judge": "judge, points", "ideal": "share of ideal answers", "tokens": "tokens generated for training",
        "kl": "KL to the SFT model, nats an answer (√ scale)"}


@dataclass(frozen=True)
class Budget:
    """What every method may spend, and on which models."""
    updates: int                # rollouts
    answers: int                # of a rollout
    rankings: int               # that the reward model has read, and DPO reads
    seeds: tuple
    out: Path                   # folder of the results
    own: bool                   # each seed has models of its own, in out/seedN; else all start from the lessons'

    def models(self, seed):
        """(folder of the SFT and the reward model, the seed they were trained with)."""
        return (prepare.REPO / "out" / f"seed{seed}", seed) if self.own else (prepare.OWN, 0)

    def file(self, name, seed, lr=None):
        return self.out / f"{name.replace(' ', '_')}-{seed}{f'-{lr:g}' if lr else ''}.json"


SHORT = Budget(24, 64, 500 * 16, (1, 2, 3), prepare.OWN / "race", own=False)
FULL = Budget(80, 128, 1200 * 16, (0, 1, 2, 3, 4), prepare.REPO / "out" / "race", own=True)

# ----------------------------------------------------------------------------- one run


class Runner:
    """Actor, critic, reference and reward model of one run, and what was measured on the way."""

    def __init__(self, folder, seed):
        self.actor, self.critic, self.reference, self.reward_model = ppo.four_models(
            folder / "sft", folder / "reward", "all", torch.device("cpu"), False)
        self.tokenizer, (self.train_set, self.test_set) = Tokenizer.load(folder / "sft"), data.load("toy")
        self.optimizer, self.seed, self.tokens, self.history = adamw(self.actor), seed, 0, []
        torch.manual_seed(seed)

    def rollout(self, critic, kl_coef, k, step, cfg):
        """(Experience of k answers in a row to each of the step-th prompts, these prompts). What the judge thinks is
        only noted."""
        some = batch_at(self.train_set.prompts, cfg.batch_size // k, step, self.seed)
        asked = [prompt for prompt in some for _ in range(k)]
        ids, mask = pad([self.tokenizer.encode(prompt) for prompt in asked], left=True)         # (B, P)
        e = ppo.make_experience(self.actor, critic, self.reference, self.reward_model, ids, mask, kl_coef, cfg)
        self.history.append(prepare.measured(e, asked, self.tokenizer) | {"tokens": self.tokens})
        return e, asked

    def practise(self, name, cfg):
        """The loop of ppo.py, with the method's update in place of `learn`."""
        method, critic = METHODS[name], self.critic if name == "PPO" else methods.no_critic
        critic_optimizer = adamw(self.critic)
        for step in range(cfg.steps):
            set_learning_rate(self.optimizer, cfg.lr, step, cfg.steps)
            set_learning_rate(critic_optimizer, cfg.critic_lr, step, cfg.steps)
            e, _ = self.rollout(critic, cfg.kl_coef * method.penalty_in_reward, method.k, step, cfg)
            self.tokens += e.response_mask.sum().item()
            if name == "PPO":
                ppo.learn(self.actor, critic, self.optimizer, critic_optimizer, e, cfg)
            else:
                method.update(e, self.actor, self.optimizer, cfg, method.k)

    def compare(self, rankings, rankings_seed, cfg):
        """DPO on the rankings that the reward model has read. A rollout now and then is only measured."""
        examples = encode_comparisons(self.train_set.comparisons, self.tokenizer, self.actor.config.block_size)
        examples, steps = batch_at(examples, rankings, 0, rankings_seed), rankings // 16
        beta = cfg.kl_coef * self.reward_model.config.reward_std    # PPO's β is the price in normalised scores
        for step in range(steps):
            if step % (steps // 10) == 0:
                self.rollout(methods.no_critic, cfg.kl_coef, 1, step, cfg)
            set_learning_rate(self.optimizer, cfg.lr, step, steps)
            batch = batch_at(examples, 16, step, self.seed)
            methods.dpo(batch, self.actor, self.reference, self.optimizer, beta)

    def choose(self, cfg):
        """The SFT model answers eight times, and the reward model takes the best of the first 1, 2, 4 and 8."""
        answers = 8 * len(self.train_set.prompts)
        e, asked = self.rollout(methods.no_critic, cfg.kl_coef, 8, 0, replace(cfg, batch_size=answers))
        self.history = []
        for n in (1, 2, 4, 8):
            best = e.scores.view(-1, 8)[:, :n].argmax(1) + 8 * torch.arange(len(e) // 8)
            row = prepare.measured(e[best], asked[::8], self.tokenizer)
            self.history.append(row | {"kl": best_of_kl(n), "tokens": 0})

    def test(self, n=1):
        """evaluate.py's row on the test prompts, of the best of n answers."""
        cfg = EvaluateConfig()
        asked = [prompt for prompt in self.test_set.prompts for _ in range(cfg.samples * n)]
        answers = answer_all(self.actor, self.reference, self.reward_model, asked, self.tokenizer, Gold(), cfg, "cpu")
        row = summary(best_of(answers, n), True)
        return row if n == 1 else row | {"kl": best_of_kl(n)}


def run(name, seed, budget, lr=None):
    """One run: {"history": a row for each rollout, "test": the row at the end, "tokens" generated for training,
    "seconds": of the processor, for training}."""
    folder, rankings_seed = budget.models(seed)
    runner, method = Runner(folder, seed), METHODS[name]
    cfg = ppo.Config(batch_size=budget.answers, steps=budget.updates, minibatches=budget.answers // 32,
                     lr=lr or (method.rates or (0, 0))[budget.own], lam=0.95 if name == "PPO" else 1.0)
    start = time.process_time()
    if name == "DPO":
        runner.compare(budget.rankings, rankings_seed, cfg)
    elif method.update or name == "PPO":
        runner.practise(name, replace(cfg, epochs=1, minibatches=1) if method.one_step else cfg)
    seconds = time.process_time() - start
    if name == "best of 8":
        runner.choose(cfg)
    else:                                                   # where it has got to
        runner.rollout(methods.no_critic, cfg.kl_coef, 1, cfg.steps, replace(cfg, batch_size=256))
    return {"history": runner.history, "test": runner.test(8 if name == "best of 8" else 1),
            "tokens": runner.tokens, "seconds": seconds}

# ----------------------------------------------------------------------------- all runs


def results(budget, names=tuple(METHODS), seeds=()):
    """{method: [its run with each seed]}. What is not in budget.out yet is made now."""
    pairs = [(name, seed) for name in names for seed in seeds or budget.seeds]
    make(budget, pairs)
    read = lambda name: [json.loads(budget.file(*pair).read_text()) for pair in pairs if pair[0] == name]
    return {name: read(name) for name in names}


def make(budget, wanted):
    """Make the runs (method, seed) or (method, seed, lr) that are not there yet, one on each core at a time."""
    missing = [one for one in wanted if not budget.file(*one).exists()]
    for folder, seed in sorted({budget.models(one[1]) for one in missing}) * budget.own:
        for stage, script in (("sft", "sft.py"), ("reward", "reward.py")):
            if not (folder / stage / "config.json").exists():
                prepare.train(f"{script} --seed {seed}", folder)
    workers, spawn = int(os.environ.get("WORKERS", os.cpu_count())), multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, spawn) as pool:
        for done, (name, *_) in enumerate(pool.map(partial(save, budget), missing), 1):
            prepare.show(f"the race: {done} of {len(missing)} runs, the last one of {name}")


def save(budget, one):
    """Make one run, write it into its file, return what it was asked for."""
    name, seed, *lr = one
    write_whole(budget.file(*one), json.dumps(run(name, seed, budget, *lr)) + "\n")
    return one


def tune(names=tuple(METHODS), seeds=(101, 102)):
    """Print the score less β times the KL that each method reaches in the short race with half its rate, its rate and
    twice its rate: the mean over two seeds that do not race. The judge has no say: who trains a model has none."""
    rates = {name: [factor * METHODS[name].rates[0] for factor in (0.5, 1, 2)] for name in names if METHODS[name].rates}
    make(SHORT, [(name, seed, lr) for name in rates for lr in rates[name] for seed in seeds])
    for name in rates:
        earned = {}
        for lr in rates[name]:
            ends = [json.loads(SHORT.file(name, seed, lr).read_text())["history"][-1] for seed in seeds]
            earned[lr] = mean(end["score"] - ppo.Config.kl_coef * end["kl"] for end in ends)
        print(f"{name:10}", *(f"{lr:g}: {value:.2f}  " for lr, value in earned.items()))

# ----------------------------------------------------------------------------- what a person reads


def table(found):
    """A row a method: means over the seeds on the test prompts, ± their standard deviation."""
    lines = ["| | ideal | worst seed | judge | proxy | KL | answers' tokens | seconds |", "|---" * 8 + "|"]
    for name, runs in found.items():
        column = lambda key, factor=1: [factor * one["test"][key] for one in runs]
        spread = lambda xs, digits: f"{mean(xs):.{digits}f} ± {stdev(xs):.{digits}f}"
        ideal = column("ideal", 100)
        lines.append(f"| {name} | {spread(ideal, 1)}% | {min(ideal):.1f}% | {spread(column('score'), 2)} "
                     f"| {spread(column('proxy'), 2)} | {round(mean(column('kl')), 1) + 0.0:.1f} "
                     f"| {mean(one['tokens'] for one in runs):,.0f} | {mean(one['seconds'] for one in runs):.0f} |")
    return "\n".join(lines)


def smooth(curves):
    """Curves (seeds, T) -> each number with the mean of it and its two neighbours; the ends stay as they are."""
    x = torch.tensor(curves, dtype=torch.float32)
    return torch.cat([x[:, :1], (x[:, :-2] + x[:, 1:-1] + x[:, 2:]) / 3, x[:, -1:]], dim=1) if x.shape[1] > 2 else x


def draw_race(found):
    """Judge and ideal share against the tokens generated so far (left) and against the KL (right): means over the seeds
    of the rollouts on the way, smoothed over three, and the band from the lowest seed to the highest."""
    fig, axes = plt.subplots(2, 2, figsize=(11, 6.5), sharey="row")
    for name, runs in found.items():
        look = dict(zip(("color", "ls"), LOOKS[name]))
        columns = {key: smooth([[max(row[key], 0) for row in one["history"]] for one in runs]) for key in AXES}
        for (key, right), ax in zip(product(("judge", "ideal"), ("tokens", "kl")), axes.flat):
            y, x = columns[key], columns[right].mean(0)                                 # (seeds, T), (T)
            if right == "tokens" and not x.any():               # nothing was generated: a line at the level of the end
                ax.axhline(y[:, -1].mean(), **look, lw=1)
            else:
                ax.plot(x, y.mean(0), **look, label=name, marker="." if len(x) < 12 else None)
                ax.fill_between(x, y.amin(0), y.amax(0), color=look["color"], alpha=0.12, lw=0)
            ax.set(ylabel=AXES[key], xlabel=AXES[right])
    for ax in axes[:, 1]:
        ax.set_xscale("function", functions=(lambda x: x.clip(0) ** 0.5, lambda x: x ** 2))
        ax.set_xticks([0, 0.1, 0.5, 1, 2, 4, 8])
    fig.legend(*axes[0, 1].get_legend_handles_labels(), loc="outside right center", frameon=False)
    return fig


def main(words):
    names = [word for word in words if word in METHODS] or list(METHODS)
    seeds = [int(word) for word in words if word.isdigit()]
    if wrong := [word for word in words if word not in METHODS and not word.isdigit() and word != "tune"]:
        raise SystemExit(f"no method is called {', '.join(wrong)}; there are: {', '.join(METHODS)}")
    if "tune" in words:
        return tune(names)
    found = results(FULL, names, seeds)
    if names == list(METHODS) and len(seeds) != 1:
        print(table(found))
        plt.style.use(Path(__file__).parent / "lessons.mplstyle")
        draw_race(found).savefig(prepare.REPO / "docs" / "pictures" / "race.svg", metadata={"Date": None})


if __name__ == "__main__":
    main(sys.argv[1:])
