"""evaluate.py: who wins, by how much, and how sure that is."""
import json
import math
from types import SimpleNamespace

import pytest
import torch

import evaluate
import ppo
import reward
import sft
from evaluate import Response, best_of, distinct_2, respond_all, summary, win_rate
from tiny import close, critic, model, words


def answer(score, prompt="p", proxy=0.0, **more):
    return Response(**{**dict(prompt=prompt, text=f" {score}", score=score, proxy=proxy, ideal=score == 4, ended=True, length=3, kl=1.0),
                     **more})


def test_a_win_rate_counts_half_for_a_tie():
    scores = [3, 2, 4, 2, 5, 1, 0, 0], [1] * 8                  # five wins, one tie, two losses
    ours, theirs = ([answer(s, prompt=str(i)) for i, s in enumerate(row)] for row in scores)
    row = win_rate(ours, theirs)
    assert (row["win"], row["tie"], row["loss"], row["rate"]) == (5 / 8, 1 / 8, 2 / 8, 5.5 / 8)
    row = win_rate(theirs, ours)
    assert (row["win"], row["tie"], row["loss"], row["rate"]) == (2 / 8, 1 / 8, 5 / 8, 2.5 / 8)


def test_the_same_text_is_a_tie_whatever_the_floats_say():
    ours = [answer(1.0000001, prompt="0", text=" yes"), answer(0.9999999, prompt="1", text=" no"), answer(2.0, prompt="2", text=" a")]
    theirs = [answer(1.0, prompt="0", text=" yes"), answer(1.0, prompt="1", text=" no"), answer(1.0, prompt="2", text=" b")]
    row = win_rate(ours, theirs)
    assert (row["win"], row["tie"], row["loss"], row["rate"]) == (1 / 3, 2 / 3, 0, 2 / 3)


def test_the_interval_is_that_of_a_mean_over_prompts():
    # 100 prompts with 4 answers each; on half of the prompts all win. Standard error √(.25/100) = .05, not .025
    ours = [answer(float(i < 50), prompt=str(i)) for i in range(100) for _ in range(4)]
    low, high = win_rate(ours, [answer(0.5, prompt=a.prompt) for a in ours])["ci95"]
    assert (low, high) == (pytest.approx(0.5 - 1.96 * 0.05, abs=0.015), pytest.approx(0.5 + 1.96 * 0.05, abs=0.015))


def test_the_best_of_n_is_chosen_by_the_reward_model_and_not_by_the_judge():
    answers = [answer(9, proxy=0.1), answer(1, proxy=0.3), answer(5, proxy=0.2), answer(6, proxy=-1), answer(7, proxy=-2), answer(8, proxy=-3)]
    assert [a.score for a in best_of(answers, 3)] == [1, 6]


def test_a_models_row_is_the_mean_over_its_answers():
    row = summary([answer(4, proxy=1, length=2, kl=2.0), answer(1, proxy=2, length=5, kl=1.0, ended=False)])
    assert row == {"score": 2.5, "ideal": 0.5, "proxy": 1.5, "eos_rate": 0.5, "length": 3.5, "kl": 1.5}
    assert summary([answer(None, ideal=None)])["ideal"] is None and summary([answer(None)])["score"] is None


def test_distinct_2_is_the_share_of_different_pairs_of_words_in_all_responses_together():
    """By hand: "a b", "b a" and "a b" in one, "a b" in the next, and a word alone is no pair: 2 of 4."""
    assert distinct_2([answer(0, text=text) for text in (" a b a b", " a b", " a")]) == 2 / 4
    assert distinct_2([answer(0, text=" b a"), answer(0, text=" a b")]) == 1 and distinct_2([answer(0, text="a")]) is None


def test_each_answer_is_measured_as_if_it_were_alone():
    tokenizer = words()
    shape = dict(vocab_size=tokenizer.vocab_size, eos_token_id=tokenizer.eos)
    policy, start, rm = model(**shape), model(seed=2, **shape), critic(**shape)
    with torch.no_grad():                                       # answers that end now and then
        policy.transformer.ln_f.bias.add_(0.4 * policy.transformer.wte.weight[tokenizer.eos])
    prompts = ["Is owl a bird?", "Is cow", "\n\nHuman: Is a dog a pet?\n\nAssistant:"] * 3
    cfg = evaluate.Config(max_new_tokens=6, temperature=0.8, batch_size=4, missing_eos_score=-1.5)
    torch.manual_seed(0)
    judge = SimpleNamespace(ideal=6, score=lambda answers: [len(a.prompt) if a.prompt == "Is cow" else len(a.prompt + a.text) for a in answers])
    got = respond_all(policy, start, rm, prompts, tokenizer, judge, cfg, None)
    assert [a.prompt for a in got] == prompts and {a.ended for a in got} == {True, False}
    torch.manual_seed(0)
    for i, a in enumerate(got):
        assert a.score == judge.score([a])[0] and a.ideal == (a.prompt == "Is cow")
        assert a.length <= 6 and (a.ended or a.length == 6)
    again = []
    torch.manual_seed(0)
    for i in range(0, 9, 4):
        ids, mask = evaluate.pad([tokenizer.encode(p) for p in prompts[i:i + 4]], left=True)
        tokens, real, _ = policy.generate(ids, mask, 6, 0.8)
        again += [(row[m].tolist(), t[r].tolist()) for row, m, t, r in zip(ids, mask, tokens, real)]
    for a, (prompt, tokens) in zip(got, again):
        row = torch.tensor([prompt + tokens])
        logps = [(net(row)[0, len(prompt) - 1:-1] / 0.8).log_softmax(-1)[range(len(tokens)), tokens].sum() for net in (policy, start)]
        close(a.kl, (logps[0] - logps[1]).item(), 1e-4)
        close(a.proxy, rm(row)[0, -1].item() if a.ended else -1.5, 1e-5)
        assert (a.length, a.text, a.ended) == (len(tokens), tokenizer.decode(tokens), tokens[-1] == tokenizer.eos)


def test_without_a_judge_the_reward_model_marks_and_the_report_says_so(run_stage, world, tmp_path, capsys):
    for script in (sft, reward, ppo):
        run_stage(script)
    evaluate.main(evaluate.Config(**world, max_new_tokens=40, samples=64, best_of=3, json="deep/numbers.json"))
    report = json.loads((tmp_path / "deep/numbers.json").read_text())
    assert report["judge"] == "reward_model" and "judge: reward_model" in capsys.readouterr().out
    assert list(report["models"]) == ["base", "sft", "best_of_n", "ppo"]
    assert report["models"]["sft"]["kl"] == pytest.approx(0, abs=1e-4) and report["models"]["base"]["kl"] != 0
    assert report["models"]["best_of_n"]["kl"] == pytest.approx(math.log(3) - 2 / 3)
    assert report["models"]["ppo"]["ideal"] is None
    assert set(report["win_rates"]) == {"sft_vs_base", "best_of_n_vs_sft", "ppo_vs_sft", "ppo_vs_best_of_n"}
    for row in report["win_rates"].values():
        assert row["win"] + row["tie"] + row["loss"] == pytest.approx(1) and row["ci95"][0] <= row["rate"] <= row["ci95"][1]
    assert report["models"]["best_of_n"]["proxy"] > report["models"]["sft"]["proxy"]
    assert report["win_rates"]["best_of_n_vs_sft"]["rate"] > 0.5
