"""Stage 3: PPO. The SFT model practises, the reward model scores its responses,
and the KL penalty keeps it near its start.

    python ppo.py       the toy: about a minute on two cores

Four networks:
    actor         from sft/     trained   writes the responses: the policy
    critic        from reward/  trained   predicts the reward to come
    reference     sft/          frozen    what the KL is measured from
    reward model  reward/       frozen    scores finished responses

The reference is frozen because it defines the KL: if it moved along, nothing
would keep the actor near the SFT model. The reward model is frozen because, if
it learned along, it would learn to please the actor.

One update: 1 sample responses, 2 let the other three networks read them, 3 turn
scores and KL into rewards per token, 4 turn rewards into advantages, 5 take a few
clipped gradient steps, 6 log.

PPO: arXiv:1707.06347. GAE: 1506.02438. RLHF: 1909.08593, InstructGPT: 2203.02155.

Axes: B responses, P prompt tokens (padded on the left), R response tokens (padded
on the right). An action is a response token, <|endoftext|> included; a state is
all tokens before it.
"""
from dataclasses import dataclass, fields

import torch

import data
from text.batches import micro_batches, minibatch, pad, row_parts
from text.encode import encode_prompts
from text.tokenizer import Tokenizer
from gpt import GPT, ScalarGPT, response_logits, response_logprobs, token_logprobs
from support.command_line import TrainingFlags, launch, start
from support.distributed import own_part, total
from support.loop import Loop
from support.memory import check_memory
from checks import Samples, UpdateMonitor, check_rollout, describe
from support.optimizer import adamw, set_learning_rate, take_step
from support.runs import find_model, find_reward_model, finish
from support.trainable import set_trainable


@dataclass
class Config(TrainingFlags):    # with the flags of every training script
    reward_model: str = ""      # folder of another one than the run's
    steps: int = 80             # updates, with one rollout each
    batch_size: int = 128       # responses a rollout
    epochs: int = 2             # passes over a rollout
    minibatches: int = 4        # optimiser steps a pass
    max_new_tokens: int = 32    # then a response is cut off
    temperature: float = 1.0    # of sampling, and so of every log-probability
    lr: float = 2.5e-4          # faster, the actor settles too early
    critic_lr: float = 2e-3     # higher: its errors look like advantages
    kl_coef: float = 0.05       # β, reward given up per nat of KL
    kl_target: float = 0.0      # nats a response; if above 0, β adapts to it
    kl_horizon: float = 350     # responses over which β adapts
    gamma: float = 1.0          # γ: responses are short, so no discount
    lam: float = 0.95           # λ of GAE: 1 trusts the rewards, 0 the critic
    clip: float = 0.2           # ε, of the probability ratio
    value_clip: float = 0.2     # of a value's change in an update
    missing_eos_score: float = -1.0     # of an unfinished response, in deviations
    sample_every: int = 10      # updates between two looks at test prompts

# ---------- the mathematics

def masked_mean(x, mask):
    """Mean of x (B, R) over the real tokens; pads depend on the other rows."""
    return x.where(mask.bool(), 0.0).sum() / mask.sum()     # 0 * NaN would be NaN


def whiten(x, mask):
    """x (B, R) with mean 0, variance 1 (biased) over all processes' real tokens."""
    count = total(mask.sum())
    mean = total((x * mask).sum()) / count
    variance = total(((x - mean) ** 2 * mask).sum()) / count
    return (x - mean) * torch.rsqrt(variance + 1e-8)  # (B, R)


def kl_penalty(logprobs, ref_logprobs, estimator="k1"):
    """KL(actor ‖ reference) of each token (B, R), in nats, estimated from the one sampled.

    With d = log π_ref - log π, k1 = -d is unbiased but noisy, k3 = eᵈ - 1 - d unbiased and
    never negative (Schulman, "Approximating KL Divergence"). The penalty is k1: summed over
    a response it is log π(y) - log π_ref(y), the KL term of the objective.
    """
    d = ref_logprobs - logprobs                     # (B, R)
    return {"k1": -d, "k3": torch.expm1(d) - d}[estimator]


