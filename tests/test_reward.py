"""reward.py: the pairs of a ranking, normalisation, and that a handful of preferences can be learned."""
import math
import re
from dataclasses import replace

import pytest
import torch

import data
import reward
import sft
from support import UserError
from text.batches import batch_at, pad
from gpt import GPT, ScalarGPT
from reward import accuracy, encode_comparisons, fit_normalisation, pairwise_loss, score_pairs
from text.tokenizer import Tokenizer
from tiny import EOS, ROWS, close, critic, model, words, write_rows


def test_equal_scores_have_loss_ln_2():
    close(pairwise_loss(torch.tensor([3.0]), torch.tensor([3.0])), math.log(2))


def test_a_score_is_that_of_the_end_token():
    rm = critic()
    chosen, rejected = score_pairs(rm, [([1, 2], [[3, 4, EOS], [5, EOS]])])
    close(chosen.detach(), rm(torch.tensor([[1, 2, 3, 4, EOS]]))[0, 4:].detach(), 1e-5)
    close(rejected.detach(), rm(torch.tensor([[1, 2, 5, EOS]]))[0, 3:].detach(), 1e-5)


def test_both_halves_of_all_pairs_go_through_the_model_in_one_pass():
    passes, rm = [], critic()
    rm.transformer.register_forward_hook(lambda net, given, made: passes.append(given[0].shape))
    score_pairs(rm, [([1], [[2, EOS], [3, EOS], [4, EOS]]), ([1, 5], [[6, EOS], [7, EOS]])])
    assert passes == [(5, 4)]


def test_training_on_a_pair_raises_the_chosen_and_lowers_the_rejected():
    rm, examples = critic(), [([1, 2], [[3, 4, EOS], [5, EOS]])]
    before = score_pairs(rm, examples)
    pairwise_loss(*before).backward()
    torch.optim.SGD(rm.parameters(), lr=1e-3).step()
    chosen, rejected = score_pairs(rm, examples)
    assert chosen - rejected > before[0] - before[1]


def test_every_completion_of_a_comparison_gets_the_same_prompt_and_an_end(capsys):
    tokenizer = words()
    prompt, good = tokenizer.encode("Is owl a bird?", " Yes, owl is.")
    bad = tokenizer.encode(" no") + [tokenizer.eos]
    rows = [("Is owl a bird?", [" Yes, owl is.", " no"]), ("Is owl a bird?", [" no", " Yes, owl is." * 9])]
    assert encode_comparisons(rows, tokenizer, len(good) + 2) == [(prompt[-2:], [good, bad])]
    assert "1 comparisons dropped" in capsys.readouterr().out
    with pytest.raises(UserError, match="no comparison fits into 3 tokens: train the SFT model with a larger --block_size"):
        encode_comparisons(rows, tokenizer, 3)


def test_a_handful_of_preferences_is_learned_by_heart():
    rm = critic(scale=0, n_embd=16)
    examples = [([i], [[9 - i, i, EOS], [i, 9 - i, EOS], [9 - i, EOS]]) for i in range(4)]
    optimizer = torch.optim.AdamW(rm.parameters(), lr=1e-2)
    for _ in range(60):
        loss = pairwise_loss(*score_pairs(rm, examples))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss < 0.05 and accuracy(rm, examples, 3, None)[0] == 1.0

# ----------------------------------------------------------------------------- normalisation


