"""The race of lesson 7: PPO and the methods of methods.py from the same SFT and reward model, each
with 40 updates of 64 responses, or as many rankings.

    python notebooks/race.py tune       five rates a method, on two seeds that do not race
    python notebooks/race.py            three penalties a method, five seeds: prints the tables of
                                        docs/race.md and draws docs/pictures/race.svg

The models are those of the lessons. Runs are kept in out/notebooks/race, and one that is there is
not made again. WORKERS=1 makes one at a time.
"""
import sys
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from statistics import fmean

import prepare                              # first: it puts the scripts on the path
import matplotlib.pyplot as plt
import torch

import data
import methods
import ppo
from evaluate import best_of_kl
from experiments import runs
from support.optimizer import adamw, set_learning_rate
from text.batches import batch_at
from text.examples import encode_comparisons
from text.tokenizer import Tokenizer

UPDATES, RESPONSES = 40, 64
TUNING, RACING = (101, 102), (5, 6, 7, 8, 9)     # seeds of `tune` and of the race
SAMPLES = 8         # responses to each prompt when a run is measured
KL = 1.5            # nats at which the methods are compared
RATES = (1.25e-4, 2.5e-4, 5e-4, 1e-3, 2e-3)  # that `tune` tries; twice that for a single step


@dataclass(frozen=True)
class Method:
    """How a method learns from a rollout, and how its line looks."""
    colour: str
    line: str
    lr: float = 0.0                 # of the actor: the best one of `tune`
    update: object = None           # function of methods.py
    k: int = 1                      # responses to each prompt
    one_step: bool = False          # a rollout; else two passes in two minibatches
    settings: tuple = (0.1, 0.02, 0.5)      # of β, or of n or updates; `tune` takes the first


# From the least machinery to the most.
METHODS = {
    "best of n": Method("#000000", "-", settings=(1, 2, 4, 8, 16, 32)),
    "DPO": Method("#c2185b", "--", 1e-3, settings=(0.4, 0.1, 1.6)),
    "rejection": Method("#8c3fa0", "-.", 5e-4, methods.rejection, 4, settings=(40, 20, 10)),
    "REINFORCE": Method("#5a5a5a", ":", 2e-3, methods.reinforce, one_step=True),
    "RLOO, one step": Method("#0a8a6a", ":", 2e-3, methods.rloo, 4, one_step=True),
    "RLOO": Method("#0a8a6a", "-.", 1e-3, methods.rloo, 4),
    "GRPO": Method("#d1600a", "--", 1e-3, methods.grpo, 4),
    "Dr. GRPO": Method("#e8a33d", "-", 1e-3, partial(methods.grpo, divide=False), 4),
    "PPO": Method("#0b3c6f", "-", 1e-3),
}

# ---------- one run

