"""data/sums.py and --reward: a rule that checks, problems that do not leak, and a function in the reward model's place."""
import importlib
import json
import math
import random
import re
import sys
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import data
import evaluate
import methods
import page
import ppo
import sft
import tiny
from data import sums
from support import UserError
from support.command_line import launch
from text.batches import pad
from text.dialogue import ASSISTANT, HUMAN, dialogue
from text.rule import Rule, find
from text.tokenizer import Tokenizer

sys.path.append(str(Path(__file__).parent.parent / "notebooks"))
import checked

# ----------------------------------------------------------------------------- the problems and their checker


@pytest.fixture(scope="module")
def both():
    return {name: data.load(name) for name in ("sums", "sums:validation")}


def right_by_hand(prompt, response):
    """An independent check: the last run of characters behind a colon is the number whose digits a column sum gives."""
    a, b = re.findall(r"\d+", prompt)
    digits, carry = [], 0
    for x, y in zip(a[::-1], b[::-1]):
        both = "0123456789".index(x) + "0123456789".index(y) + carry
        digits.append("0123456789"[both % 10])
        carry = int(both > 9)
    wanted = "1" * carry + "".join(reversed(digits))
    return response.split(":")[-1].strip() == wanted


def test_the_checker_agrees_with_another_one_on_all_demonstrations(both):
    train, test = both["sums"]
    told = [(sums.verify(*pair), right_by_hand(*pair)) for pair in train.demonstrations + test.demonstrations]
    assert all(given == float(truth) and type(given) is float for given, truth in told)
    assert 0.3 < sum(given for given, _ in told) / len(told) < 0.5


@pytest.mark.parametrize("response, score", [
    (" 85", 1), ("85", 1), (" 7+8=15, 4+3+1=8: 85", 1), (" no idea: 85", 1), (" 85 ", 1),
    (" 84", 0), (" 185", 0), (" 085", 0), (" 8 5", 0), (" 85.", 0), (" 85: 84", 0), (" 7+8=15, 4+3+1=8: 85, 85", 0), ("", 0), (" :", 0), (" 85:", 0),
    (" 7+8=15", 0), (" ٨٥", 0), (f"{HUMAN} 40+45{ASSISTANT} 84", 0), (f" 84{HUMAN} 1+1{ASSISTANT} 2", 0)])
def test_only_the_answer_counts_and_it_must_be_exact(response, score):
    assert sums.verify("\n\nHuman: 47+38\n\nAssistant:", response) == score


def test_nothing_but_a_sum_is_checked():
    with pytest.raises(AttributeError):
        sums.verify("\n\nHuman: What is 47+38?\n\nAssistant:", " 85")


def test_a_problem_is_in_one_split_whichever_number_stands_first(both):
    (train, test), (same, validation) = both["sums"], both["sums:validation"]
    assert same == train
    kinds = [{frozenset(re.findall(r"\d\d", prompt)) for prompt in rows.prompts} for rows in (train, test, validation)]
    assert not kinds[0] & kinds[1] and not kinds[0] & kinds[2] and not kinds[1] & kinds[2]
    assert len(set().union(*kinds)) == 90 * 91 // 2 and min(map(len, kinds)) > 150
    assert not {text for text in train.texts if any(text.startswith(prompt) for prompt in test.prompts + validation.prompts)}


def test_work_is_right_unless_somebody_slips():
    for a, b, response in ((47, 38, " 7+8=15, 4+3+1=8: 85"), (10, 10, " 0+0=0, 1+1=2: 20"), (99, 99, " 9+9=18, 9+9+1=19: 198")):
        assert sums.worked(a, b) == response
    assert sums.worked(47, 38, slip=lambda: 1) == " 7+8=16, 4+3+1=9: 96"
    assert sums.worked(10, 10, slip=lambda: -1) == " 0+0=0, 1+1=1: 10"
    assert sums.worked(11, 22, times=lambda: 2) == " 1+2=3, 1+2=3, 1+2=3, 1+2=3: 33"
    chance = random.Random(1)
    for _ in range(200):
        a, b = chance.randrange(10, 100), chance.randrange(10, 100)
        for step in sums.worked(a, b).partition(":")[0].split(","):
            left, right = step.split("=")
            assert sum(map(int, left.split("+"))) == int(right)
        assert sums.verify(dialogue(f"{a}+{b}"), sums.worked(a, b)) == 1


