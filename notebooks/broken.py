"""Runs of PPO with one wrong line, and the probes that find it: lesson 8 and docs/bugs.md.

`BUGS` has twelve bugs that have been in people's code. `load` compiles ppo.py and gpt.py with one
of them, `train` trains with what it gives, `watch` repeats the first updates of a run and keeps
what happens. `ratio`, `kl`, `sums`, `table` and `UNIT_TESTS` are probes. A `Case` deals twelve
anonymous runs: their curves are free, each probe has its price.
"""
import copy
import json
import random
import sys
from collections import namedtuple
from dataclasses import dataclass, replace
from functools import cache
from types import ModuleType
from unittest.mock import patch

import prepare                              # first: it puts the scripts on the path
import matplotlib.pyplot as plt
import torch

import data
import ppo
from experiments.runs import read
from judges.normal import band
from support import UserError
from support.files import write_whole
from support.optimizer import adamw
from text.tokenizer import Tokenizer

Bug = namedtuple("Bug", "file right wrong")     # the line as it is in the file, and what was there
BUGS = {
    "loss without its minus": Bug(
        "ppo", "loss = masked_mean(torch.maximum(plain, clipped), mask)\n    return",
        "loss = -masked_mean(torch.maximum(plain, clipped), mask)\n    return"),
    "rate twenty times too high": Bug(
        "ppo", "set_learning_rate(actor_optimizer, cfg.lr,",
        "set_learning_rate(actor_optimizer, 20 * cfg.lr,"),
    "reference one token late": Bug(
        "ppo", "ref_logits = response_logits(reference, rows, real, R, cfg.temperature)",
        "ref_logits = reference(rows, real)[:, -R:] / cfg.temperature"),
    "KL earned": Bug(
        "ppo", "rewards = -kl_coef * kl_penalty", "rewards = kl_coef * kl_penalty"),
    "whitened over pads": Bug(
        "ppo", "whiten(advantages, response_mask)",
        "whiten(advantages, torch.ones_like(response_mask))"),
    "values one token late": Bug(
        "ppo", "critic(ids, mask)[:, -R - 1:-1]", "critic(ids, mask)[:, -R:]"),
    "wrong side of the clip": Bug(
        "ppo", "loss = masked_mean(torch.maximum(plain, clipped), mask)\n    return",
        "loss = masked_mean(torch.minimum(plain, clipped), mask)\n    return"),
    "end never trained": Bug(
        "ppo", "whiten(advantages, response_mask) * response_mask",
        "whiten(advantages, response_mask) * (response_mask & ~is_eos)"),
    "score on a pad": Bug(
        "ppo", "rewards[rows, last] += scores", "rewards[:, -1] += scores"),
    "sampled at another temperature": Bug(
        "gpt", "probs = F.softmax(logits / (temperature or 1.0), dim=-1)",
        "probs = F.softmax(logits / 0.7, dim=-1)"),
    "old log-probs recomputed": Bug(
        "ppo", "logprobs, part.logprobs, part.advantages, mask",
        "logprobs, logprobs.detach(), part.advantages, mask"),
    "positions count pads": Bug(
        "gpt", "position = (mask.cumsum(1) - mask.long())[:, -T:]",
        "position = torch.arange(S, device=ids.device).expand(len(ids), S)[:, -T:]")}
SEEDS = range(5)            # of the healthy runs
RUNS = "ABCDEFGHIJKL"


def settings(seed):
    """Those of the runs: a quarter of the default's updates, half its responses, twice its rate."""
    return ppo.Config(steps=20, batch_size=64, lr=5e-4, max_new_tokens=24, seed=seed)

# ---------- runs

def load(bug=None, checked=False):
    """The module ppo, freshly compiled, with the bug, a name or a Bug. Its checks are off, because
    they would stop some of these runs. Raises ValueError if the line is not in the file exactly
    once."""
    made = {}
    for name in ("gpt", "ppo"):
        path = prepare.ROOT / f"{name}.py"
        source = path.read_text(encoding="utf-8")
        bug = BUGS.get(bug, bug)
        if bug and bug.file == name:
            if source.count(bug.right) != 1:
                raise ValueError(f"{path} has {source.count(bug.right)} times: {bug.right}")
            source = source.replace(bug.right, bug.wrong)
        made[name] = ModuleType(name)
        with patch.dict(sys.modules, made):     # so that this ppo imports this gpt
            exec(compile(source, path, "exec"), vars(made[name]))
    broken = made["ppo"]
    if not checked:
        broken.check_ratio = lambda ratio, bf16: None
        broken.check_rollout = lambda experience, step, negatives, bf16: 0
    return broken


@cache
def questions():
    """The prompts to practise on, as text, read from the files once."""
    return data.load("toy")[0].prompts


