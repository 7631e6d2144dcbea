"""Stage 3: PPO. The SFT model practises, the reward model scores its responses, and the KL penalty
keeps it near its start.

    python ppo.py       the toy: about a minute on two cores

Four networks:
    actor         from sft/     trained   writes the responses: the policy
    critic        from reward/  trained   predicts the reward to come
    reference     sft/          frozen    what the KL is measured from
    reward model  reward/       frozen    scores finished responses

The reference is frozen because it defines the KL: if it moved along, nothing would keep the actor
near the SFT model. The reward model is frozen because PPO has no new comparisons to train it on;
InstructGPT and Bai et al. collect some, and train it again. The critic starts as a network that has
read comparisons, not as a value function: its values before the end of a response mean nothing
at first.

One update: 1 sample responses, 2 let the other three networks read them, 3 turn scores and KL into
rewards per token, 4 turn rewards into advantages, 5 take a few clipped gradient steps, 6 log.

PPO: arXiv:1707.06347. GAE: 1506.02438. RLHF: 1909.08593, InstructGPT: 2203.02155.

Axes: B responses, P prompt tokens (padded on the left), R response tokens (padded on the right),
V vocabulary. An action is a response token, <|endoftext|> included. A state is all tokens before
an action.
"""
from collections import defaultdict
from dataclasses import dataclass, fields

import torch

import data
from checks import check_memory, check_normalised, check_ratio, check_rollout
from gpt import GPT, ScalarGPT, response_logits, token_logprobs
from support.command_line import Text, TrainingFlags, launch, start
from support.distributed import from_first, gather, own_rows, total, world_size
from support.loop import Loop
from support.optimizer import adamw, set_learning_rate, take_step
from support.runs import check_origin, find_model, finish
from support.trainable import set_trainable
from text.batches import batch_at, encode_prompts, micro_batches, pad, row_parts
from text.tokenizer import Tokenizer


@dataclass
class Config(TrainingFlags):    # with the flags of every training script
    reward_model: Text = ""     # folder of the reward model; without it the run's own
    reward: Text = ""           # MODULE:FUNCTION that scores instead of it: text/rule.py
    steps: int = 80             # updates, with one rollout each
    batch_size: int = 128       # responses per rollout
    epochs: int = 2             # passes over a rollout
    minibatches: int = 4        # optimiser steps per pass
    max_new_tokens: int = 32    # maximum response length in tokens
    max_prompt_tokens: int = 0  # maximum prompt length, truncated on the left; 0: all that fits
    temperature: float = 1.0    # sampling temperature, and so that of every log-probability
    lr: float = 2.5e-4          # peak learning rate of the actor: a higher one settles too early
    critic_lr: float = 2e-3     # that of the critic: higher, since its errors look like advantages
    kl_coef: float = 0.05       # β, the reward given up per nat of KL
    kl_target: float = 0.0      # target KL in nats per response, which β follows; 0: β is fixed
    kl_horizon: float = 350     # responses over which β adapts
    gamma: float = 1.0          # γ, the discount: none, because responses are short
    lam: float = 0.95           # λ of GAE: 1 trusts the rewards, 0 the critic
    clip: float = 0.2           # ε, how far the probability ratio may move from 1
    value_clip: float = 0.2     # how far a value may move in an update
    missing_eos_score: float | None = None  # score if unfinished; None: reward.py's lowest sample
    sample_every: int = 10      # updates between two looks at test prompts
    snapshot_every: int = 10    # updates between copies of actor and critic for page.py; 0: none

# ---------- the mathematics

def masked_mean(x, mask):
    """Mean of x (B, R) over the real tokens. Over the pads, too, it would depend on how long the
    other responses of the batch are."""
    return x.where(mask.bool(), 0.0).sum() / mask.sum()     # 0 * NaN would be NaN