def test_people_do_what_the_module_says(both):
    said = both["sums"][0].demonstrations
    at_once = [pair for pair in said if ":" not in pair[1]]
    steps = [step.split("=") for _, text in said if ":" in text for step in text.partition(":")[0].split(",")]
    off = [sum(map(int, left.split("+"))) != int(right) for left, right in steps]
    assert len(at_once) / len(said) == pytest.approx(sums.AT_ONCE, abs=0.02)
    assert sum(sums.verify(*pair) for pair in at_once) / len(at_once) == pytest.approx(sums.GUESSED, abs=0.02)
    assert sum(off) / len(off) == pytest.approx(sums.SLIP, abs=0.02)


def test_the_rows_are_the_same_every_time_and_another_split_is_refused(both):
    assert data.load("sums") == both["sums"]
    with pytest.raises(UserError, match="--data sums:test: no such file .*there are: toy, toy2, hh, tldr, reviews, sums"):
        data.load("sums:test")


def test_digits_and_signs_are_tokens():
    tokenizer, prompt = data.tokenizer_for("sums"), dialogue("47+38")
    assert [tokenizer.decode([i]) for i in tokenizer.encode(prompt)] == [HUMAN, " ", *"47+38", ASSISTANT]
    assert [tokenizer.decode([i]) for i in tokenizer.encode("", " 7+8=15: 85")[1]] == [*" 7+8=15: 85", ""]
    assert data.tokenizer_for("sums:validation").fingerprint == tokenizer.fingerprint

# ----------------------------------------------------------------------------- a function as the reward


def rule(function, prompts=(), tokenizer=None, cut=99, name="data.sums:verify"):
    made = Rule(name, tokenizer or data.tokenizer_for("sums"))
    made.function = function
    made.expect(prompts, [made.tokenizer.encode(prompt)[-cut:] for prompt in prompts])
    return made


def batch(tokenizer, pairs, cut=99):
    """ids, mask of prompts, padded on the left, and responses, padded on the right."""
    prompts, responses = zip(*[(tokenizer.encode(prompt)[-cut:], tokenizer.encode("", text)[1]) for prompt, text in pairs])
    (ids, mask), (tokens, real) = pad(prompts, left=True), pad(responses)
    return torch.cat([ids, tokens], 1), torch.cat([mask, real], 1)


def heard(pairs, prompts, cut=99):
    """What the function is given for a batch of (prompt, response)."""
    given = []
    made = rule(lambda prompt, response: given.append((prompt, response)) or len(given), prompts, cut=cut)
    scores = made.reward(*batch(made.tokenizer, pairs, cut))
    assert scores.tolist() == list(range(1, len(pairs) + 1)) and scores.dtype == torch.float
    return given


def test_the_function_gets_prompt_and_response_of_each_row_and_no_pads():
    pairs = [(dialogue("47+38"), " 85"), (dialogue("1+1"), ""), (dialogue("1+1"), " 1+1=2: 2")]
    assert heard(pairs, [dialogue("1+1"), dialogue("47+38")]) == pairs


