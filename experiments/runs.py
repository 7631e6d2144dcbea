"""What experiments and lessons share: processes of their own, PPO with the judge listening, tables,
and tests over seeds."""
import json
import math
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from statistics import fmean, stdev

import torch

ROOT = Path(__file__).resolve().parent.parent
SEEDS = (0, 1, 2, 3, 4)      # of the tables
STYLES = ROOT / "notebooks" / "lessons.mplstyle", ROOT / "experiments" / "pictures.mplstyle"
sys.path.insert(0, str(ROOT))

import data
import ppo
from data.toy_world import is_ideal, judge
from judges.normal import T
from support.files import write_whole
from support.optimizer import adamw
from text.tokenizer import Tokenizer

# ---------- processes

def python(*words):
    """What `python` prints with these words, on one core. Raises RuntimeError with what it said
    last."""
    path = os.pathsep.join(str(ROOT / name) for name in ("", "experiments", "notebooks"))
    env = {**os.environ, "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1", "PYTHONPATH": path}
    command = [sys.executable, *map(str, words)]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return done.stdout


def in_parallel(jobs):
    """Call functions, WORKERS at a time, by default as many as there are cores. Yields what they
    return, in order."""
    with ThreadPoolExecutor(int(os.environ.get("WORKERS", os.cpu_count()))) as pool:
        yield from pool.map(lambda job: job(), jobs)


def make(commands, say=print):
    """Run the commands {file: words for `python`} whose files are not there yet. The file is the
    last that a command writes."""
    missing = [file for file in commands if not file.exists()]
    made = in_parallel([partial(python, *commands[file]) for file in missing])
    for done, (file, _) in enumerate(zip(missing, made), 1):
        say(f"{file}: done, {done} of {len(missing)}")


def read(folder, name):
    """The numbers in a JSON file."""
    return json.loads((Path(folder) / name).read_text())


def results(folder, module, points, seeds, say=print):
    """{point: [what the module's `run(point, seed)` returns for each seed]}, kept as JSON files in
    the folder. What is not there yet is made now, in a process for each point."""
    def file(point, seed):
        name = "-".join(re.findall(r"[\w.]+", f"{point} {seed}"))
        return str(folder / f"{name}.json")

    files = {point: {file(point, seed): seed for seed in seeds} for point in points}
    make({Path(list(paths)[-1]): ["-c", f"import runs, {module}; runs.fill({module}.run, {point!r},"
                                  f" {paths})"] for point, paths in files.items()}, say)
    return {point: [json.loads(Path(path).read_text()) for path in paths]
            for point, paths in files.items()}


def fill(run, point, seeds):
    """Write the files of `seeds`, {file: seed}, that are not there yet."""
    for path, seed in seeds.items():
        if not Path(path).exists():
            write_whole(Path(path), run(point, seed))

# ---------- PPO, and the judge listens

def seed_models():
    """Train the SFT and reward models of out/seedN, those of the README, that are not there yet."""
    for stage in ("sft", "reward"):
        make({ROOT / "out" / f"seed{seed}" / stage / "config.json":
              [ROOT / f"{stage}.py", "--run", ROOT / "out" / f"seed{seed}", "--seed", seed]
              for seed in SEEDS})


def heard(cfg, reward_model=None):
    """PPO from the models of out/seedN, where N is cfg.seed, or with the reward model of another
    folder: [{"metrics": those of ppo.train, and what `opinion` says} of each rollout]."""
    folder = ROOT / "out" / f"seed{cfg.seed}"
    tokenizer, (train_set, _) = Tokenizer.load(folder / "sft"), data.load("toy")
    models = ppo.four_models(folder / "sft", reward_model or folder / "reward", "all",
                             torch.device("cpu"), False)
    prompts = list(map(tokenizer.encode, train_set.prompts))
    torch.manual_seed(cfg.seed)
    updates = ppo.train(*models, *map(adamw, models[:2]), prompts, ppo.first_state(cfg), cfg)
    return [{"metrics": metrics, **opinion(e, tokenizer)} for _, e, metrics in updates]