def test_scores_of_fresh_finished_sft_answers_have_mean_zero_and_deviation_one():
    rm, gpt = critic(seed=3, reward_mean=7.0, reward_std=5.0), model()      # what was fitted before is forgotten
    with torch.no_grad():                                       # raw scores with a mean of several deviations
        rm.transformer.ln_f.bias.add_(8 * rm.score.weight[0] / rm.score.weight.square().sum())
    prompts = [[1, 2], [3], [4, 5, 6]] * 1600
    torch.manual_seed(1)
    mean, std = fit_normalisation(rm, gpt, prompts, reward.Config(max_new_tokens=6, batch_size=128), None)
    assert (rm.config.reward_mean, rm.config.reward_std) == (mean, std) and 5 < mean < 11 and std < 3
    torch.manual_seed(2)
    ids, mask = pad(prompts, left=True)
    tokens, response_mask, _ = gpt.generate(ids, mask, 6)
    scores = [rm(torch.cat([row[keep], answer[real]])[None])[0, -1].item()
              for row, keep, answer, real in zip(ids, mask, tokens, response_mask) if EOS in answer[real]]
    scores = torch.tensor(scores)
    assert 600 < len(scores) < 2400                             # the others have no end
    assert abs(scores.mean().item()) < 0.15 and abs(scores.std().item() - 1) < 0.1     # 600 or more: ± 0.04
    assert (scores < rm.config.reward_min).float().mean() < 0.01 and scores.min() < 0.5 * rm.config.reward_min


def test_scores_are_normalised_at_the_temperature_of_ppo(monkeypatch):
    given, generate = [], GPT.generate
    monkeypatch.setattr(GPT, "generate", lambda self, ids, mask, new, temperature=1.0: given.append(temperature) or generate(
        self, ids, mask, new, temperature))
    fit_normalisation(critic(), model(), [[1, 2], [3]] * 20, reward.Config(max_new_tokens=8, temperature=0.7), None)
    assert set(given) == {0.7}


def test_normalisation_changes_no_gradient_of_the_weights_by_itself():
    rm = critic()
    fit_normalisation(rm, model(), [[1, 2], [3]] * 20, reward.Config(max_new_tokens=8), None)
    assert all(p.grad is None for p in rm.parameters())


def test_without_two_finished_answers_there_is_nothing_to_normalise_on():
    with pytest.raises(UserError, match="0 of 2 completions of the SFT model end within --max_new_tokens 1,.*: raise it"):
        fit_normalisation(critic(), model(eos_token_id=99), [[1, 2], [3]], reward.Config(max_new_tokens=1), None)


def test_scores_that_hardly_differ_are_shifted_and_not_blown_up(capsys):
    rm, lm = critic(), model()
    with torch.no_grad():
        rm.score.weight.mul_(1e-6)                              # as a reward model that has learned nothing
    prompts = [[1, 2], [3], [4, 5]] * 20
    mean, std = fit_normalisation(rm, lm, prompts, reward.Config(max_new_tokens=8), None)
    assert std == 1.0 and abs(mean) < 1e-3
    assert "nearly the same score (standard deviation" in capsys.readouterr().out


def test_scores_that_are_not_finite_are_a_failed_training():
    rm = critic()
    with torch.no_grad():
        rm.score.weight.mul_(float("inf"))
    with pytest.raises(UserError, match="not finite.*lower --lr"):
        fit_normalisation(rm, model(), [[1, 2], [3], [4, 5]] * 20, reward.Config(max_new_tokens=8), None)

# ----------------------------------------------------------------------------- the loop


def test_it_starts_from_the_sft_model_and_leaves_that_alone(run_stage, monkeypatch):
    run = run_stage(sft)
    weights = {name: tensor.clone() for name, tensor in GPT.from_pretrained(run / "sft").state_dict().items()}
    started, train = {}, reward.train

    def spy(net, *rest):
        started.update({name: tensor.clone() for name, tensor in net.state_dict().items()})
        return train(net, *rest)
    monkeypatch.setattr(reward, "train", spy)
    run_stage(reward)
    assert all(torch.equal(tensor, started[name]) for name, tensor in weights.items())
    trained = ScalarGPT.from_pretrained(run / "reward")
    assert not torch.equal(trained.transformer.wte.weight, weights["transformer.wte.weight"])
    assert (trained.config.reward_mean, trained.config.reward_std) != (0.0, 1.0)
    assert all(torch.equal(tensor, GPT.from_pretrained(run / "sft").state_dict()[name]) for name, tensor in weights.items())