def whiten(x, mask):
    """x (B, R) with mean 0 and (biased) variance 1 over the real tokens."""
    mean = masked_mean(x, mask)
    variance = masked_mean((x - mean) ** 2, mask)
    return (x - mean) * torch.rsqrt(variance + 1e-8)        # (B, R)


def kl_penalty(logprobs, ref_logprobs):
    """KL(actor ‖ reference) of each token (B, R), in nats, estimated from the one that was
    sampled: log π - log π_ref, known as k1. It is unbiased, and its sum over a response is
    log π(y) - log π_ref(y), the KL term of the objective. In the reward, where no gradient flows
    through it, it gives the gradient of KL(π ‖ π_ref); methods.py has other estimators."""
    return logprobs - ref_logprobs                          # (B, R)


def kl_divergence(logits, ref_logits):
    """KL(π ‖ π_ref) of the next token, Σ π log(π / π_ref) over the vocabulary: 2 x (…, V) -> (…),
    nats. It has the mean of k1 without the noise of sampling."""
    logp, ref_logp = logits.log_softmax(-1), ref_logits.log_softmax(-1)     # 2 x (…, V)
    return (logp.exp() * (logp - ref_logp)).sum(-1)


def gae(rewards, values, gamma, lam):
    """Generalised advantage estimation (arXiv:1506.02438, eq. 16).

    δ_t = r_t + γ V_{t+1} - V_t      A_t = δ_t + γλ A_{t+1}      returns = A + V

    All (B, R). The advantage A says how much better an action turned out than the critic expected.
    With λ = 0 it is only δ, one reward and the critic's estimate: biased by the critic's errors.
    With λ = 1 it is all rewards that came, minus V: unbiased, but noisy. Beyond the end of a
    response rewards and values are 0.
    """
    advantages = torch.zeros_like(rewards)                  # (B, R)
    advantage, next_value = 0.0, 0.0
    for t in reversed(range(rewards.shape[1])):
        delta = rewards[:, t] + gamma * next_value - values[:, t]   # (B)
        advantage = delta + gamma * lam * advantage         # (B)
        advantages[:, t] = advantage
        next_value = values[:, t]                           # (B)
    return advantages, advantages + values


def policy_loss(logprobs, old_logprobs, advantages, mask, clip):
    """PPO's clipped surrogate (arXiv:1707.06347, eq. 7). Arguments (B, R).

    -min(ρA, clip(ρ, 1-ε, 1+ε)A) with ρ = π(token) / π_old(token). Once ρ has moved by more than ε
    in the direction of A, the gradient is 0: no gain in going on. The clip does nothing while ρ is
    within ε of 1, and nothing when ρ has moved against A: then the whole gradient pulls it back.
    Returns the loss, and the share of actions that are clipped.
    """
    ratio = torch.exp((logprobs - old_logprobs).where(mask.bool(), 0.0))    # (B, R)
    plain = -advantages * ratio                             # (B, R)
    clipped = -advantages * ratio.clamp(1 - clip, 1 + clip)  # (B, R)
    loss = masked_mean(torch.maximum(plain, clipped), mask)
    return loss, masked_mean((clipped > plain).float(), mask)


def value_loss(values, old_values, returns, mask, clip):
    """Half the squared error, or that of the value clipped to its rollout value ± clip, if that is
    worse (as in PPO's code). Arguments and results as in policy_loss."""
    near = torch.clamp(values, old_values - clip, old_values + clip)        # (B, R)
    plain = (values - returns) ** 2                         # (B, R)
    clipped = (near - returns) ** 2                         # (B, R)
    loss = 0.5 * masked_mean(torch.maximum(plain, clipped), mask)
    return loss, masked_mean((clipped > plain).float(), mask)


def entropy(logits):
    """Entropy of softmax(logits) in nats: (…, V) -> (…)."""
    return logits.logsumexp(-1) - (logits.softmax(-1) * logits).sum(-1)