def opinion(e, tokenizer):
    """Of the rollout `e`: means of what is known and of the judge's points, and their deviation."""
    asked = tokenizer.texts(e.ids[:, :e.P], e.mask[:, :e.P])
    said = tokenizer.texts(e.ids[:, e.P:], e.response_mask)
    points = torch.tensor(list(map(judge, asked, said)), dtype=torch.float)     # (B)
    means = {"score": e.scores.mean(), "judge": points.mean(), "kl": e.exact_kl.sum(1).mean(),
             "ideal": fmean(map(is_ideal, asked, said)), "judge_std": points.std(),
             "length": e.response_mask.sum(1).float().mean()}
    return {name: float(value) for name, value in means.items()}

# ---------- tables

SHARES = ("ideal", "eos_rate", "win", "tie", "loss", "rate")


def table(head, rows):
    """Rows of cells, any objects, under their heads, in Markdown."""
    lines = [head, *rows]
    text = ["| " + " | ".join(map(str, cells)) + " |" for cells in lines]
    return "\n".join([text[0], "|" + "---|" * len(head), *text[1:]])


def spread(values, digits=2, unit=""):
    """Mean ± standard deviation."""
    deviation = stdev(values) if len(values) > 1 else 0.0
    mean = round(fmean(values), digits) + 0.0                   # + 0.0: no "-0.00"
    return f"{mean:.{digits}f}{unit} ± {deviation:.{digits}f}"


def cell(rows, key, digits=2):
    """The spread of what evaluate.py's rows have under a key, if any has; of shares in percent."""
    values = [row[key] for row in rows if row[key] is not None]
    if not values:
        return "-"
    return spread([100 * x for x in values], 1, "%") if key in SHARES else spread(values, digits)

# ---------- two methods with the same seeds

def paired(ones, others):
    """Student's t-test on pairs, two-sided: mean difference, half the width of its 95% interval,
    t and p."""
    differences = [one - other for one, other in zip(ones, others, strict=True)]
    n, mean = len(differences), fmean(differences)
    error = stdev(differences) / n ** 0.5
    t = mean / error if error else math.copysign(math.inf, mean) if mean else 0.0
    # For θ = atan(t / √(n-1)) the density of t is that of cosⁿ⁻² θ.
    angles = torch.linspace(0, math.pi / 2, 100_001, dtype=torch.double)
    density = angles.cos() ** (n - 2)
    p = density[angles >= math.atan(abs(t) / (n - 1) ** 0.5)].sum() / density.sum()
    return mean, T[n - 2] * error, t, p.item()


def against(base, found):
    """{name: its number with each seed} -> {name: [difference to `base` ± half of its 95% interval,
    t, p], cells of a table}, and which of them the seeds separate, in words. p is Holm's (1979): if
    nothing differs, one or more of all are below 0.05 with a chance of 5% at most."""
    tests = {name: paired(numbers, found[base]) for name, numbers in found.items() if name != base}
    cells, least, said = {base: [""] * 3}, 0.0, {True: [], False: []}
    for rank, name in enumerate(sorted(tests, key=lambda name: tests[name][-1])):
        mean, half, t, p = tests[name]
        least = max(least, min(1.0, (len(tests) - rank) * p))
        apart = f"{mean:+,.0f} ± {half:,.0f}" if half > 100 else f"{mean:+.3g} ± {half:.2g}"
        cells[name] = [apart, f"{t:.1f}", f"{least:.3f}"]
        said[least < 0.05].append(name)
    apart, other = ("; ".join(said[which]) or "none" for which in (True, False))
    return cells, (f"Of {len(tests)} comparisons with {base} (t paired by seed, p after Holm) "
                   f"below 0.05: {apart}. Not: {other}.")
