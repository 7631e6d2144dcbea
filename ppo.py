"""Stage 3: PPO. The assistant practises, the reward model marks, the reference keeps it honest.

    python ppo.py                       the toy: about a minute on two cores

Four models take part:
    actor           starts from sft/      trained     writes the answers
    critic          starts from reward/   trained     predicts, token by token, the reward still to come
    reference       is sft/               frozen      what the actor may not drift too far from
    reward model    is reward/            frozen      scores finished answers

One update: 1 sample answers, 2 score them, 3 charge for the distance to the reference, 4 turn the
rewards into advantages, 5 take a few clipped gradient steps, 6 log. The numbers stand at the code.

PPO: Schulman et al., arXiv:1707.06347. GAE: arXiv:1506.02438. RLHF: InstructGPT, arXiv:2203.02155,
and Ziegler et al., arXiv:1909.08593, whose value function shares its trunk with the policy; here the
critic is a network of its own.

Axes: B answers, P prompt tokens (padded on the left), R response tokens (padded on the right), C
channels, V vocabulary. An action is a response token, <|endoftext|> included.
"""
import math
from dataclasses import dataclass, fields

import torch

import data
from common import (Log, UserError, find_model, finish, launch, load_resume, read_config, save_resume,
                    set_learning_rate, start)
from data.batches import micro_batches, minibatch, pad
from data.tokenizer import Tokenizer
from gpt import GPT, ScalarGPT, find_folder, parameter_count, set_trainable, token_logprobs


@dataclass
class Config:
    data: str = "toy"               # data set: toy, hh (or hh:SUBSET+…), tldr, or a .jsonl or .jsonl.gz of your own
    preset: str = ""                # other defaults: gpt2, gpt2-medium, -large, -xl, unified; default by the model
    reward_model: str = ""          # folder of a reward model trained elsewhere; default the run's
    run: str = ""                   # folder of the run; default out/<data>
    steps: int = 80                 # updates: rollouts of batch_size answers each
    batch_size: int = 128           # answers a rollout
    epochs: int = 2                 # passes over a rollout; with one step a rollout the ratio would stay 1
    minibatches: int = 4            # optimiser steps a pass
    micro_batch_size: int = 0       # answers at a time within a step: less memory, the same gradient; 0 is all
    train: str = "all"              # which weights of actor and critic may move: all, last:N blocks, lora:R adapters
    max_new_tokens: int = 32        # an answer that has not ended by then never will
    temperature: float = 1.0        # of sampling, and so of every log-probability; practice explores
    lr: float = 2.5e-4              # peak learning rate of the actor: faster, it settles before it has tried enough
    critic_lr: float = 2e-3         # of the critic, which must be ahead: what it lags behind looks like merit
    kl_coef: float = 0.05           # β, reward given up per nat of KL to the reference
    kl_target: float = 0.0          # nats a response; above 0, β is steered towards this KL
    kl_horizon: float = 10_000      # answers over which that steering acts
    gamma: float = 1.0              # discount: answers are short, a token's worth does not fade
    lam: float = 0.95               # λ of GAE: 1 trusts what happened, 0 what the critic expected
    clip: float = 0.2               # ε, of the probability ratio
    value_clip: float = 0.2         # of the critic's move away from its rollout value
    missing_eos_score: float = -1.0     # score, in standard deviations, of an answer that never ends
    sample_every: int = 10          # updates between two looks at the same test prompts
    save_every: int = 20            # updates between two checkpoints to resume from
    seed: int = 0                   # of sampling and the order of the prompts
    device: str = ""                # cuda, cpu, mps; default what there is
    precision: str = ""             # fp32 or bf16; default bf16 on a GPU that has it
    resume: bool = False            # go on from the last checkpoint of this run


# Other defaults for OpenAI's GPT-2s, as in sft.py. Four epochs of one step: Ziegler et al. and all who reproduced
# them; 128 answers a rollout: trlX. Rates: 1e-5 is Ziegler's for the smallest of the four, 5e-6 and 9e-6 minChatGPT's
# for medium, 3e-6 that of TRL and of the N+ reproduction (arXiv:2403.17031), with 512 answers in `unified`.
ALL = dict(batch_size=128, epochs=4, minibatches=1, max_new_tokens=128)
PRESETS = {
    "gpt2":        dict(ALL, lr=1e-5, critic_lr=1e-5, steps=400, micro_batch_size=16),
    "gpt2-medium": dict(ALL, lr=5e-6, critic_lr=9e-6, steps=400, micro_batch_size=16),
    "gpt2-large":  dict(ALL, lr=3e-6, critic_lr=3e-6, steps=400, micro_batch_size=8),
    "gpt2-xl":     dict(ALL, lr=3e-6, critic_lr=3e-6, steps=400, micro_batch_size=4),
    "unified":     dict(ALL, lr=3e-6, critic_lr=3e-6, steps=1953, micro_batch_size=8) | dict(batch_size=512),
}

