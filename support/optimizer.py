"""The optimiser: AdamW, a learning rate that is a function of the step, and one clipped step."""
import torch

from support.distributed import start_alike, sum_gradients


def adamw(model):
    """AdamW without weight decay, with the betas usual for language models."""
    start_alike(model)
    return torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=0.0, fused=True)


def set_learning_rate(optimizer, peak, step, steps, warmup=0.05):
    """Linear warm-up over a twentieth of the steps, then linear decay to 0. Returns the rate. It
    depends only on the step, so a resumed run needs no scheduler state."""
    rate = peak * min((step + 1) / max(1, warmup * steps), (1 - step / steps) / (1 - warmup), 1.0)
    for group in optimizer.param_groups:
        group["lr"] = rate
    return rate


def take_step(model, optimizer):
    """Clip the gradient to norm 1, step, zero: in this order, after backward. Returns the norm
    before clipping. If that is not finite no step is taken, since it would spoil all weights;
    `Loop.log` then stops the run."""
    sum_gradients(model)
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    if norm.isfinite():
        optimizer.step()
    optimizer.zero_grad()
    return norm
