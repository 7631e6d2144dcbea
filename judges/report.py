"""An evaluation as text for people. The numbers are those of evaluate.py's JSON."""
from judges.win_rate import percent
from text.dialogue import ASSISTANT


def called(name, n):
    """A name of the JSON as the screen shows it: a model's, or that of two compared."""
    return name.replace("best_of_n", f"best of {n}").replace("_vs_", " vs ")


def show_samples(responses, n, count=6):
    """What all models respond to the same prompts, spread over the test set. `n`: of best of n."""
    rows = list(zip(*responses.values()))
    for row in rows[::max(1, len(rows) // count)][:count]:
        print("\n" + row[0].prompt.rstrip().removesuffix(ASSISTANT).strip())
        for name, response in zip(responses, row):
            print(f"  {called(name, n):10} {response.text.strip()}")


def report(numbers, judge, details):
    """All text below the samples. Details: best of every n, rates by length, repetition."""
    n = max(numbers["best_of"])
    models = {called(name, n): row for name, row in numbers["models"].items()}
    parts = [table(models, f"judge: {judge.name}") + "\n" + legend(judge, numbers),
             winners(numbers, n)]
    if numbers["agreement"]:
        parts.append(agreements(numbers["agreement"]))
    if details:
        rows = {f"best of {most}": row for most, row in numbers["best_of"].items()}
        by_kl = sorted((rows | {"ppo": models["ppo"]}).items(), key=lambda item: item[1]["kl"])
        parts.append(table(dict(by_kl), "in the order of their KL"))
        parts += [lengths(numbers["by_length"]), repetition(models)]
    if judge.remark:
        parts.append(judge.remark)
    return "\n\n".join(parts)


def table(models, title):
    """One row per model."""
    head = "".join(f"{name:>8}" for name in ("score", "ideal", "proxy", "eos", "length", "KL"))
    lines = [f"{'':12}{head}   ({title})"]
    for name, row in models.items():
        score = "-" if row["score"] is None else f"{row['score']:.2f}"
        ideal = "-" if row["ideal"] is None else f"{row['ideal']:.1%}"
        kl = f"{round(row['kl'], 2) + 0.0:.2f}"     # + 0.0: no "-0.00"
        kl = f"≤ {kl}" if name.startswith("best of") else kl
        lines.append(f"{name:12}{score:>8}{ideal:>8}{row['proxy']:8.2f}{row['eos_rate']:8.1%}"
                     f"{row['length']:8.1f}{kl:>8}")
    return "\n".join(lines)


def repetition(models):
    """How varied each model's responses are, all of them together."""
    shares = (f"{name} {row['distinct_2']:.1%}" for name, row in models.items()
              if row["distinct_2"] is not None)
    return "different among the pairs of neighbouring words: " + ", ".join(shares)


def legend(judge, numbers):
    """What the names in the table mean."""
    gold = "gold: the toy's hidden judge; " if judge.name == "gold" else ""
    ideal = "ideal: a score of 1; " if judge.ideal == 1 else ""
    return f"{gold}{ideal}proxy: {numbers['proxy']}; KL: nats from sft, ≤ an upper bound"


def winners(numbers, n):
    """One row per comparison."""
    lines = []
    for name, row in numbers["win_rates"].items():
        shares = "no verdicts" if row["win"] is None else (
            f"wins {row['win']:6.1%}  ties {row['tie']:6.1%}  losses {row['loss']:6.1%}")
        lines.append(f"{called(name, n):18} {shares}   rate {percent(row)}")
    return "\n".join(lines)


def agreements(rows):
    """One row per kind of pairs."""
    lines = []
    for name, row in rows.items():
        lines.append(f"{name.replace('_vs_', ' vs '):18} reward model and judge agree on "
                     f"{percent(row)} of the {row['pairs']} pairs that both order")
    return "\n".join(lines)


def lengths(rows):
    """The win rate of PPO over SFT in the bins of length, in tokens, that have pairs."""
    lines = ["    ppo's length - sft's   pairs   rate of ppo vs sft"]
    lines += [f"{place(row):>24}{row['pairs']:8}   {percent(row)}" for row in rows if row["pairs"]]
    return "\n".join(lines)


def place(row):
    """The range of a bin, as text."""
    where = f"{row['first']}" if row["first"] == row["last"] else f"{row['first']} to {row['last']}"
    return where.replace("None to", "up to").replace("to None", "and more")
