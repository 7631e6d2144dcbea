"""The four models of PPO in figures: what moves in each, and whether they fit the GPU."""
import math
import os

import torch

from support import UserError
from support.trainable import parameter_count

ROLES = ("actor", "critic", "reference", "reward model")
MIB = 2 ** 20


def check_memory(models, folders, longest_prompt, cfg, device):
    """Print what each model starts from, how many of its weights move, and an estimate of the memory. Raises UserError
    if that exceeds what the GPU has free, before anything large is allocated on it.

    A model needs its weights, and for those that move a gradient and AdamW's two moments, each as large again. A
    rollout needs the keys and values of all rows. A step on a micro-batch needs its logits, their softmax and the
    gradients of both, and some 17 numbers a layer, token and channel (arXiv:2205.05198, eq. 2)."""
    print(f"{'role':14}{'starts from':32}{'weights':>14}{'that move':>14}{'memory':>12}")
    needed = 0
    for role, model, folder in zip(ROLES, models, folders):
        moving, total = parameter_count(model)
        size = sum(p.numel() * p.element_size() * (4 if p.requires_grad else 1) for p in model.parameters())
        print(f"{role:14}{str(folder):32}{total:14,}{moving:14,}{size / MIB:8,.0f} MiB")
        needed += size
    shape, each = models[0].config, 2 if models[0].transformer.bf16 else 4
    states = (longest_prompt + cfg.max_new_tokens) * shape.n_layer * shape.n_embd * each
    rollout = cfg.batch_size * 2 * states
    rows = cfg.micro_batch_size or cfg.batch_size
    step = rows * (cfg.max_new_tokens * shape.vocab_size * 4 * 4 + 17 * states)
    print(f"{'rollout, step':74}{max(rollout, step) / MIB:8,.0f} MiB, an estimate")
    needed += max(rollout, step)
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else math.inf
    if needed > free:
        raise UserError(f"this run needs about {needed / 2 ** 30:.1f} GiB and {device} has {free / 2 ** 30:.1f} GiB "
                        "free: lower --micro_batch_size, then --batch_size, then take --train lora:8")


def check_weights(vocab, positions, layers, channels, source):
    """Refuse a shape that cannot fit this machine, before memory is asked for; `source` is where it stands."""
    weights = channels * (vocab + positions + layers * (12 * channels + 13) + 2)
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 64 * 2 ** 30
    if 4 * weights > machine:
        raise UserError(f"{source}: a model of {layers:,} layers, {channels:,} channels, {vocab:,} tokens and "
                        f"{positions:,} positions has {weights:.1e} weights, too many for this machine's "
                        f"{machine / 2 ** 30:.0f} GiB")