def test_a_response_that_asks_and_answers_itself_is_a_response():
    """It holds the frame of a dialogue, so its last or first "Assistant:" says nothing."""
    bare, framed = "What is 1+1", dialogue("47+38")
    pairs = [(framed, f" 1{HUMAN} 1+1{ASSISTANT} 2"), (bare, f"{ASSISTANT} 2{HUMAN} no{ASSISTANT} 3"),
             (framed + " 85" + HUMAN + " 1+1" + ASSISTANT, " 2")]
    assert heard(pairs, [prompt for prompt, _ in pairs]) == pairs


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_where_one_prompt_begins_as_another_the_column_decides(order):
    """ "1+12" and the response "" has the tokens of "1+1" and the response "2"."""
    known = ["1+1", "1+12"]
    pairs = [[("1+1", "2 ok"), ("1+12", " yes")][i] for i in order]
    assert heard(pairs, known) == pairs
    assert heard([("1+1", "2"), ("1+1", "2")], ["1+1"]) == [("1+1", "2")] * 2
    assert heard([("1+1", "3"), ("1+1", "2")], known) == [("1+1", "3"), ("1+1", "2")]   # a neighbour that is not ambiguous
    assert heard([("1+12", " yes")], known) == [("1+12", " yes")]                       # nobody to ask: the longer one


def test_a_prompt_that_was_cut_is_given_whole_and_two_that_became_one_are_refused():
    long = dialogue("What do you get for 47+38")
    assert heard([(long, " 85")], [long], cut=4) == [(long, " 85")]
    with pytest.raises(UserError, match=r"two prompts have the same last 4 tokens.*--max_prompt_tokens"):
        rule(len, [dialogue("47+38"), dialogue("57+38")], cut=4)


def test_what_the_function_does_wrong_is_one_sentence():
    pairs = [(dialogue("47+38"), " 85")]

    def fails(prompt, response):
        return 1 / 0
    cases = [(fails, "stopped with ZeroDivisionError: division by zero"), (lambda prompt: 1, "stopped with TypeError"),
             *((lambda prompt, response, value=value: value, f"returned {re.escape(repr(str(value)[:9]))[:-1]}.*must return a finite number")
               for value in (None, "1", math.nan, math.inf, [1.0], torch.tensor(1.0)))]
    for function, said in cases:
        made = rule(function, [pairs[0][0]])
        with pytest.raises(UserError, match=said) as error:
            made.reward(*batch(made.tokenizer, pairs))
        assert "47+38" in str(error.value) and "85" in str(error.value) and "--reward data.sums:verify" in str(error.value)
    assert rule(lambda *given: True, [pairs[0][0]]).score(*pairs[0]) == 1.0


def test_an_unfinished_response_gets_0_and_that_must_be_no_prize():
    made, pairs = rule(lambda prompt, response: -len(response), [dialogue("1+1")]), [(dialogue("1+1"), " 2")]
    assert made.unfinished_score() == made.unfinished_score(None) == 0 and made.unfinished_score(-5.0) == -5 and made.unfinished_score(0.5) == 0.5
    made.reward(*batch(made.tokenizer, pairs))
    with pytest.raises(UserError, match="score of -2, less than the 0 of a response that never ends: give --missing_eos_score"):
        made.unfinished_score(None)
    assert made.unfinished_score(-9.0) == -9


@pytest.mark.parametrize("name, said", [
    ("verify", "must be MODULE:FUNCTION, such as data.sums:verify"), (":verify", "must be MODULE"), ("data.sums:", "must be MODULE"),
    ("nowhere_at_all:verify", "the module nowhere_at_all can't be imported from here.*ModuleNotFoundError: No module named"),
    ("data.sums:nothing", r"there is no function nothing in .*sums\.py"), ("data.sums:SLIP", "there is no function SLIP"),
    ("broken_rule:score", "broken_rule can't be imported from here .SyntaxError"), ("exits:score", "exits can't be imported.*RuntimeError: no")])