def gae(rewards, values, gamma, lam):
    """Generalised advantage estimation (arXiv:1506.02438, eq. 16).

    δ_t = r_t + γ V_{t+1} - V_t      A_t = δ_t + γλ A_{t+1}      returns = A + V

    All (B, R). The advantage A says how much better an action turned out than the
    critic expected. With λ = 0 it is δ alone, one reward and then the critic's word:
    biased by the critic's errors. With λ = 1 it is all rewards that came, minus V:
    unbiased, but noisy. Beyond the end of a response rewards and values are 0.
    """
    advantages = torch.zeros_like(rewards)          # (B, R)
    advantage, next_value = 0.0, 0.0
    for t in reversed(range(rewards.shape[1])):
        delta = rewards[:, t] + gamma * next_value - values[:, t]  # (B)
        advantage = delta + gamma * lam * advantage  # (B)
        advantages[:, t] = advantage
        next_value = values[:, t]                   # (B)
    return advantages, advantages + values


def policy_loss(logprobs, old_logprobs, advantages, mask, clip):
    """PPO's clipped surrogate (arXiv:1707.06347, eq. 7). Arguments (B, R).

    -min(ρA, clip(ρ, 1-ε, 1+ε)A) with ρ = π(token) / π_old(token). Once ρ has moved
    by more than ε in the direction of A, the gradient is 0: no gain in going on. The
    clip does nothing while ρ is within ε of 1, and nothing when ρ has moved against
    A: then the whole gradient pulls it back. Returns the loss, the share clipped.
    """
    ratio = torch.exp((logprobs - old_logprobs).where(mask.bool(), 0.0))  # (B, R)
    plain = -advantages * ratio                     # (B, R)
    clipped = -advantages * ratio.clamp(1 - clip, 1 + clip)  # (B, R)
    loss = masked_mean(torch.maximum(plain, clipped), mask)
    return loss, masked_mean((clipped > plain).float(), mask)


def value_loss(values, old_values, returns, mask, clip):
    """Half the squared error, or that of the value clipped to its rollout value ± clip,
    if that is worse (as in PPO's code). Arguments and results as in policy_loss."""
    near = torch.clamp(values, old_values - clip, old_values + clip)  # (B, R)
    plain = (values - returns) ** 2                 # (B, R)
    clipped = (near - returns) ** 2                 # (B, R)
    loss = 0.5 * masked_mean(torch.maximum(plain, clipped), mask)
    return loss, masked_mean((clipped > plain).float(), mask)


def adapt_kl_coef(kl_coef, kl, target, horizon, responses):
    """β after a rollout of `kl` nats a response: up if that is above the target, down if
    below, by at most 20% of responses / horizon (arXiv:1909.08593, section 2.2)."""
    error = min(max(kl / target - 1, -0.2), 0.2)
    return kl_coef * (1 + error * responses / horizon)

# ---------- the four networks

def four_models(sft, rm, train, device, bf16):
    """From the folders of SFT and reward model; on "meta", without weights."""
    actor = GPT.from_pretrained(sft, device, bf16)
    critic = ScalarGPT.from_pretrained(rm, device, bf16)
    reference = GPT.from_pretrained(sft, device, bf16, frozen=True)
    reward_model = ScalarGPT.from_pretrained(rm, device, bf16, frozen=True)
    set_trainable(actor, train)
    set_trainable(critic, train)
    return actor, critic, reference, reward_model


def state_values(critic, ids, mask, R):
    """V(s_t) (B, R) of the states in which the last R tokens were chosen."""
    return critic(ids, mask)[:, -R - 1:-1]

# ---------- 1 to 4: the rollout