# ----------------------------------------------------------------------------- the mathematics

def masked_mean(x, mask):
    """Mean of x (B, R) over the real tokens; an average over padding would depend on the batch mates."""
    return x.where(mask.bool(), 0.0).sum() / mask.sum()         # x * mask would let an inf or NaN through


def whiten(x, mask, shift_mean=True):
    """x (B, R) with mean 0 (or its own, if not shift_mean) and variance 1 over the real tokens; biased variance."""
    mean = masked_mean(x, mask)
    variance = masked_mean((x - mean) ** 2, mask)
    whitened = (x - mean) * torch.rsqrt(variance + 1e-8)
    return whitened if shift_mean else whitened + mean


def kl_penalty(logprobs, ref_logprobs, estimator="k1"):
    """KL(actor ‖ reference) of each token (B, R), in nats, estimated from the one token that was sampled.

    With d = log π_ref - log π, all three average over samples from π to the exact KL or near it:
    k1 = -d is unbiased but noisy, k2 = d²/2 has little variance and some bias, k3 = eᵈ - 1 - d is
    unbiased and never negative (Schulman, "Approximating KL Divergence"). As a penalty per token k1
    is right: summed over an answer it is log π(y) - log π_ref(y), what the optimum is defined by.
    """
    d = ref_logprobs - logprobs
    return {"k1": -d, "k2": d ** 2 / 2, "k3": torch.expm1(d) - d}[estimator]


def gae(rewards, values, gamma, lam):
    """Generalised advantage estimation (arXiv:1506.02438, eq. 16): advantages and returns, both (B, R).

    δ_t = r_t + γ V_{t+1} - V_t        A_t = δ_t + γλ A_{t+1}        returns = A + V
    rewards and values (B, R) are 0 beyond the end of a response: there is nothing to come, V = 0.
    """
    advantages = torch.zeros_like(rewards)
    advantage, next_value = 0.0, 0.0
    for t in reversed(range(rewards.shape[1])):
        delta = rewards[:, t] + gamma * next_value - values[:, t]           # (B)
        advantage = delta + gamma * lam * advantage                         # (B)
        advantages[:, t], next_value = advantage, values[:, t]
    return advantages, advantages + values


def policy_loss(logprobs, old_logprobs, advantages, mask, clip):
    """PPO's clipped surrogate (arXiv:1707.06347, eq. 7), all arguments (B, R): loss, share of clipped tokens.

    -min(ρA, clip(ρ, 1-ε, 1+ε)A) with ρ = π(token)/π_old(token): a token gains nothing by moving its
    probability further than ε from where it was sampled, but is pulled back at full strength.
    """
    ratio = torch.exp((logprobs - old_logprobs).where(mask.bool(), 0.0))    # (B, R)
    plain, clipped = -advantages * ratio, -advantages * ratio.clamp(1 - clip, 1 + clip)
    return masked_mean(torch.maximum(plain, clipped), mask), masked_mean((clipped > plain).float(), mask)


def value_loss(values, old_values, returns, mask, clip):
    """Half the squared error, the worse of plain and clipped (as PPO's code has it), all arguments (B, R):
    loss, share of clipped tokens. The critic, too, may not run away from the rollout it is judged on."""
    near = torch.clamp(values, old_values - clip, old_values + clip)        # (B, R)
    plain, clipped = (values - returns) ** 2, (near - returns) ** 2
    return 0.5 * masked_mean(torch.maximum(plain, clipped), mask), masked_mean((clipped > plain).float(), mask)


def adapt_kl_coef(kl_coef, kl, target, horizon, answers):
    """β after a rollout whose KL was `kl` nats: up when it is above the target, at most 20% of
    answers / horizon at once (arXiv:1909.08593, section 2.2)."""
    error = min(max(kl / target - 1, -0.2), 0.2)
    return kl_coef * (1 + error * answers / horizon)

# ----------------------------------------------------------------------------- 1 to 4: the rollout