def test_a_reward_model_is_continued_on_the_scores_it_was_trained_to_give(run_stage, quiet):
    """At rate 0 its first loss is that of its raw scores, and not that of the normalised ones."""
    run_stage(sft)
    run = run_stage(reward, steps=40, batch_size=8)
    there = ScalarGPT.from_pretrained(run / "reward")
    std = there.config.reward_std
    assert abs(std - 1) > 0.05                                  # else the two could not be told apart
    quiet.runs.clear()
    run_stage(reward, init=str(run / "reward"), steps=1, lr=0.0, batch_size=40)
    train_set, tokenizer = data.load("rows.jsonl")[0], Tokenizer.load(run / "reward")
    examples = encode_comparisons(train_set.comparisons, tokenizer, there.config.block_size)
    chosen, rejected = score_pairs(there, batch_at(examples, 40, 0, 0))
    raw = pairwise_loss(chosen * std, rejected * std).item()
    assert quiet.runs["reward"][0]["loss"] == pytest.approx(raw, rel=1e-4)


def test_training_raises_the_accuracy_and_says_what_to_compare_it_with(run_stage, quiet, capsys):
    run_stage(sft)
    run_stage(reward, steps=40, batch_size=8)
    steps = quiet.runs["reward"]
    assert steps[39]["loss"] < steps[0]["loss"] and steps[39]["accuracy"] > 0.9 and steps[39]["margin"] > 0.5
    assert steps[39]["score/chosen"] - steps[39]["score/rejected"] == pytest.approx(steps[39]["margin"], abs=1e-5)
    assert [steps[i]["lr"] for i in (0, 1, 39)] == pytest.approx([5e-3, 1e-2, 1e-2 / 40 / 0.95])
    out = capsys.readouterr().out
    assert re.search(r"held-out accuracy 100.0% of 3 comparisons \(chance 50%; the longer one wins 66.7%, the shorter one 33.3%, equally long 0.0%\)\n", out)
    assert "noisy" not in out and "ceiling" not in out          # people's own data has one kind of held-out pairs


def test_noisy_held_out_pairs_have_their_own_accuracy_beside_its_ceiling(run_stage, monkeypatch, capsys):
    """The same comparisons as noisy ones, but the two best of each changed places: one pair of three is lost."""
    run_stage(sft)
    train, test = data.load("rows.jsonl")
    swapped = [(prompt, [second, first, *rest]) for prompt, (first, second, *rest) in test.comparisons]
    monkeypatch.setattr(reward.data, "load", lambda name: (train, replace(test, noisy=swapped, ceiling=0.75)))
    run_stage(reward, steps=40, batch_size=8)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("held-out accuracy")]
    assert lines[0].startswith("held-out accuracy 100.0% of 3 comparisons (chance")
    assert lines[1].startswith("held-out accuracy 66.7% of 3 noisy comparisons (ceiling 75.0%, chance") and len(lines) == 2


def test_longer_shorter_and_equally_long_chosen_texts_are_counted_apart():
    rankings = [([1], [[2, 3, EOS], [2, EOS], [4, EOS]]), ([1], [[5, EOS], [5, 6, 7, EOS]])]    # longer, longer, equal, shorter
    assert accuracy(critic(), rankings, 2, None)[1:] == [0.5, 0.25, 0.25]


def test_every_step_reads_other_comparisons_with_adamw(run_stage, optimizers, monkeypatch):
    run_stage(sft)
    read = []

    def spy(net, examples, device=None):
        read.append([str(example) for example in examples])
        return score_pairs(net, examples, device)
    monkeypatch.setattr(reward, "score_pairs", spy)
    run_stage(reward)
    assert len({example for batch in read[:4] for example in batch}) == 16
    group = optimizers[-1].param_groups[0]
    assert (group["betas"], group["weight_decay"]) == ((0.9, 0.95), 0.0)