def compare(rankings, actor, reference, reward_model, optimizer, cfg):
    """DPO: as many steps as the others, on as many rankings as they have responses."""
    steps = cfg.steps * cfg.epochs * cfg.minibatches
    beta = cfg.kl_coef * reward_model.config.reward_std     # the price of a nat in raw scores
    for step in range(steps):
        set_learning_rate(optimizer, cfg.lr, step, steps)
        batch = batch_at(rankings, UPDATES * RESPONSES // steps, step, cfg.seed)
        yield methods.dpo(batch, actor, reference, optimizer, beta)


def run(point, seed):
    """Train, and return what is known of responses to held-out prompts: those of validation for the
    seeds of `tune`, those of the test for the others."""
    name, setting, lr = point
    method, n = METHODS[name], setting if name == "best of n" else 1
    beta, steps = (setting, UPDATES) if isinstance(setting, float) else (0.0, setting)
    passes = 1 if method.one_step else 2                # each in as many minibatches
    cfg = ppo.Config(seed=seed, batch_size=RESPONSES, steps=steps, lr=lr, kl_coef=beta,
                     lam=ppo.Config.lam if name == "PPO" else 1.0, epochs=passes,
                     minibatches=passes)
    actor, critic, *frozen = ppo.four_models(
        prepare.OWN / "sft", prepare.OWN / "reward", "all", torch.device("cpu"), False)
    tokenizer = Tokenizer.load(prepare.OWN / "sft")
    train_set, held_out = data.load("toy:validation" if seed in TUNING else "toy")
    prompts, optimizer, updates = list(map(tokenizer.encode, train_set.prompts)), adamw(actor), ()
    torch.manual_seed(seed)
    if name == "PPO":
        updates = ppo.train(actor, critic, *frozen, optimizer, adamw(critic), prompts,
                            ppo.first_state(cfg), cfg)
    elif name == "DPO":
        rankings = encode_comparisons(train_set.comparisons, tokenizer, actor.config.block_size)
        updates = compare(rankings, actor, *frozen, optimizer, cfg)
    elif method.update:
        updates = methods.train(method.update, actor, *frozen, optimizer, prompts, cfg,
                                method.k)
    for _ in updates:
        pass

    asked = list(map(tokenizer.encode, held_out.prompts))
    e = methods.rollout(actor, *frozen, asked, cfg, max(n, SAMPLES))
    best = e.scores.view(-1, n).argmax(1) + n * torch.arange(len(e) // n)
    found = runs.opinion(e[best], tokenizer)
    return found | {"kl": best_of_kl(n)} if name == "best of n" else found

# ---------- all runs

def results(points, seeds):
    """{(name, setting, rate): [the run with each seed]}."""
    prepare.toy_run("sft", "reward")
    return runs.results(prepare.OWN / "race", "race", points, seeds, prepare.show)


def race(seeds=RACING, chosen=slice(None)):
    """{name: {setting: [the run with each seed]}} of all methods, with the chosen settings."""
    found = results([(name, setting, method.lr) for name, method in METHODS.items()
                     for setting in method.settings[chosen]], seeds)
    return {name: {setting: ends for (of, setting, _), ends in sorted(found.items()) if of == name}
            for name in METHODS}


def tune():
    """A table of the score less β times the KL that each rate earns with the first setting, on
    validation prompts and on seeds that do not race. The judge has no say: who trains a model has
    none."""
    rates = {name: [lr * (1 + method.one_step) for lr in RATES]
             for name, method in METHODS.items() if method.lr}
    found = results([(name, METHODS[name].settings[0], lr) for name in rates for lr in rates[name]],
                    TUNING)
    earned = {(name, lr): fmean(end["score"] - ppo.Config.kl_coef * end["kl"] for end in ends)
              for (name, _, lr), ends in found.items()}
    return runs.table(["", "lowest rate", "", "", "", "highest", "best", "in the race"], [
        [name, *(f"{lr:g}: {earned[name, lr]:.2f}" for lr in tried),
         f"{max(tried, key=lambda lr: earned[name, lr]):g}", f"{METHODS[name].lr:g}"]
        for name, tried in rates.items()])

# ---------- what a person reads

def table(found):
    """A row a method and setting: means over the seeds on the test prompts, ± their standard
    deviation."""
    return runs.table(["", "β, n or updates", "KL", "ideal", "judge", "proxy"], [
        [name, setting, *(runs.cell(ends, key) for key in ("kl", "ideal", "judge", "score"))]
        for name, settings in found.items() for setting, ends in settings.items()])


def at_kl(ends):
    """What one seed would have at a KL of KL: on lines over √KL between the two of its ends beside
    it. None if all are on one side."""
    for low, high in pairwise(sorted(ends, key=lambda end: end["kl"])):
        if low["kl"] <= KL < high["kl"]:
            left, right = low["kl"] ** 0.5, high["kl"] ** 0.5
            share = (KL ** 0.5 - left) / (right - left)
            return {key: low[key] + share * (high[key] - low[key]) for key in low}


def at_equal_kl(found):
    """A table of the methods that have runs on both sides of the KL with each seed, and which of
    them differ from PPO in the judge's score, the one measure that is tested."""
    there = {name: list(map(at_kl, zip(*settings.values()))) for name, settings in found.items()}
    missing = [name for name in found if None in there[name]]
    said = f"Not on both sides of {KL:g} nats with each seed: {'; '.join(missing) or 'none'}."
    if "PPO" in missing:
        return said
    judged = {name: [end["judge"] for end in there[name]] for name in found if name not in missing}
    cells, apart = runs.against("PPO", judged)
    return runs.table([f"at {KL:g} nats", "judge", "less PPO's", "t", "p", "ideal"], [
        [name, runs.spread(judge), *cells[name], runs.cell(there[name], "ideal")]
        for name, judge in judged.items()]) + f"\n\n{said}\n\n{apart}"


def draw(found):
    """Judge and ideal share over √KL (Gao et al., arXiv:2210.10760): a dot for each run, and a line
    through the means of the settings."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4))
    for key, label, axis in zip(("judge", "ideal"), ("judge, points", "ideal answers"), axes):
        for name, settings in found.items():
            x, y = ([[end[of] ** power for end in ends] for ends in settings.values()]
                    for of, power in (("kl", 0.5), (key, 1)))
            colour, line = METHODS[name].colour, METHODS[name].line
            axis.plot(sum(x, []), sum(y, []), ".", color=colour, ms=3, ls="", alpha=0.5)
            axis.plot(*([fmean(ends) for ends in of] for of in (x, y)), "o", color=colour, ls=line,
                      ms=4, label=name)
        axis.set(xlabel="√KL to the SFT model, √nats", ylabel=label)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", frameon=False)
    return figure


def main(words):
    if words not in ([], ["tune"]):
        raise SystemExit("the only word is tune")
    if words:
        return print(tune())
    found = race()
    print(table(found) + "\n\n" + at_equal_kl(found))
    plt.style.use(runs.STYLES)
    draw(found).savefig(prepare.ROOT / "docs" / "pictures" / "race.svg", metadata={"Date": None})


if __name__ == "__main__":
    main(sys.argv[1:])
