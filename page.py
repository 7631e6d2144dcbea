"""A finished run as one HTML file: open it in a browser, click, drag. It needs no network.

    python page.py          reads out/toy, writes out/toy/page.html

The page holds the run's models and computes with them: page/gpt.js is gpt.py, page/ppo.js the
mathematics of ppo.py. From here it gets what a browser can't read: weights, curves, and the
responses to a few test prompts after each snapshot.
"""
import base64
import gzip
import json
import re
import shlex
from dataclasses import asdict, dataclass
from math import ceil
from pathlib import Path

import torch
import tyro

import data
import ppo
from data.toy_world import FACT_OF, judge
from gpt import GPT, ScalarGPT
from support import UserError
from support.command_line import Text
from support.endings import plain_endings
from support.files import read_text, write_whole
from support.runs import find_model, run_folder
from support.screen import read_curves
from text.batches import batch_at, encode_prompts, pad
from text.tokenizer import Tokenizer

FOLDER = Path(__file__).parent / "page"
PROMPTS = 24                # of the test set, that are answered after each snapshot
MOST_WEIGHTS = 300_000      # of a model: more make a page of more than 4 MB
MOST_SNAPSHOTS = 7          # between the first and the last model, for the same reason
CURVES = ("objective/scores", "objective/kl", "kl_coef")


@dataclass
class Config:
    data: str = "toy"       # data set that the run was trained on
    run: Text = ""          # folder of the run; without it out/<data>

# ---------- what a run has left

def flags_of(run):
    """The flags that ppo.py ran with, as the card of its model has them."""
    card = find_model(run, "ppo") / "README.md"
    command = re.search("`python ppo.py(.*)`", read_text(card))
    if not command:
        raise UserError(f"{card} does not name the command that trained the model")
    return tyro.cli(ppo.Config, args=shlex.split(command[1]))


def snapshots(run, flags):
    """{updates: (folder of the actor, folder of the critic)}, before the first update, after some,
    and after the last."""
    folder = run / "ppo" / "snapshots"
    kept = sorted(int(path.name) for path in folder.glob("[0-9]*"))
    kept = [update for update in kept if update < flags.steps]
    kept = kept[::max(1, ceil(len(kept) / MOST_SNAPSHOTS))]
    between = {update: tuple(folder / str(update) / name for name in ("actor", "critic"))
               for update in kept}
    return {0: (find_model(run, "sft"), find_model(run, "reward", flags.reward_model)), **between,
            flags.steps: (run / "ppo", run / "ppo" / "critic")}


def read_run(run, name):
    """What the page shows of a run of PPO: flags, curves, and a rollout after each snapshot."""
    flags = flags_of(run)
    found, logged = snapshots(run, flags), read_curves(run / "logs" / "ppo")
    if not set(CURVES) <= logged.keys():
        raise UserError(f"{run / 'logs' / 'ppo'}: there are no curves of ppo.py, so run it again")
    curves = {name: [round(value, 7) for value in logged[name].values()] for name in CURVES}
    sft, rm = found[0]
    tokenizer = Tokenizer.shared(sft, rm, run / "ppo")
    reference, reward_model = GPT.from_pretrained(sft), ScalarGPT.from_pretrained(rm)
    flags.missing_eos_score = reward_model.unfinished_score(flags.missing_eos_score)
    train, test = data.load(name)
    asked = batch_at(test.prompts or train.prompts, PROMPTS, 0, seed=0)
    asked = encode_prompts(asked, tokenizer, reference.config.block_size, flags.max_new_tokens)
    rollouts = []
    for update, (actor, critic) in found.items():
        torch.manual_seed(0)
        experience = ppo.make_experience(
            GPT.from_pretrained(actor), ScalarGPT.from_pretrained(critic), reference, reward_model,
            *pad(asked, left=True), curves["kl_coef"][min(update, flags.steps - 1)], flags)
        rollouts.append(list(rows(experience, tokenizer)))
    return {"name": str(run), "flags": asdict(flags), "curves": curves, "updates": list(found),
            "prompts": asked, "rollouts": rollouts}


def rows(experience, tokenizer):
    """Each response of a rollout, with what page/ppo.js computes the rest from."""
    for i, (R, P) in enumerate(zip(experience.response_mask.sum(1), experience.mask.sum(1))):
        real = experience.ids[i, experience.mask[i]].tolist()
        prompt, tokens = real[:P - R], real[P - R:]
        row = {"tokens": tokens, "score": round(experience.scores[i].item(), 7),
               "kl": round(experience.kl[i].sum().item(), 7)}
        for name in ("logprobs", "ref_logprobs", "values"):
            row[name] = [round(x, 7) for x in getattr(experience, name)[i, :R].tolist()]
        if (question := tokenizer.decode(prompt)) in FACT_OF:
            row["judge"] = judge(question, tokenizer.decode(tokens))
        yield row