def test_an_answer_as_long_as_the_model_is_refused_before_training(run_stage, quiet):
    run_stage(sft)
    with pytest.raises(UserError, match="--max_new_tokens 64 leaves no room for a prompt in the model's 64 positions"):
        run_stage(reward, max_new_tokens=64)
    assert "reward" not in quiet.runs


def test_the_answers_that_normalise_follow_the_end_of_long_prompts(run_stage, monkeypatch):
    run, seen = run_stage(sft), []

    def spy(net, start, prompts, cfg, device):
        seen.extend(prompts)
        return fit_normalisation(net, start, prompts, cfg, device)
    monkeypatch.setattr(reward, "fit_normalisation", spy)
    run_stage(reward, max_new_tokens=61, normalise_samples=7)   # 64 positions: 3 tokens of prompt
    tokenizer = reward.Tokenizer.load(run / "sft")
    assert len(seen) == 7
    assert all(len(prompt) == 3 and tokenizer.decode(prompt).endswith("?\n\nAssistant:") for prompt in seen)


def test_gradients_are_clipped_to_one_and_zeroed_in_the_loop(run_stage, monkeypatch):
    run_stage(sft)
    clip, norms = torch.nn.utils.clip_grad_norm_, []

    def spy(parameters, most):
        parameters = list(parameters)
        norm = clip(parameters, most)
        norms.append((norm.item(), torch.cat([p.grad.flatten() for p in parameters]).norm().item()))
        return norm
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", spy)
    monkeypatch.setattr(reward, "pairwise_loss", lambda chosen, rejected: 100 * pairwise_loss(chosen, rejected))
    monkeypatch.setattr(reward, "batch_at", lambda examples, *given: examples)
    run_stage(reward, lr=0.0, max_new_tokens=40)                                   # lr 0 and all examples: the same gradient every step
    assert len(norms) == 4 and norms[0][0] > 1
    for before, after in norms:
        assert (before, after) == pytest.approx((norms[0][0], 1.0), rel=1e-3)


def test_a_loss_that_is_not_finite_stops_the_run(run_stage):
    run_stage(sft)
    with pytest.raises(UserError, match="(loss|gradient_norm) is (nan|inf) at step .*failed"):
        run_stage(reward, lr=1e8, steps=9)


def test_held_out_rows_that_do_not_fit_cost_a_number_and_not_the_run(run_stage, quiet, tmp_path, capsys):
    """Every prompt has long completions in the test split alone, which the split by prompts chooses."""
    run_stage(sft)
    _, test_set = data.load("rows.jsonl")
    held_out = {prompt for prompt, _ in test_set.comparisons}
    rows = [{**row, "completions": [text + " owl" * 200 for text in row["completions"]] if row["prompt"] in held_out
             else row["completions"]} for row in ROWS]
    write_rows(tmp_path / "rows.jsonl", rows)
    capsys.readouterr()
    run = run_stage(reward)
    said = capsys.readouterr().out
    assert "no held-out comparison is left, so there will be no held-out number" in said and "held-out accuracy" not in said
    assert (run / "reward" / "config.json").exists()
    run_stage(sft, run="again")
    assert "no held-out demonstration is left" in capsys.readouterr().out


def test_a_reward_model_reads_no_more_than_the_sft_model_can_write(run_stage, quiet, monkeypatch):
    """A longer reward model that starts elsewhere: prompts leave room in the shorter of the two."""
    run_stage(sft, block_size=40)
    run_stage(sft, run="long", block_size=64)
    run_stage(reward, run="long")
    seen, fit = [], reward.fit_normalisation
    monkeypatch.setattr(reward, "fit_normalisation", lambda model, lm, prompts, *rest: seen.extend(prompts) or fit(model, lm, prompts, *rest))
    run_stage(reward, init="long/reward", max_new_tokens=36)
    assert max(map(len, seen)) == 4
