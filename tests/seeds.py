"""What several seeds say together: the tables of docs/judges.md.

    python tests/seeds.py out/seed0 out/seed1 …     run folders; the i-th is evaluated with --seed i

Each run is evaluated twice: with best of 64, and with the reward model of the next run as the judge. It takes a minute a
run on one core; numbers that are there already (best_of_64.json and other_judge.json in its folder) are not made again.
Means are over the runs, ± their standard deviation.
"""
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def evaluated(runs, i):
    """evaluate.py's numbers for the i-th run: (best of 64 under the data set's judge, the next reward model as judge)."""
    run, other = runs[i], runs[(i + 1) % len(runs)] / "reward"
    reports = {run / "best_of_64.json": ["--best_of", "64"], run / "other_judge.json": ["--judge", str(other)]}
    for file, flags in reports.items():
        if not file.exists():
            subprocess.run([sys.executable, str(ROOT / "evaluate.py"), "--run", str(run), "--seed", str(i), "--json", str(file), *flags],
                           check=True, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
    return [json.loads(file.read_text()) for file in reports]


def spread(rows, key, percent=False, digits=2):
    """Mean ± standard deviation of what the rows have under a key."""
    values = [row[key] * (100 if percent else 1) for row in rows if row[key] is not None]
    if not values:
        return "-"
    unit, digits = ("%", 1) if percent else ("", digits)
    return f"{statistics.mean(values):.{digits}f}{unit} ± {statistics.stdev(values) if len(values) > 1 else 0:.{digits}f}"


def print_table(head, rows):
    print("\n| " + " | ".join(head) + " |\n" + "|---" * len(head) + "|")
    for row in rows:
        print("| " + " | ".join(map(str, row)) + " |")


def best_of_rows(reports):
    """The best of 2, 4, … 64 and PPO, in the order of their KL, and the best of the n whose KL is nearest to PPO's."""
    rows = {f"best of {2 ** i}": [report["best_of"][str(2 ** i)] for report in reports] for i in range(1, 7)}
    ppo = [report["models"]["ppo"] for report in reports]
    nearest = [min(report["best_of"].values(), key=lambda row: abs(row["kl"] - p["kl"])) for report, p in zip(reports, ppo)]
    rows |= {"PPO": ppo, "best of n at PPO's KL": nearest}
    for name, row in sorted(rows.items(), key=lambda item: statistics.mean(r["kl"] for r in item[1])):
        yield name, spread(row, "kl"), spread(row, "score"), spread(row, "ideal", True), spread(row, "proxy")


def length_rows(reports, view):
    """The bins of all runs together: the pairs, the rate over all of them, the runs with the lowest and the highest."""
    for bins in zip(*(report["by_length"][view] for report in reports)):
        pairs, rates = sum(row["pairs"] for row in bins), [100 * row["rate"] for row in bins if row["pairs"]]
        first, last = bins[0]["first"], bins[0]["last"]
        where = f"{first}" if first == last else f"{first} to {last}".replace("None to", "up to").replace("to None", "and more")
        rate = sum(100 * row["rate"] * row["pairs"] for row in bins if row["pairs"]) / pairs if pairs else 0
        yield where, pairs, *((f"{rate:.1f}%", f"{min(rates):.1f}% to {max(rates):.1f}%") if pairs else ("empty", ""))


def agreement_rows(reports, others):
    for name in ("sft_vs_sft", "ppo_vs_sft", "ppo_vs_ppo"):
        cells = []
        for some in (reports, others):
            rows = [report["agreement"][name] for report in some]
            cells += [spread(rows, "rate", True), sum(row["pairs"] for row in rows)]
        yield name.replace("_vs_", " against "), *cells


def main(folders):
    runs = [Path(folder) for folder in folders]
    reports, others = zip(*(evaluated(runs, i) for i in range(len(runs))))
    print(f"{len(runs)} runs, judge: {reports[0]['judge']}")
    print_table(["", "score", "ideal", "proxy", "ends (EOS)", "length", "KL"], [
        (name.replace("best_of_n", "best of 64"), spread(rows, "score"), spread(rows, "ideal", True), spread(rows, "proxy"),
         spread(rows, "eos_rate", True), spread(rows, "length", digits=1), spread(rows, "kl"))
        for name in reports[0]["models"] for rows in [[report["models"][name] for report in reports]]])
    print_table(["", "wins", "ties", "losses", "rate", "interval of one run, mean"], [
        (name.replace("_vs_", " against ").replace("best_of_n", "best of 64"), *(spread(rows, key, True) for key in ("win", "tie", "loss", "rate")),
         "{:.1%} to {:.1%}".format(*(statistics.mean(row["ci95"][end] for row in rows) for end in (0, 1))))
        for name in reports[0]["win_rates"] for rows in [[report["win_rates"][name] for report in reports]]])
    print_table(["", "KL", "score", "ideal", "proxy"], best_of_rows(reports))
    print_table(["PPO's length - SFT's, tokens", "pairs", "rate", "lowest to highest run"], length_rows(reports, "difference"))
    print_table(["PPO's length, tokens", "pairs", "rate", "lowest to highest run"], length_rows(reports, "length"))
    fixed = [report["by_length"]["held_fixed"] for report in reports]
    print_table(["PPO against SFT", "rate"], [("all pairs", spread([report["win_rates"]["ppo_vs_sft"] for report in reports], "rate", True)),
                                              ("with the length held fixed", spread(fixed, "rate", True))])
    print_table(["reward model agrees with", "the judge", "of pairs", "another seed's reward model", "of pairs"], agreement_rows(reports, others))


if __name__ == "__main__":
    if not sys.argv[1:]:
        sys.exit("give run folders, such as out/seed0 out/seed1")
    main(sys.argv[1:])
