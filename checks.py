"""What must be true of every PPO run. ppo.py checks it on every run, and stops where it is not.

RLHF code fails silently: with a mask off by one or a KL of the wrong sign a run still finishes,
and its reward still rises a little. Three things, though, are certain:

    the ratio π / π_old is 1 before the first step on a rollout     check_ratio
    the KL to the reference is 0 before the first update            check_reference
    the mean KL of a rollout is not below 0 time and again          check_kl

A check that fails says what to look at. docs/metrics.md says what a healthy run looks like.

And before it loads anything large, a run says whether the scores are normalised, and how much
memory it needs: check_normalised, check_memory.

Axes as in ppo.py: B responses, R response tokens.
"""
import math

import torch

from support import UserError
from support.checkpoint import read_config
from support.distributed import world_size
from support.trainable import parameter_count

LEAST_KL = 0.01         # nats per response: less is rounding, and no bug of sampling is so small

# ---------- the numbers

def deviation(x, bf16):
    """(how far x is from 0, how far it may be) for an x that is 0 but for rounding.

    Log-probabilities are computed once token by token with a cache, once all together. In float32
    the largest difference is below 1e-5. In bf16 the largest grows with the number of tokens, so
    there the mean counts: about 0.01 at GPT-2's shapes, 0.3 at a wrong temperature.
    """
    if bf16:
        return x.abs().mean().item(), 0.05
    return x.abs().max().item(), 1e-3


def check_ratio(ratio, bf16=False):
    """Before the first step on a rollout, π is still π_old: the ratio of each action, (actions),
    must be 1."""
    error, bound = deviation(ratio - 1, bf16)
    if not error < bound:
        raise UserError(
            f"the ratio of new to old probabilities is off by {error:.2g} before the first step, "
            "where it must be 1. Look, in this order, at: the temperature (the same in sampling "
            "and scoring?), top-k or top-p in sampling, positions and mask under left padding, the "
            "shift by one token, dropout, the precision")


def check_reference(kl, bf16=False):
    """Before the first update the actor is the reference: the log-ratio of each action, (actions),
    must be 0."""
    error, bound = deviation(kl, bf16)
    if not error < bound:
        raise UserError(
            f"the KL of a token to the reference is {error:.2g} nats at step 0, where it must be "
            "0. Look, in this order, at: do actor and reference come from the same sft/ folder, "
            "the temperature of the two, dropout, positions and mask under left padding")


def check_kl(kl, negatives):
    """How many rollouts in a row had a mean KL per response, kl (B), clearly below 0; an error at
    the third.

    A KL is never negative. Its estimate can be, by chance: so it must lie LEAST_KL below 0, and so
    many standard errors as chance reaches in 2.3% of all rollouts."""
    standard_error = kl.std() / len(kl) ** 0.5
    clearly = -LEAST_KL - t_quantile(len(kl) - 1) * standard_error
    negatives = negatives + 1 if kl.mean() < clearly else 0
    if negatives == 3:
        raise UserError(
            "the mean KL to the reference was clearly negative in 3 rollouts running (now "
            f"{kl.mean():.2g} nats): the responses are not samples of the policy that is scored. "
            "Look, in this order, at: top-k, top-p or a minimum length in sampling, the "
            "temperature, padding counted as actions, the sign of the log-ratio")
    return negatives


def t_quantile(n):
    """What Student's t with n degrees of freedom exceeds in 2.3% of all cases: 2 for many, 4.5 for
    2 (Abramowitz and Stegun, 26.7.5, at z = 2)."""
    if n < 1:
        return math.inf
    return 2 + 2.5 / n + 3.0625 / n ** 2 + 2.859 / n ** 3


def check_rollout(experience, step, negatives, bf16):
    """Both checks of a rollout's KL. Returns how many rollouts in a row had a negative one."""
    if step == 0:
        check_reference(experience.kl[experience.response_mask], bf16)
    return check_kl(experience.kl.sum(1), negatives)

# ---------- before anything is loaded

ROLES = ("actor", "critic", "reference", "reward model")
MIB = 2 ** 20


def check_memory(models, folders, longest_prompt, cfg, device):
    """Print what each model starts from, how many of its weights move, and an estimate of the
    memory. Raises UserError if that exceeds what the GPU has free. `models` have only shapes.

    A model needs its weights, and for those that move a gradient and AdamW's two moments, each as
    large again. Several processes copy the gradients of one model to add them up. On top comes the
    phase that needs most. Each of its rows takes, in numbers per token and channel:
        generation  2 per layer (keys and values), and 12 for the layer at work
        scoring     7 tensors as large as the row's logits (R, V): logits of two models, their KL
        a step      20 per layer (as in arXiv:2205.05198, section 4.1), and 5 such tensors
    The 2 follows from the code; the other numbers were measured by tests/memory.py.
    """
    print(f"{'role':14}{'starts from':32}{'weights':>14}{'that move':>14}{'memory':>12}")
    needed = copies = 0
    for role, model, folder in zip(ROLES, models, folders):
        moving, weights = parameter_count(model)
        size = sum(p.numel() * p.element_size() * (4 if p.requires_grad else 1)
                   for p in model.parameters())
        print(f"{role:14}{str(folder):32}{weights:14,}{moving:14,}{size / MIB:8,.0f} MiB")
        needed += size
        copies = max(copies, 4 * moving if world_size() > 1 else 0)
    shape, each = models[0].config, 2 if models[0].transformer.bf16 else 4
    own = cfg.batch_size // world_size()
    rows = min(cfg.micro_batch_size or own, own)
    states = (longest_prompt + cfg.max_new_tokens) * shape.n_embd * each    # of one layer
    logits = cfg.max_new_tokens * shape.vocab_size * 4
    generation = min(8 * rows, own) * states * (2 * shape.n_layer + 12)
    step = rows * (20 * states * shape.n_layer + 5 * logits)
    most = max(generation, rows * 7 * logits, step) + copies
    needed += most
    print(f"{'rollout, step':74}{most / MIB:8,.0f} MiB, an estimate\n"
          f"{'all':74}{needed / MIB:8,.0f} MiB")
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else math.inf
    if needed > free:
        raise UserError(f"this run needs about {needed / 2 ** 30:.1f} GiB and {device} has "
                        f"{free / 2 ** 30:.1f} GiB free: lower --micro_batch_size, then "
                        "--max_prompt_tokens, then take --train lora:8")


def check_normalised(folder):
    """Say so if nobody has normalised the scores of the reward model in `folder`."""
    if "reward_mean" not in read_config(folder):
        print(f"the scores of {folder} are used as they are; `python reward.py --init {folder} "
              "--steps 0` would normalise them to mean 0 and standard deviation 1 on completions "
              "of the SFT model, as β expects")
