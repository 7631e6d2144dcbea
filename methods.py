"""Six other ways than PPO from an SFT model to a better one. Lesson 7 explains them, race.py races them.

    from a rollout        reinforce, rloo, grpo, rejection: one update of the actor each
    from comparisons      dpo: one step on rankings
    without training      best of n, which evaluate.py has

What they share with PPO is imported. None has a critic, so `make_experience` is given `no_critic`, and λ = 1:
then returns[:, 0] of an Experience is the whole reward of each answer, its score less β times its KL.

Axes as in ppo.py: B answers, P prompt tokens, R response tokens. K answers to the same prompt stand in a row.
"""
from dataclasses import replace
from functools import partial

import torch

from gpt import response_logprobs, token_logprobs
from ppo import masked_mean, policy_loss
from reward import pairwise_loss, score_pairs
from sft import sft_loss
from support.optimizer import take_step


def no_critic(ids, mask):
    """In the critic's place: it expects nothing of any state, (B, T)."""
    return torch.zeros(ids.shape, device=ids.device)

# ----------------------------------------------------------------------------- advantages: one number an answer

def leave_one_out(rewards, k):
    """Rewards (B) -> advantages (B): each less the mean of the other k - 1 to its prompt (RLOO, arXiv:2402.14740)."""
    groups = rewards.view(-1, k)                                        # (B/k, k)
    others = (groups.sum(1, keepdim=True) - groups) / (k - 1)           # (B/k, k)
    return (groups - others).flatten()


def within_group(scores, k, divide=True):
    """Scores (B) -> advantages (B): each less the mean of its k, and divided by their (biased) standard deviation
    (GRPO, arXiv:2402.03300), or not (arXiv:2503.20783)."""
    groups = scores.view(-1, k)                                         # (B/k, k)
    advantages = groups - groups.mean(1, keepdim=True)                  # (B/k, k)
    if divide:
        advantages = advantages / (groups.std(1, correction=0, keepdim=True) + 1e-4)
    return advantages.flatten()

# ---------- the KL, estimated from the sampled tokens

def kl_estimate(logprobs, ref_logprobs, kind):
    """KL(actor ‖ reference) of each token (B, R), in nats, estimated from the one that was sampled.

    With d = log π_ref - log π, k1 = -d is unbiased but noisy, k3 = eᵈ - 1 - d unbiased and never
    negative (Schulman, "Approximating KL Divergence"). PPO's penalty is k1.
    """
    d = ref_logprobs - logprobs                                         # (B, R)
    return {"k1": -d, "k3": torch.expm1(d) - d}[kind]

# ----------------------------------------------------------------------------- from a rollout

def learn_from(e, advantages, loss_of, actor, optimizer, cfg):
    """What is left of `ppo.learn` without a critic. `advantages` (B): all tokens of an answer get the same."""
    R = e.response_mask.shape[1]
    e = replace(e, advantages=advantages[:, None] * e.response_mask)    # (B, R)
    for _ in range(cfg.epochs):
        for rows in torch.randperm(len(e)).tensor_split(cfg.minibatches):
            part = e[rows]
            logprobs = response_logprobs(actor, part.ids, part.mask, R, cfg.temperature)    # (rows, R)
            loss_of(logprobs, part, cfg).backward()
            take_step(actor, optimizer)


def token_loss(logprobs, part, cfg):
    """PPO's loss as it is. In the first step on a rollout all ratios are 1, and its gradient is that of -A log π."""
    return policy_loss(logprobs, part.logprobs, part.advantages, part.response_mask, cfg.clip)[0]


def grpo_loss(logprobs, part, cfg, divide=True):
    """PPO's loss, but every answer counts alike, however long (with `divide`), and the KL penalty is added to
    the loss, as k3, where PPO takes it from the reward."""
    mask = part.response_mask                                           # (B, R)
    share = mask.sum() / (len(mask) * mask.sum(1, keepdim=True)) if divide else 1.0     # (B, 1)
    loss, _ = policy_loss(logprobs, part.logprobs, share * part.advantages, mask, cfg.clip)
    return loss + cfg.kl_coef * masked_mean(share * kl_estimate(logprobs, part.ref_logprobs, "k3"), mask)


def reinforce(e, actor, optimizer, cfg, k=1):
    """REINFORCE with a baseline: the mean reward of the rollout."""
    whole = e.returns[:, 0]                                             # (B)
    learn_from(e, whole - whole.mean(), token_loss, actor, optimizer, cfg)


def rloo(e, actor, optimizer, cfg, k):
    """REINFORCE with a better baseline: the mean of the other answers to the same prompt."""
    learn_from(e, leave_one_out(e.returns[:, 0], k), token_loss, actor, optimizer, cfg)


def grpo(e, actor, optimizer, cfg, k, divide=True):
    """GRPO; without the two divisions, by the group's deviation and by the answer's length, Dr. GRPO."""
    learn_from(e, within_group(e.scores, k, divide), partial(grpo_loss, divide=divide), actor, optimizer, cfg)


def rejection(e, actor, optimizer, cfg, k):
    """Rejection-sampling fine-tuning: of each k answers keep the best one, and imitate it as sft.py imitates people."""
    P = e.ids.shape[1] - e.response_mask.shape[1]
    best = e.scores.view(-1, k).argmax(1) + k * torch.arange(len(e) // k)               # (B/k)
    kept = [(e.ids[i, :P][e.mask[i, :P]].tolist(), e.ids[i, P:][e.response_mask[i]].tolist()) for i in best]
    for _ in range(cfg.epochs):
        for rows in torch.randperm(len(kept)).tensor_split(cfg.minibatches):
            sft_loss(actor, [kept[i] for i in rows]).backward()
            take_step(actor, optimizer)

# ----------------------------------------------------------------------------- from comparisons

class ImplicitReward:
    """A policy, read as a reward model. Of which reward would π be the best policy under the penalty β? Of
    r(y) = β (log π(y) - log π_ref(y)), and of that plus any number that depends on the prompt alone."""

    def __init__(self, actor, reference, beta):
        self.actor, self.reference, self.beta = actor, reference, beta

    def reward(self, ids, mask):
        """Of whole texts (N, T), their prompts included: these count alike for all answers to one prompt. (N)"""
        log_ratio = sum(sign * token_logprobs(model(ids, mask)[:, :-1], ids[:, 1:])
                        for sign, model in ((1, self.actor), (-1, self.reference)))     # (N, T-1)
        return self.beta * (log_ratio * mask[:, 1:]).sum(1)


def dpo(rankings, actor, reference, optimizer, beta):
    """DPO (arXiv:2305.18290, eq. 7): reward.py's loss on rankings, of the implicit reward. Returns the loss."""
    chosen, rejected = score_pairs(ImplicitReward(actor, reference, beta), rankings)    # (pairs), (pairs)
    loss = pairwise_loss(chosen, rejected)
    loss.backward()
    take_step(actor, optimizer)
    return loss.item()