@dataclass
class Experience:
    """One rollout. Beyond a response's end the numbers are 0; ids mean nothing."""
    ids: torch.Tensor             # (B, P+R) prompt and response
    mask: torch.Tensor            # (B, P+R) True on real tokens
    response_mask: torch.Tensor   # (B, R) True on actions
    logprobs: torch.Tensor        # (B, R) log π_old of the actions, nats
    ref_logprobs: torch.Tensor    # (B, R) log π_ref of the actions, nats
    values: torch.Tensor          # (B, R) V(state before the action)
    scores: torch.Tensor          # (B) the reward model's, or missing_eos_score
    rewards: torch.Tensor         # (B, R) -β KL, the score at the last action
    advantages: torch.Tensor      # (B, R) whitened over the whole rollout
    returns: torch.Tensor         # (B, R) the critic's targets

    def __getitem__(self, rows):
        return Experience(*(getattr(self, field.name)[rows] for field in fields(self)))

    def __len__(self):
        return len(self.ids)


@torch.no_grad()
def make_experience(actor, critic, reference, reward_model,
                    prompts, prompt_mask, kl_coef, cfg):
    """Respond to left-padded prompts (B, P), compute what the update needs."""
    # 1  Sample from the whole distribution: with top-k it would not be π that acts.
    tokens, response_mask, logprobs = actor.generate(
        prompts, prompt_mask, cfg.max_new_tokens, cfg.temperature)  # 3 x (B, R)
    ids = torch.cat([prompts, tokens], dim=1)           # (B, P+R)
    mask = torch.cat([prompt_mask, response_mask], dim=1)  # (B, P+R)
    B, R = tokens.shape

    # 2  The other three networks read the same tokens, a few rows at a time.
    scores, values, ref_logprobs = [], [], []
    for part, real in row_parts(ids, mask, cfg.micro_batch_size):
        scores.append(reward_model.reward(part, real))  # (rows)
        values.append(state_values(critic, part, real, R))  # (rows, R)
        ref_logprobs.append(response_logprobs(
            reference, part, real, R, cfg.temperature))  # (rows, R)
    logprobs = logprobs * response_mask                 # (B, R), 0 beyond the end
    values = torch.cat(values) * response_mask          # (B, R)
    ref_logprobs = torch.cat(ref_logprobs) * response_mask  # (B, R)

    # 3  Each token pays for its KL; the score comes with the last one. An unfinished
    #    response gets a fixed low score instead, so the actor learns to stop.
    is_eos = (tokens == actor.config.eos_token_id) & response_mask  # (B, R)
    scores = torch.where(is_eos.any(1), torch.cat(scores), cfg.missing_eos_score)
    rewards = -kl_coef * kl_penalty(logprobs, ref_logprobs)  # (B, R)
    rows, last = torch.arange(B, device=ids.device), response_mask.sum(1) - 1
    rewards[rows, last] += scores                       # (B)

    # 4  Which actions did better than the critic expected?
    advantages, returns = gae(rewards, values, cfg.gamma, cfg.lam)  # 2 x (B, R)
    advantages = whiten(advantages, response_mask) * response_mask  # (B, R)
    return Experience(ids, mask, response_mask, logprobs, ref_logprobs,
                      values, scores, rewards, advantages, returns)

# ---------- 5: the update