@dataclass
class Experience:
    """One rollout. What stands beyond the end of a response is 0 and masked out."""
    ids: torch.Tensor               # (B, P+R) prompt and response
    mask: torch.Tensor              # (B, P+R) True on real tokens
    response_mask: torch.Tensor     # (B, R) True on actions: up to and including <|endoftext|>
    logprobs: torch.Tensor          # (B, R) log π_old of each action, as sampled, nats
    ref_logprobs: torch.Tensor      # (B, R) log π_ref of the same actions, nats
    values: torch.Tensor            # (B, R) V(state before the action)
    scores: torch.Tensor            # (B) the reward model's, or missing_eos_score
    rewards: torch.Tensor           # (B, R) -β KL, and the score at the last action
    advantages: torch.Tensor        # (B, R) whitened over the whole rollout
    returns: torch.Tensor           # (B, R) what the critic should have said

    def __getitem__(self, rows):
        return Experience(*(getattr(self, field.name)[rows] for field in fields(self)))


def action_logits(model, ids, mask, R, temperature):
    """Logits (B, R, V) of the distributions that the last R tokens were drawn from. The one at index t
    is about the token at t + 1, hence the shift; the temperature is that of sampling, or the ratio and
    the KL would compare distributions that nobody sampled from."""
    states = model.transformer(ids, mask)[:, -R - 1:-1]                     # (B, R, C)
    return model.head(states).float() / temperature


def action_logprobs(model, ids, mask, R, temperature):
    """log π of the last R tokens, each at the state before it: (B, R), nats."""
    return token_logprobs(action_logits(model, ids, mask, R, temperature), ids[:, -R:])


def state_values(critic, ids, mask, R):
    """V(s_t) (B, R) of the states in which the last R tokens were chosen: before each, not after."""
    return critic(ids, mask)[:, -R - 1:-1]


def in_parts(function, size, *tensors):
    """function(*tensors), each (B, …), on at most `size` rows at a time (0: all), since logits are large."""
    parts = zip(*(tensor.split(size or len(tensor)) for tensor in tensors))
    return torch.cat([function(*part) for part in parts])


@torch.no_grad()
def make_experience(actor, critic, reference, reward_model, prompts, prompt_mask, kl_coef, cfg):
    """Let the actor answer left-padded prompts (B, P) and work out all that the update needs."""
    # 1  Sample from the whole distribution. Top-k or top-p here, and not in the log-probabilities, would
    #    make the actor look as if it differed from the policy it is.
    tokens, response_mask, logprobs = actor.generate(prompts, prompt_mask, cfg.max_new_tokens, cfg.temperature)
    ids, mask = torch.cat([prompts, tokens], dim=1), torch.cat([prompt_mask, response_mask], dim=1)     # (B, P+R)
    R, size = tokens.shape[1], cfg.micro_batch_size
    rows, last = torch.arange(len(ids), device=ids.device), response_mask.sum(1) - 1                    # (B), (B)

    # 2  Score the finished answers. One without an end gets a fixed low score: cut off in mid-sentence,
    #    it is not what the reward model was asked to judge, and the actor must learn to stop.
    ended = tokens[rows, last] == actor.config.eos_token_id                 # (B)
    scores = torch.where(ended, in_parts(reward_model.reward, size, ids, mask), cfg.missing_eos_score)     # (B)

    # 3  Each token pays for the KL it adds; the score comes with the last one.
    ref_logprobs = in_parts(lambda *rows: action_logprobs(reference, *rows, R, cfg.temperature), size, ids, mask)
    logprobs, ref_logprobs = logprobs * response_mask, ref_logprobs * response_mask
    rewards = -kl_coef * kl_penalty(logprobs, ref_logprobs)                 # (B, R)
    rewards[rows, last] += scores

    # 4  Which tokens did better than the critic expected?
    values = in_parts(lambda *rows: state_values(critic, *rows, R), size, ids, mask) * response_mask     # (B, R)
    advantages, returns = gae(rewards, values, cfg.gamma, cfg.lam)
    advantages = whiten(advantages, response_mask) * response_mask
    return Experience(ids, mask, response_mask, logprobs, ref_logprobs, values, scores, rewards, advantages, returns)

# ----------------------------------------------------------------------------- 5: the update