def test_a_reward_that_is_not_there_is_one_sentence(name, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken_rule.py").write_text("def score(:\n")
    (tmp_path / "exits.py").write_text("raise RuntimeError('no')\n")
    with pytest.raises(UserError, match=f"--reward {name}: .*{said}"):
        find(name)


def test_a_file_in_the_current_folder_is_found_and_takes_no_module_s_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_own_rule.py").write_text("from my_helper import score\n")
    (tmp_path / "my_helper.py").write_text("def score(prompt, response):\n    return len(response)\n")
    (tmp_path / "colorsys.py").write_text("def score(prompt, response):\n    return 0\n")
    assert find("my_own_rule:score")("", "abc") == 3
    with pytest.raises(UserError, match="there is no function score in .*colorsys.py"):
        find("colorsys:score")
    assert str(tmp_path) not in importlib.import_module("colorsys").__file__

# ----------------------------------------------------------------------------- the stages


@pytest.fixture
def start(run_stage, monkeypatch, tmp_path):
    """sft.py has run. A function `rules_here:short` scores by length."""
    monkeypatch.syspath_prepend(tmp_path)
    sys.modules.pop("rules_here", None)
    (tmp_path / "rules_here.py").write_text("calls = []\n\ndef short(prompt, response):\n    calls.append((prompt, response))\n"
                                            "    return 1.0 if len(response) < 9 else 0.0\n")
    run_stage(sft)
    return run_stage


RULE = dict(reward="rules_here:short", kl_coef=0.05)


def test_ppo_with_a_rule_needs_no_reward_model_and_its_critic_starts_at_0(start, world, tmp_path, capsys):
    run = start(ppo, **RULE)
    out = capsys.readouterr().out
    assert not (run / "reward").exists() and "used as they are" not in out
    assert "reward model" not in out.partition("role")[2].partition("rollout")[0]       # three models are in the table
    first = tiny.SilentLoop.runs["ppo"][0]
    assert first["val/mean"] == 0 and first["val/var"] == 0 and 0 <= first["objective/scores"] <= 1
    known = {prompt for prompt in data.load("rows.jsonl")[0].prompts}
    calls = importlib.import_module("rules_here").calls
    assert len(calls) == 4 * 6 and {prompt for prompt, _ in calls} <= known
    assert json.loads((run / "ppo" / "run.json").read_text())["came_from"].keys() == {"sft"}
    assert "--reward rules_here:short" in (run / "ppo" / "README.md").read_text()
    evaluate.main(evaluate.Config(**world, reward="rules_here:short", max_new_tokens=6, samples=2, best_of=2, json="numbers.json"))
    report = json.loads((tmp_path / "numbers.json").read_text())
    assert report["judge"] == report["proxy"] == "rules_here:short" and report["agreement"] == {}
    for row in report["models"].values():
        assert row["score"] == row["proxy"] == row["ideal"]         # a rule of 0 and 1, and 0 if unfinished
    assert "proxy: rules_here:short" in capsys.readouterr().out
    with pytest.raises(UserError, match="learned from --reward rules_here:short, .*can't show this run"):
        page.build(page.Config(data="rows.jsonl", run="run"))


def test_a_rule_and_a_reward_model_are_one_too_many_and_without_either_the_reward_model_is_missing(start):
    with pytest.raises(UserError, match="--reward rules_here:short with --reward_model run/sft: only one can score"):
        start(ppo, reward_model="run/sft", **RULE)
    with pytest.raises(UserError, match="no reward model in run/reward"):
        start(ppo)


def test_another_rule_does_not_continue_a_run(start, quiet):
    quiet.stop = ("ppo", 3)
    with pytest.raises(tiny.Stop):
        start(ppo, save_every=1, **RULE)
    quiet.stop = None
    with pytest.raises(UserError, match="--reward rules_here:short, and now it is data.sums:verify"):
        start(ppo, resume=True, save_every=1, reward="data.sums:verify", kl_coef=0.05)
    whole = start(ppo, resume=True, save_every=1, **RULE)
    assert (whole / "ppo" / "config.json").exists()


def test_the_scores_of_a_rollout_are_the_function_s_and_0_where_nothing_ended(start):
    run = start(ppo, **RULE)
    tokenizer = Tokenizer.load(run / "sft")
    made, prompts = Rule("rules_here:short", tokenizer), data.load("rows.jsonl")[0].prompts[:5]
    ids = list(map(tokenizer.encode, prompts))
    made.expect(prompts, ids)
    actor, critic, reference, scorer = ppo.four_models(run / "sft", run / "sft", "all", "cpu", False, made)
    assert scorer is made and critic.score.weight.abs().max() == 0 and critic.score.weight.requires_grad
    e = methods.rollout(actor, reference, made, ids, ppo.Config(max_new_tokens=6, kl_coef=0.0, lam=1.0), 4)
    said = tokenizer.texts(e.ids[:, e.P:], e.response_mask)
    ended = [tokenizer.eos in row[real].tolist() for row, real in zip(e.ids[:, e.P:], e.response_mask)]
    assert e.scores.tolist() == [float(len(text) < 9 and end) for text, end in zip(said, ended)]


def test_data_sums_needs_no_flags(monkeypatch, tmp_path):
    """The preset of the data set names its rule, for ppo.py and evaluate.py."""
    monkeypatch.chdir(tmp_path)
    for script in (sft, ppo, evaluate):
        seen = []
        monkeypatch.setattr(sys, "argv", [f"{script.__name__}.py", "--data", "sums:validation"])
        launch(seen.append, script.Config, script.__name__)
        assert seen[0].preset == "sums" and getattr(seen[0], "reward", "data.sums:verify") == "data.sums:verify"


def test_the_judge_of_a_run_with_a_rule_is_the_rule_but_the_toy_has_its_own():
    from judges import Checker, Gold, open_judge
    judge = open_judge(evaluate.Config(data="sums", reward="data.sums:verify"), None, None, False)
    assert isinstance(judge, Checker) and judge.is_proxy and judge.ideal == 1 and judge.name == "data.sums:verify"
    assert judge.score([SimpleNamespace(proxy=0.25)]) == [0.25]
    assert isinstance(open_judge(evaluate.Config(reward="data.sums:verify"), None, None, False), Gold)

# ----------------------------------------------------------------------------- notebooks/checked.py


def test_pass_at_k_is_the_share_of_all_choices_that_hold_a_right_answer():
    for n, right in ((4, 0), (4, 1), (5, 2), (6, 6), (7, 3)):
        for k in range(1, n + 1):
            choices = [any(i < right for i in choice) for choice in combinations(range(n), k)]
            assert checked.pass_at_k(right, n, k) == pytest.approx(sum(choices) / len(choices))


def test_a_group_is_alike_if_all_of_its_scores_are():
    assert checked.alike(torch.tensor([1.0, 1, 1, 0, 0, 0, 1, 1, 0, 0, 1, 0]), 3) == 0.5
    assert checked.alike(torch.tensor([1.0, 1, 1, 0, 0, 0]), 3) == 1


def test_an_interval_is_student_s():
    assert checked.interval([0.5, 0.7]) == "60.0% ± 127.1"               # 12.706 x 0.1414 / √2
    assert checked.interval([0.25] * 5) == "25.0% ± 0.0"


@pytest.mark.slow
def test_every_method_runs_and_tune_sees_other_problems_than_the_table(tmp_path, monkeypatch, quiet):
    monkeypatch.chdir(tmp_path)
    sft.main(sft.Config(data="sums", run="run", device="cpu", pretrain_steps=1, steps=1, n_layer=1, n_head=1, n_embd=8, block_size=64))
    monkeypatch.setattr(checked.prepare, "sums_run", lambda seed: tmp_path / "run" / "sft")
    monkeypatch.setattr(sums, "verify", lambda prompt, response: len(response) % 2)    # a model of one step is never right
    monkeypatch.setattr(checked, "PROBLEMS", 3)
    monkeypatch.setattr(checked, "config", lambda config=checked.config, **flags: config(**{**flags, "steps": 1}))
    asked, load = [], data.load
    monkeypatch.setattr(data, "load", lambda name: asked.append(name) or load(name))
    for name, method in checked.METHODS.items():
        for seed in (0, *checked.TUNING):
            found = checked.run((name, method.lr), seed)
            assert (found["kl"] > 1e-8) == bool(method.lr) and 0 <= found["pass@1"] <= found["pass@8"] <= 1 and found["length"] > 0
            assert ("at last" in found) == bool(method.lr)
    assert asked == ["sums", "sums:validation"] * len(checked.METHODS)
