"""Stage 3: PPO. The SFT model practises, the reward model scores its responses, the KL keeps it near its start.

    python ppo.py                       the toy: about a minute on two cores

Four networks:
    actor           starts from sft/      trained     the policy: writes the responses
    critic          starts from reward/   trained     the value function: predicts, token by token, the reward to come
    reference       is sft/               frozen      the policy that the KL is measured from
    reward model    is reward/            frozen      scores finished responses

One update: 1 sample responses, 2 let the other three networks read them, 3 turn scores and KL into rewards per token,
4 turn rewards into advantages, 5 take a few clipped gradient steps, 6 log. The numbers stand at the code.

The reference is frozen because it defines the KL: if it moved along, nothing would keep the actor near the SFT model.
The reward model is frozen because a judge that learned along would learn to please the actor.

PPO: arXiv:1707.06347. GAE: arXiv:1506.02438. RLHF: Ziegler et al., arXiv:1909.08593, and InstructGPT, arXiv:2203.02155.

Axes: B responses, P prompt tokens (padded on the left), R response tokens (padded on the right), C channels,
V vocabulary. An action is a response token, <|endoftext|> included; a state is all tokens before it.
"""
from dataclasses import dataclass, fields

import torch

import data
from data.batches import minibatch, pad
from data.encode import encode_prompts
from data.tokenizer import Tokenizer
from gpt import GPT, ScalarGPT, token_logprobs
from support.command_line import Flags, launch, start
from support.log import Log
from support.memory import check_memory, show_memory
from support.monitor import Samples, UpdateMonitor, check_rollout, check_sizes, describe, tolerance
from support.optimizer import adamw, set_learning_rate, take_step
from support.resume import Resume
from support.runs import find_model, find_reward_model, finish
from support.trainable import set_trainable


@dataclass
class Config(Flags):                # with --data, --run, --preset, --seed, --device, --precision
    reward_model: str = ""          # folder of a reward model trained elsewhere; default the run's
    steps: int = 80                 # updates: rollouts of batch_size responses each
    batch_size: int = 128           # responses a rollout
    epochs: int = 2                 # passes over a rollout; with one step a rollout the ratio would stay 1
    minibatches: int = 4            # optimiser steps a pass
    micro_batch_size: int = 0       # responses at a time within a step: less memory, the same gradient; 0 is all
    train: str = "all"              # which weights of actor and critic move: all, last:N blocks, lora:R adapters
    max_new_tokens: int = 32        # a response that has not ended by then is cut off
    temperature: float = 1.0        # of sampling, and so of every log-probability
    lr: float = 2.5e-4              # peak learning rate of the actor: faster, it settles before it has explored
    critic_lr: float = 2e-3         # of the critic, which must be ahead: its errors look like advantages
    kl_coef: float = 0.05           # β, reward given up per nat of KL to the reference
    kl_target: float = 0.0          # nats a response; above 0, β is adapted towards this KL
    kl_horizon: float = 10_000      # responses over which β is adapted
    gamma: float = 1.0              # γ, the discount: responses are short, so none
    lam: float = 0.95               # λ of GAE: 1 trusts the rewards that came, 0 the critic's predictions
    clip: float = 0.2               # ε, of the probability ratio
    value_clip: float = 0.2         # of the critic's move away from its rollout value
    missing_eos_score: float = -1.0     # score of a response without <|endoftext|>, in standard deviations
    sample_every: int = 10          # updates between two looks at the same test prompts
    save_every: int = 20            # updates between two checkpoints to resume from
    resume: bool = False            # go on from the last checkpoint of this run

# ----------------------------------------------------------------------------- the mathematics

def masked_mean(x, mask):
    """Mean of x (B, R) over the real tokens; a mean over padding would depend on the other rows' lengths."""
    return x.where(mask.bool(), 0.0).sum() / mask.sum()         # x * mask would let an inf or NaN through


def whiten(x, mask, shift_mean=True):
    """x (B, R) with variance 1 (biased) over the real tokens, and mean 0, or its own mean if not shift_mean."""
    mean = masked_mean(x, mask)
    variance = masked_mean((x - mean) ** 2, mask)
    whitened = (x - mean) * torch.rsqrt(variance + 1e-8)        # (B, R)
    return whitened if shift_mean else whitened + mean


