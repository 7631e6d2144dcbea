"""methods.py: each method against a formula written out, one number at a time."""
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from text.batches import pad
import methods
from notebooks.enumerable import PROMPT, Task, enumerated, network, optimum
from gpt import GPT, response_logprobs
from ppo import make_experience
from support.optimizer import adamw, set_learning_rate
from tiny import close, critic, model, ppo_config

CFG = ppo_config(lam=1.0)


def rollout(k, beta=0.3, prompts=3):
    """(actor, Experience) of k answers to each of a few padded prompts; actor and reference differ."""
    actor, reference, reward_model = model(seed=1), model(seed=2), critic(seed=3)
    rows = [[1, 2, 3], [4], [5, 6], [7, 8]][:prompts]
    ids, mask = pad([row for row in rows for _ in range(k)], left=True)
    torch.manual_seed(0)
    return actor, make_experience(actor, methods.no_critic, reference, reward_model, ids, mask, beta, CFG)


def gradients(actor, loss):
    return torch.cat([slope.flatten() for slope in torch.autograd.grad(loss, list(actor.parameters()))])


class Recorder:
    """In the optimiser's place: keeps the gradients that it is asked to follow, and follows none."""

    def __init__(self, actor):
        self.actor, self.seen = actor, []

    def step(self):
        self.seen.append(torch.cat([p.grad.flatten() for p in self.actor.parameters()]).clone())

    def zero_grad(self):
        self.actor.zero_grad()


def followed(monkeypatch, actor, update, e, cfg, k):
    """The gradients, as they are and not clipped, that an update follows."""
    monkeypatch.setattr(methods, "take_step", lambda model, optimizer: (optimizer.step(), optimizer.zero_grad()))
    recorder = Recorder(actor)
    update(e, actor, recorder, cfg, k)
    return recorder.seen


def by_formula(actor, e, advantages):
    """The gradient of -Σ A log π / number of tokens, from a plain pass over each answer alone."""
    P, loss = e.ids.shape[1] - e.response_mask.shape[1], 0.0
    for i, A in enumerate(advantages):
        prompt, said = e.ids[i, :P][e.mask[i, :P]], e.ids[i, P:][e.response_mask[i]]
        logits = actor(torch.cat([prompt, said])[None])[0, len(prompt) - 1:-1]
        loss = loss - A * logits.log_softmax(-1)[range(len(said)), said].sum()
    return gradients(actor, loss / e.response_mask.sum())


def whole_rewards(e, beta):
    return [e.scores[i] - beta * sum(e.logprobs[i, t] - e.ref_logprobs[i, t] for t in range(e.response_mask[i].sum()))
            for i in range(len(e))]

# ----------------------------------------------------------------------------- advantages


def test_without_a_critic_the_first_return_is_the_score_less_the_price_of_the_kl():
    _, e = rollout(k=2)
    assert e.values.abs().max() == 0 and (e.logprobs - e.ref_logprobs).abs().max() > 0.1
    close(e.returns[:, 0], whole_rewards(e, 0.3), atol=1e-5)


