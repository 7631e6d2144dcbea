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
from statistics import fmean as mean

from runs import ROOT, python, read             # first: it puts the scripts on the path
from judges.report import place
from tables import spread, table


def evaluated(runs, i):
    """evaluate.py's numbers for the i-th run: with best of 64, and with the next run's reward model
    as the judge."""
    run, other = runs[i], runs[(i + 1) % len(runs)] / "reward"
    reports = {"best_of_64.json": ["--best_of", 64],
               "other_judge.json": ["--best_of", 1, "--judge", other]}
    for name, flags in reports.items():
        if not (run / name).exists():
            python(ROOT / "evaluate.py", "--run", run, "--seed", i, "--json", run / name, *flags)
    return [read(run, name) for name in reports]


def cell(rows, key, digits=2, percent=False):
    """Mean ± standard deviation of what the rows have under a key, if any has."""
    values = [row[key] for row in rows if row[key] is not None]
    return spread(values, digits, percent) if values else "-"


def share(rows, key):
    return cell(rows, key, 1, percent=True)


def interval(rows):
    """The mean of the rows' 95% intervals."""
    low, high = (mean(row["ci95"][end] for row in rows) for end in (0, 1))
    return f"{low:.1%} to {high:.1%}"


def model_rows(reports):
    for name in reports[0]["models"]:
        rows = [report["models"][name] for report in reports]
        yield (name.replace("best_of_n", "best of 64"), cell(rows, "score"), share(rows, "ideal"),
               cell(rows, "proxy"), share(rows, "eos_rate"), cell(rows, "length", 1),
               cell(rows, "kl"))


def win_rows(reports):
    for name in reports[0]["win_rates"]:
        rows = [report["win_rates"][name] for report in reports]
        rates = [share(rows, key) for key in ("win", "tie", "loss", "rate")]
        rivals = name.replace("_vs_", " against ").replace("best_of_n", "best of 64")
        yield rivals, *rates, interval(rows)
    rows = [report["by_length"]["held_fixed"] for report in reports]
    name = "ppo against sft, length held fixed"
    yield name, "", "", "", share(rows, "rate"), interval(rows)


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
    for name, row in sorted(rows.items(), key=lambda item: mean(one["kl"] for one in item[1])):
        yield name, cell(row, "kl"), cell(row, "score"), share(row, "ideal"), cell(row, "proxy")


def length_rows(reports):
    """The bins of all runs together, if any has pairs: the pairs, the rate over all of them, the
    runs with the lowest and the highest."""
    for rows in zip(*(report["by_length"]["difference"] for report in reports)):
        filled = [row for row in rows if row["pairs"]]
        pairs, rates = sum(row["pairs"] for row in filled), [row["rate"] for row in filled]
        if filled:
            rate = sum(row["rate"] * row["pairs"] for row in filled) / pairs
            yield place(rows[0]), pairs, f"{rate:.1%}", f"{min(rates):.1%} to {max(rates):.1%}"


def agreement_rows(reports, others):
    for name in ("sft_vs_sft", "ppo_vs_sft", "ppo_vs_ppo"):
        cells = []
        for some in (reports, others):
            rows = [report["agreement"][name] for report in some]
            cells += [share(rows, "rate"), sum(row["pairs"] for row in rows)]
        yield name.replace("_vs_", " against "), *cells


def main(folders):
    runs = [Path(folder) for folder in folders]
    reports, others = zip(*(evaluated(runs, i) for i in range(len(runs))))
    of_length = ["pairs", "rate of ppo against sft", "lowest to highest run"]
    tables = [
        (["", "score", "ideal", "proxy", "ends (EOS)", "length", "KL"], model_rows(reports)),
        (["", "wins", "ties", "losses", "rate", "95% interval of one run, in the mean"],
         win_rows(reports)),
        (["", "KL", "score", "ideal", "proxy"], best_of_rows(reports)),
        (["ppo's length - sft's, tokens", *of_length], length_rows(reports)),
        (["the reward model agrees with", "the judge", "of pairs", "another run's reward model",
          "of pairs"], agreement_rows(reports, others))]
    print(f"{len(runs)} runs, judge: {reports[0]['judge']}")
    for head, rows in tables:
        print("\n" + table(head, rows))


if __name__ == "__main__":
    if not sys.argv[1:]:
        sys.exit("give run folders, such as out/seed0 out/seed1")
    main(sys.argv[1:])