def start(module):
    """The lessons' own four models, in the module's classes, and the prompts to practise on."""
    run = prepare.toy_run("sft", "reward")
    tokenizer = Tokenizer.load(run / "sft")
    models = module.four_models(run / "sft", run / "reward", "all", torch.device("cpu"), False)
    return models, list(map(tokenizer.encode, questions()))


def train(module, models, prompts, cfg):
    """The updates of a run: yields (step, experience, metrics)."""
    torch.manual_seed(cfg.seed)
    yield from module.train(*models, *map(adamw, models[:2]), prompts, module.first_state(cfg), cfg)


def history(bug, seed, file, title):
    """The metrics of each update of a run, kept in a file."""
    if not file.exists():
        module, rows = load(bug), []
        for step, _, metrics in train(module, *start(module), settings(seed)):
            rows.append(metrics)
            prepare.show(f"{title}: update {step + 1} of 20")
        write_whole(file, json.dumps(rows))
    return read(file.parent, file.name)


def healthy():
    """The metrics of five runs without a bug."""
    folder = prepare.OWN / "debug"
    return [history(None, seed, folder / f"healthy-{seed}.json", f"healthy run {seed + 1} of 5")
            for seed in SEEDS]


def by_metric(rows):
    """[{metric: number} of each update] -> {metric: {update: number}}."""
    return {name: {step: row[name] for step, row in enumerate(rows)} for name in rows[0]}


def edges(runs):
    """{metric: its (low, high) at each update}, in which 95% of further healthy runs should lie."""
    bands = band([by_metric(rows) for rows in runs], every=1)
    return {name: list(ends.values()) for name, ends in bands.items()}

# ---------- probes

@dataclass
class Seen:
    """The first updates of a run: its module, the rollout and the metrics of each update, and for
    each optimiser step of each update the ratio π / π_old of its actions, as the loss got it."""
    module: ModuleType
    cfg: ppo.Config
    rollouts: list
    metrics: list
    ratios: list


def watch(bug, models_and_prompts=start, cfg=None, updates=3):
    """Repeat the first updates of a run."""
    module, cfg = load(bug), cfg or settings(0)
    seen, steps, loss = Seen(module, cfg, [], [], []), [], module.policy_loss

    def listening(logprobs, old_logprobs, advantages, mask, clip):
        steps.append((logprobs - old_logprobs).detach()[mask].exp())        # (actions)
        return loss(logprobs, old_logprobs, advantages, mask, clip)

    with patch.object(module, "policy_loss", listening):
        for step, experience, metrics in train(module, *models_and_prompts(module), cfg):
            seen.rollouts.append(experience)
            seen.metrics.append(metrics)
            seen.ratios.append(steps.copy())
            steps.clear()
            if step + 1 == updates:
                return seen


def ratio(seen):
    """How far π / π_old is from 1, the mean over actions, in the first update."""
    first, *_, last = [(step - 1).abs().mean().item() for step in seen.ratios[0]]
    return {"before the first step": first, "before the last step": last}


def kl(seen):
    """KL(actor ‖ reference) in the first rollout, nats."""
    e = seen.rollouts[0]
    return {"of a response, mean": e.kl.sum(1).mean().item(),
            "of a token, largest": e.kl.abs().max().item()}


def sums(seen):
    """In the last rollout: do the rewards of each response add up to score - β KL, and have the
    advantages of all actions mean 0 and deviation 1?"""
    e, mask = seen.rollouts[-1], seen.rollouts[-1].response_mask            # (B, R)
    log_ratio = (e.logprobs - e.ref_logprobs) * mask                        # (B, R)
    due = e.scores - seen.cfg.kl_coef * log_ratio.sum(1)                    # (B)
    advantages = e.advantages[mask]                                         # (actions)
    error = (e.rewards * mask).sum(1) - due                                 # (B)
    return {"rewards - (score - β KL), largest": error.abs().max().item(),
            "mean of the advantages": advantages.mean().item(),
            "their deviation": advantages.std(correction=0).item()}


