"""The default run with several seeds in both worlds of the toy: the table of docs/worlds.md.

    python experiments/worlds.py 0 4        seeds 0 to 4

A run takes three to four minutes of one core; one that is there already, in out/seedN or
out/toy2-seedN, is not made again. Prints a row for each run and, for each world, mean, standard
deviation and the lowest number.
"""
import re
import sys
from functools import partial
from statistics import fmean, stdev

from runs import ROOT, in_parallel, python, read, table     # first: it puts the scripts on the path

COLUMNS = {"SFT": "ideal", "best of 8": "ideal", "PPO": "ideal", "PPO beats SFT": "rate",
           "ends (EOS)": "eos_rate", "KL, nats": "kl", "reward model": "accuracy",
           "on noisy pairs": "accuracy", "its ceiling": "accuracy"}
WORLDS = "toy", "toy2"
SCRIPTS = "sft.py", "reward.py", "ppo.py", "evaluate.py"


def folder(world, seed):
    return ROOT / "out" / f"{'' if world == 'toy' else world + '-'}seed{seed}"


def make(world, seed):
    """Run all scripts, unless the last one has run. What they print is kept in log.txt."""
    run = folder(world, seed)
    if not (run / "eval.json").exists():
        said = [python(ROOT / script, "--data", world, "--run", run, "--seed", seed,
                       *(["--json", run / "eval.json"] if script == "evaluate.py" else []))
                for script in SCRIPTS]
        (run / "log.txt").write_text("".join(said))


def numbers(world, seed):
    """A run's row, in the order of COLUMNS: shares in percent."""
    run = folder(world, seed)
    report, log = read(run, "eval.json"), (run / "log.txt").read_text()
    models, percent = report["models"], r"([\d.]+)%"
    plain, noisy = re.findall(f"held-out accuracy {percent}", log)
    ceiling, = re.findall(f"ceiling {percent}", log)
    return [*(100 * models[name]["ideal"] for name in ("sft", "best_of_n", "ppo")),
            100 * report["win_rates"]["ppo_vs_sft"]["rate"], 100 * models["ppo"]["eos_rate"],
            models["ppo"]["kl"], *map(float, (plain, noisy, ceiling))]


def main(first, last):
    seeds, cells = range(first, last + 1), partial(map, "{:.1f}".format)
    list(in_parallel([partial(make, world, seed) for seed in seeds for world in WORLDS]))
    lines = []
    for world in WORLDS:
        rows = [numbers(world, seed) for seed in seeds]
        lines += [[world, seed, *cells(row)] for seed, row in zip(seeds, rows)]
        for name, what in ("mean", fmean), ("std", stdev), ("lowest", min):
            lines.append([world, name, *cells(map(what, zip(*rows)))])
    print(table(["world", "seed", *COLUMNS], lines))


if __name__ == "__main__":
    given = [int(word) for word in sys.argv[1:] if word.isdigit()]
    if len(given) != 2 or given[0] >= given[1]:
        sys.exit("give the first and the last of two seeds or more, such as 0 4")
    main(*given)
