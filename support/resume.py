"""What a run must have in common with the save that it continues."""
import hashlib

import torch

from support import UserError, reason

# Flags that may change: where things are, how long and how often, what changes no gradient.
MAY_CHANGE = {"data", "run", "init", "reward_model", "preset", "resume", "steps", "pretrain_steps",
              "save_every", "sample_every", "snapshot_every", "device", "micro_batch_size"}


def identity(cfg, rows, parts):
    """What identifies a run, by name: its flags, fingerprints of rows and first weights."""
    same = {f"--{name}": value for name, value in vars(cfg).items() if name not in MAY_CHANGE}
    same["the rows of --data"] = fingerprint(rows)
    for name, part in parts.items():
        if isinstance(part, torch.nn.Module):       # LoRA's adapters are random at first
            sums = [weights.detach().view(torch.int32).sum().item()
                    for key, weights in part.named_parameters() if ".lora_" not in key]
            same[f"the first weights of the {name}"] = fingerprint(sums)
    return same


def fingerprint(values):
    """A hash of all values."""
    digest = hashlib.sha256()
    for value in values:
        digest.update(repr(value).encode())
    return digest.hexdigest()[:16]


def read_checkpoint(path):
    """The dict in a resume.pt, in which no program is run. Raises UserError if it is damaged."""
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        step, same = int(saved["state"]["step"]), dict(saved["identity"])
        return {**saved, "identity": same, "state": {**saved["state"], "step": step}}
    except Exception as error:          # a damaged file can raise anything
        raise UserError(f"--resume: {path} is damaged or from another version "
                        f"({reason(error)[:80]}): start without --resume") from error


def check_parts(path, saved, parts):
    """Raises UserError if models or optimisers, by name, have other tensors than their saves: with
    moments of other shapes the optimiser would read memory that is not its own."""
    for name, part in parts.items():
        try:
            if isinstance(part, torch.nn.Module):
                pairs = [(saved[name][key], tensor) for key, tensor in part.state_dict().items()]
                fits = len(pairs) == len(saved[name])
            else:
                weights = [p for group in part.param_groups for p in group["params"]]
                moments = saved[name]["state"]
                pairs = [(moments[i][key], weights[i]) for i in moments
                         for key in ("exp_avg", "exp_avg_sq")]
                fits = all(moments[i]["step"].numel() == 1 for i in moments)
            fits = fits and all(a.shape == b.shape and a.dtype == b.dtype for a, b in pairs)
        except (AttributeError, IndexError, KeyError, TypeError):
            fits = False
        if not fits:
            raise UserError(f"--resume: {path} is damaged: its {name} has other tensors than this "
                            "one; start without --resume")


def check_same_run(path, before, now):
    """Raises UserError if the identity `before`, that of `path`, differs from `now`."""
    for name, value in now.items():
        if before.get(name) != value:
            said = f"when {name} were others"
            if name.startswith("--"):
                said = f"with {name} {before.get(name)}, and now it is {value}"
            raise UserError(f"--resume: {path} was written {said}: make that as it was, or start "
                            "without --resume")
