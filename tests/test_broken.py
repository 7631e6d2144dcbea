"""The twelve bugs of lesson 8: each is one line of today's code, and its probe tells it from healthy runs."""
import re
import sys
from pathlib import Path

import pytest
import torch

import ppo
import tiny
from support import UserError

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "notebooks"))
import broken
import prepare

PAGE = (ROOT / "docs" / "bugs.md").read_text(encoding="utf-8")
FIRST, LAST = "before the first step", "before the last step"


def table(seen):
    """What one sees in the token table of the first rollout: the last value is not the score, and the end has an advantage."""
    e = seen.rollouts[0]
    rows, last = torch.arange(len(e)), e.response_mask.sum(1) - 1
    return ((e.values[rows, last] - e.scores).abs().max() > 1e-3 and (e.advantages[rows, last] != 0).any()).item()


# bug: (updates that it takes, what the probe reads, whether that is healthy)
TELLS = {
    "loss without its minus": (3, lambda seen: seen.rollouts[2].scores.mean().item(), lambda score: score > -0.3),
    "rate twenty times too high": (1, lambda seen: seen.metrics[0]["policy/approxkl"], lambda moved: moved < 1),
    "reference one token late": (1, lambda seen: broken.kl(seen)["of a token, largest"], lambda kl: kl < 1e-3),
    "KL earned": (2, lambda seen: broken.sums(seen)["rewards - (score - β KL), largest"], lambda error: error < 1e-4),
    "whitened over pads": (1, lambda seen: broken.sums(seen)["their deviation"], lambda deviation: abs(deviation - 1) < 1e-4),
    "values one token late": (1, table, lambda looks: looks),
    "wrong side of the clip": (1, lambda seen: broken.test_policy_loss(seen.module), lambda passes: passes),
    "end never trained": (1, table, lambda looks: looks),
    "score on a pad": (1, lambda seen: broken.sums(seen)["rewards - (score - β KL), largest"], lambda error: error < 1e-4),
    "sampled at another temperature": (1, lambda seen: broken.ratio(seen)[FIRST], lambda far: far < 1e-3),
    "old log-probs recomputed": (1, lambda seen: broken.ratio(seen)[LAST], lambda far: far > 1e-3),
    "positions count pads": (1, lambda seen: broken.test_padding(seen.module), lambda passes: passes)}


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """Models of the toy that have read enough for answers and scores to mean something."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepare, "OWN", tmp_path_factory.mktemp("toy"))
        brief = "sft.py --pretrain_steps 200 --steps 100"
        patch.setattr(prepare, "COMMANDS", {"base": brief, "sft": brief, "reward": "reward.py --steps 100"})
        prepare.toy_run("base", "sft", "reward")
        yield


def test_the_bugs_are_the_twelve_of_the_page_and_each_has_its_probe():
    assert list(broken.BUGS) == list(TELLS) == re.findall(r"^## \d+ (.*)$", PAGE, re.MULTILINE)
    for name in broken.BUGS:
        broken.load(name)                               # ValueError if its line is no longer in the code
    with pytest.raises(ValueError, match="has 0 times"):
        broken.load(broken.Bug("ppo", "no such line", ""))


def test_each_test_that_the_page_names_is_there():
    named = re.findall(r"`(test_\w+\.py):(\w+)`", PAGE)
    assert len(named) >= 12
    for file, name in named:
        assert f"def {name}(" in (ROOT / "tests" / file).read_text(encoding="utf-8"), (file, name)


@pytest.mark.parametrize("bug", ["score on a pad", "old log-probs recomputed"])
def test_a_probe_tells_a_bug_from_a_healthy_run_of_random_models(bug):
    updates, reads, healthy = TELLS[bug]
    for seed in range(3):
        cfg = tiny.ppo_config(batch_size=16, epochs=2, minibatches=2, lr=1e-2, seed=seed, steps=4)
        right, wrong = (reads(broken.watch(name, tiny.start, cfg, updates)) for name in (None, bug))
        assert healthy(right) and not healthy(wrong), (seed, right, wrong)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_its_probe_tells_each_bug_from_healthy_runs(seed, toy):
    cfg = broken.settings(seed)
    fine = broken.watch(None, cfg=cfg)
    for bug, (updates, reads, healthy) in TELLS.items():
        right, wrong = reads(fine), reads(broken.watch(bug, cfg=cfg, updates=updates))
        assert healthy(right) and not healthy(wrong), (bug, right, wrong)


@pytest.mark.parametrize("name, caught", [
    ("test policy_loss", {"loss without its minus", "wrong side of the clip"}), ("test gae", set()), ("test whiten", set()),
    ("test padding", {"positions count pads"}), ("test state_values", {"values one token late"})])
def test_a_unit_test_fails_for_the_bugs_of_its_function_alone(name, caught):
    assert broken.UNIT_TESTS[name](ppo)
    assert {bug for bug in broken.BUGS if not broken.UNIT_TESTS[name](broken.load(bug))} == caught


def test_the_checks_are_off_in_a_broken_run_unless_they_are_asked_for():
    cfg = tiny.ppo_config(batch_size=16, minibatches=2, steps=4)
    bug = "sampled at another temperature"
    broken.watch(bug, tiny.start, cfg, 1)
    module = broken.load(bug, checked=True)
    with pytest.raises(UserError, match="the KL of a token"):
        next(broken.train(module, *tiny.start(module), cfg))


def test_a_deal_is_a_game_with_its_prices_and_its_answer(monkeypatch, capsys):
    monkeypatch.setattr(broken, "watch", lambda bug, cfg: broken.Seen(broken.load(bug), cfg, [], [], []))
    case = broken.Case(deal=1)
    right = case.solution()
    assert case.solution() == broken.Case(deal=1).solution() != broken.Case(deal=2).solution()
    for deal in range(20):
        names = list(broken.Case(deal).solution().values())
        assert 2 <= names.count("healthy") <= 4 and len({*names}) == 13 - names.count("healthy")
    for _ in range(2):                                  # the second time it costs nothing
        case.probe("A", "test gae")
    case.probe("A", "no such probe")
    assert sum(case.paid.values()) == broken.PRICES["test gae"] and "There is no probe" in capsys.readouterr().out
    assert case.right(right) and "12 of 12 are right, 1 probes, 3 points paid: 117 points" in capsys.readouterr().out
    other = {run: "KL earned" for run in right}
    assert not case.right(other) and "8 points paid" in capsys.readouterr().out
    assert not case.right({**right, "A": "a cold"}) and not case.right({"A": "healthy"})


def test_a_guard_is_right_if_it_is_right_of_all_cases(capsys):
    cases = [("two", (2,), True), ("three", (3,), False)]
    assert broken.agrees(lambda x: x == 2, cases)
    assert not broken.agrees(lambda x: True, cases) and capsys.readouterr().out == "Of three it says True.\n"
    assert broken.agrees(lambda x: x.pop() == 2, [("two", ([2],), True)] * 2)   # what one call takes, the next one has
    with pytest.raises(NotImplementedError, match="return"):
        broken.agrees(lambda x: None, cases)
