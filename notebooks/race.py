"""The race of lesson 7: PPO and the methods of methods.py from the same models, with the same
number of responses.

    python notebooks/race.py                five seeds, with ppo.py's budget
    python notebooks/race.py RLOO DPO       only these methods
    python notebooks/race.py tune           half and twice the rates in the short race, on two seeds
                                            of their own

A seed's SFT and reward model are those in out/seed0 to out/seed4; what is missing is trained first.
Each run leaves out/race/METHOD-SEED.json; one that is there is not made again. Prints the table
and, of all methods, draws docs/pictures/race.svg. WORKERS=1 makes one run at a time.
"""
import json
import sys
import time
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import prepare                              # first: it puts the scripts on the path
import matplotlib.pyplot as plt
import torch

import data
import methods
import ppo
from evaluate import Config as EvaluateConfig, best_of, best_of_kl, respond_all, summary
from experiments import runs
from judges import Gold
from support.files import write_whole
from support.optimizer import adamw, set_learning_rate
from text.batches import batch_at
from text.examples import encode_comparisons
from text.tokenizer import Tokenizer

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Method:
    """How a method spends a rollout, and how its line looks."""
    colour: str
    line: str
    rates: tuple = ()               # the actor's peak rates in the short race and in the full one
    update: object = None           # function of methods.py
    k: int = 1                      # responses to each prompt
    one_step: bool = False          # a rollout; else two passes in minibatches of 32


# From the least machinery to the most. The short rates are those that `tune` found. PPO's full one
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


class Race(NamedTuple):
    """What every method may spend."""
    updates: int                # rollouts
    responses: int              # of a rollout
    rankings: int               # that the reward model has read, and DPO reads
    seeds: tuple
    out: Path                   # folder of the results


OUT = prepare.ROOT / "out"
RACES = {"short": Race(24, 64, 500 * 16, (1, 2, 3), prepare.OWN / "race"),  # the lessons' models
         "full": Race(80, 128, 1200 * 16, (0, 1, 2, 3, 4), OUT / "race")}   # each seed has its own

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