def test_the_baseline_of_rloo_is_the_mean_of_the_others():
    rewards = torch.randn(12)
    for k in (2, 3, 4):
        expected = []
        for i in range(12):
            others = [rewards[j] for j in range(i // k * k, i // k * k + k) if j != i]
            expected.append(rewards[i] - sum(others) / (k - 1))
        close(methods.leave_one_out(rewards, k), expected, atol=1e-5)


def test_grpo_counts_deviations_within_the_group():
    close(methods.within_group(torch.tensor([1.0, 3, 5, 5, 5, 5]), 3), [-1.2247, 0, 1.2247, 0, 0, 0], atol=1e-3)
    close(methods.within_group(torch.tensor([1.0, 3, 5, 7, 5, 5]), 3, divide=False), [-2, 0, 2, 4 / 3, -2 / 3, -2 / 3])


def test_two_answers_are_a_comparison():
    scores = torch.tensor([0.9, 0.1, -5, 5, 2, 2])
    close(methods.within_group(scores, 2), [1, -1, -1, 1, 0, 0], atol=1e-3)
    close(methods.leave_one_out(scores, 2), [0.8, -0.8, -10, 10, 0, 0])

# ----------------------------------------------------------------------------- gradients


def test_reinforce_follows_the_policy_gradient(monkeypatch):
    actor, e = rollout(k=1)
    seen, = followed(monkeypatch, actor, methods.reinforce, e, CFG, 1)
    whole = torch.stack(whole_rewards(e, 0.3))
    close(seen, by_formula(actor, e, whole - whole.mean()), atol=1e-4)


def test_rloo_follows_the_policy_gradient(monkeypatch):
    actor, e = rollout(k=3)
    seen, = followed(monkeypatch, actor, methods.rloo, e, CFG, 3)
    close(seen, by_formula(actor, e, methods.leave_one_out(torch.stack(whole_rewards(e, 0.3)), 3)), atol=1e-4)


def test_ppo_without_critic_and_lambda_is_reinforce_with_the_whole_reward():
    actor, e = rollout(k=2, beta=0.0)
    R = e.response_mask.shape[1]
    logprobs = response_logprobs(actor, e.ids, e.mask, R, 1.0)
    part = SimpleNamespace(logprobs=e.logprobs, advantages=e.returns, response_mask=e.response_mask)
    close(gradients(actor, methods.token_loss(logprobs, part, CFG)), by_formula(actor, e, e.scores), atol=1e-4)


@pytest.mark.parametrize("divide", [True, False])
def test_the_loss_of_grpo_is_that_of_the_paper(divide):
    """arXiv:2402.03300, eq. 3: a mean over answers of means over tokens; without division, a mean over all tokens."""
    torch.manual_seed(0)
    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]]).bool()
    new, old, ref = torch.randn(3, 3, 4).mul(0.3)
    A = torch.tensor([1.5, -0.7, 0.4])
    per_answer = []
    for i, length in enumerate((2, 4, 1)):
        terms = []
        for t in range(length):
            rho, d = (new[i, t] - old[i, t]).exp(), ref[i, t] - new[i, t]
            terms.append(min(rho * A[i], rho.clamp(0.8, 1.2) * A[i]) - 0.1 * (d.exp() - d - 1))
        per_answer.append(sum(terms) / length if divide else sum(terms) * 3 / 7)
    part = SimpleNamespace(logprobs=old * mask, ref_logprobs=ref * mask, response_mask=mask,
                           advantages=A[:, None] * mask)
    close(methods.grpo_loss(new, part, ppo_config(kl_coef=0.1), divide), -sum(per_answer) / 3, atol=1e-5)


def test_grpo_pays_for_the_kl_in_the_loss_and_takes_several_steps(monkeypatch):
    actor, e = rollout(k=3)                     # with a penalty in the reward, too, which GRPO must not look at
    seen = followed(monkeypatch, actor, methods.grpo, e, ppo_config(kl_coef=0.0, epochs=2, minibatches=3), 3)
    assert len(seen) == 6
    free, = followed(monkeypatch, actor, methods.grpo, e, ppo_config(kl_coef=0.0), 3)
    held, = followed(monkeypatch, actor, methods.grpo, e, ppo_config(kl_coef=0.5), 3)
    assert (free - held).abs().max() > 1e-3
    scores = methods.within_group(e.scores, 3) * e.response_mask.sum() / (9 * e.response_mask.sum(1))
    close(free, by_formula(actor, e, scores), atol=1e-4)


def test_rejection_imitates_the_best_of_each_group_and_nothing_else(monkeypatch):
    actor, e = rollout(k=3)
    e.scores = torch.tensor([0.0, 2, 1, 5, 4, 3, -3, -2, -1])
    seen, = followed(monkeypatch, actor, methods.rejection, e, CFG, 3)
    best = torch.tensor([0.0, 1, 0, 1, 0, 0, 0, 0, 1])
    factor = e.response_mask.sum() / e.response_mask[best.bool()].sum()
    close(seen, by_formula(actor, e, best) * factor, atol=1e-4)

# ----------------------------------------------------------------------------- GRPO, repaired

SHAPE = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0]]).bool()       # two answers, of three tokens and of one


def two_answers(ratios=((1.5, 0.5, 1.25), (0.5,)), A=(1.0, -1.0)):
    """(log π, the part of an Experience) with these ratios and advantages; log π_old is -1, beyond the end anything."""
    logprobs = torch.full((2, 4), 90.0, dtype=torch.double)
    for row, some in zip(logprobs, ratios):
        row[:len(some)] = torch.tensor(some).log() - 1
    A = torch.tensor(A, dtype=torch.double)[:, None] * SHAPE
    return logprobs.requires_grad_(), SimpleNamespace(logprobs=-1.0 * SHAPE, advantages=A, response_mask=SHAPE)


