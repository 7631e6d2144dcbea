"""What a run must have in common with the checkpoint that it goes on from, and what it leaves when
it can't go on."""
import hashlib
import json

import torch

from support import UserError, reason
from support.files import write_whole

# Flags that may change when a run goes on: where things are, how long and how often, and what
# changes no gradient.
MAY_CHANGE = {"data", "run", "init", "reward_model", "preset", "resume", "steps", "pretrain_steps",
              "save_every", "sample_every", "device", "micro_batch_size"}


def identity(cfg, rows, parts):
    """What makes a run this run, as a dict of name -> value: its flags, and fingerprints of rows
    and first weights."""
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
    """A word that changes with any of a model's weights; LoRA adapters, random at first, are left
    out."""
    sums = [parameter.detach().view(torch.int32).sum().item()
            for name, parameter in model.named_parameters() if ".lora_" not in name]
    return hashlib.sha256(repr(sums).encode()).hexdigest()[:16]


def read_checkpoint(path):
    """The dict in a resume.pt. Programs hidden in it are not executed. Raises UserError if it is
    damaged."""
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        step, same = int(saved["state"]["step"]), dict(saved["identity"])
        return {**saved, "identity": same, "state": {**saved["state"], "step": step}}
    except Exception as error:          # a damaged file can raise anything
        raise UserError(f"--resume: {path} is damaged or from another version "
                        f"({reason(error)[:80]}): start without --resume") from error


def check_same_run(path, saved, now, steps):
    """Raises UserError if a checkpoint is of another run than `now`, or beyond its last step."""
    for name, value in now.items():
        if (before := saved["identity"].get(name)) != value:
            said = f"when {name} were others"
            if name.startswith("--"):
                said = f"with {name} {before}, and now it is {value}"
            raise UserError(f"--resume: {path} was written {said}: make that as it was, or start "
                            "without --resume")
    if (done := saved["state"]["step"]) > steps:
        raise UserError(f"--resume: {path} has {done} steps behind it, more than the {steps} "
                        "asked for")


def write_batch(loop, name, value, batch):
    """Write the batch of a step that went wrong beside the last save. Returns the sentence that
    says so."""
    file = loop.folder / "not_finite.json"
    if hasattr(batch, "mask"):
        batch = [row[real].tolist() for row, real in zip(batch.ids, batch.mask)]
    text = json.dumps(as_text(batch, loop.tokenizer), indent=1, ensure_ascii=False)
    write_whole(file, text + "\n")
    return (f"{name} is {value} at step {loop.step}: the step was not taken, its batch is in "
            f"{file}. Look for odd rows there, then start again with lower learning rates")


def as_text(ids, tokenizer):
    """Nested lists of token ids, each innermost list as its text."""
    if all(isinstance(i, int) for i in ids):
        return tokenizer.decode(ids)
    return [as_text(part, tokenizer) for part in ids]