def kl_penalty(logprobs, ref_logprobs, estimator="k1"):
    """KL(actor ‖ reference) of each token (B, R), in nats, estimated from the one token that was sampled.

    With d = log π_ref - log π: k1 = -d is unbiased but noisy, k2 = d²/2 has little variance and some bias,
    k3 = eᵈ - 1 - d is unbiased and never negative (Schulman, "Approximating KL Divergence"). The penalty is
    k1: summed over a response it is log π(y) - log π_ref(y), the very KL term of the objective.
    """
    d = ref_logprobs - logprobs                                 # (B, R)
    return {"k1": -d, "k2": d ** 2 / 2, "k3": torch.expm1(d) - d}[estimator]


def gae(rewards, values, gamma, lam):
    """Generalised advantage estimation (arXiv:1506.02438, eq. 16): advantages and returns, both (B, R).

    δ_t = r_t + γ V_{t+1} - V_t        A_t = δ_t + γλ A_{t+1}        returns = A + V

    The advantage says how much better an action turned out than the critic expected. With λ = 0 it is δ alone, one
    step and then the critic's word: biased by its errors. With λ = 1 it is all rewards that came, minus V: unbiased,
    but noisy. Beyond the end of a response rewards and values are 0: there is nothing to come.
    """
    advantages = torch.zeros_like(rewards)                                  # (B, R)
    advantage, next_value = 0.0, 0.0
    for t in reversed(range(rewards.shape[1])):
        delta = rewards[:, t] + gamma * next_value - values[:, t]           # (B)
        advantage = delta + gamma * lam * advantage                         # (B)
        advantages[:, t] = advantage
        next_value = values[:, t]                                           # (B)
    return advantages, advantages + values


def policy_loss(logprobs, old_logprobs, advantages, mask, clip):
    """PPO's clipped surrogate (arXiv:1707.06347, eq. 7), all arguments (B, R): loss, share of clipped tokens.

    -min(ρA, clip(ρ, 1-ε, 1+ε)A) with ρ = π(token)/π_old(token). Once ρ has moved by more than ε in the direction
    of A, the gradient is 0: nothing is gained by going on. The clip does nothing while ρ is within ε of 1, and
    nothing when ρ has moved against A: then the whole gradient pulls it back.
    """
    ratio = torch.exp((logprobs - old_logprobs).where(mask.bool(), 0.0))    # (B, R)
    plain = -advantages * ratio                                             # (B, R)
    clipped = -advantages * ratio.clamp(1 - clip, 1 + clip)                 # (B, R)
    return masked_mean(torch.maximum(plain, clipped), mask), masked_mean((clipped > plain).float(), mask)


def value_loss(values, old_values, returns, mask, clip):
    """Half the squared error, or that of the value clipped to its rollout value ± clip if that is worse (as in
    PPO's code). All arguments (B, R): loss, share of clipped tokens."""
    near = torch.clamp(values, old_values - clip, old_values + clip)        # (B, R)
    plain = (values - returns) ** 2                                         # (B, R)
    clipped = (near - returns) ** 2                                         # (B, R)
    return 0.5 * masked_mean(torch.maximum(plain, clipped), mask), masked_mean((clipped > plain).float(), mask)


def adapt_kl_coef(kl_coef, kl, target, horizon, responses):
    """β after a rollout whose KL was `kl` nats a response: up when that is above the target, down when below, by at
    most 20% of responses / horizon (arXiv:1909.08593, section 2.2)."""
    error = min(max(kl / target - 1, -0.2), 0.2)
    return kl_coef * (1 + error * responses / horizon)

# ----------------------------------------------------------------------------- the four networks

def four_models(sft, rm, train, device, bf16):
    """From the folders of the SFT and the reward model. On the device "meta": shapes without weights."""
    actor = GPT.from_pretrained(sft, device, bf16)
    critic = ScalarGPT.from_pretrained(rm, device, bf16)
    reference = GPT.from_pretrained(sft, device, bf16, frozen=True)
    reward_model = ScalarGPT.from_pretrained(rm, device, bf16, frozen=True)
    set_trainable(actor, train)
    set_trainable(critic, train)
    return actor, critic, reference, reward_model


def action_logits(model, ids, mask, R, temperature):
    """Logits (B, R, V) of the distributions that the last R tokens were drawn from: those of the state before each,
    at the temperature of sampling. Otherwise ratio and KL would compare distributions that nobody sampled from."""
    states = model.transformer(ids, mask)[:, -R - 1:-1]                     # (B, R, C)
    return model.head(states).float() / temperature                         # (B, R, V)


