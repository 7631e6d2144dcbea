"""Six other ways than PPO from an SFT model to a better one. Lesson 7 explains and races them.

    from rollouts         reinforce, rloo, grpo, rejection: one update of the actor each
    GRPO, repaired        dr_grpo, dapo, cispo, gspo: the same with another mean, clip or ratio
    from comparisons      dpo: one step on rankings
    without training      best of n, which evaluate.py has

None has a critic: `make_experience` is given `no_critic`, and λ = 1. Then returns[:, 0] of an
Experience is the whole reward of each response, its score less β times its KL.

Axes as in ppo.py: B responses, P and R tokens. K responses to the same prompt stand in a row.
"""
from dataclasses import replace
from functools import partial

import torch

from gpt import response_logprobs, token_logprobs
from ppo import make_experience, masked_mean, policy_loss
from reward import pairwise_loss, score_pairs
from sft import sft_loss
from support.optimizer import set_learning_rate, take_step
from text.batches import batch_at, pad


def no_critic(ids, mask):
    """In the critic's place: it expects nothing of any state, (B, T)."""
    return torch.zeros(ids.shape, device=ids.device)

# ---------- advantages: one number a response

def leave_one_out(rewards, k):
    """Rewards (B) -> advantages (B): each less the mean of the other k - 1 to its prompt
    (RLOO, arXiv:2402.14740)."""
    groups = rewards.view(-1, k)                                        # (B/k, k)
    others = (groups.sum(1, keepdim=True) - groups) / (k - 1)           # (B/k, k)
    return (groups - others).flatten()


def within_group(scores, k, divide=True):
    """Scores (B) -> advantages (B): each less the mean of its k, and divided by their (biased)
    standard deviation (GRPO, arXiv:2402.03300), or not (arXiv:2503.20783)."""
    groups = scores.view(-1, k)                                         # (B/k, k)
    advantages = groups - groups.mean(1, keepdim=True)                  # (B/k, k)
    if divide:
        advantages = advantages / (groups.std(1, correction=0, keepdim=True) + 1e-4)
    return advantages.flatten()

# ---------- from rollouts

def rollout(actor, reference, reward_model, prompts, cfg, k=1):
    """An Experience of k responses to each of the prompts (lists of ids), without a critic."""
    ids, mask = pad([prompt for prompt in prompts for _ in range(k)], left=True)    # (B, P)
    return make_experience(actor, no_critic, reference, reward_model, ids, mask, cfg.kl_coef, cfg)


def learn_from(e, advantages, loss_of, actor, optimizer, cfg, cap=None):
    """What is left of `ppo.learn` without a critic. `advantages` (B): all tokens of a response
    get the same. With `cap`, the responses are of another sampler than the actor, and each token
    counts by its `truncated_weights`."""
    e = replace(e, advantages=advantages[:, None] * e.response_mask)    # (B, R)
    if cap:
        with torch.no_grad():
            own = response_logprobs(actor, e.ids, e.mask, e.R, cfg.temperature)     # (B, R)
        weights = truncated_weights(own, e.logprobs, e.response_mask, cap)          # (B, R)
        e = replace(e, advantages=weights * e.advantages, logprobs=own * e.response_mask)
    for _ in range(cfg.epochs):
        for rows in torch.randperm(len(e)).tensor_split(cfg.minibatches):
            part = e[rows]
            logprobs = response_logprobs(actor, part.ids, part.mask, e.R, cfg.temperature)
            loss_of(logprobs, part, cfg).backward()                     # of logprobs (rows, R)
            take_step(actor, optimizer)


def token_loss(logprobs, part, cfg):
    """PPO's loss as it is. In the first step on a rollout all ratios are 1, and its gradient is
    that of -A log π."""
    mask = part.response_mask                                           # (B, R)
    return policy_loss(logprobs, part.logprobs, part.advantages, mask, cfg.clip)[0]


def kl_estimate(logprobs, ref_logprobs, kind):
    """KL(actor ‖ reference) of each token (B, R), in nats, estimated from the one sampled.

    With d = log π_ref - log π: k1 = -d and k3 = eᵈ - 1 - d are unbiased, k2 = d²/2 is not; k3 is
    never negative, but the noisiest where the actor has moved far (Schulman, "Approximating KL
    Divergence"). As a penalty, the mean gradient over samples of π is that of KL(π ‖ π_ref) for k1
    in the reward and k2 in the loss, that of KL(π_ref ‖ π) for k3 in the loss, and 0 for k1 there.
    """
    d = ref_logprobs - logprobs                                         # (B, R)
    return {"k1": -d, "k2": d ** 2 / 2, "k3": torch.expm1(d) - d}[kind]


