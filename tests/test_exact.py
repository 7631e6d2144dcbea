"""notebooks/exact.py counts means over all answers: each against sampling, loops, or what must be so."""
import pytest
import torch

import methods
from notebooks.enumerable import Task, enumerated, optimum
from notebooks.exact import (
    Tree, answer_weights, dpo_fixed_point, dr_grpo_push, fixed_point, gae_moments, group_advantages, grpo_push, growth, later,
    moments, off_policy, rloo_push, rounded, samplers, shared_advantages, state_values, token_weights, true_gradient)
from tiny import close

NO_CAP = float("inf")


def start(length, seed=0):
    task = Task(length, seed)
    tree = Tree(task)
    return task, tree, tree.logits(task.reference)


def test_the_table_of_a_policy_has_its_probabilities_and_the_mean_estimate_is_the_gradient():
    task, tree, ref = start(3)
    close(tree.probs(ref).log(), enumerated(task.reference, task.answers).detach(), atol=1e-5)
    assert tree.probs(ref).sum().item() == pytest.approx(1, abs=1e-12) and len(tree.prefixes) == 13
    p, whole = tree.probs(ref), tree.rewards[:, None].expand_as(tree.ids)
    mean, variance = moments(p, tree.gradients(ref, whole))
    close(mean, true_gradient(tree, ref), atol=1e-12)
    close(moments(p, tree.gradients(ref, whole + 5))[0], mean, atol=1e-12)     # a baseline moves no mean
    assert moments(p, torch.ones(len(p), 2, 2).double())[1] < 1e-12            # what never differs has no variance
    torch.manual_seed(0)
    drawn = tree.gradients(ref, whole)[torch.multinomial(p, 30_000, replacement=True)]
    assert drawn.var(0).sum().item() == pytest.approx(variance, rel=0.05)

# ----------------------------------------------------------------------------- GAE


def test_the_value_of_a_state_is_the_mean_reward_from_there_on():
    task, tree, ref = start(3)
    p, values = tree.probs(ref), state_values(tree, ref)
    for s, prefix in enumerate(tree.prefixes):
        through = [a for a, answer in enumerate(task.answers) if answer[:len(prefix)] == prefix and len(answer) > len(prefix)]
        assert values[s].item() == pytest.approx((sum(p[a] * task.rewards[a] for a in through) / sum(p[a] for a in through)).item())


def test_gae_has_no_bias_with_the_exact_critic_nor_with_lambda_one_and_trades_it_for_noise_between():
    _, tree, ref = start(3)
    values = state_values(tree, ref)
    torch.manual_seed(0)
    wrong = values + 0.5 * torch.randn(len(values), dtype=torch.double)
    exact = [gae_moments(tree, ref, values, lam) for lam in (0.0, 0.5, 0.9, 1.0)]
    biased = [gae_moments(tree, ref, wrong, lam) for lam in (0.0, 0.5, 0.9, 1.0)]
    assert max(bias for bias, _ in exact) < 1e-20 and biased[-1][0] < 1e-20
    assert biased[0][0] > biased[1][0] > biased[2][0] > 1e-5
    assert exact[0][1] < exact[1][1] < exact[2][1] < exact[3][1]

# ----------------------------------------------------------------------------- another sampler


def test_weights_of_whole_answers_leave_no_bias_and_the_learners_own_answers_need_none():
    task, tree, _ = start(3)
    for name, (learner, sampler) in samplers(task, tree).items():
        assert off_policy(tree, learner, sampler, answer_weights(tree, learner, sampler, NO_CAP))[0] < 1e-10
        assert off_policy(tree, learner, sampler, 1.0)[0] > 1e-4, name
        assert off_policy(tree, learner, learner, 1.0)[0] < 1e-10
        assert off_policy(tree, learner, learner, token_weights(tree, learner, learner, 2.0))[0] < 1e-10


def test_for_answers_of_one_token_the_weights_of_tokens_leave_no_bias_but_that_of_the_cap():
    _, tree, ref = start(1)
    learner = later(tree, ref, 16)
    assert token_weights(tree, learner, ref, NO_CAP).max() > 1.3
    assert off_policy(tree, learner, ref, token_weights(tree, learner, ref, NO_CAP))[0] < 1e-10
    assert off_policy(tree, learner, ref, token_weights(tree, learner, ref, 1.3))[0] > 1e-3


def test_truncated_importance_sampling_cuts_the_bias_of_rounded_and_of_stale_samplers():
    before, after = {}, {}
    for seed in range(10):
        task, tree, _ = start(3, seed)
        for name, (learner, sampler) in samplers(task, tree).items():
            weights = token_weights(tree, learner, sampler, 2.0)
            before[name] = before.get(name, 0) + off_policy(tree, learner, sampler, 1.0)[0]
            after[name] = after.get(name, 0) + off_policy(tree, learner, sampler, weights)[0]
    assert all(after[name] < before[name] for name in before) and after["stale by 1"] < 0.6 * before["stale by 1"], (before, after)
    assert before["bf16"] < before["4 bits"] / 5 and before["stale by 1"] < before["stale by 4"] < before["stale by 16"]


