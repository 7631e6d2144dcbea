"""Several processes, one for each GPU, under torchrun:

    torchrun --nproc_per_node=4 -- ppo.py --data hh

Each process responds to its own rows of a batch and learns from its own. Gradients are summed
before every step, so N processes make the steps of one. Without torchrun all this does nothing.
"""
import os
import sys

import torch
import torch.distributed as dist
import torch.distributed.nn     # imported once there is a group, it would keep that after leave()

from support import UserError, reason


def rank():
    """The number of this process; 0 is the one that logs and saves."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size():
    return dist.get_world_size() if dist.is_initialized() else 1


def join(device, cfg):
    """Join the processes that torchrun has started. Returns this process's device. Raises UserError
    if something else than torchrun has set WORLD_SIZE, or a batch can't be divided evenly."""
    if os.environ.get("WORLD_SIZE", "1") == "1":
        return device
    try:
        if device.type == "cuda":
            device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
            torch.cuda.set_device(device)
        if not dist.is_initialized():
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    except (KeyError, ValueError) as error:     # a variable is missing or no number
        raise UserError(f"WORLD_SIZE is set, but torchrun did not start this ({reason(error)}): "
                        "unset WORLD_SIZE, or use torchrun") from error
    if cfg.batch_size % (world_size() * getattr(cfg, "minibatches", 1)):
        raise UserError(f"--batch_size {cfg.batch_size}: must be a multiple of the {world_size()} "
                        "processes, times --minibatches in ppo.py")
    if rank() > 0:
        sys.stdout = open(os.devnull, "w")          # one process talks
    torch.manual_seed(cfg.seed + 100_003 * rank())  # each samples its own responses
    return device


def leave():
    """Leave them again: threads of the group may abort a process that ends with it."""
    if dist.is_initialized():
        dist.destroy_process_group()


def own_rows(batch):
    """This process's rows of a list, a tensor (B, …) or an Experience (ppo.py)."""
    return batch[rank()::world_size()]


def gather(x):
    """The rows of all processes as one tensor (B, …). Narrower rows get zeros on the right."""
    parts = [x] * world_size()
    if world_size() > 1:
        dist.all_gather_object(parts, x.cpu())
        if x.ndim == 2:
            width = max(part.shape[1] for part in parts)
            parts = [torch.nn.functional.pad(part, (0, width - part.shape[1])) for part in parts]
    return torch.cat([part.to(x.device) for part in parts])


def total(x):
    """The sum of a number or tensor over all processes, as a tensor."""
    x = torch.as_tensor(x).detach().clone()
    return in_place(dist.all_reduce, x) if world_size() > 1 else x


def from_first(x):
    """The first process's tensor, in all of them."""
    return in_place(lambda shared: dist.broadcast(shared, src=0), x) if world_size() > 1 else x


def in_place(operation, x):
    """x after an operation that changes a tensor in place. NCCL needs it on the GPU."""
    shared = x.cuda() if dist.get_backend() == "nccl" else x
    operation(shared)
    return shared.to(x.device)


def start_alike(model):
    """Give all processes the weights of the first, since random ones would differ."""
    if world_size() > 1:
        for tensor in model.state_dict().values():
            dist.broadcast(tensor, src=0)


def sum_gradients(model):
    """Add up the gradients of all processes, in one message."""
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    if world_size() > 1:
        summed = in_place(dist.all_reduce, torch.cat([g.flatten() for g in gradients]))
        for gradient, part in zip(gradients, summed.split([g.numel() for g in gradients])):
            gradient.copy_(part.view_as(gradient))
