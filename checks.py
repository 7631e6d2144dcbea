"""What must be true on every PPO run, what its metrics mean, and what its answers look like.

RLHF code fails silently: with a mask off by one or a KL of the wrong sign a run still finishes, and its reward still
rises a little. Three things, though, are certain, so every run checks them:

    the ratio π / π_old is 1 before the first step on a rollout     check_ratio
    the KL to the reference is 0 before the first update            check_reference
    the mean KL of a rollout is not below 0 time and again          check_kl

A check that fails stops the run and says what to look at. docs/metrics.md says what a healthy run looks like.
Axes as in ppo.py: B responses, R response tokens, V vocabulary.
"""
from collections import defaultdict

import torch

from support import UserError
from support.distributed import gather, total, world_size

# ----------------------------------------------------------------------------- what must be true

def deviation(x, bf16):
    """(how far x is from 0, how far it may be) for an x that is 0 but for rounding: log-probabilities are computed once
    token by token with a cache, once all together. In float32 the largest difference is below 1e-5. In bf16 the largest
    grows with the number of tokens, so there the mean counts: about 0.01 at GPT-2's shapes, 0.3 at a wrong temperature.
    """
    return (x.abs().mean().item(), 0.05) if bf16 else (x.abs().max().item(), 1e-3)


def check_ratio(ratio, bf16=False):
    """Before the first step on a rollout, π is still π_old: the sampled probabilities must be found again."""
    error, bound = deviation(ratio - 1, bf16)
    if not error < bound:
        raise UserError(
            f"the ratio of new to old probabilities is off by {error:.2g} before the first step, where it must be 1. "
            "Look, in this order, at: the temperature (the same in sampling and scoring?), top-k or top-p in "
            "sampling, positions and mask under left padding, the shift by one token, dropout, the precision")


def check_reference(kl, bf16=False):
    """Before the first update the actor is the reference: the log-ratio of each token, kl (actions), must be 0."""
    error, bound = deviation(kl, bf16)
    if not error < bound:
        raise UserError(
            f"the KL of a token to the reference is {error:.2g} nats at step 0, where it must be 0. Look, in this "
            "order, at: do actor and reference come from the same sft/ folder, the temperature of the two, dropout, "
            "positions and mask under left padding")


def check_kl(kl, negatives):
    """How many rollouts in a row had a mean KL per response, kl (B), clearly below 0; an error at the third.

    A KL is never negative. Its estimate can be, by chance, but not by two standard errors time and again."""
    standard_error = kl.std() / len(kl) ** 0.5
    negatives = negatives + 1 if kl.mean() < -2 * standard_error else 0
    if negatives == 3:
        raise UserError(
            f"the mean KL to the reference was clearly negative in 3 rollouts running (now {kl.mean():.2g} nats): "
            "the responses are not samples of the policy that is scored. Look, in this order, at: top-k, top-p or a "
            "minimum length in sampling, the temperature, padding counted as actions, the sign of the log-ratio")
    return negatives


def check_rollout(experience, step, state, actor):
    """Both checks of a rollout's KL; state["negatives"] counts from rollout to rollout."""
    kl = experience.logprobs - experience.ref_logprobs                      # (B, R)
    if step == 0:
        check_reference(kl[experience.response_mask], actor.transformer.bf16)
    state["negatives"] = check_kl(gather(kl.sum(1)), state["negatives"])

# ----------------------------------------------------------------------------- metrics

