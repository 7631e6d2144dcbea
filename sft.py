"""Stage 1: a language model that reads, then a language model that answers (supervised fine-tuning).

    python sft.py                       the toy: about a minute on two cores

    text            ──►  base/          next-token prediction on pages        (only with --init scratch)
    demonstrations  ──►  sft/           next-token prediction on completions

The two differ in nothing but what they read and where the loss counts: a demonstration's prompt is
given, so only its completion is learned, <|endoftext|> included, or the model would never stop.
InstructGPT (arXiv:2203.02155, section 3.5) does the same from GPT-3.

Axes: B batch, T tokens, C channels, V vocabulary, N tokens of the batch that carry loss.
"""
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

import data
from common import Log, UserError, finish, launch, load_resume, save_resume, set_learning_rate, start
from data.batches import fit, micro_batches, minibatch, pad
from data.tokenizer import Tokenizer
from gpt import GPT, GPTConfig, find_folder, parameter_count, parse_train, set_trainable


@dataclass
class Config:
    data: str = "toy"       # data set: toy, hh (or hh:SUBSET+…), tldr, or a .jsonl or .jsonl.gz of your own
    init: str = "scratch"       # first weights: scratch (it reads text first), gpt2, gpt2-medium, …-xl, or a folder
    preset: str = ""            # other defaults: gpt2, gpt2-medium, -large, -xl, unified; default by the model
    run: str = ""               # folder of the run; default out/<data>
    steps: int = 800            # optimiser steps on demonstrations
    pretrain_steps: int = 1100  # optimiser steps on text before that: facts need clean text, manners do not
    batch_size: int = 16        # texts or demonstrations a step: many small steps teach a tiny model most
    micro_batch_size: int = 0   # of these, so many at a time: less memory, the same gradient; 0 is all
    train: str = "all"          # which weights demonstrations may move: all, last:N blocks, lora:R adapters of rank R
    lr: float = 2e-3            # peak learning rate on demonstrations
    pretrain_lr: float = 5e-3   # peak learning rate on text: high, because the model is tiny
    n_layer: int = 4            # the shape of a model from scratch …
    n_head: int = 4             # … deep and narrow: a fact must be found, then judged, then worded …
    n_embd: int = 64            # … in a quarter of a million parameters
    block_size: int = 128       # the most tokens that prompt and answer may have together
    save_every: int = 100       # steps between two checkpoints to resume from
    seed: int = 0               # of the initial weights and the order of the data
    device: str = ""            # cuda, cpu, mps; default what there is
    precision: str = ""         # fp32 or bf16; default bf16 on a GPU that has it
    resume: bool = False        # go on from the last checkpoint of this run


# Other defaults for OpenAI's GPT-2s, taken with --init gpt2 and so on: places to start from, for Anthropic's HH. 342
# steps of 128 are one pass over helpful-base; batch and pass as in the N+ reproduction (arXiv:2403.17031), whose one
# rate for all stages is `unified`. The other rates: TRL's SFTConfig (2e-5), trlX's TL;DR example (1e-5, for GPT-J).
PRESETS = {
    "gpt2":        dict(lr=2e-5, steps=342, batch_size=128, micro_batch_size=16, block_size=512),
    "gpt2-medium": dict(lr=2e-5, steps=342, batch_size=128, micro_batch_size=16, block_size=512),
    "gpt2-large":  dict(lr=1e-5, steps=342, batch_size=128, micro_batch_size=8, block_size=512),
    "gpt2-xl":     dict(lr=1e-5, steps=342, batch_size=128, micro_batch_size=4, block_size=512),
    "unified":     dict(lr=3e-6, steps=342, batch_size=128, micro_batch_size=8, block_size=512),
}

# ----------------------------------------------------------------------------- data

def encode_texts(texts, tokenizer, block_size):
    """Pages as (prompt ids, completion ids) with an empty prompt, long ones in pieces of block_size."""
    pages = (tokenizer.encode("", text)[1] for text in texts)
    return [([], page[i:i + block_size]) for page in pages for i in range(0, len(page), block_size)
            if len(page[i:i + block_size]) > 1]                 # one token alone predicts nothing


def encode_demonstrations(demonstrations, tokenizer, block_size):
    """(prompt ids, completion ids) of the demonstrations that fit; prints how many do not."""
    encoded = [tokenizer.encode(prompt, completion) for prompt, completion in demonstrations]
    fitting = [fit(prompt, [completion], block_size) for prompt, completion in encoded]
    examples = [(prompt, completion) for prompt, [completion] in filter(None, fitting)]
    if len(examples) < len(encoded):
        print(f"{len(encoded) - len(examples)} demonstrations dropped: the completion alone exceeds {block_size} "
              "tokens")
    if not examples:
        raise UserError(f"no demonstration fits into --block_size {block_size}")
    return examples