def adapt_kl_coef(kl_coef, kl, target, horizon, responses):
    """β after a rollout of `kl` nats per response: up if above the target, down if below, by
    at most 20% of responses / horizon (arXiv:1909.08593, section 2.2), and at most twofold."""
    error = min(max(kl / target - 1, -0.2), 0.2)
    return kl_coef * min(max(1 + error * responses / horizon, 0.5), 2.0)

# ---------- the four networks

def four_models(sft, rm, train, device, bf16, rule=None):
    """Actor, critic, reference, reward model, from the folders of SFT and reward model. The last
    two are frozen; of the first two, the weights that `train` names move. Where a `rule` scores,
    `rm` is the SFT model's folder, too: the critic gets a new head, which expects 0 everywhere."""
    actor = GPT.from_pretrained(sft, device, bf16)
    critic = ScalarGPT.from_pretrained(rm, device, bf16, new_head=bool(rule))
    reference = GPT.from_pretrained(sft, device, bf16, frozen=True)
    reward_model = rule or ScalarGPT.from_pretrained(rm, device, bf16, frozen=True)
    if rule:
        torch.nn.init.zeros_(critic.score.weight)
    set_trainable(actor, train)
    set_trainable(critic, train)
    return actor, critic, reference, reward_model


def state_values(critic, ids, mask, R):
    """V(s_t) (B, R) of the states in which the last R tokens were chosen, in the units of the
    rewards: the critic is a copy of the reward model, so its outputs, too, have reward_mean
    subtracted and are divided by reward_std (ScalarGPT.forward)."""
    return critic(ids, mask)[:, -R - 1:-1]                  # (B, R)

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
    scores: torch.Tensor          # (B) the reward model's; if unfinished, a low one
    exact_kl: torch.Tensor        # (B, R) KL(π_old ‖ π_ref) of the next token, nats
    rewards: torch.Tensor         # (B, R) -β KL, the score at the last action
    advantages: torch.Tensor      # (B, R) whitened over the whole rollout
    returns: torch.Tensor         # (B, R) the critic's targets

    @property
    def R(self):
        """Columns of the responses."""
        return self.response_mask.shape[1]

    @property
    def P(self):
        """Columns of the prompts."""
        return self.ids.shape[1] - self.R

    @property
    def kl(self):
        """(B, R) log π_old - log π_ref of the actions, nats."""
        return kl_penalty(self.logprobs, self.ref_logprobs)

    def actions(self):
        """How many there are."""
        return self.response_mask.sum()

    def __getitem__(self, rows):
        return Experience(*(getattr(self, field.name)[rows] for field in fields(self)))

    def __len__(self):
        return len(self.ids)