# ---------- models

def models(run, found):
    """The packed models of a run: (list of what is where, bytes). The last actor is as good as
    float32; docs/page.md has the errors of the others."""
    *between, last = map(str, list(found)[1:])
    folders = {str(update): actor for update, (actor, _) in found.items()}
    folders |= {"base": run / "base", "reward": found[0][1], "critic": run / "ppo" / "critic"}
    # name: (the model from which it differs little, steps of a difference in each direction)
    plan = {last: ("", 2 ** 21 - 1)}
    plan |= {name: (later, 7) for name, later in zip(between[::-1], [last, *between[::-1]])}
    plan |= {"0": (last, 2047), "reward": ("0", 511), "critic": ("reward", 15)}
    if (run / "base" / "config.json").exists():
        plan["base"] = ("0", 15)

    listed, packed, known = [], [], {"": {}}
    for name, (start, steps) in plan.items():
        width, tensors, known[name] = (steps.bit_length() + 8) // 8, [], {}     # in bytes
        kind = ScalarGPT if name in ("reward", "critic") else GPT
        for tensor, weight in kind.from_pretrained(folders[name]).state_dict().items():
            tensor, weight = tensor.removeprefix("transformer."), torch.atleast_2d(weight).double()
            before = known[start].get(tensor, torch.zeros_like(weight))         # (rows, columns)
            scale = ((weight - before).abs().amax(1, keepdim=True) / steps).clamp(min=1e-30).float()
            whole = ((weight - before) / scale).round().int()               # (rows, columns)
            known[name][tensor] = before + whole * scale.double()
            stored = (whole + 2 ** (8 * width - 1)).numpy().astype("<u4").reshape(-1, 1).view("u1")
            packed += [scale.numpy().astype("<f4").tobytes(), stored[:, :width].T.tobytes()]
            tensors.append([tensor, *weight.shape])
        listed.append({"name": name, "from": start, "width": width, "tensors": tensors})
    return listed, gzip.compress(b"".join(packed), mtime=0)

# ---------- the page

def build(cfg):
    """The whole page, as text."""
    run = run_folder(cfg)
    for stage in ("sft", "ppo"):
        find_model(run, stage)
    flags = flags_of(run)
    if flags.reward:
        raise UserError(f"{run} learned from --reward {flags.reward}, and the page computes with a "
                        "reward model: it can't show this run")
    found, tokenizer = snapshots(run, flags), Tokenizer.load(run / "ppo")
    actor, reward_model = GPT.from_pretrained(run / "ppo"), ScalarGPT.from_pretrained(found[0][1])
    weights = sum(weight.numel() for weight in actor.parameters())
    if weights > MOST_WEIGHTS:
        raise UserError(f"{run}/ppo has {weights:,} weights, and a page has room for models of "
                        f"{MOST_WEIGHTS:,}")
    listed, packed = models(run, found)
    inside = sorted(config.parent.parent for config in run.glob("*/ppo/config.json"))
    fooled = read_run(inside[0], cfg.data) if inside else None
    for row in sum(fooled["rollouts"], []) if fooled else ():
        del row["logprobs"], row["ref_logprobs"], row["values"]     # only its texts are shown
    tokens = [tokenizer.encoding.decode_single_token_bytes(i) for i in range(tokenizer.eos)]
    shown = read_run(run, cfg.data)
    content = {"run": shown, "fooled": fooled, "models": listed, "weights": f"{weights:,}",
               "vocabulary": [token.decode("latin-1") for token in tokens],
               "config": {**shown["flags"], **asdict(reward_model.config), **asdict(actor.config)}}
    parts = {"page.css": read_text(FOLDER / "page.css"),
             "page.js": "\n".join(read_text(FOLDER / f"{n}.js") for n in ("ppo", "gpt", "page")),
             "run.json": json.dumps(content, separators=(",", ":")).replace("<", "\\u003c"),
             "models": base64.b64encode(packed).decode()}
    return re.sub(r"\{\{(.+?)\}\}", lambda found: parts[found[1]], read_text(FOLDER / "page.html"))


def main():
    with plain_endings():
        cfg = tyro.cli(Config, description=__doc__.partition("\n\n")[0], use_underscores=True)
        torch.set_num_threads(1)        # more would wait for each other: the models are small
        page = build(cfg)
        path = run_folder(cfg) / "page.html"
        write_whole(path, page)
        print(f"saved {path} ({len(page.encode()) / 1e6:.1f} MB): open it in a browser")


if __name__ == "__main__":
    main()