class UpdateMonitor:
    """Checks the updates on one rollout, and averages their metrics over all optimiser steps."""

    def __init__(self, actor):
        self.bf16, self.totals, self.steps = actor.transformer.bf16, defaultdict(float), 0

    def observe(self, batch, share, logits, logprobs, values, actor_loss, clipped, critic_loss, value_clipped):
        """One forward pass on `batch`, which holds `share` of the minibatch's tokens. logits (B, R, V)."""
        mask = batch.response_mask                                          # (B, R)
        ratio = (logprobs - batch.logprobs).detach().exp()[mask]            # (actions)
        if self.steps == 0:
            check_ratio(ratio, self.bf16)
        self.add(share, {
            "loss/policy": actor_loss, "policy/clipfrac": clipped,
            "policy/entropy": entropy(logits.detach()[mask]).mean(),
            "policy/approxkl": 0.5 * (ratio.log() ** 2).mean(),
            "val/ratio": ratio.mean(), "val/ratio_var": ((ratio - 1) ** 2).mean(),
            "loss/value": critic_loss, "val/clipfrac": value_clipped,
            "val/error": ((values.detach() - batch.returns)[mask] ** 2).mean()})

    def step(self, actor_norm, critic_norm):
        """One optimiser step of both networks, with the norms of their gradients before clipping."""
        self.add(1 / world_size(), {"policy/gradient_norm": actor_norm, "val/gradient_norm": critic_norm})
        self.steps += 1

    def add(self, share, metrics):
        for name, value in metrics.items():
            self.totals[name] += (share * value).detach()      # without .item(), which waits for a GPU

    def means(self):
        """{name: mean over all steps}, of all processes."""
        sums = total(torch.stack(list(self.totals.values())))
        return dict(zip(self.totals, (sums / self.steps).tolist()))


def entropy(logits):
    """Entropy of softmax(logits) in nats: (…, V) -> (…)."""
    return logits.logsumexp(-1) - (logits.softmax(-1) * logits).sum(-1)


def describe(experience, kl_coef, eos):
    """The metrics of a rollout, that of all processes, under the names that other implementations use."""
    mask = experience.response_mask                                         # (B, R)
    kl = experience.logprobs - experience.ref_logprobs                      # (B, R) k1, nats a token
    ended = (experience.ids[:, -mask.shape[1]:] == eos) & mask              # (B, R) True on an <|endoftext|>
    values, returns = gather(experience.values[mask]), gather(experience.returns[mask])     # (actions)
    scores, kl, k3, logprobs, rewards, ended, length = gather(torch.stack([
        experience.scores, kl.sum(1), (torch.expm1(-kl) + kl).sum(1), experience.logprobs.sum(1),
        experience.rewards.sum(1), ended.sum(1), mask.sum(1)], dim=1)).T    # (B) each
    return {
        "objective/scores": scores.mean(), "objective/kl": kl.mean(), "objective/kl_k3": k3.mean(),
        "objective/entropy": -logprobs.mean(), "objective/non_score_reward": -kl_coef * kl.mean(),
        "objective/score_total": rewards.mean(),
        "returns/mean": returns.mean(), "returns/var": returns.var(),
        "val/mean": values.mean(), "val/var": values.var(),
        "val/var_explained": 1 - (values - returns).var() / returns.var(),
        "val/num_eos_tokens": ended.sum(), "eos_rate": ended.mean(), "length": length.mean(), "kl_coef": kl_coef}

# ----------------------------------------------------------------------------- samples

class Samples:
    """A few prompts (B, P), the same all along: answered by the SFT model once and by the actor now and then."""

    def __init__(self, reference, prompts, mask, tokenizer, cfg):
        self.prompts, self.mask, self.tokenizer, self.cfg = prompts, mask, tokenizer, cfg
        self.before = self.responses(reference)

    def responses(self, model):
        """One sampled response to each prompt, as text."""
        tokens, mask, _ = model.generate(self.prompts, self.mask, self.cfg.max_new_tokens, self.cfg.temperature)
        return [self.tokenizer.decode(row[real].tolist()) for row, real in zip(tokens, mask)]

    def side_by_side(self, actor):
        """Prompts, the SFT model's responses and those of today's actor, to be read."""
        text = ""
        for prompt, real, before, now in zip(self.prompts, self.mask, self.before, self.responses(actor)):
            prompt = self.tokenizer.decode(prompt[real].tolist()).rstrip()
            text += f"{prompt}\n    SFT  {before.strip()}\n    PPO  {now.strip()}"
        return text