def grpo_loss(logprobs, part, cfg, divide=True):
    """PPO's loss, but every response counts alike, however long (with `divide`), and the KL penalty
    is added to the loss, as k3, where PPO takes it from the reward."""
    mask, lengths = part.response_mask, part.response_mask.sum(1, keepdim=True)     # (B, R), (B, 1)
    share = mask.sum() / (len(mask) * lengths) if divide else 1.0       # (B, 1)
    loss, _ = policy_loss(logprobs, part.logprobs, share * part.advantages, mask, cfg.clip)
    # Beyond the end, where logprobs mean nothing, exp of their difference could be infinite.
    real = logprobs.where(mask, part.ref_logprobs)                      # (B, R)
    penalty = kl_estimate(real, part.ref_logprobs, "k3")                # (B, R)
    return loss + cfg.kl_coef * masked_mean(share * penalty, mask)


def reinforce(e, actor, optimizer, cfg, k=1):
    """REINFORCE with a baseline: the mean reward of the rollout."""
    whole = e.returns[:, 0]                                             # (B)
    learn_from(e, whole - whole.mean(), token_loss, actor, optimizer, cfg)


def rloo(e, actor, optimizer, cfg, k):
    """REINFORCE with a better baseline: the mean of the other responses to the same prompt."""
    learn_from(e, leave_one_out(e.returns[:, 0], k), token_loss, actor, optimizer, cfg)


def grpo(e, actor, optimizer, cfg, k, divide=True):
    """GRPO; without the two divisions, by the group's deviation and by the response's length,
    nearly Dr. GRPO: that paper divides by a constant, as `dr_grpo` does, not by all tokens."""
    advantages, loss_of = within_group(e.scores, k, divide), partial(grpo_loss, divide=divide)
    learn_from(e, advantages, loss_of, actor, optimizer, cfg)