@pytest.mark.parametrize("surrogate, count, loss, slopes", [
    # min(ρA, clip(ρ, 0.8, 1.28) A): 1.28, 0.5, 1.25 and -0.8. The first and the last are clipped, and have no slope.
    (methods.two_clips, "tokens", -(1.28 + 0.5 + 1.25 - 0.8) / 4, [[0, 0.125, 0.3125], [0]]),
    (methods.two_clips, "responses", -((1.28 + 0.5 + 1.25) / 3 - 0.8) / 2, [[0, 0.5 / 6, 1.25 / 6], [0]]),
    (methods.two_clips, "budget", -(1.28 + 0.5 + 1.25 - 0.8) / 16, [[0, 0.5 / 16, 1.25 / 16], [0]]),
    # min(ρ, 1.4) A log π: nothing is lost, the first only counts for less.
    (lambda *given: methods.clipped_weight(*given, high=0.4), "tokens", None, [[0.35, 0.125, 0.3125], [-0.125]]),
    # (1.5 x 0.5 x 1.25) ** (1/3) = 0.9787 is within 0.1 of 1; 0.5 is not, and A < 0, so 0.9 counts.
    (lambda *given: methods.one_ratio(*given, 0.1, 0.1), "responses", -(0.9375 ** (1 / 3) - 0.9) / 2,
     [[0.9375 ** (1 / 3) / 6] * 3, [0]])])
def test_the_repaired_losses_are_those_that_one_works_out_by_hand(surrogate, count, loss, slopes):
    logprobs, part = two_answers()
    found = methods.shared_loss(logprobs, part, ppo_config(max_new_tokens=8), surrogate, count)
    gradient, = torch.autograd.grad(found, logprobs)
    close(gradient, -torch.tensor([[*row, *[0] * (4 - len(row))] for row in slopes], dtype=torch.double))
    assert loss is None or found.item() == pytest.approx(loss, abs=1e-6)


@pytest.mark.parametrize("count", ["tokens", "responses", "budget"])
@pytest.mark.parametrize("surrogate", [methods.two_clips, lambda *given: methods.one_ratio(*given, 0.2, 0.3)])
def test_the_slopes_of_the_repaired_losses_are_differences(surrogate, count):
    for seed in range(5):
        torch.manual_seed(seed)
        logprobs, part = two_answers(torch.rand(2, 3).mul(1.2).add(0.4).tolist(), torch.randn(2).tolist())
        logprobs = logprobs.detach().where(SHAPE, 0.0).requires_grad_()
        assert torch.autograd.gradcheck(
            lambda x: methods.shared_loss(x, part, ppo_config(max_new_tokens=5), surrogate, count), logprobs)


def later(seed=0):
    """(log π, part) some steps after a rollout: about half of the ratios are outside PPO's clip."""
    _, e = rollout(k=3)
    torch.manual_seed(seed)
    part = replace(e, advantages=torch.randn(len(e), 1) * e.response_mask)
    return (e.logprobs + 0.3 * torch.randn_like(e.logprobs)).requires_grad_(), part


def slope(loss, x):
    return torch.autograd.grad(loss, x, retain_graph=True)[0]


def test_with_equal_bounds_the_two_clips_are_ppos():
    logprobs, part = later()
    ours = methods.shared_loss(logprobs, part, CFG, lambda *given: methods.two_clips(*given, 0.2, 0.2), "tokens")
    ppos = methods.token_loss(logprobs, part, CFG)
    close(ours, ppos), close(slope(ours, logprobs), slope(ppos, logprobs))


def test_grpo_without_a_penalty_is_two_equal_clips_in_which_responses_count_alike():
    logprobs, part = later()
    ours = methods.shared_loss(logprobs, part, CFG, lambda *given: methods.two_clips(*given, 0.2, 0.2), "responses")
    grpos = methods.grpo_loss(logprobs, part, ppo_config(kl_coef=0.0))
    close(ours, grpos), close(slope(ours, logprobs), slope(grpos, logprobs))


def test_for_responses_of_one_token_gspo_is_grpo():
    logprobs, e = later()
    part = replace(e, logprobs=e.logprobs[:, :1], advantages=e.advantages[:, :1], response_mask=e.response_mask[:, :1],
                   ref_logprobs=e.ref_logprobs[:, :1])
    ours = methods.shared_loss(logprobs[:, :1], part, CFG, lambda *given: methods.one_ratio(*given, 0.2, 0.2), "responses")
    grpos = methods.grpo_loss(logprobs[:, :1], part, ppo_config(kl_coef=0.0))
    close(ours, grpos), close(slope(ours, logprobs), slope(grpos, logprobs))


