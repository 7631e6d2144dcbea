"""methods.py: each method against a formula written out, one number at a time."""
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
    P, R, loss = e.ids.shape[1] - e.response_mask.shape[1], e.response_mask.shape[1], 0.0
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