# ----------------------------------------------------------------------------- loss

def sft_loss(model, examples, device=None):
    """Mean cross-entropy (nats a token) over the completions of (prompt ids, completion ids) pairs."""
    ids, mask = pad([prompt + completion for prompt, completion in examples], device=device)    # (B, T)
    prompts = torch.tensor([len(prompt) for prompt, _ in examples], device=device)              # (B)
    learned = mask & (torch.arange(ids.shape[1], device=device) >= prompts[:, None])            # (B, T)
    # The state at t predicts the token at t + 1, so a token is learned at the state before it. The head is
    # the largest matrix of a small model: it is applied only where there is loss.
    targets = learned[:, 1:]                                                                    # (B, T-1)
    logits = model.head(model.transformer(ids, mask)[:, :-1][targets])                          # (N, V)
    return F.cross_entropy(logits.float(), ids[:, 1:][targets])


def learned_tokens(example):
    """How many tokens of a (prompt ids, completion ids) pair carry loss: no state stands before a very first token."""
    prompt, completion = example
    return len(completion) if prompt else len(completion) - 1


@torch.no_grad()
def test_loss(model, examples, cfg, device):
    """Mean loss over (up to 512 of) the held-out examples."""
    size = cfg.micro_batch_size or cfg.batch_size
    parts = micro_batches(examples[:512], size, learned_tokens)
    return sum(share * sft_loss(model, part, device).item() for part, share in parts)

# ----------------------------------------------------------------------------- the loop

def train(model, examples, held_out, folder, steps, lr, cfg, device):
    """Train `model` in place on (prompt ids, completion ids) pairs."""
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    first = 0
    if cfg.resume and (folder / "resume.pt").exists():
        state = load_resume(folder, cfg)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]
    log = Log(folder.parent, folder.name, steps, first)
    for step in range(first, steps):
        rate = set_learning_rate(optimizer, lr, step, steps)
        loss = 0.0
        batch = minibatch(examples, cfg.batch_size, step, cfg.seed)
        for part, share in micro_batches(batch, cfg.micro_batch_size, learned_tokens):
            part_loss = share * sft_loss(model, part, device)
            part_loss.backward()
            loss += part_loss.item()
        if not math.isfinite(loss):
            raise UserError(f"the loss of step {step} is {loss}: lower the learning rate")
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        log(step, {"loss": loss, "lr": rate, "gradient_norm": norm}, show=["loss"])
        if (step + 1) % cfg.save_every == 0:
            save_resume(folder, cfg, step=step + 1, model=model.state_dict(), optimizer=optimizer.state_dict())
    if held_out:
        loss = test_loss(model, held_out, cfg, device)
        log.writer.add_scalar("test_loss", loss, steps)
        log.bar.write(f"{folder.name}: held-out loss {loss:.3f} nats a token")
    log.close()


def main(cfg):
    run, device, bf16 = start(cfg)
    checkpoints = ("base/resume.pt", "base/config.json", "sft/resume.pt")
    if cfg.resume and not any((run / file).exists() for file in checkpoints):
        raise UserError(f"--resume: no checkpoint in {run}; start without --resume")
    train_set, test_set = data.load(cfg.data)

    if cfg.init == "scratch":
        parse_train(cfg.train, cfg.n_layer)         # a mistake is told now, not after minutes of reading
        tokenizer = data.tokenizer_for(cfg.data)
        model = GPT(GPTConfig(tokenizer.vocab_size, cfg.block_size, cfg.n_layer, cfg.n_head, cfg.n_embd, tokenizer.eos))
        if cfg.resume and (run / "base" / "config.json").exists() and not (run / "base" / "resume.pt").exists():
            model = GPT.from_pretrained(run / "base").place(device, bf16)
        else:
            texts = encode_texts(train_set.need("texts", cfg.data), tokenizer, cfg.block_size)
            train(model.place(device, bf16), texts, [], run / "base", cfg.pretrain_steps, cfg.pretrain_lr, cfg, device)
            finish(model, tokenizer, run / "base")
    else:
        folder = find_folder(cfg.init)
        tokenizer, model = Tokenizer.load(folder), GPT.from_pretrained(folder).place(device, bf16)

    set_trainable(model, cfg.train)
    print("--train {}: {:,} of {:,} weights move".format(cfg.train, *parameter_count(model)))
    block_size = min(cfg.block_size, model.config.block_size)
    examples = encode_demonstrations(train_set.need("demonstrations", cfg.data), tokenizer, block_size)
    held_out = encode_demonstrations(test_set.demonstrations, tokenizer, block_size) if test_set.demonstrations else []
    train(model, examples, held_out, run / "sft", cfg.steps, cfg.lr, cfg, device)
    finish(model, tokenizer, run / "sft")


if __name__ == "__main__":
    launch(main, Config, PRESETS)