def test_where_nothing_is_clipped_cispo_is_reinforce_weighted_by_the_ratio():
    logprobs, part = later()
    mask = part.response_mask
    ours = methods.shared_loss(logprobs, part, CFG, lambda *given: methods.clipped_weight(*given, 1e9), "tokens")
    ratio = (logprobs - part.logprobs).exp().detach()
    weighted = -(ratio * part.advantages * logprobs)[mask].sum() / mask.sum()
    close(slope(ours, logprobs), slope(weighted, logprobs))
    surrogate = -((logprobs - part.logprobs).exp() * part.advantages)[mask].sum() / mask.sum()
    close(slope(ours, logprobs), slope(surrogate, logprobs))        # which is the gradient of the plain ρA, too


@pytest.mark.parametrize("update, count, divide", [
    (methods.dapo, "tokens", True), (methods.cispo, "tokens", True), (methods.gspo, "responses", True),
    (methods.dr_grpo, "budget", False)])
def test_at_the_first_step_the_repaired_methods_differ_in_what_a_token_counts(monkeypatch, update, count, divide):
    actor, e = rollout(k=3)
    seen, = followed(monkeypatch, actor, update, e, CFG, 3)
    tokens, length = e.response_mask.sum(), e.response_mask.sum(1)
    share = {"tokens": 1.0, "responses": tokens / (len(e) * length), "budget": tokens / (len(e) * CFG.max_new_tokens)}[count]
    close(seen, by_formula(actor, e, share * methods.within_group(e.scores, 3, divide)), atol=1e-4)


@pytest.mark.parametrize("cap", [1e9, 1.1])
def test_what_another_sampler_drew_counts_by_the_ratio_up_to_the_cap(monkeypatch, cap):
    """The gradient of -Σ min(π/μ, cap) A log π / number of tokens: the ratio of the loss starts at 1, not at π/μ."""
    sampler, e = rollout(k=3)
    actor = model(seed=1)
    with torch.no_grad():
        for parameter in actor.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape))
    logprobs = response_logprobs(actor, e.ids, e.mask, e.R, 1.0)
    A, loss, cut = methods.within_group(e.scores, 3), 0.0, 0
    for i, t in e.response_mask.nonzero().tolist():
        ratio = math.exp(logprobs[i, t].item() - e.logprobs[i, t].item())
        loss, cut = loss - min(ratio, cap) * A[i] * logprobs[i, t], cut + (ratio > cap)
    assert (cap > 1e8) == (cut == 0)
    seen, = followed(monkeypatch, actor, lambda *given: methods.dapo(*given, cap=cap), e, CFG, 3)
    close(seen, gradients(actor, loss / e.response_mask.sum()), atol=1e-4)
    plain, = followed(monkeypatch, actor, methods.dapo, e, CFG, 3)
    assert (seen - plain).abs().max() > 1e-3


def test_with_the_actor_as_the_sampler_the_weights_change_nothing(monkeypatch):
    actor, e = rollout(k=3)
    plain, = followed(monkeypatch, actor, methods.dapo, e, CFG, 3)
    weighted, = followed(monkeypatch, actor, lambda *given: methods.dapo(*given, cap=1e9), e, CFG, 3)
    close(plain, weighted, atol=1e-5)

# ----------------------------------------------------------------------------- the loop


def test_the_loop_gives_each_prompt_its_responses_in_a_row_and_yields_after_each_update():
    actor, reference, reward_model = model(seed=1), model(seed=2), critic(seed=3)
    cfg, given = ppo_config(lam=1.0, steps=3, batch_size=6, lr=0.1, seed=5, kl_coef=0.3), []
    prompts, optimizer = [[1, 2, 3], [4], [5, 6], [7, 8]], adamw(actor)

    def update(e, changed, its_optimizer, its_cfg, k):
        assert (changed, its_optimizer, its_cfg, k) == (actor, optimizer, cfg, 2)
        given.append((e, optimizer.param_groups[0]["lr"]))
    seen = []
    for step, e, metrics in methods.train(update, actor, reference, reward_model, optimizer, prompts, cfg, 2):
        assert given[-1][0] is e and len(given) == step + 1         # the update is done
        asked = [row[real].tolist() for row, real in zip(e.ids[:, :e.P], e.mask[:, :e.P])]
        assert asked[::2] == asked[1::2] and len(asked) == 6
        seen += asked[::2]
        close(e.returns[:, 0], whole_rewards(e, 0.3), atol=1e-5)
        assert metrics == {"objective/scores": pytest.approx(e.scores.mean().item()), "lr": given[-1][1],
                           "objective/kl": pytest.approx((e.logprobs - e.ref_logprobs).sum(1).mean().item())}
    assert sorted(seen[:4]) == sorted(seen[4:8]) == sorted(prompts)     # all of them before any comes again
    assert [lr for _, lr in given] == pytest.approx([0.1, 0.2 / 3 / 0.95, 0.1 / 3 / 0.95])