def learn(actor, critic, actor_optimizer, critic_optimizer, experience, cfg):
    """A few epochs of clipped steps on one rollout. Returns the metrics, averaged over all steps."""
    totals, steps = {}, 0
    lengths = experience.response_mask.sum(1).tolist()
    for _ in range(cfg.epochs):
        for rows in torch.randperm(len(experience.ids)).chunk(cfg.minibatches):
            for part, share in micro_batches(rows.tolist(), cfg.micro_batch_size, lengths.__getitem__):
                batch = experience[part]
                mask, R = batch.response_mask, batch.response_mask.shape[1]

                logits = action_logits(actor, batch.ids, batch.mask, R, cfg.temperature)    # (B, R, V)
                logprobs = token_logprobs(logits, batch.ids[:, -R:])                        # (B, R)
                ratio = torch.exp(logprobs - batch.logprobs).detach().where(mask, 1.0)      # (B, R)
                if steps == 0:
                    check_ratio(ratio, tolerance(actor))
                actor_loss, clipped = policy_loss(logprobs, batch.logprobs, batch.advantages, mask, cfg.clip)
                backward(share * actor_loss)

                values = state_values(critic, batch.ids, batch.mask, R)                     # (B, R)
                critic_loss, value_clipped = value_loss(values, batch.values, batch.returns, mask, cfg.value_clip)
                backward(share * critic_loss)

                for name, value in {
                        "loss/policy": actor_loss, "policy/clipfrac": clipped,
                        "policy/entropy": masked_mean(entropy(logits.detach()), mask),
                        "policy/approxkl": 0.5 * masked_mean(ratio.log() ** 2, mask),
                        "val/ratio": masked_mean(ratio, mask), "val/ratio_var": masked_mean((ratio - 1) ** 2, mask),
                        "loss/value": critic_loss, "val/clipfrac": value_clipped,
                        "val/error": masked_mean((values.detach() - batch.returns) ** 2, mask)}.items():
                    totals[name] = totals.get(name, 0.0) + share * value.item()
            for name, model, optimizer in (("policy", actor, actor_optimizer), ("val", critic, critic_optimizer)):
                norm = take_step(model, optimizer).item()
                totals[f"{name}/gradient_norm"] = totals.get(f"{name}/gradient_norm", 0.0) + norm
            steps += 1
    return {name: total / steps for name, total in totals.items()}


def backward(loss):
    """Add the gradient of (a part of) a loss to what there is."""
    if not torch.isfinite(loss):
        raise UserError(f"the loss is {loss.item()}: lower the learning rates, then look for NaN in the rewards")
    loss.backward()


def take_step(model, optimizer):
    """Clip, step, zero: in this order, after backward. Returns the norm of the gradient before clipping."""
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return norm


def entropy(logits):
    """Entropy of softmax(logits) in nats: (…, V) -> (…)."""
    return logits.logsumexp(-1) - (logits.softmax(-1) * logits).sum(-1)

# ----------------------------------------------------------------------------- checks on every run

def tolerance(model):
    """How far two computations of one log-probability may lie apart, one token after the other and all at once."""
    return 0.2 if model.transformer.bf16 else 1e-3


def check_ratio(ratio, tolerance=1e-3):
    """Before the first step on a rollout, the probabilities it was sampled with must be found again."""
    error = (ratio - 1).abs().max().item()
    if not error < tolerance:
        raise UserError(
            f"the ratio of new to old probabilities is off by {error:.2g} before the first step, where it must be 1. "
            "Look, in this order, at: the temperature (the same in sampling and scoring?), top-k or top-p in "
            "sampling, positions and mask under left padding, the shift by one token, dropout, the precision")


def check_reference(kl, tolerance=1e-3):
    """Before the first update the actor is the reference, token by token: kl (B, R) must be 0."""
    error = kl.abs().max().item()
    if not error < tolerance:
        raise UserError(
            f"the KL of a token to the reference is {error:.2g} nats at step 0, where it must be 0. Look, in this "
            "order, at: do actor and reference come from the same sft/ folder, the temperature of the two, dropout, "
            "positions and mask under left padding")


def check_kl(kl, negatives):
    """How many rollouts in a row had a mean KL per answer, kl (B), clearly below 0; an error at the third.

    A KL is never negative. Its estimate can be, by chance, but not by two standard errors time and again."""
    negatives = negatives + 1 if kl.mean() < -2 * kl.std() / len(kl) ** 0.5 else 0
    if negatives == 3:
        raise UserError(
            f"the mean KL to the reference was clearly negative in 3 rollouts running (now {kl.mean():.2g} nats): "
            "the answers are not samples of the policy that is scored. Look, in this order, at: top-k, top-p or a "
            "minimum length in sampling, the temperature, padding counted as actions, the sign of the log-ratio")
    return negatives

