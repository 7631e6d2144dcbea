"""What each detail of PPO is worth on the toy: one change at a time, on the SFT and reward models
of out/seed0 to out/seed4. What is missing is trained first.

    python experiments/ablations.py         five seeds each: about 50 minutes of one core

A run is shorter than ppo.py's default, which most variants finish alike: what counts is after how
many responses 90% are ideal. Runs are kept in out/ablations, and one that is there is not made
again. Prints the table of docs/ablations.md, and which differences the seeds separate.
"""
from functools import partial
from statistics import fmean

from runs import (       # first: it puts the scripts on the path
    ROOT, SEEDS, against, cell, heard, results, seed_models, spread, table)
import ppo
from gpt import ScalarGPT
from methods import kl_estimate

STEPS = 60                  # updates, where ppo.py takes 80
CRITIC_ONLY = 5             # of them, in one variant
HEAD = ["variant", "responses until 90% ideal", "seeds that get there", "difference to default",
        "t", "p", "ideal in the end", "judge", "KL"]


def critic_from_sft(sft, rm, train, device, bf16, four_models=ppo.four_models):
    """four_models with a critic that starts from the SFT model and a random head, not from the
    reward model."""
    actor, _, reference, reward_model = four_models(sft, rm, train, device, bf16)
    critic = ScalarGPT.from_pretrained(sft, device, bf16, new_head=True)
    return actor, critic, reference, reward_model


def critic_first(optimizer, peak, step, steps, set_rate=ppo.set_learning_rate):
    """set_learning_rate, but in the first few updates 0 for the actor."""
    resting = peak == ppo.Config.lr and step < CRITIC_ONLY
    return set_rate(optimizer, 0.0 if resting else peak, step, steps)


# name -> (flags of ppo.py, what takes the place of its functions)
VARIANTS = {
    "default": ({}, {}),
    "λ = 0": ({"lam": 0.0}, {}),
    "λ = 1": ({"lam": 1.0}, {}),
    "no whitening": ({}, {"whiten": lambda x, mask: x}),
    "no value clip": ({"value_clip": 1e9}, {}),
    "no ratio clip": ({"clip": 1e9}, {}),
    "critic from SFT": ({}, {"four_models": critic_from_sft}),
    "critic only at first": ({}, {"set_learning_rate": critic_first}),
    "one epoch": ({"epochs": 1}, {}),
    "one step a rollout": ({"epochs": 1, "minibatches": 1}, {}),
    "penalty k3": ({}, {"kl_penalty": partial(kl_estimate, kind="k3")}),
    "β = 0": ({"kl_coef": 0.0}, {}),
}


def run(name, seed):
    """One run of a variant. It changes the module ppo, so it needs a process of its own, or one of
    its variant."""
    flags, replaced = VARIANTS[name]
    vars(ppo).update(replaced)
    cfg = ppo.Config(seed=seed, **{"steps": STEPS} | flags)
    return measure(heard(cfg), cfg.batch_size)


def measure(rollouts, responses):
    """`needed`: responses until 90% of three rollouts in a row are ideal, or all if that never
    comes; `came`: whether it does; and means of the last ten rollouts."""
    ideal = [row["ideal"] for row in rollouts]
    reached = [i for i in range(3, len(ideal) + 1) if fmean(ideal[i - 3:i]) >= 0.9]
    end = {key: fmean(row[key] for row in rollouts[-10:]) for key in ("ideal", "judge", "kl")}
    return end | {"needed": responses * (reached or [len(ideal)])[0], "came": bool(reached)}


def main():
    seed_models()
    found = results(ROOT / "out" / "ablations", "ablations", VARIANTS, SEEDS)
    needed = {name: [end["needed"] for end in ends] for name, ends in found.items()}
    tests, said = against("default", needed)
    print(table(HEAD, [[name, spread(needed[name], 0), sum(end["came"] for end in ends),
                        *tests[name], *(cell(ends, key) for key in ("ideal", "judge", "kl"))]
                       for name, ends in found.items()]) + "\n\n" + said)


if __name__ == "__main__":
    main()