@torch.no_grad()
def make_experience(actor, critic, reference, reward_model, prompts, prompt_mask, kl_coef, cfg):
    """Respond to left-padded prompts (B, P), and compute what the update needs."""
    # 1  Sample from the whole distribution: with top-k it would not be π that acts. A row needs an
    #    eighth of the memory that it needs in a step (checks.py), so eight times as many at once.
    tokens, response_mask, logprobs = actor.generate(
        prompts, prompt_mask, cfg.max_new_tokens, cfg.temperature,
        rows_at_once=8 * cfg.micro_batch_size)                          # 3 x (B, R)
    ids = torch.cat([prompts, tokens], dim=1)                           # (B, P+R)
    mask = torch.cat([prompt_mask, response_mask], dim=1)               # (B, P+R)
    P, R = prompts.shape[1], tokens.shape[1]

    # 2  The other three networks read the same tokens: a few rows at a time, to fit into memory,
    #    and without the columns that are padding in all of these rows.
    scores, values, ref_logprobs, exact_kl = [], [], [], []
    for rows, real in row_parts(ids, mask, cfg.micro_batch_size):       # 2 x (rows, T)
        scores.append(reward_model.reward(rows, real))                  # (rows)
        values.append(state_values(critic, rows, real, R))              # (rows, R)
        logits = response_logits(actor, rows, real, R, cfg.temperature)  # (rows, R, V)
        ref_logits = response_logits(reference, rows, real, R, cfg.temperature)  # (rows, R, V)
        ref_logprobs.append(token_logprobs(ref_logits, rows[:, -R:]))   # (rows, R)
        exact_kl.append(kl_divergence(logits, ref_logits))              # (rows, R)
    scores, values, ref_logprobs, exact_kl = map(
        torch.cat, (scores, values, ref_logprobs, exact_kl))

    # Under torchrun each process has responded to prompts of its own. From here on each has all.
    ids, mask, response_mask, logprobs, values, ref_logprobs, exact_kl, scores = map(
        gather, (ids, mask, response_mask, logprobs, values, ref_logprobs, exact_kl, scores))
    logprobs = logprobs * response_mask                                 # (B, R), 0 beyond the end
    values = values * response_mask                                     # (B, R)
    ref_logprobs = ref_logprobs * response_mask                         # (B, R)
    exact_kl = exact_kl * response_mask                                 # (B, R)

    # 3  Each token pays for its KL; the score comes with the last one. An unfinished response gets
    #    the lowest score that a finished one of the SFT model got, so the actor learns to stop.
    is_eos = (ids[:, P:] == actor.config.eos_token_id) & response_mask  # (B, R)
    lowest = reward_model.unfinished_score(cfg.missing_eos_score)
    scores = torch.where(is_eos.any(1), scores, lowest)                 # (B)
    rewards = -kl_coef * kl_penalty(logprobs, ref_logprobs)             # (B, R)
    rows, last = torch.arange(len(ids), device=ids.device), response_mask.sum(1) - 1    # 2 x (B)
    rewards[rows, last] += scores

    # 4  Which actions did better than the critic expected? Whitened, the advantages have the same
    #    size whatever the scale of the rewards, so one learning rate suits all of training; and
    #    about half of all actions become likelier, half less likely. It is done over the whole
    #    rollout: a minibatch's own mean and variance would be noise that differs from step to step.
    advantages, returns = gae(rewards, values, cfg.gamma, cfg.lam)      # 2 x (B, R)
    advantages = whiten(advantages, response_mask) * response_mask      # (B, R)
    return Experience(ids, mask, response_mask, logprobs, ref_logprobs,
                      values, scores, exact_kl, rewards, advantages, returns)


def describe(experience, kl_coef, eos):
    """The metrics of a rollout, {name: number}, under the names that other implementations use."""
    e, mask = experience, experience.response_mask          # (B, R)
    ended = ((e.ids[:, e.P:] == eos) & mask).any(1)         # (B)
    values, returns = e.values[mask], e.returns[mask]       # 2 x (actions)
    kl = e.kl.sum(1)                                        # (B) nats per response
    metrics = {
        "objective/scores": e.scores.mean(),                # in deviations of SFT responses
        "objective/kl": kl.mean(),                          # nats per response, as it is penalised
        "objective/kl_exact": e.exact_kl.sum(1).mean(),     # the same, summed over all next tokens
        "objective/entropy": -e.logprobs.sum(1).mean(),     # nats per response
        "objective/non_score_reward": -kl_coef * kl.mean(),  # what the KL costs
        "objective/score_total": e.rewards.sum(1).mean(),   # what PPO maximises: score - β KL
        "returns/mean": returns.mean(),                     # what the critic should have said
        "returns/var": returns.var(),
        "val/mean": values.mean(),                          # what it said
        "val/var": values.var(),
        "val/var_explained": 1 - (values - returns).var() / returns.var(),  # 1: all; 0: nothing
        "val/num_eos_tokens": ended.sum(),                  # responses that ended
        "eos_rate": ended.float().mean(),                   # their share
        "length": mask.sum(1).float().mean()}               # tokens per response
    return {name: value.item() for name, value in metrics.items()} | {"kl_coef": kl_coef}

# ---------- 5: the update