def test_rounded_weights_have_few_levels_and_the_largest_is_kept():
    policy = Task(2, 0).reference
    for bits, levels in ((2, 3), (4, 15)):
        for mine, theirs in zip(rounded(policy, bits).parameters(), policy.parameters()):
            if mine.ndim == 2 and not torch.equal(mine, theirs):
                assert max(len(row.round(decimals=5).unique()) for row in mine) <= levels
                close(mine.abs().amax(1), theirs.abs().amax(1), atol=1e-6)
    assert all(not torch.equal(block.mlp.c_fc.weight, policy.transformer.h[0].mlp.c_fc.weight)
               for block in rounded(policy, 8).transformer.h)

# ----------------------------------------------------------------------------- groups


def test_the_mean_advantage_of_rloo_is_the_reward_less_its_mean_and_of_two_in_grpo_how_often_one_is_better():
    _, tree, ref = start(2)
    p, r = tree.probs(ref), tree.rewards
    for k in (2, 3):
        close(group_advantages(p, r, k, methods.leave_one_out), r - (p * r).sum(), atol=1e-10)
    better = ((r[:, None] > r) * p).sum(1) - ((r[:, None] < r) * p).sum(1)
    close(group_advantages(p, r, 2, methods.within_group), better, atol=0.01)      # within_group adds 1e-4


@pytest.mark.parametrize("count", ["responses", "tokens", "budget"])
def test_what_a_token_is_pushed_by_on_average_is_what_the_shares_of_methods_say(count):
    task, tree, ref = start(2)
    p, expected = tree.probs(ref), []
    for a in range(len(p)):
        total = 0.0
        for b in range(len(p)):
            mask = tree.mask[[a, b]]
            share = methods.token_shares(mask, count, mask.shape[1])[0, 0]
            total += p[b] * share * methods.within_group(tree.rewards[[a, b]], 2, False)[0]
        expected.append(total.item())
    close(shared_advantages(tree, p, 2, count, divide=False), expected, atol=1e-6)


def test_only_a_constant_denominator_follows_the_gradient_of_the_mean_reward():
    _, tree, ref = start(3)
    tree.rewards = (torch.arange(len(tree.rewards)) % 3 == 0).double()
    p, right, cosines = tree.probs(ref), true_gradient(tree, ref), {}
    for count in ("responses", "tokens", "budget"):
        A = shared_advantages(tree, p, 3, count, divide=False)[:, None].expand_as(tree.ids)
        direction, _ = moments(p, tree.gradients(ref, A))
        cosines[count] = (direction * right).sum() / direction.norm() / right.norm()
        if count == "budget":
            close(direction, right * 2 / 3 / (3 * tree.ids.shape[1]), atol=1e-7)       # (k - 1) / k, by k R tokens
    assert cosines["responses"] < cosines["tokens"] < 0.9999


def test_growth_is_the_slope_of_the_mean_length():
    _, tree, ref = start(3)
    torch.manual_seed(0)
    direction, some = torch.randn_like(ref), (torch.arange(len(tree.rewards)) % 2).double()

    def mean_length(logits):
        p = tree.probs(logits) * some
        return ((p * tree.lengths).sum() / p.sum()).item()
    step = 1e-5 * direction / direction.norm()
    assert growth(tree, ref, direction, some) == pytest.approx((mean_length(ref + step) - mean_length(ref - step)) / 2e-5, rel=1e-6)

# ----------------------------------------------------------------------------- fixed points


def kl_to_best(task, tree, ref, logp, beta):
    best, _ = optimum(task.rewards, tree.logprobs(ref).sum(1), beta)
    return (logp.exp() * (logp - best)).sum().item()


@pytest.mark.parametrize("seed", [0, 1])
def test_the_fixed_points_of_rloo_and_dpo_are_the_best_policy_and_grpos_is_not(seed):
    task, tree, ref = start(2, seed)
    for k in (2, 3):
        assert abs(kl_to_best(task, tree, ref, tree.logprobs(fixed_point(tree, rloo_push, ref, 0.5, k)).sum(1), 0.5)) < 1e-9
    assert abs(kl_to_best(task, tree, ref, dpo_fixed_point(tree, ref, 0.5), 0.5)) < 1e-9
    for push in (grpo_push, dr_grpo_push):
        assert kl_to_best(task, tree, ref, tree.logprobs(fixed_point(tree, push, ref, 0.5, 2)).sum(1), 0.5) > 0.05


def test_grpo_with_groups_of_two_ends_where_the_ranks_say_whatever_the_rewards():
    _, tree, ref = start(2)
    ends = []
    for change in (lambda r: r, lambda r: 100 * r ** 3 + 200 * r):
        tree.rewards = change(torch.linspace(-1, 1, len(tree.rewards), dtype=torch.double))
        ends.append(tree.probs(fixed_point(tree, grpo_push, ref, 1.0, 2)))
    close(*ends, atol=1e-3)


def test_for_answers_of_one_token_grpo_ends_at_the_reference_divided_by_one_less_the_advantage():
    """A = β (1 - π_ref / π), so π = π_ref / (1 - A / β): no exponential of the reward."""
    _, tree, ref = start(1)
    p = tree.probs(fixed_point(tree, grpo_push, ref, 0.8, 3))
    A = group_advantages(p, tree.rewards, 3, methods.within_group)
    close(p, tree.probs(ref) / (1 - A / 0.8), atol=1e-9)
