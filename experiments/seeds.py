"""What several seeds say together: the tables of docs/judges.md.

    python experiments/seeds.py out/seed0 out/seed1 …    run folders; the i-th is evaluated with
                                                         --seed i

Each run is evaluated twice: with best of 64, and with the reward model of the next run as the
judge. That takes a minute a run on one core. Numbers that are there already, best_of_64.json and
other_judge.json in a run's folder, are not made again. Means are over the runs, ± their standard
deviation.
"""
import sys
from pathlib import Path

from runs import ROOT, cell, make, read, table      # first: it puts the scripts on the path


def evaluated(runs, name, flags):
    """evaluate.py's numbers of each run, in its file `name`. `flags` are a list for each run."""
    make({run / name: [ROOT / "evaluate.py", "--run", run, "--seed", i, "--json", run / name, *more]
          for i, (run, more) in enumerate(zip(runs, flags))})
    return [read(run, name) for run in runs]


def rows(reports, part, *keys):
    """A row for each name in a part of the reports, {name: {key: number}}."""
    for name in reports[0][part]:
        numbers = [report[part][name] for report in reports]
        yield (name.replace("best_of_n", "best of 64").replace("_vs_", " against "),
               *(cell(numbers, key) for key in keys))


def best_of(report):
    """The best of 2, 4, … 64, PPO, and the best of the n whose KL is nearest to PPO's."""
    curve, ppo = report["best_of"], report["models"]["ppo"]
    nearest = min(curve, key=lambda n: abs(curve[n]["kl"] - ppo["kl"]))
    return {f"best of {2 ** i}": curve[str(2 ** i)] for i in range(1, 7)} | {
        "best of the n nearest to ppo's KL": curve[nearest], "ppo": ppo}


def main(folders):
    runs = [Path(folder) for folder in folders]
    reports = evaluated(runs, "best_of_64.json", [["--best_of", 64]] * len(runs))
    others = evaluated(runs, "other_judge.json", [
        ["--best_of", 1, "--judge", run / "reward"] for run in (*runs[1:], runs[0])])

    for report in reports:
        report["best_of"] = best_of(report)
    for lines, *head in (
            (rows(reports, "models", "score", "ideal", "proxy", "eos_rate", "length", "kl"),
             "", "score", "ideal", "proxy", "ends (EOS)", "length", "KL"),
            (rows(reports, "win_rates", "win", "tie", "loss", "rate"),
             "", "wins", "ties", "losses", "rate"),
            (rows(reports, "best_of", "kl", "score", "ideal", "proxy"),
             "", "KL", "score", "ideal", "proxy"),
            (rows(reports, "agreement", "rate", "pairs"),
             "the reward model agrees with the judge", "of the pairs", "pairs a run"),
            (rows(others, "agreement", "rate", "pairs"),
             "with another run's reward model", "of the pairs", "pairs a run")):
        print("\n" + table(head, lines))


if __name__ == "__main__":
    if not sys.argv[1:]:
        sys.exit("give run folders, such as out/seed0 out/seed1")
    main(sys.argv[1:])