def action_logprobs(model, ids, mask, R, temperature):
    """log π of the last R tokens, each at the state before it: (B, R), nats."""
    return token_logprobs(action_logits(model, ids, mask, R, temperature), ids[:, -R:])


def state_values(critic, ids, mask, R):
    """V(s_t) (B, R) of the states in which the last R tokens were chosen: before each, not after."""
    return critic(ids, mask)[:, -R - 1:-1]

# ----------------------------------------------------------------------------- 1 to 4: the rollout

@dataclass
class Experience:
    """One rollout. Beyond the end of a response ids mean nothing, and the other numbers are 0."""
    ids: torch.Tensor               # (B, P+R) prompt and response
    mask: torch.Tensor              # (B, P+R) True on real tokens
    response_mask: torch.Tensor     # (B, R) True on actions: up to and including <|endoftext|>
    logprobs: torch.Tensor          # (B, R) log π_old of each action, as sampled, nats
    ref_logprobs: torch.Tensor      # (B, R) log π_ref of the same actions, nats
    values: torch.Tensor            # (B, R) V(state before the action)
    scores: torch.Tensor            # (B) the reward model's, or missing_eos_score
    rewards: torch.Tensor           # (B, R) -β KL, and the score at the last action
    advantages: torch.Tensor        # (B, R) whitened over the whole rollout
    returns: torch.Tensor           # (B, R) what the critic should have predicted

    def __getitem__(self, rows):
        return Experience(*(getattr(self, field.name)[rows] for field in fields(self)))

    def micro_batches(self, size):
        """Parts of at most `size` responses (0: all), each with its share of the actions, to weigh its gradient by."""
        for rows in torch.arange(len(self.ids)).split(size or len(self.ids)):
            part = self[rows]
            yield part, part.response_mask.sum() / self.response_mask.sum()


@torch.no_grad()
def make_experience(actor, critic, reference, reward_model, prompts, prompt_mask, kl_coef, cfg):
    """Let the actor respond to left-padded prompts (B, P) and compute all that the update needs."""
    # 1  Sample from the whole distribution: with top-k or top-p, another policy than π would have sampled.
    tokens, response_mask, logprobs = actor.generate(prompts, prompt_mask, cfg.max_new_tokens, cfg.temperature)
    ids = torch.cat([prompts, tokens], dim=1)                               # (B, P+R)
    mask = torch.cat([prompt_mask, response_mask], dim=1)                   # (B, P+R)
    B, R = tokens.shape

    # 2  The other three networks read the same tokens, a few rows at a time, since logits are large.
    scores, values, ref_logprobs = [], [], []
    for part, real in zip(ids.split(cfg.micro_batch_size or B), mask.split(cfg.micro_batch_size or B)):
        scores.append(reward_model.reward(part, real))                      # (rows)
        values.append(state_values(critic, part, real, R))                  # (rows, R)
        ref_logprobs.append(action_logprobs(reference, part, real, R, cfg.temperature))     # (rows, R)
    logprobs = logprobs * response_mask                                     # (B, R), 0 beyond the end
    values = torch.cat(values) * response_mask                              # (B, R)
    ref_logprobs = torch.cat(ref_logprobs) * response_mask                  # (B, R)

    # 3  Each token pays for its KL; the score comes with the last one. A response without an end gets a fixed low
    #    score instead: the reward model has learned from finished ones only, and the actor must learn to stop.
    rows, last = torch.arange(B, device=ids.device), response_mask.sum(1) - 1               # (B), (B)
    ended = tokens[rows, last] == actor.config.eos_token_id                 # (B)
    scores = torch.where(ended, torch.cat(scores), cfg.missing_eos_score)   # (B)
    rewards = -kl_coef * kl_penalty(logprobs, ref_logprobs)                 # (B, R)
    rewards[rows, last] += scores

    # 4  Which tokens did better than the critic expected? After whitening, the scale of rewards does not matter.
    advantages, returns = gae(rewards, values, cfg.gamma, cfg.lam)          # (B, R), (B, R)
    advantages = whiten(advantages, response_mask) * response_mask          # (B, R)
    return Experience(ids, mask, response_mask, logprobs, ref_logprobs, values, scores, rewards, advantages, returns)

# ----------------------------------------------------------------------------- 5: the update

