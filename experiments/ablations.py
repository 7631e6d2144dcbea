"""What each detail of PPO is worth on the toy: one change at a time, on the same five SFT and
reward models.

    python experiments/ablations.py         all, five seeds each: a minute or two a run on one core
    python experiments/ablations.py whitening "λ = 0"
                                            only the variants whose names contain one of the words

A run that is there already (out/ablations/VARIANT/SEED/evaluation.json) is not made again. Prints a
table: means over the seeds, their standard deviation, the worst seed.
"""
import sys
from functools import partial

from runs import ROOT, cell, make, read, story, table      # first: it puts the scripts on the path
import ppo
from gpt import ScalarGPT
from methods import kl_estimate

SEEDS = range(5)
HEAD = ["variant", "ideal answers", "worst seed", "wins over SFT", "judge", "proxy", "KL"]


def critic_from_sft(sft, rm, train, device, bf16, four_models=ppo.four_models):
    """four_models with a critic that starts from the SFT model and a random head, not from the
    reward model."""
    actor, _, reference, reward_model = four_models(sft, rm, train, device, bf16)
    critic = ScalarGPT.from_pretrained(sft, device, bf16, new_head=True)
    return actor, critic, reference, reward_model


# name -> (flags of ppo.py, what takes the place of its functions)
VARIANTS = {
    "default": ({}, {}),
    "λ = 0": ({"lam": 0.0}, {}),
    "λ = 1": ({"lam": 1.0}, {}),
    "no whitening": ({}, {"whiten": lambda x, mask: x}),
    "no value clip": ({"value_clip": 1e9}, {}),
    "no ratio clip": ({"clip": 1e9}, {}),
    "critic from SFT": ({}, {"four_models": critic_from_sft}),
    "one epoch": ({"epochs": 1}, {}),
    "one step a rollout": ({"epochs": 1, "minibatches": 1}, {}),
    "penalty k3": ({}, {"kl_penalty": partial(kl_estimate, kind="k3")}),
    **{f"β = {beta:g}": ({"kl_coef": beta}, {}) for beta in (0.0, 0.02, 0.1, 0.2)},
    "200 updates": ({"steps": 200}, {}),
    "β = 0, 200 updates": ({"kl_coef": 0.0, "steps": 200}, {}),
}


def folder(name, seed):
    return ROOT / "out" / "ablations" / name.replace(" ", "_") / str(seed)


def train(name, seed):
    """One run of a variant. It changes the module ppo, so it needs a process of its own."""
    flags, replaced = VARIANTS[name]
    vars(ppo).update(replaced)
    models = None if name == "default" else folder("default", seed)
    story(folder(name, seed), seed, {"ppo": flags}, models)


def row(name):
    """A variant's line of the table. Runs that are missing are made first."""
    make({folder(name, seed) / "evaluation.json":
          ["-c", f"from ablations import train; train({name!r}, {seed})"] for seed in SEEDS})
    reports = [read(folder(name, seed), "evaluation.json") for seed in SEEDS]
    ends = [report["models"]["ppo"] for report in reports]
    wins = [report["win_rates"]["ppo_vs_sft"] for report in reports]
    return [name, cell(ends, "ideal"), f"{min(end['ideal'] for end in ends):.1%}",
            cell(wins, "rate"), cell(ends, "score"), cell(ends, "proxy"), cell(ends, "kl", 1)]


def main(wanted):
    names = [name for name in VARIANTS if not wanted or any(word in name for word in wanted)]
    if not names:
        sys.exit(f"no variant is called {' or '.join(wanted)}; there are: {', '.join(VARIANTS)}")
    row("default")                      # all others start from its SFT and reward models
    print(table(HEAD, map(row, names)))


if __name__ == "__main__":
    main(sys.argv[1:])
