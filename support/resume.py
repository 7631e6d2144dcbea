"""What a run must have in common with the checkpoint that it goes on from, and what it leaves when it can't go on."""
import hashlib
import json

import torch

from support import UserError, reason
from support.files import write_whole

# Flags that may change when a run goes on: where things are, how long and how often, and what changes no gradient.
MAY_CHANGE = {"data", "run", "init", "reward_model", "preset", "resume", "steps", "pretrain_steps", "save_every",
              "sample_every", "device", "micro_batch_size"}


def identity(cfg, rows, parts):
    """What makes a run this run, as a dict of name -> value: its flags, and fingerprints of rows and first weights."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(repr(row).encode())
    same = {f"--{name}": value for name, value in vars(cfg).items() if name not in MAY_CHANGE}
    same["the rows of --data"] = digest.hexdigest()[:16]
    for name, part in parts.items():
        if isinstance(part, torch.nn.Module):
            same[f"the first weights of the {name}"] = fingerprint(part)
    return same


def fingerprint(model):
    """A word that changes with any of a model's weights; LoRA adapters, random at first, are left out."""
    sums = [parameter.detach().view(torch.int32).sum().item()
            for name, parameter in model.named_parameters() if ".lora_" not in name]
    return hashlib.sha256(repr(sums).encode()).hexdigest()[:16]


def read_checkpoint(path):
    """The dict in a resume.pt. Programs hidden in it are not executed. Raises UserError if it is damaged."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        return {**state, "step": int(state["step"]), "identity": dict(state["identity"])}
    except Exception as error:          # a damaged file can raise anything
        raise UserError(f"--resume: {path} is damaged or from another version ({reason(error)[:80]}): "
                        "start without --resume") from error


def check_same_run(path, state, now, steps):
    """Raises UserError if the checkpoint `state` is of another run than `now`, or beyond its last step."""
    for name, value in now.items():
        if (before := state["identity"].get(name)) != value:
            shown = f"with {name} {before}, and now it is {value}" if name[0] == "-" else f"when {name} were others"
            raise UserError(f"--resume: {path} was written {shown}: make that as it was, or start without --resume")
    if state["step"] > steps:
        raise UserError(f"--resume: {path} has {state['step']} steps behind it, more than the {steps} asked for")


def write_batch(loop, name, value, batch):
    """Write the batch of a step that went wrong beside the last save. Returns the sentence that says so."""
    file = loop.folder / "not_finite.json"
    if hasattr(batch, "mask"):
        batch = [row[real].tolist() for row, real in zip(batch.ids, batch.mask)]
    write_whole(file, json.dumps(as_text(batch, loop.tokenizer), indent=1, ensure_ascii=False) + "\n")
    return (f"{name} is {value} at step {loop.step}: the step was not taken, its batch is in {file}. "
            "Look for odd rows there, then start again with lower learning rates")


def as_text(ids, tokenizer):
    """Nested lists of token ids, each innermost list as its text."""
    if all(isinstance(i, int) for i in ids):
        return tokenizer.decode(ids)
    return [as_text(part, tokenizer) for part in ids]