def learn(actor, critic, actor_optimizer, critic_optimizer, experience, cfg):
    """A few epochs of clipped steps on one rollout. Returns the metrics, averaged over all steps."""
    monitor = UpdateMonitor(tolerance(actor))
    for _ in range(cfg.epochs):
        for rows in torch.randperm(len(experience.ids)).tensor_split(cfg.minibatches):
            for batch, share in experience[rows].micro_batches(cfg.micro_batch_size):
                mask, R = batch.response_mask, batch.response_mask.shape[1]
                logits = action_logits(actor, batch.ids, batch.mask, R, cfg.temperature)    # (B, R, V)
                logprobs = token_logprobs(logits, batch.ids[:, -R:])                        # (B, R)
                actor_loss, clipped = policy_loss(logprobs, batch.logprobs, batch.advantages, mask, cfg.clip)
                (share * actor_loss).backward()

                values = state_values(critic, batch.ids, batch.mask, R)                     # (B, R)
                critic_loss, value_clipped = value_loss(values, batch.values, batch.returns, mask, cfg.value_clip)
                (share * critic_loss).backward()
                monitor.observe(batch, share, logits, logprobs, values, actor_loss, clipped, critic_loss, value_clipped)
            monitor.step(take_step(actor, actor_optimizer), take_step(critic, critic_optimizer))
    return monitor.means()

# ----------------------------------------------------------------------------- 6, and the loop

def train(actor, critic, reference, reward_model, prompts, samples, folder, cfg, device):
    """Train actor and critic in place on prompts (lists of ids)."""
    actor_optimizer, critic_optimizer = adamw(actor), adamw(critic)
    resume = Resume(folder, cfg, actor=actor, critic=critic,
                    actor_optimizer=actor_optimizer, critic_optimizer=critic_optimizer)
    first, kl_coef, negatives = 0, cfg.kl_coef, 0
    if cfg.resume:
        state = resume.load()
        first, kl_coef, negatives = state["step"], state["kl_coef"], state["negatives"]

    log = Log(folder.parent, "ppo", cfg.steps, first)
    for step in range(first, cfg.steps):
        lr = set_learning_rate(actor_optimizer, cfg.lr, step, cfg.steps)
        set_learning_rate(critic_optimizer, cfg.critic_lr, step, cfg.steps)

        ids, mask = pad(minibatch(prompts, cfg.batch_size, step, cfg.seed), left=True, device=device)   # (B, P)
        experience = make_experience(actor, critic, reference, reward_model, ids, mask, kl_coef, cfg)
        kl = experience.logprobs - experience.ref_logprobs                  # (B, R)
        negatives = check_rollout(kl, step, negatives, tolerance(actor))
        metrics = learn(actor, critic, actor_optimizer, critic_optimizer, experience, cfg)
        metrics |= describe(experience, kl_coef, actor.config.eos_token_id)
        log(step, {**metrics, "lr": lr}, show=["objective/scores", "objective/kl", "length"])
        if cfg.kl_target > 0:
            kl_coef = adapt_kl_coef(kl_coef, kl.sum(1).mean().item(), cfg.kl_target, cfg.kl_horizon, len(ids))
        if (step + 1) % cfg.sample_every == 0:
            log.text(step, "samples", f"\nafter {step + 1} updates{samples.side_by_side(actor)}")
        if (step + 1) % cfg.save_every == 0:
            resume.save(step=step + 1, kl_coef=kl_coef, negatives=negatives)
    log.close()


def main(cfg):
    run, device, bf16 = start(cfg)
    train_set, test_set = data.load(cfg.data)
    sft, rm = find_model(run, "sft"), find_reward_model(run, cfg.reward_model)
    tokenizer = Tokenizer.shared(sft, rm)
    shapes = four_models(sft, rm, cfg.train, "meta", bf16)
    positions = min(model.config.block_size for model in shapes)
    prompts = encode_prompts(train_set.need("prompts", cfg.data), tokenizer, positions, cfg.max_new_tokens)
    shown = encode_prompts(test_set.prompts, tokenizer, positions, cfg.max_new_tokens) or prompts
    check_sizes(cfg, len(prompts))
    check_memory(show_memory(shapes, (sft, rm, sft, rm), max(map(len, prompts)), cfg), device)

    actor, critic, reference, reward_model = four_models(sft, rm, cfg.train, device, bf16)
    samples = Samples(reference, *pad(minibatch(shown, 4, 0, cfg.seed), left=True, device=device), tokenizer, cfg)
    train(actor, critic, reference, reward_model, prompts, samples, run / "ppo", cfg, device)
    critic.save_pretrained(run / "ppo" / "critic", tokenizer)
    finish(actor, tokenizer, run / "ppo")


if __name__ == "__main__":
    launch(main, Config, "ppo")