# ----------------------------------------------------------------------------- 6: what to look at

def describe(experience, kl_coef, eos):
    """The metrics of a rollout, under the names that other implementations give them too."""
    mask, B = experience.response_mask, len(experience.ids)
    kl = (experience.logprobs - experience.ref_logprobs).sum(1)             # (B) nats an answer
    ended = experience.ids[:, -mask.shape[1]:].eq(eos).logical_and(mask).any(1)     # (B)
    values, returns = experience.values[mask], experience.returns[mask]     # (actions)
    return {
        "objective/kl": kl.mean(), "objective/scores": experience.scores.mean(),
        "objective/kl_k3": kl_penalty(experience.logprobs, experience.ref_logprobs, "k3").sum(1).mean(),
        "objective/entropy": -experience.logprobs.sum(1).mean(), "objective/non_score_reward": -kl_coef * kl.mean(),
        "objective/score_total": experience.rewards.sum(1).mean(), "returns/mean": returns.mean(),
        "returns/var": returns.var(), "val/mean": values.mean(), "val/var": values.var(),
        "val/var_explained": 1 - (values - returns).var() / returns.var(),
        "val/num_eos_tokens": ended.sum(), "eos_rate": ended.float().mean(),
        "length": mask.sum() / B, "kl_coef": kl_coef}


@torch.no_grad()
def answers(model, prompts, tokenizer, cfg, device):
    """One sampled answer to each prompt (a list of ids), as text."""
    tokens, mask, _ = model.generate(*pad(prompts, left=True, device=device), cfg.max_new_tokens, cfg.temperature)
    return [tokenizer.decode(row[real].tolist()) for row, real in zip(tokens, mask)]


def side_by_side(prompts, before, after, tokenizer):
    """The same prompts answered by the SFT model and by the actor of today, to be read."""
    return "".join(f"{tokenizer.decode(prompt).rstrip()}\n    SFT  {old.strip()}\n    PPO  {new.strip()}"
                   for prompt, old, new in zip(prompts, before, after))

# ----------------------------------------------------------------------------- who takes part

def four_models(sft, rm, train, device, bf16):
    """{role: model}, from the folders of the SFT and the reward model; on the device "meta" shapes without weights.

    The reference is frozen to define what the KL is measured from; were it to move along, nothing would hold.
    """
    models = {}
    for role, kind, folder, trained in (("actor", GPT, sft, True), ("critic", ScalarGPT, rm, True),
                                        ("reference", GPT, sft, False), ("reward model", ScalarGPT, rm, False)):
        model = kind.blank(folder) if device == "meta" else kind.from_pretrained(folder)
        models[role] = model.place(device, bf16, frozen=not trained)
        if trained:
            set_trainable(model, train)
    return models


def show_roles(models, sft, rm, longest_prompt, cfg):
    """Print what each model starts from, what moves in it, and its memory. Returns the bytes of it all, roughly:
    weights, and for those that move a gradient and AdamW's two moments, each as large again; then, for a rollout,
    the keys and values of all answers, or, for a step on a micro-batch, its logits, their softmax and the gradients
    of both, and some 17 numbers a layer, token and channel for the way back (arXiv:2205.05198, eq. 2)."""
    print(f"{'role':14}{'starts from':32}{'weights':>14}{'that move':>14}{'memory':>12}")
    needed = 0
    for role, model in models.items():
        moving, total = parameter_count(model)
        size = sum(p.numel() * p.element_size() * (4 if p.requires_grad else 1) for p in model.parameters())
        origin = rm if isinstance(model, ScalarGPT) else sft
        print(f"{role:14}{str(origin):32}{total:14,}{moving:14,}{size / 2 ** 20:8,.0f} MiB")
        needed += size
    config, each = models["actor"].config, 2 if models["actor"].transformer.bf16 else 4
    rows, tokens = cfg.micro_batch_size or cfg.batch_size, longest_prompt + cfg.max_new_tokens
    layers = tokens * config.n_layer * config.n_embd * each
    cache = cfg.batch_size * 2 * layers
    step = rows * (cfg.max_new_tokens * config.vocab_size * 4 * 4 + 17 * layers)
    print(f"{'rollout, step':74}{max(cache, step) / 2 ** 20:8,.0f} MiB at most")
    return needed + max(cache, step)