def table(seen):
    """Draw all numbers of one response of the first rollout, the one of median length."""
    import draw                             # here: only a notebook can be drawn into
    e = seen.rollouts[0]
    row = e.response_mask.sum(1).argsort(stable=True)[len(e) // 2].item()
    tokenizer = Tokenizer.load(prepare.OWN / "sft")
    draw.experience(tokenizer, e, row, (e.returns - e.values) * e.response_mask)

# ---------- unit tests

def test_policy_loss(module):
    """A good action that is likelier by half counts 1.2 times, a bad one 1.5 times."""
    moved, signs = torch.tensor([[1.5, 1.5]]).log(), torch.tensor([[1.0, -1.0]])
    losses = [module.policy_loss(moved, torch.zeros(1, 2), signs, mask, 0.2)[0].item()
              for mask in torch.eye(2).bool()[:, None]]
    return torch.allclose(torch.tensor(losses), torch.tensor([-1.2, 1.5]))


def test_gae(module):
    """The four actions worked out in lesson 5."""
    r, v = torch.tensor([[.1, -.2, .3, 1]]), torch.tensor([[.5, .4, .3, .2]])   # (1, R)
    advantages, returns = module.gae(r, v, 1.0, 0.95)
    known = torch.tensor([[0.5814, 0.6120, 0.96, 0.8]])
    return torch.allclose(advantages, known, atol=1e-4) and torch.allclose(returns, advantages + v)


def test_whiten(module):
    """[1, 2, 3] and [4, 5, pad] have mean 3 and variance 2."""
    x, mask = torch.tensor([[1., 2, 3], [4, 5, 9]]), torch.tensor([[1, 1, 1], [1, 1, 0]]).bool()
    return torch.allclose(module.whiten(x, mask)[mask] * 2 ** 0.5 + 3, x[mask])


def small(module, kind):
    """A model of two layers with random weights: 11 tokens, the last one the end."""
    torch.manual_seed(0)
    shape = dict(vocab_size=11, block_size=24, n_layer=2, n_head=2, n_embd=8, eos_token_id=10)
    return kind(kind.Config(**shape)).requires_grad_(False)


def test_padding(module):
    """Logits do not depend on the pads to the left."""
    model, ids = small(module, module.GPT), torch.tensor([[3, 1, 4, 1, 5]])
    padded, mask = torch.cat([torch.zeros(1, 2).long(), ids], 1), torch.arange(7)[None] >= 2
    return torch.allclose(model(ids), model(padded, mask)[:, 2:], atol=1e-5)


def test_state_values(module):
    """The value of a state does not depend on the action that comes next."""
    critic = small(module, module.ScalarGPT)
    ids = torch.tensor([[3, 1, 4, 1, 5], [3, 1, 4, 1, 9]])                  # (2, P + R)
    one, other = module.state_values(critic, ids, torch.ones_like(ids).bool(), 2)   # 2 x (R)
    return torch.allclose(one, other)


UNIT_TESTS = {"test policy_loss": test_policy_loss, "test gae": test_gae,
              "test whiten": test_whiten, "test padding": test_padding,
              "test state_values": test_state_values}

# ---------- the twelve runs

PRICES = {"ratio": 1, "kl": 1, "sums": 2, "table": 2, "band": 2, **dict.fromkeys(UNIT_TESTS, 3)}
PROBES = {"ratio": ratio, "kl": kl, "sums": sums}
SHOWN = ("objective/scores", "objective/kl", "length", "policy/clipfrac", "policy/approxkl",
         "val/var_explained")


class Case:
    """Twelve anonymous runs, of which two to four are healthy. Which bug is in which is drawn with
    `deal`, and so stands in no file; another number is another case. `paid` has the price of each
    probe that was asked for: to ask again costs nothing."""

    def __init__(self, deal=8):
        draws = random.Random(f"lesson 8, deal {deal}")
        dealt = draws.sample(list(BUGS), len(RUNS) - draws.randint(2, 4))
        dealt += [None] * (len(RUNS) - len(dealt))
        draws.shuffle(dealt)
        self._hidden = dict(zip(RUNS, zip(dealt, draws.sample(range(100, 1000), len(RUNS)))))
        self.deal, self.paid, self.guesses, self._seen = deal, {}, [], {}

    def histories(self):
        """{run: the metrics of each of its updates}: free."""
        return {run: history(bug, seed, prepare.OWN / "debug" / f"{self.deal}-{run}.json",
                             f"run {run}") for run, (bug, seed) in self._hidden.items()}

    def probe(self, run, name):
        """Pay for a probe of a run, and print or draw what it finds."""
        if run not in self._hidden or name not in PRICES:
            print(f"There is no probe {name!r} of a run {run!r}. Runs: {', '.join(RUNS)}. "
                  f"Probes: {', '.join(PRICES)}.")
            return
        self.paid[run, name] = PRICES[name]
        bug, seed = self._hidden[run]
        title = f"run {run}, {name} ({PRICES[name]} points, {sum(self.paid.values())} so far)"
        if name == "band":
            print(title)
            draw_band({f"run {run}": self.histories()[run]}, healthy())
            return
        if run not in self._seen:
            self._seen[run] = watch(bug, cfg=settings(seed))
        seen = self._seen[run]
        if name == "table":
            print(title)
            table(seen)
        elif name in UNIT_TESTS:
            print(f"{title}: {'passes' if UNIT_TESTS[name](seen.module) else 'FAILS'}")
        else:
            print(f"{title}: {say(PROBES[name](seen))}")

    def right(self, verdicts):
        """Whether ten or more of {run: bug or "healthy"} are right; says how many, and the points:
        ten for each, less what was paid. A second opinion costs five."""
        unknown = {*verdicts.values()} - {*BUGS, "healthy"}
        if verdicts.keys() != self._hidden.keys() or unknown:
            print(f"Give one verdict for each of {', '.join(RUNS)}: \"healthy\" or a name of "
                  f"broken.BUGS.{f' There is no {unknown}.' if unknown else ''}")
            return False
        if verdicts not in self.guesses:
            self.guesses.append(dict(verdicts))
        found = sum(name == verdicts[run] for run, name in self.solution().items())
        paid = sum(self.paid.values()) + 5 * (len(self.guesses) - 1)
        print(f"{found} of 12 are right, {len(self.paid)} probes, {paid} points paid: "
              f"{10 * found - paid} points.")
        return found >= 10

    def solution(self):
        """{run: its bug, or "healthy"}."""
        return {run: bug or "healthy" for run, (bug, _) in self._hidden.items()}


def say(numbers):
    """Numbers under their names, in words."""
    return "; ".join(f"{name} {number:.2g}" for name, number in numbers.items())

# ---------- exercises

def agrees(guard, cases):
    """Whether a guard says what is true of each case, (title, arguments, truth). Says where not."""
    for title, arguments, truth in cases:
        said = guard(*copy.deepcopy(arguments))     # no guard can change the cases of the next try
        if said is None:
            raise NotImplementedError("it returns None: is a `return` missing?")
        if bool(said) != truth:
            print(f"Of {title} it says {bool(said)}.")
            return False
    return True


@cache
def guard_cases():
    """Rollouts for a guard of the rewards: two healthy ones, three with bugs, and three in which
    not what was earned is paid."""
    few = replace(settings(0), batch_size=16)
    turned = Bug("ppo", "return logprobs - ref_logprobs", "return ref_logprobs - logprobs")
    plan = (("a healthy run", None, few),
            ("a healthy run with β 0.5", None, replace(few, kl_coef=0.5)),
            ("KL earned", "KL earned", few), ("score on a pad", "score on a pad", few),
            ("a KL of the wrong sign in e.kl, too", turned, few))
    cases = [(title, (watch(bug, cfg=cfg).rollouts[-1], cfg.kl_coef), bug is None)
             for title, bug, cfg in plan]
    e, kl_coef = cases[0][1]
    astray, first = torch.zeros_like(e.rewards), torch.eye(len(e))[0]       # (B, R), (B)
    astray[:, 0] = (e.rewards * e.response_mask).sum(1).roll(1)
    wrong = {"rewards that went to the neighbour": replace(e, rewards=astray),
             "one score that is too high": replace(e, scores=e.scores + first),
             "one score that is too low": replace(e, scores=e.scores - first)}
    return cases + [(title, (each, kl_coef), False) for title, each in wrong.items()]


@cache
def stopped():
    """The bugs that the checks of ppo.py stop within three updates."""
    found, cfg = set(), replace(settings(0), batch_size=16)
    for bug in BUGS:
        module = load(bug, checked=True)
        try:
            for step, *_ in train(module, *start(module), cfg):
                if step == 2:
                    break
        except UserError:
            found.add(bug)
    return found

# ---------- pictures

def curves(histories, name, least=None, most=None):
    """One metric of all runs, a panel each, on one scale, which may hide the extremes."""
    _, axes = plt.subplots(2, 6, figsize=(10.5, 2.8), sharex=True, sharey=True)
    for ax, (run, rows) in zip(axes.flat, histories.items()):
        ax.plot([row[name] for row in rows], color="C0", ls="-")
        ax.set_title(run, fontsize=9, loc="left")
    axes[1, 0].set(xlabel="update", ylim=(least, most))
    axes[0, 0].figure.suptitle(name, fontsize=10)
    plt.show()


def draw_band(histories, runs, metrics=SHOWN):
    """Six metrics of some runs in the band of the healthy ones."""
    ends = edges(runs)
    _, axes = plt.subplots(1, 6, figsize=(10.5, 1.9), sharex=True)
    for ax, name in zip(axes, metrics):
        low, high = zip(*ends[name])
        ax.fill_between(range(len(low)), low, high, color="0.88", lw=0)
        for label, rows in histories.items():
            ax.plot([row[name] for row in rows], label=label)
        ax.set_title(name.split("/")[-1], fontsize=9)
    axes[0].set_xlabel("update")
    axes[0].legend(frameon=False, fontsize=8)
    plt.show()
