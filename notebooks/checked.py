"""PPO and the methods without a critic, where a program checks the answers: --data sums.

    python notebooks/checked.py tune    four rates a method, another seed, validation problems
    python notebooks/checked.py         five seeds, test problems: prints the tables of docs/sums.md

A seed has an SFT model of its own, that of `python sft.py --data sums --seed SEED`. Every method
gets the same number of responses to learn from, and no KL penalty. Runs are kept in
out/notebooks/checked, and one that is there is not made again.
"""
import sys
from dataclasses import dataclass
from math import comb
from statistics import fmean

import prepare                              # first: it puts the scripts on the path
import torch

import data
import methods
import ppo
from experiments import runs
from experiments.runs import SEEDS, cell, table
from judges.normal import T
from support.command_line import PRESETS
from support.files import read_json
from support.optimizer import adamw
from text.rule import Rule
from text.tokenizer import Tokenizer

TUNING = (101,)                             # seeds that are in no table of results
RATES = (2.5e-4, 5e-4, 1e-3, 2e-3)          # of the actor, that `tune` tries
GROUP = 8                                   # responses to a problem, where a method has groups
SAMPLES, PROBLEMS = 16, 60                  # when a model is measured


@dataclass(frozen=True)
class Method:
    lr: float = 0.0             # of the actor: the best one of `tune`
    update: object = None       # function of methods.py


METHODS = {"SFT": Method(), "PPO": Method(1e-3), "RLOO": Method(1e-3, methods.rloo),
           "GRPO": Method(5e-4, methods.grpo), "Dr. GRPO": Method(1e-3, methods.dr_grpo)}

# ---------- what is measured

def pass_at_k(right, n, k):
    """The chance that one of k responses is right, from n of which `right` are: without a bias, as
    the mean over all choices of k among the n (Chen et al., arXiv:2107.03374, eq. 1)."""
    return 1 - comb(n - right, k) / comb(n, k)


def alike(scores, k):
    """The share of groups of k whose scores (B) are all the same: they teach nothing."""
    groups = scores.view(-1, k)                                         # (B/k, k)
    return (groups == groups[:, :1]).all(1).float().mean().item()


@torch.no_grad()
def measured(actor, reference, rule, prompts, cfg):
    """Means over SAMPLES responses to each prompt (ids), at the temperature of training."""
    parts = [methods.rollout(actor, reference, rule, prompts[i:i + 20], cfg, SAMPLES)
             for i in range(0, len(prompts), 20)]
    right = [int(n) for e in parts for n in e.scores.view(-1, SAMPLES).sum(1)]
    said = [text for e in parts
            for text in rule.tokenizer.texts(e.ids[:, e.P:], e.response_mask)]
    return {**{f"pass@{k}": fmean(pass_at_k(n, SAMPLES, k) for n in right) for k in (1, 8)},
            "worked": fmean(":" in text for text in said),
            "length": fmean(n for e in parts for n in e.response_mask.sum(1).tolist()),
            "kl": fmean(n for e in parts for n in e.exact_kl.sum(1).tolist())}

# ---------- one run

def config(**flags):
    """ppo.py's flags with the preset of the sums."""
    return ppo.Config(data="sums", **{**read_json(PRESETS)["ppo"]["sums"], **flags})


def models(folder, reward="data.sums:verify", held_out="sums"):
    """(actor, critic, reference, rule), tokens of the training problems, those of the held-out."""
    tokenizer = Tokenizer.load(folder)
    rule = Rule(reward, tokenizer)
    asked = [split.prompts for split in data.load(held_out)]
    encoded = [list(map(tokenizer.encode, prompts)) for prompts in asked]
    for prompts, ids in zip(asked, encoded):
        rule.expect(prompts, ids)
    return ppo.four_models(folder, folder, "all", "cpu", False, rule), *encoded


def updates(method, four, prompts, cfg):
    """ppo.train or methods.train: (step, experience, metrics) after each update."""
    actor, critic, reference, rule = four
    if method.update is None:
        return ppo.train(*four, adamw(actor), adamw(critic), prompts, ppo.first_state(cfg), cfg)
    return methods.train(method.update, actor, reference, rule, adamw(actor), prompts, cfg, GROUP)


def run(point, seed):
    """Train, and measure: on validation problems with the seeds of `tune`, else on the test's."""
    name, lr = point
    four, prompts, held_out = models(
        prepare.sums_run(seed), held_out="sums:validation" if seed in TUNING else "sums")
    method, found = METHODS[name], {}
    cfg = config(seed=seed, lr=lr, lam=1.0 if method.update else ppo.Config.lam)
    torch.manual_seed(seed)
    if lr:
        silent = [alike(e.scores, GROUP) for _, e, _ in updates(method, four, prompts, cfg)]
        found = {"alike at first": fmean(silent[:5]), "at last": fmean(silent[-5:])}
    return found | measured(four[0], four[2], four[3], held_out[:PROBLEMS], cfg)

# ---------- all runs

def ends(points, seeds):
    """{(name, rate): [the run with each seed]}, from SFT models that are trained if need be."""
    for seed in seeds:
        prepare.sums_run(seed)
    return runs.results(prepare.OWN / "checked", "checked", points, seeds, prepare.show)


def tune():
    """A table of pass@1 on validation problems for each rate."""
    tried = [name for name in METHODS if METHODS[name].lr]
    found = ends([(name, lr) for name in tried for lr in RATES], TUNING)
    mean = {point: fmean(end["pass@1"] for end in of) for point, of in found.items()}
    return table(["", *(f"{lr:g}" for lr in RATES), "best", "in the table"], [
        [name, *(f"{mean[name, lr]:.1%}" for lr in RATES),
         f"{max(RATES, key=lambda lr: mean[name, lr]):g}", f"{METHODS[name].lr:g}"]
        for name in tried])


def interval(values):
    """Mean and its 95% interval over the seeds, in percent."""
    half = T[len(values) - 2] * torch.tensor(values).std().item() / len(values) ** 0.5
    return f"{fmean(values):.1%} ± {100 * half:.1f}"


def main(words):
    if words not in ([], ["tune"]):
        raise SystemExit("the only word is tune")
    if words:
        return print(tune())
    found = {name: of for (name, _), of in ends(
        [(name, method.lr) for name, method in METHODS.items()], SEEDS).items()}
    print(table(["", "pass@1", "pass@8", "lowest pass@1", "worked", "tokens", "KL"], [
        [name, *(interval([end[key] for end in of]) for key in ("pass@1", "pass@8")),
         f"{min(end['pass@1'] for end in of):.1%}",
         f"{fmean(end['worked'] for end in of):.1%}", cell(of, "length", 1), cell(of, "kl")]
        for name, of in found.items()]))
    cells, apart = runs.against("PPO", {name: [end["pass@1"] for end in of]
                                   for name, of in found.items()})
    print("\n" + table(["pass@1", "less PPO's", "t", "p"],
                       [[name, *cells[name]] for name in found]))
    print(f"\n{apart}\n\n" + table(["equal groups", "first 5 updates", "last 5"], [
        [name, *(f"{fmean(end[key] for end in of):.1%}" for key in ("alike at first", "at last"))]
        for name, of in found.items() if METHODS[name].update]))


if __name__ == "__main__":
    main(sys.argv[1:])
