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
from statistics import fmean

from runs import ROOT, cell, make, read, table      # first: it puts the scripts on the path
from judges.report import place


def evaluated(runs, name, flags):
    """evaluate.py's numbers of each run, in its file `name`. `flags` are a list for each run."""
    make({run / name: [ROOT / "evaluate.py", "--run", run, "--seed", i, "--json", run / name, *more]
          for i, (run, more) in enumerate(zip(runs, flags))})
    return [read(run, name) for run in runs]


def model_rows(reports):
    for name in reports[0]["models"]:
        rows = [report["models"][name] for report in reports]
        yield (name.replace("best_of_n", "best of 64"), cell(rows, "score"), cell(rows, "ideal"),
               cell(rows, "proxy"), cell(rows, "eos_rate"), cell(rows, "length", 1),
               cell(rows, "kl"))


def win_rows(reports):
    for name in reports[0]["win_rates"]:
        rows = [report["win_rates"][name] for report in reports]
        rivals = name.replace("_vs_", " against ").replace("best_of_n", "best of 64")
        yield rivals, *(cell(rows, key) for key in ("win", "tie", "loss", "rate"))


def best_of_rows(reports):
    """The best of 2, 4, … 64, PPO, and the best of the n whose KL is nearest to PPO's, if 64 reach
    that far; by KL."""
    curves, ppo = zip(*((report["best_of"], report["models"]["ppo"]) for report in reports))
    rows = {f"best of {2 ** i}": [curve[str(2 ** i)] for curve in curves] for i in range(1, 7)}
    rows["ppo"] = ppo
    if all(end["kl"] <= curve["64"]["kl"] for curve, end in zip(curves, ppo)):
        nearest = [min(curve, key=lambda n: abs(curve[n]["kl"] - end["kl"]))
                   for curve, end in zip(curves, ppo)]
        rows[f"best of {', '.join(nearest)}: each run's at ppo's KL"] = [
            curve[n] for curve, n in zip(curves, nearest)]
    for name, row in sorted(rows.items(), key=lambda item: fmean(one["kl"] for one in item[1])):
        yield name, *(cell(row, key) for key in ("kl", "score", "ideal", "proxy"))


def length_rows(reports):
    """The bins of all runs together, if any has pairs: the pairs, the rate over all of them, the
    runs with the lowest and the highest."""
    for rows in zip(*(report["by_length"] for report in reports)):
        filled = [row for row in rows if row["pairs"]]
        pairs, rates = sum(row["pairs"] for row in filled), [row["rate"] for row in filled]
        if filled:
            rate = sum(row["rate"] * row["pairs"] for row in filled) / pairs
            yield place(rows[0]), pairs, f"{rate:.1%}", f"{min(rates):.1%} to {max(rates):.1%}"


def agreement_rows(*judged):
    for name in ("sft_vs_sft", "ppo_vs_sft", "ppo_vs_ppo"):
        cells = []
        for reports in judged:
            rows = [report["agreement"][name] for report in reports]
            cells += [cell(rows, "rate"), sum(row["pairs"] for row in rows)]
        yield name.replace("_vs_", " against "), *cells


def main(folders):
    runs = [Path(folder) for folder in folders]
    reports = evaluated(runs, "best_of_64.json", [["--best_of", 64]] * len(runs))
    others = evaluated(runs, "other_judge.json", [
        ["--best_of", 1, "--judge", run / "reward"] for run in (*runs[1:], runs[0])])
    print(f"{len(runs)} runs, judge: {reports[0]['judge']}")
    for rows, *head in (
            (model_rows(reports), "", "score", "ideal", "proxy", "ends (EOS)", "length", "KL"),
            (win_rows(reports), "", "wins", "ties", "losses", "rate"),
            (best_of_rows(reports), "", "KL", "score", "ideal", "proxy"),
            (length_rows(reports), "ppo's length - sft's, tokens", "pairs",
             "rate of ppo against sft", "lowest to highest run"),
            (agreement_rows(reports, others), "the reward model agrees with", "the judge",
             "of pairs", "another run's reward model", "of pairs")):
        print("\n" + table(head, rows))


if __name__ == "__main__":
    if not sys.argv[1:]:
        sys.exit("give run folders, such as out/seed0 out/seed1")
    main(sys.argv[1:])