def learn(actor, critic, actor_optimizer, critic_optimizer, experience, cfg):
    """A few epochs of clipped steps on one rollout. Returns {metric: its mean over all steps}."""
    sums, steps = defaultdict(float), 0

    def add(share, metrics):
        for name, value in metrics.items():
            sums[name] += share * value.detach()

    for _ in range(cfg.epochs):
        order = from_first(torch.randperm(len(experience)))     # (B), the same in all processes
        for rows in order.tensor_split(cfg.minibatches):
            # A minibatch goes through the networks in parts that fit into memory. A loss is a mean
            # over actions. Each part's mean counts by its share of the minibatch's actions, so the
            # gradient is that of the whole minibatch.
            minibatch = experience[rows]
            for part, share in micro_batches(minibatch, cfg.micro_batch_size, Experience.actions):
                ids, mask, R = part.ids, part.response_mask, part.R
                logits = response_logits(actor, ids, part.mask, R, cfg.temperature)  # (rows, R, V)
                logprobs = token_logprobs(logits, ids[:, -R:])          # (rows, R)
                actor_loss, clipped = policy_loss(
                    logprobs, part.logprobs, part.advantages, mask, cfg.clip)
                (share * actor_loss).backward()
                ratio = torch.exp(logprobs.detach() - part.logprobs)[mask]  # (actions)
                if steps == 0:
                    check_ratio(ratio, actor.transformer.bf16)
                add(share, {
                    "loss/policy": actor_loss,                          # near 0 by construction
                    "policy/clipfrac": clipped,                         # share of actions
                    "policy/approxkl": 0.5 * (ratio.log() ** 2).mean(),  # of π_old and π, nats
                    "policy/entropy": entropy(logits.detach()[mask]).mean(),  # nats per token
                    "val/ratio": ratio.mean(),                          # π / π_old
                    "val/ratio_var": ((ratio - 1) ** 2).mean()})

                values = state_values(critic, ids, part.mask, R)        # (rows, R)
                critic_loss, value_clipped = value_loss(
                    values, part.values, part.returns, mask, cfg.value_clip)
                (share * critic_loss).backward()
                add(share, {
                    "loss/value": critic_loss,
                    "val/clipfrac": value_clipped,                      # share of actions
                    "val/error": ((values - part.returns)[mask] ** 2).mean()})
            add(1 / world_size(), {     # norms of the gradients, before they are clipped to 1
                "policy/gradient_norm": take_step(actor, actor_optimizer),
                "val/gradient_norm": take_step(critic, critic_optimizer)})
            steps += 1
    means = total(torch.stack(list(sums.values()))) / steps             # of all processes
    return dict(zip(sums, means.tolist()))

# ---------- the loop

def first_state(cfg):
    """What changes from update to update, besides networks and optimisers. resume.pt keeps it."""
    return {"step": 0, "kl_coef": cfg.kl_coef, "negatives": 0}


def train(actor, critic, reference, reward_model, actor_optimizer, critic_optimizer,
          prompts, state, cfg, device=None):
    """Train actor and critic in place on prompts (lists of ids). After each update yield
    (step, experience, metrics). It begins where `state` says, and keeps that up to date."""
    for step in range(state["step"], cfg.steps):
        lr = set_learning_rate(actor_optimizer, cfg.lr, step, cfg.steps)
        set_learning_rate(critic_optimizer, cfg.critic_lr, step, cfg.steps)
        kl_coef = state["kl_coef"]

        batch = batch_at(prompts, cfg.batch_size, step, cfg.seed)
        ids, mask = pad(batch, left=True, device=device)                # (B, P)
        experience = make_experience(actor, critic, reference, reward_model,
                                     own_rows(ids), own_rows(mask), kl_coef, cfg)
        state["negatives"] = check_rollout(
            experience, step, state["negatives"], actor.transformer.bf16)
        learned = learn(actor, critic, actor_optimizer, critic_optimizer, experience, cfg)

        rolled = describe(experience, kl_coef, actor.config.eos_token_id)
        metrics = {**learned, **rolled, "lr": lr}
        if cfg.kl_target > 0:
            state["kl_coef"] = adapt_kl_coef(kl_coef, metrics["objective/kl"], cfg.kl_target,
                                             cfg.kl_horizon, cfg.batch_size)
        state["step"] = step + 1
        yield step, experience, metrics


