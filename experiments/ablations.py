"""What each detail of PPO is worth on the toy: one change at a time, on the same five SFT and reward models.

    python experiments/ablations.py                   all, with five seeds each: a minute or two a run on one core
    python experiments/ablations.py whitening "λ = 0"     only the variants whose names contain one of the words

Every run is a process of its own. A run that is there already (out/ablations/VARIANT/SEED/evaluation.json) is not
made again. Prints a table: means over the seeds, their standard deviation, the worst seed.
"""
import json
import os
import shutil
import statistics
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from runs import ROOT, process

OUT = ROOT / "out" / "ablations"
SEEDS = range(5)

# name -> (flags of ppo.py, a change to the module ppo before its main is run)
VARIANTS = {
    "default": ({}, ""),
    "λ = 0": ({"lam": 0.0}, ""),
    "λ = 1": ({"lam": 1.0}, ""),
    "no whitening": ({}, "ppo.whiten = lambda x, mask: x"),
    "no value clip": ({"value_clip": 1e9}, ""),
    "no ratio clip": ({"clip": 1e9}, ""),
    "critic from SFT": ({}, "ppo.four_models = critic_from_sft(ppo.four_models)"),
    "one epoch": ({"epochs": 1}, ""),
    "one step a rollout": ({"epochs": 1, "minibatches": 1}, ""),
    "penalty k3": ({}, "ppo.kl_penalty = partial(ppo.kl_penalty, estimator='k3')"),
    "β = 0": ({"kl_coef": 0.0}, ""),
    "β = 0.02": ({"kl_coef": 0.02}, ""),
    "β = 0.1": ({"kl_coef": 0.1}, ""),
    "β = 0.2": ({"kl_coef": 0.2}, ""),
    "200 updates": ({"steps": 200}, ""),
    "β = 0, 200 updates": ({"kl_coef": 0.0, "steps": 200}, ""),
}


def critic_from_sft(four_models):
    """four_models with a critic that starts from the SFT model and a random head, not from the reward model."""
    def changed(sft, rm, train, device, bf16):
        actor, critic, reference, reward_model = four_models(sft, rm, train, device, bf16)
        critic = type(critic).from_pretrained(sft, device, bf16, new_head=True)
        return actor, critic, reference, reward_model
    return changed


def prepare(seed):
    """The SFT and the reward model of a seed."""
    run = OUT / "models" / str(seed)
    if not (run / "reward" / "config.json").exists():
        process(f"import sft, reward; flags = dict(run={str(run)!r}, seed={seed}); "
                "sft.main(sft.Config(**flags)); reward.main(reward.Config(**flags))")
    return run


def evaluated(name, seed):
    """evaluate.py's numbers for one variant and seed."""
    flags, change = VARIANTS[name]
    run = OUT / name.replace(" ", "_") / str(seed)
    report = run / "evaluation.json"
    if not report.exists():
        for stage in ("sft", "reward"):
            shutil.copytree(prepare(seed) / stage, run / stage, dirs_exist_ok=True)
        process("from functools import partial; import ppo, evaluate; from ablations import critic_from_sft\n"
                f"{change}\nflags = dict(run={str(run)!r}, seed={seed})\n"
                f"ppo.main(ppo.Config(**flags, **{flags!r}))\n"
                f"evaluate.main(evaluate.Config(**flags, json={str(report)!r}))")
    return json.loads(report.read_text())


def row(name, reports):
    """One line of the table."""
    ppo = [report["models"]["ppo"] for report in reports]
    columns = {"judge": [p["score"] for p in ppo], "ideal": [100 * p["ideal"] for p in ppo],
               "proxy": [p["proxy"] for p in ppo], "kl": [p["kl"] for p in ppo],
               "wins": [100 * report["win_rates"]["ppo_vs_sft"]["rate"] for report in reports]}
    mean = {key: statistics.mean(values) for key, values in columns.items()}
    std = {key: statistics.stdev(values) for key, values in columns.items()}
    return (f"| {name} | {mean['ideal']:.1f}% ± {std['ideal']:.1f} | {min(columns['ideal']):.1f}% "
            f"| {mean['wins']:.1f}% ± {std['wins']:.1f} | {mean['judge']:.2f} ± {std['judge']:.2f} "
            f"| {mean['proxy']:.2f} ± {std['proxy']:.2f} | {mean['kl']:.1f} ± {std['kl']:.1f} |")


def main(wanted):
    names = [name for name in VARIANTS if not wanted or any(word in name for word in wanted)]
    if not names:
        sys.exit(f"no variant is called {' or '.join(wanted)}; there are: {', '.join(VARIANTS)}")
    with ThreadPoolExecutor(int(os.environ.get("WORKERS", os.cpu_count()))) as pool:
        list(pool.map(prepare, SEEDS))
        print("| variant | ideal answers | worst seed | wins over SFT | judge | proxy | KL |\n" + "|---" * 7 + "|")
        for name in names:
            print(row(name, list(pool.map(partial(evaluated, name), SEEDS))), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