def check_memory(needed, device):
    """Refuse a run that cannot fit the GPU, before anything large is allocated on it."""
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else math.inf
    if needed > free:
        raise UserError(f"this run needs about {needed / 2 ** 30:.1f} GiB and {device} has {free / 2 ** 30:.1f} GiB "
                        "free: lower --micro_batch_size, then --batch_size, then take --train lora:8")

# ----------------------------------------------------------------------------- the loop

def main(cfg):
    run, device, bf16 = start(cfg)
    train_set, test_set = data.load(cfg.data)
    train_set.need("prompts", cfg.data)
    sft, rm = find_model(run, "sft"), find_folder(cfg.reward_model) if cfg.reward_model else find_model(run, "reward")
    tokenizer = Tokenizer.shared(sft, rm)
    if "reward_mean" not in read_config(rm):
        print(f"the scores of {rm} are used as they are; `python reward.py --init {rm} --steps 0` would make a reward "
              "model of it whose scores of SFT answers have mean 0 and standard deviation 1, which β counts on")

    blank = four_models(sft, rm, cfg.train, "meta", bf16)
    positions = min(model.config.block_size for model in blank.values())
    room = positions - cfg.max_new_tokens
    if room < 1:
        raise UserError(f"--max_new_tokens {cfg.max_new_tokens} leaves no room for a prompt in the model's "
                        f"{positions} positions")
    prompts, test_prompts = ([tokenizer.encode(prompt)[-room:] for prompt in split.prompts]     # the end matters most
                             for split in (train_set, test_set))
    shown = minibatch(test_prompts, 4, 0, cfg.seed) if test_prompts else []
    check_memory(show_roles(blank, sft, rm, max(map(len, prompts)), cfg), device)
    actor, critic, reference, reward_model = four_models(sft, rm, cfg.train, device, bf16).values()

    optimizers = [torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=0.0, fused=True)
                  for model in (actor, critic)]
    folder, kl_coef, first, negatives = run / "ppo", cfg.kl_coef, 0, 0
    before = answers(reference, shown, tokenizer, cfg, device) if shown else []
    if cfg.resume:
        state = load_resume(folder, cfg)
        for name, part in (("actor", actor), ("critic", critic), ("actor_optimizer", optimizers[0]),
                           ("critic_optimizer", optimizers[1])):
            part.load_state_dict(state[name])
        first, kl_coef, negatives, before = state["step"], state["kl_coef"], state["negatives"], state["before"]

    log = Log(run, "ppo", cfg.steps, first)
    for step in range(first, cfg.steps):
        lr = set_learning_rate(optimizers[0], cfg.lr, step, cfg.steps)
        set_learning_rate(optimizers[1], cfg.critic_lr, step, cfg.steps)

        ids, mask = pad(minibatch(prompts, cfg.batch_size, step, cfg.seed), left=True, device=device)   # (B, P)
        experience = make_experience(actor, critic, reference, reward_model, ids, mask, kl_coef, cfg)
        kl = experience.logprobs - experience.ref_logprobs                                              # (B, R)
        if step == 0:
            check_reference(kl, tolerance(actor))
        negatives = check_kl(kl.sum(1), negatives)
        metrics = {**learn(actor, critic, *optimizers, experience, cfg),
                   **describe(experience, kl_coef, tokenizer.eos), "lr": lr}
        log(step, metrics, show=["objective/scores", "objective/kl", "length"])

        if cfg.kl_target > 0:
            kl_coef = adapt_kl_coef(kl_coef, kl.sum(1).mean().item(), cfg.kl_target, cfg.kl_horizon, len(ids))
        if shown and (step + 1) % cfg.sample_every == 0:
            now = answers(actor, shown, tokenizer, cfg, device)
            log.text(step, "samples", f"\nafter {step + 1} updates" + side_by_side(shown, before, now, tokenizer))
        if (step + 1) % cfg.save_every == 0:
            save_resume(folder, cfg, step=step + 1, kl_coef=kl_coef, negatives=negatives, before=before,
                        actor=actor.state_dict(), critic=critic.state_dict(),
                        actor_optimizer=optimizers[0].state_dict(), critic_optimizer=optimizers[1].state_dict())
    log.close()
    critic.save_pretrained(folder / "critic", tokenizer)
    finish(actor, tokenizer, folder)


if __name__ == "__main__":
    launch(main, Config, PRESETS)
