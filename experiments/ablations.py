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

from runs import ROOT, make, read, story       # first: it puts the scripts on the path
import ppo
from gpt import ScalarGPT
from methods import kl_estimate
from tables import spread, table

OUT = ROOT / "out" / "ablations"
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
    "β = 0": ({"kl_coef": 0.0}, {}),
    "β = 0.02": ({"kl_coef": 0.02}, {}),
    "β = 0.1": ({"kl_coef": 0.1}, {}),
    "β = 0.2": ({"kl_coef": 0.2}, {}),
    "200 updates": ({"steps": 200}, {}),
    "β = 0, 200 updates": ({"kl_coef": 0.0, "steps": 200}, {}),
}


def folder(name, seed):
    return OUT / name.replace(" ", "_") / str(seed)


def train(name, seed):
    """One run of a variant. It changes the module ppo, so it needs a process of its own."""
    flags, replaced = VARIANTS[name]
    vars(ppo).update(replaced)
    models = None if name == "default" else folder("default", seed)
    story(folder(name, seed), seed, {"ppo": flags}, models)


def evaluated(name):
    """evaluate.py's numbers for a variant, with each seed. Runs that are missing are made first."""
    make({folder(name, seed): f"from ablations import train; train({name!r}, {seed})"
          for seed in SEEDS})
    return [read(folder(name, seed), "evaluation.json") for seed in SEEDS]


def row(name, reports):
    """One line of the table."""
    ideal, judge, proxy, kl = ([report["models"]["ppo"][key] for report in reports]
                               for key in ("ideal", "score", "proxy", "kl"))
    wins = [report["win_rates"]["ppo_vs_sft"]["rate"] for report in reports]
    return [name, spread(ideal, 1, percent=True), f"{min(ideal):.1%}",
            spread(wins, 1, percent=True), spread(judge), spread(proxy), spread(kl, 1)]


def main(wanted):
    names = [name for name in VARIANTS if not wanted or any(word in name for word in wanted)]
    if not names:
        sys.exit(f"no variant is called {' or '.join(wanted)}; there are: {', '.join(VARIANTS)}")
    evaluated("default")                # all others start from its SFT and reward models
    rows = [row(name, evaluated(name)) for name in names]
    print(table(HEAD, rows))


if __name__ == "__main__":
    main(sys.argv[1:])