def rejection(e, actor, optimizer, cfg, k):
    """Rejection-sampling fine-tuning: of each k responses keep the best one, and imitate it as
    sft.py imitates people."""
    best = e.scores.view(-1, k).argmax(1) + k * torch.arange(len(e) // k)       # (B/k)
    kept = [(e.ids[i, :e.P][e.mask[i, :e.P]].tolist(),
             e.ids[i, e.P:][e.response_mask[i]].tolist()) for i in best]
    for _ in range(cfg.epochs):
        for rows in torch.randperm(len(kept)).tensor_split(cfg.minibatches):
            sft_loss(actor, [kept[i] for i in rows]).backward()
            take_step(actor, optimizer)


# ---------- GRPO, repaired

def ratio_to(logprobs, old_logprobs, mask):
    """π / π_old of each token (B, R); 1 beyond the end."""
    return torch.exp((logprobs - old_logprobs).where(mask, 0.0))        # (B, R)


def truncated_weights(logprobs, sampler_logprobs, mask, cap):
    """min(π / μ, cap) of each token (B, R), for tokens that the sampler μ drew.

    A fast sampler rounds otherwise than the learner, so it draws from a μ that is not π. Weighted
    by π / μ, a token counts as often as π would have drawn it. The cap cuts the weights of what μ
    hardly ever draws, which are most of the noise, and leaves a bias (truncated importance
    sampling: Ionides 2008; Yao et al. 2025, "Your efficient RL framework secretly brings you
    off-policy RL training")."""
    return ratio_to(logprobs, sampler_logprobs, mask).clamp(max=cap)    # (B, R)


def two_clips(logprobs, part, low=0.2, high=0.28):
    """min(ρA, clip(ρ, 1 - low, 1 + high) A) of each token (B, R). With low = high it is PPO's.
    Under one ε of 0.2 a token of probability 0.01 stops at 0.012, and one of 0.9 never; a wider
    upper bound lets what is rare grow ("clip-higher" of DAPO, arXiv:2503.14476)."""
    A, ratio = part.advantages, ratio_to(logprobs, part.logprobs, part.response_mask)
    return torch.minimum(ratio * A, ratio.clamp(1 - low, 1 + high) * A)


def clipped_weight(logprobs, part, high=1.0):
    """min(ρ, 1 + high) A log π of each token (B, R), without a gradient through ρ. Where PPO drops
    a token that has moved too far, it only stops counting for more (CISPO, arXiv:2506.13585, which
    has no lower bound, either; its upper one is not published, and 2 is our choice)."""
    weight = ratio_to(logprobs, part.logprobs, part.response_mask).clamp(max=1 + high).detach()
    return weight * part.advantages * logprobs.where(part.response_mask, 0.0)


def one_ratio(logprobs, part, low=3e-4, high=4e-4):
    """As `two_clips`, but all tokens of a response have one ratio, the geometric mean of theirs,
    and are clipped together (GSPO, arXiv:2507.18071, eq. 5). It moves far less than the ratio of
    one token does, hence the narrow bounds, the paper's."""
    mask, A = part.response_mask, part.advantages                       # 2 x (B, R)
    log_ratio = (logprobs - part.logprobs).where(mask, 0.0).sum(1, keepdim=True)    # (B, 1)
    ratio = torch.exp(log_ratio / mask.sum(1, keepdim=True))            # (B, 1)
    return torch.minimum(ratio * A, ratio.clamp(1 - low, 1 + high) * A)


def token_shares(mask, count, longest):
    """What each token (B, R) counts in the mean.

    "responses"  1 / (B x length of its response): responses count alike           GRPO, GSPO
    "tokens"     1 / number of tokens: tokens count alike                          PPO, DAPO, CISPO
    "budget"     1 / (B x longest): alike, and the same whatever else was drawn    Dr. GRPO

    Only with "budget" is the mean gradient that of the mean reward, times a constant."""
    lengths = mask.sum(1, keepdim=True)                                 # (B, 1)
    return mask / {"responses": len(mask) * lengths, "tokens": lengths.sum(),
                   "budget": len(mask) * longest}[count]                # (B, R)


def shared_loss(logprobs, part, cfg, surrogate, count):
    """Less the mean of a surrogate, one of the three above, over a minibatch."""
    share = token_shares(part.response_mask, count, cfg.max_new_tokens)     # (B, R)
    return -(share * surrogate(logprobs, part)).sum()


def repaired(e, actor, optimizer, cfg, k, surrogate, count, divide=True, cap=None):
    """GRPO without its penalty, with another surrogate and mean."""
    loss_of = partial(shared_loss, surrogate=surrogate, count=count)
    learn_from(e, within_group(e.scores, k, divide), loss_of, actor, optimizer, cfg, cap)


# DAPO also samples until each group has right and wrong answers, and prices overlong ones.
dapo = partial(repaired, surrogate=two_clips, count="tokens")
dr_grpo = partial(repaired, surrogate=partial(two_clips, high=0.2), count="budget", divide=False)
cispo = partial(repaired, surrogate=clipped_weight, count="tokens")
gspo = partial(repaired, surrogate=one_ratio, count="responses")

# ---------- the loop

def train(update, actor, reference, reward_model, optimizer, prompts, cfg, k=1):
    """ppo.train without a critic: `update` is one of those above, and gets k responses to each
    prompt. Changes the actor in place, yields (step, experience, metrics) after each update."""
    for step in range(cfg.steps):
        rate = set_learning_rate(optimizer, cfg.lr, step, cfg.steps)
        batch = batch_at(prompts, cfg.batch_size // k, step, cfg.seed)
        experience = rollout(actor, reference, reward_model, batch, cfg, k)
        update(experience, actor, optimizer, cfg, k)
        yield step, experience, {"objective/scores": experience.scores.mean().item(),
                                 "objective/kl": experience.kl.sum(1).mean().item(), "lr": rate}

# ---------- from comparisons

class ImplicitReward:
    """A policy, read as a reward model. Of which reward would π be the best policy under the
    penalty β? Of r(y) = β (log π(y) - log π_ref(y)), and of that plus any number that depends on
    the prompt alone."""

    def __init__(self, actor, reference, beta):
        self.actor, self.reference, self.beta = actor, reference, beta

    def reward(self, ids, mask):
        """Of whole texts (N, T), their prompts included, which count alike for all responses to
        one prompt. (N)"""
        log_ratio = sum(sign * token_logprobs(model(ids, mask)[:, :-1], ids[:, 1:])
                        for sign, model in ((1, self.actor), (-1, self.reference)))     # (N, T-1)
        return self.beta * (log_ratio * mask[:, 1:]).sum(1)


def dpo(rankings, actor, reference, optimizer, beta):
    """DPO (arXiv:2305.18290, eq. 7): reward.py's loss on rankings, of the implicit reward.
    Returns the loss."""
    implicit = ImplicitReward(actor, reference, beta)
    chosen, rejected = score_pairs(implicit, rankings)                  # (pairs), (pairs)
    loss = pairwise_loss(chosen, rejected)
    loss.backward()
    take_step(actor, optimizer)
    return loss.item()