# ----------------------------------------------------------------------------- comparisons

RANKINGS = [([1, 2, 3], [[4, 10], [5, 6, 10], [7, 10]]), ([8], [[9, 9, 10], [10]])]


def test_dpo_is_the_formula_of_the_paper():
    """arXiv:2305.18290, eq. 7, over all pairs of the rankings, from completions alone."""
    actor, reference, losses = model(seed=1), model(seed=2), []

    def log_ratio(prompt, completion):
        return sum(sign * response_logprobs(net, torch.tensor([prompt + completion]), None, len(completion), 1.0).sum()
                   for sign, net in ((1, actor), (-1, reference)))
    for prompt, ranking in RANKINGS:
        for i, better in enumerate(ranking):
            for worse in ranking[i + 1:]:
                losses.append(-F.logsigmoid(0.3 * (log_ratio(prompt, better) - log_ratio(prompt, worse))))
    expected = sum(losses) / 4
    recorder = Recorder(actor)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(methods, "take_step", lambda model, optimizer: (optimizer.step(), optimizer.zero_grad()))
        assert methods.dpo(RANKINGS, actor, reference, recorder, 0.3) == pytest.approx(expected.item(), abs=1e-5)
    close(recorder.seen[0], gradients(actor, expected), atol=1e-4)


def test_the_optimum_of_dpo_is_that_of_the_reward_under_the_penalty():
    task, beta, steps = Task(3, seed=5), 0.5, 400
    policy = network(GPT, task.seed + 1)
    implicit, optimizer = methods.ImplicitReward(policy, task.reference, beta), adamw(policy)
    texts = pad([[*PROMPT, *answer] for answer in task.answers])
    gaps = (task.rewards[:, None] - task.rewards).float()
    for step in range(steps):
        set_learning_rate(optimizer, 1e-2, step, steps)
        r = implicit.reward(*texts)
        (-torch.sigmoid(gaps) * F.logsigmoid(r[:, None] - r)).mean().backward()
        optimizer.step(), optimizer.zero_grad()
    r = implicit.reward(*texts).detach()
    close(r[:, None] - r, gaps, atol=0.02)
    best, _ = optimum(task.rewards, task.ref, beta)
    assert (enumerated(policy, task.answers).exp() - best.exp()).abs().max() < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("update, k", [(methods.reinforce, 1), (methods.rloo, 4)])
def test_policy_gradients_without_a_critic_find_the_best_policy_there_is(update, k):
    task, beta, updates = Task(2, seed=10), 0.3, 300
    actor = network(GPT, task.seed + 1)
    cfg = ppo_config(lam=1.0, max_new_tokens=2, steps=updates, batch_size=256, lr=1e-2, kl_coef=beta)
    for _ in methods.train(update, actor, task.reference, task, adamw(actor),
                           [PROMPT] * 256, cfg, k):
        pass
    pi, (best, _) = enumerated(actor, task.answers).detach(), optimum(task.rewards, task.ref, beta)
    assert (pi.exp() * (pi - best)).sum() <= 0.05


def test_what_stands_beyond_the_end_has_no_part_in_grpos_gradient():
    """At -100 below the reference, exp of the difference is infinite: masked after exp it would be NaN times 0."""
    actor, e = rollout(k=2)
    mask = e.response_mask
    assert not mask.all()
    logprobs = e.logprobs.where(mask, -100.0).clone().requires_grad_(True)
    part = replace(e, advantages=torch.randn(mask.shape), ref_logprobs=e.ref_logprobs.where(mask, 0.0))
    methods.grpo_loss(logprobs, part, CFG).backward()
    assert logprobs.grad.isfinite().all() and (logprobs.grad[~mask] == 0).all() and (logprobs.grad[mask] != 0).any()