def learn(actor, critic, actor_optimizer, critic_optimizer, experience, cfg):
    """A few epochs of clipped steps on one rollout. Returns their mean metrics."""
    monitor = UpdateMonitor(actor)
    B = len(experience)
    actions = lambda part: part.response_mask.sum()     # a loss is their mean
    for _ in range(cfg.epochs):
        for rows in torch.randperm(B).tensor_split(cfg.minibatches):
            batch = experience[rows]
            for part, share in micro_batches(batch, cfg.micro_batch_size, actions):
                ids, seen, mask = part.ids, part.mask, part.response_mask
                R = mask.shape[1]  # longest
                logits = response_logits(actor, ids, seen, R, cfg.temperature)
                logprobs = token_logprobs(logits, ids[:, -R:])      # (rows, R)
                actor_loss, clipped = policy_loss(
                    logprobs, part.logprobs, part.advantages, mask, cfg.clip)
                (share * actor_loss).backward()

                values = state_values(critic, ids, seen, R)         # (rows, R)
                critic_loss, value_clipped = value_loss(
                    values, part.values, part.returns, mask, cfg.value_clip)
                (share * critic_loss).backward()
                monitor.observe(part, share, logits, logprobs, values,
                                actor_loss, clipped, critic_loss, value_clipped)
            monitor.step(take_step(actor, actor_optimizer),
                         take_step(critic, critic_optimizer))
    return monitor.means()

# ---------- 6, and the loop

def train(actor, critic, reference, reward_model, prompts, samples, folder, cfg, device):
    """Train actor and critic in place on prompts (lists of ids)."""
    actor_optimizer, critic_optimizer = adamw(actor), adamw(critic)
    state = {"kl_coef": cfg.kl_coef, "negatives": 0}
    loop = Loop(folder, cfg.steps, cfg, prompts, samples.tokenizer, state,
                actor=actor, critic=critic,
                actor_optimizer=actor_optimizer, critic_optimizer=critic_optimizer)
    for step in loop:
        lr = set_learning_rate(actor_optimizer, cfg.lr, step, cfg.steps)
        set_learning_rate(critic_optimizer, cfg.critic_lr, step, cfg.steps)
        kl_coef = state["kl_coef"]
        batch = own_part(minibatch(prompts, cfg.batch_size, step, cfg.seed))
        ids, mask = pad(batch, left=True, device=device)    # (B, P)
        experience = make_experience(
            actor, critic, reference, reward_model, ids, mask, kl_coef, cfg)
        check_rollout(experience, step, state, actor)
        metrics = learn(actor, critic, actor_optimizer, critic_optimizer, experience, cfg)

        metrics |= describe(experience, kl_coef, actor.config.eos_token_id) | {"lr": lr}
        loop.log(metrics, show=["objective/scores", "objective/kl", "length"], batch=experience)
        if cfg.kl_target > 0:
            state["kl_coef"] = adapt_kl_coef(kl_coef, metrics["objective/kl"].item(),
                                             cfg.kl_target, cfg.kl_horizon, cfg.batch_size)
        if (step + 1) % cfg.sample_every == 0:
            loop.text("samples", f"\nafter {step + 1} updates" + samples.side_by_side(actor))
    loop.close()


def main(cfg):
    run, device, bf16 = start(cfg, "ppo")
    train_set, test_set = data.load(cfg.data)
    sft, rm = find_model(run, "sft"), find_reward_model(run, cfg.reward_model)
    tokenizer = Tokenizer.shared(sft, rm)
    shapes = four_models(sft, rm, cfg.train, "meta", bf16)
    block_size = min(model.config.block_size for model in shapes)
    fits = tokenizer, block_size, cfg.max_new_tokens
    prompts = encode_prompts(train_set.need("prompts", cfg.data), *fits)
    shown = encode_prompts(test_set.prompts or train_set.prompts, *fits)
    check_memory(shapes, (sft, rm, sft, rm), max(map(len, prompts)), cfg, device)

    models = four_models(sft, rm, cfg.train, device, bf16)
    actor, critic, reference, _ = models
    shown = pad(minibatch(shown, 4, 0, cfg.seed), left=True, device=device)
    samples = Samples(reference, *shown, tokenizer, cfg)
    train(*models, prompts, samples, run / "ppo", cfg, device)
    finish(critic, tokenizer, run / "ppo" / "critic", cfg)
    finish(actor, tokenizer, run / "ppo", cfg)


if __name__ == "__main__":
    launch(main, Config, "ppo")