def run(race, name, seed, lr=None):
    """One run: {"history": a row for each rollout, "test": evaluate.py's row at the end, "tokens"
    generated for training, "seconds": of the processor, for training}."""
    full, method, race = race == "full", METHODS[name], RACES[race]
    folder, models_seed = (OUT / f"seed{seed}", seed) if full else (prepare.OWN, 0)
    cfg = ppo.Config(seed=seed, batch_size=race.responses, steps=race.updates,
                     lr=lr or (method.rates or (0, 0))[full],
                     lam=0.95 if name == "PPO" else 1.0, epochs=1 if method.one_step else 2,
                     minibatches=1 if method.one_step else race.responses // 32)
    actor, critic, *frozen = ppo.four_models(folder / "sft", folder / "reward", "all", CPU, False)
    tokenizer, (train_set, test_set) = Tokenizer.load(folder / "sft"), data.load("toy")
    prompts, optimizer = list(map(tokenizer.encode, train_set.prompts)), adamw(actor)
    torch.manual_seed(seed)

    start, updates, history, tokens = time.process_time(), (), [], 0
    if name == "PPO":
        updates = ppo.train(actor, critic, *frozen, optimizer, adamw(critic), prompts,
                            ppo.first_state(cfg), cfg)
    elif name == "DPO":
        rankings = encode_comparisons(train_set.comparisons, tokenizer, actor.config.block_size)
        rankings = batch_at(rankings, race.rankings, 0, models_seed)
        updates = compare(actor, *frozen, optimizer, prompts, rankings, cfg)
    elif method.update:
        updates = methods.train(method.update, actor, *frozen, optimizer, prompts, cfg, method.k)
    for _, e, _ in updates:
        history.append(runs.means(runs.opinions(e, tokenizer)) | {"tokens": tokens})
        tokens += e.response_mask.sum().item() * (name != "DPO")
    seconds = time.process_time() - start

    n = 8 if name == "best of 8" else 1
    for row in ends(actor, *frozen, prompts, tokenizer, cfg, n):
        history.append(row | {"tokens": tokens})
    evaluation = EvaluateConfig()
    asked = [prompt for prompt in test_set.prompts for _ in range(evaluation.samples * n)]
    responses = respond_all(actor, *frozen, asked, tokenizer, Gold(), evaluation, CPU)
    test = summary(best_of(responses, n)) | ({"kl": best_of_kl(n)} if n > 1 else {})
    return {"history": history, "test": test, "tokens": tokens, "seconds": seconds}


def ends(actor, reference, reward_model, prompts, tokenizer, cfg, n):
    """The last rows of a history: of one more rollout or, to choose among n responses, of those
    that the reward model chooses among 1, 2, 4, …, n to every prompt."""
    size, step = (256, cfg.steps) if n == 1 else (len(prompts), 0)
    batch = batch_at(prompts, size, step, cfg.seed)
    e = methods.rollout(actor, reference, reward_model, batch, cfg, n)
    for i in range(n.bit_length()):
        best = e.scores.view(-1, n)[:, :2 ** i].argmax(1) + n * torch.arange(size)      # (size)
        row = runs.means(runs.opinions(e[best], tokenizer))
        yield row | ({"kl": best_of_kl(2 ** i)} if n > 1 else {})

# ---------- all runs

def file(race, name, seed, lr=None):
    return RACES[race].out / f"{name.replace(' ', '_')}-{seed}{f'-{lr:g}' if lr else ''}.json"


def save(race, name, seed, lr=None):
    """Make one run."""
    write_whole(file(race, name, seed, lr), json.dumps(run(race, name, seed, lr)) + "\n")


def results(race, names=tuple(METHODS), seeds=(), lr=None):
    """{method: [its run with each seed]}. What is not there yet is made now."""
    seeds = seeds or RACES[race].seeds
    for stage in ("sft", "reward") if race == "full" else ():
        runs.make({OUT / f"seed{seed}" / stage / "config.json": [
            prepare.ROOT / f"{stage}.py", "--seed", seed, "--run", OUT / f"seed{seed}"]
            for seed in seeds}, say=prepare.show)
    runs.make({file(race, name, seed, lr):
               ["-c", f"import race; race.save({race!r}, {name!r}, {seed}, {lr})"]
               for name, seed in product(names, seeds)}, say=prepare.show)
    return {name: [json.loads(file(race, name, seed, lr).read_text()) for seed in seeds]
            for name in names}


def tune(names, seeds=(101, 102)):
    """Print the score less β times the KL that each method reaches in the short race with half its
    rate, its rate and twice its rate: the mean over two seeds that do not race. The judge has no
    say: who trains a model has none."""
    for name in filter(lambda name: METHODS[name].rates, names):
        for lr in (factor * METHODS[name].rates[0] for factor in (0.5, 1, 2)):
            found = [one["history"][-1] for one in results("short", [name], seeds, lr)[name]]
            earned = fmean(end["score"] - ppo.Config.kl_coef * end["kl"] for end in found)
            print(f"{name:10} {lr:g}: {earned:.2f}")

# ---------- what a person reads

def table(found):
    """A row a method: means over the seeds on the test prompts, ± their standard deviation."""
    rows = []
    for name, seeds in found.items():
        tests = [one["test"] for one in seeds]
        kl, tokens, seconds = (fmean(one[key] for one in some) for key, some in (
            ("kl", tests), ("tokens", seeds), ("seconds", seeds)))
        rows.append([name, runs.cell(tests, "ideal"), f"{min(test['ideal'] for test in tests):.1%}",
                     runs.cell(tests, "score"), runs.cell(tests, "proxy"),
                     f"{round(kl, 1) + 0.0:.1f}", f"{tokens:,.0f}", f"{seconds:.0f}"])
    return runs.table(["", "ideal", "worst seed", "judge", "proxy", "KL", "answers' tokens",
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
    for name, seeds in found.items():
        look = {"color": METHODS[name].colour, "ls": METHODS[name].line}
        columns = {key: smooth([[max(row[key], 0) for row in one["history"]] for one in seeds])
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
    names = [word for word in words if word != "tune"] or list(METHODS)
    if wrong := [name for name in names if name not in METHODS]:
        raise SystemExit(f"no method is called {', '.join(wrong)}; "
                         f"there are: {', '.join(METHODS)}")
    if "tune" in words:
        return tune(names)
    found = results("full", names)
    print(table(found))
    if names == list(METHODS):
        plt.style.use(Path(__file__).parent / "lessons.mplstyle")
        picture = prepare.ROOT / "docs" / "pictures" / "race.svg"
        draw_race(found).savefig(picture, metadata={"Date": None})


if __name__ == "__main__":
    main(sys.argv[1:])
