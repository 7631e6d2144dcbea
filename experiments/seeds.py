"""What several seeds say together: the tables of docs/judges.md.

    python experiments/seeds.py out/seed0 out/seed1 …     run folders; the i-th is evaluated with --seed i

Each run is evaluated twice: with best of 64, and with the reward model of the next run as the judge. That takes a
minute a run on one core. Numbers that are there already, best_of_64.json and other_judge.json in a run's folder, are
not made again. Means are over the runs, ± their standard deviation.
"""
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from judges.report import joined, place


def evaluated(runs, i):
    """evaluate.py's numbers for the i-th run: with best of 64, and with the next run's reward model as the judge."""
    run, other = runs[i], runs[(i + 1) % len(runs)] / "reward"
    reports = {run / "best_of_64.json": ["--best_of", "64"],
               run / "other_judge.json": ["--best_of", "1", "--judge", str(other)]}
    for file, flags in reports.items():
        if not file.exists():
            subprocess.run([sys.executable, str(ROOT / "evaluate.py"), "--run", str(run), "--seed", str(i),
                            "--json", str(file), *flags],
                           check=True, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
    return [json.loads(file.read_text()) for file in reports]


def spread(rows, key, percent=False, digits=2):
    """Mean ± standard deviation of what the rows have under a key."""
    values = [row[key] * (100 if percent else 1) for row in rows if row[key] is not None]
    if not values:
        return "-"
    unit, digits = ("%", 1) if percent else ("", digits)
    deviation = statistics.stdev(values) if len(values) > 1 else 0
    return f"{statistics.mean(values) + 0.0:.{digits}f}{unit} ± {deviation:.{digits}f}"


def print_table(head, rows):
    print("\n| " + " | ".join(head) + " |\n" + "|---" * len(head) + "|")
    for row in rows:
        print("| " + " | ".join(map(str, row)) + " |")


def model_rows(reports):
    for name in reports[0]["models"]:
        rows = [report["models"][name] for report in reports]
        yield (name.replace("best_of_n", "best of 64"), spread(rows, "score"), spread(rows, "ideal", True),
               spread(rows, "proxy"), spread(rows, "eos_rate", True), spread(rows, "length", digits=1),
               spread(rows, "kl"))


def win_rows(reports):
    for name in reports[0]["win_rates"]:
        rows = [report["win_rates"][name] for report in reports]
        low, high = (statistics.mean(row["ci95"][end] for row in rows) for end in (0, 1))
        yield (name.replace("_vs_", " against ").replace("best_of_n", "best of 64"),
               *(spread(rows, key, True) for key in ("win", "tie", "loss", "rate")), f"{low:.1%} to {high:.1%}")
    rows = [report["by_length"]["held_fixed"] for report in reports]
    low, high = (statistics.mean(row["ci95"][end] for row in rows) for end in (0, 1))
    yield "ppo against sft, length held fixed", "", "", "", spread(rows, "rate", True), f"{low:.1%} to {high:.1%}"


def best_of_rows(reports):
    """The best of 2, 4, … 64, PPO, and the best of the n whose KL is nearest to PPO's, if 64 reach that far; by KL."""
    rows = {f"best of {2 ** i}": [report["best_of"][str(2 ** i)] for report in reports] for i in range(1, 7)}
    rows["ppo"] = [report["models"]["ppo"] for report in reports]
    nearest = [min(report["best_of"].items(), key=lambda item: abs(item[1]["kl"] - ppo["kl"]))
               for report, ppo in zip(reports, rows["ppo"])]
    if all(ppo["kl"] <= report["best_of"]["64"]["kl"] for report, ppo in zip(reports, rows["ppo"])):
        rows[f"best of {', '.join(n for n, _ in nearest)}: each run's at ppo's KL"] = [row for _, row in nearest]
    for name, row in sorted(rows.items(), key=lambda item: statistics.mean(r["kl"] for r in item[1])):
        yield name, spread(row, "kl"), spread(row, "score"), spread(row, "ideal", True), spread(row, "proxy")


def length_rows(reports, view):
    """The bins of all runs together: the pairs, the rate over all of them, the runs with the lowest and the highest."""
    bins = [{"first": rows[0]["first"], "last": rows[0]["last"], "pairs": sum(row["pairs"] for row in rows),
             "rows": [row for row in rows if row["pairs"]]} for rows in zip(*(r["by_length"][view] for r in reports))]
    for whole in joined(bins):
        rates, pairs = [row["rate"] for row in whole["rows"]], whole["pairs"]
        if pairs:
            rate = sum(row["rate"] * row["pairs"] for row in whole["rows"]) / pairs
            yield place(whole), pairs, f"{rate:.1%}", f"{min(rates):.1%} to {max(rates):.1%}"
        else:
            yield place(whole), 0, "empty", ""


def agreement_rows(reports, others):
    for name in ("sft_vs_sft", "ppo_vs_sft", "ppo_vs_ppo"):
        judges = [[report["agreement"][name] for report in some] for some in (reports, others)]
        yield name.replace("_vs_", " against "), *(cell for rows in judges for cell in (
            spread(rows, "rate", True), sum(row["pairs"] for row in rows)))


def main(folders):
    runs = [Path(folder) for folder in folders]
    reports, others = zip(*(evaluated(runs, i) for i in range(len(runs))))
    print(f"{len(runs)} runs, judge: {reports[0]['judge']}")
    print_table(["", "score", "ideal", "proxy", "ends (EOS)", "length", "KL"], model_rows(reports))
    print_table(["", "wins", "ties", "losses", "rate", "95% interval of one run, in the mean"], win_rows(reports))
    print_table(["", "KL", "score", "ideal", "proxy"], best_of_rows(reports))
    columns = ["pairs", "rate of ppo against sft", "lowest to highest run"]
    print_table(["ppo's length - sft's, tokens", *columns], length_rows(reports, "difference"))
    print_table(["ppo's length, tokens", *columns], length_rows(reports, "length"))
    print_table(["the reward model agrees with", "the judge", "of pairs", "another run's reward model", "of pairs"],
                agreement_rows(reports, others))


if __name__ == "__main__":
    if not sys.argv[1:]:
        sys.exit("give run folders, such as out/seed0 out/seed1")
    main(sys.argv[1:])