def respond(model, prompts, mask, tokenizer, cfg):
    """One sampled response to each left-padded prompt (B, P), as text. Its random numbers are its
    own and the same each time: looking changes no run."""
    own = torch.Generator(prompts.device).manual_seed(cfg.seed)
    tokens, response_mask, _ = model.generate(
        prompts, mask, cfg.max_new_tokens, cfg.temperature, generator=own)
    return tokenizer.texts(tokens, response_mask)


def main(cfg):
    run, device, bf16 = start(cfg, "ppo")
    train_set, test_set = data.load(cfg.data)
    sft, rule = find_model(run, "sft"), None
    if cfg.reward:
        from text.rule import open_rule     # only such a run needs it
        rm, rule = sft, open_rule(cfg, sft)
    else:
        rm = find_model(run, "reward", cfg.reward_model)
        check_normalised(rm)
        check_origin(run, "reward")
    tokenizer = Tokenizer.shared(sft, rm)

    # On "meta" the models have shapes and no weights: enough to see whether the run fits.
    shapes = four_models(sft, rm, cfg.train, "meta", bf16, rule)[:3 if rule else 4]
    block_size = min(model.config.block_size for model in shapes)
    prompts, shown = (encode_prompts(
        some, tokenizer, block_size, cfg.max_new_tokens, cfg.max_prompt_tokens) for some in (
            train_set.need("prompts", cfg.data), test_set.prompts or train_set.prompts))
    check_memory(shapes, (sft, rm, sft, rm), max(map(len, prompts)), cfg, device)
    if rule:
        rule.expect(train_set.prompts, prompts)

    models = four_models(sft, rm, cfg.train, device, bf16, rule)
    actor, critic, reference, _ = models
    optimizers = adamw(actor), adamw(critic)
    shown = pad(batch_at(shown, 4, 0, cfg.seed), left=True, device=device)  # 2 x (4, P)
    asked, before = tokenizer.texts(*shown), respond(reference, *shown, tokenizer, cfg)

    # With --resume, `start` restores the last save: both networks and optimisers, the random
    # generators, and `state`. `run` saves every ten minutes, at the end, and on a signal.
    state = first_state(cfg)
    loop = Loop(run / "ppo", cfg.steps, cfg, prompts, state, actor=actor, critic=critic,
                actor_optimizer=optimizers[0], critic_optimizer=optimizers[1])
    loop.start()
    for step, experience, metrics in loop.run(
            train(*models, *optimizers, prompts, state, cfg, device)):
        loop.log(metrics, show=["objective/scores", "objective/kl", "length"])
        if (step + 1) % cfg.sample_every == 0:
            now = respond(actor, *shown, tokenizer, cfg)
            loop.text("samples", f"\nafter {step + 1} updates" + "".join(
                f"\n\n{prompt.strip()}\n    SFT  {old.strip()}\n    PPO  {new.strip()}"
                for prompt, old, new in zip(asked, before, now)))
        if cfg.snapshot_every and (step + 1) % cfg.snapshot_every == 0:
            for name, model in (("actor", actor), ("critic", critic)):
                model.save_pretrained(run / "ppo" / "snapshots" / str(step + 1) / name)
    loop.close()

    finish(critic, tokenizer, run / "ppo" / "critic", cfg)
    finish(actor, tokenizer, run / "ppo", cfg, came_from=["sft"] + ["reward"] * (not rule))


if __name__ == "__main__":
    launch(main, Config, "ppo")
