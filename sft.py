"""Stage 1: a language model that reads, then a language model that answers (supervised
fine-tuning, SFT).

    python sft.py                       the toy: about a minute on two cores

    text            ──►  base/          next-token prediction on pages   (only with --init scratch)
    demonstrations  ──►  sft/           next-token prediction on completions

The two differ only in what they read and where the loss counts. A demonstration's prompt is given,
so only its completion is learned, <|endoftext|> included: otherwise the model would never stop.
InstructGPT (arXiv:2203.02155, section 3.5) does the same from GPT-3.

Axes: B batch, T tokens, C channels, V vocabulary, N tokens of the batch that carry loss.
"""
from dataclasses import dataclass

import torch
import torch.nn.functional as F

import data
from gpt import GPT, GPTConfig
from support.checkpoint import find_folder
from support.command_line import TrainingFlags, launch, start
from support.distributed import total
from support.loop import Loop
from support.optimizer import adamw, set_learning_rate, take_step
from support.resume import check_same_run, identity
from support.runs import finish, read_origin
from support.trainable import parameter_count, parse_train, set_trainable
from text.batches import batch_at, micro_batches, pad
from text.examples import encode_demonstrations, encode_texts, sample_questions
from text.dialogue import ASSISTANT, HUMAN
from text.tokenizer import Tokenizer
from text.vocabulary import train_vocabulary


@dataclass
class Config(TrainingFlags):    # with the flags of every training script
    init: str = "scratch"       # first weights: scratch (reads text first), gpt2 to -xl, a folder
    steps: int = 800            # optimiser steps on demonstrations
    pretrain_steps: int = 1100  # optimiser steps on text before that: the text teaches the facts
    batch_size: int = 16        # texts or demonstrations per step: many small steps teach most here
    lr: float = 2e-3            # peak learning rate on demonstrations
    pretrain_lr: float = 5e-3   # peak learning rate on text: high, because the model is tiny
    n_layer: int = 4            # blocks of a model from scratch: an answer takes several steps
    n_head: int = 4             # attention heads
    n_embd: int = 64            # channels: a quarter of a million weights in all
    block_size: int = 128       # maximum context length: tokens of prompt and completion
    vocab_size: int = 0         # size of a vocabulary learned from text; 0: the toy's or GPT-2's

# ---------- the loss

def sft_loss(model, examples, device=None):
    """Mean cross-entropy (nats per token) over the completions of (prompt ids, completion ids)
    pairs."""
    rows = [prompt + completion for prompt, completion in examples]
    prompts = torch.tensor([len(prompt) for prompt, _ in examples], device=device)  # (B)
    ids, mask = pad(rows, device=device)                                            # (B, T)
    learned = mask & (torch.arange(ids.shape[1], device=device) >= prompts[:, None])  # (B, T)
    # The state at t predicts the token at t + 1, so a token is learned at the state before it.
    # The head is the largest matrix of a small model: it is applied only where there is loss.
    targets = learned[:, 1:]                                                        # (B, T-1)
    states = model.transformer(ids, mask)[:, :-1]                                   # (B, T-1, C)
    logits = model.head(states[targets])                                            # (N, V)
    return F.cross_entropy(logits.float(), ids[:, 1:][targets])


def learned_tokens(examples):
    """How many tokens of (prompt ids, completion ids) pairs carry loss: nothing predicts a text's
    first token."""
    return sum(len(completion) if prompt else len(completion) - 1
               for prompt, completion in examples)


@torch.no_grad()
def test_loss(model, examples, cfg, device):
    """Mean loss over (up to 512 of) the held-out examples."""
    parts = micro_batches(examples[:512], cfg.micro_batch_size or cfg.batch_size, learned_tokens)
    return total(sum(share * sft_loss(model, part, device) for part, share in parts)).item()

# ---------- the loop

def train(model, optimizer, examples, steps, lr, state, cfg, device=None):
    """Train `model` in place on (prompt ids, completion ids) pairs. After each step yield
    (step, batch, metrics). It begins at state["step"], which it counts up."""
    for step in range(state["step"], steps):
        rate = set_learning_rate(optimizer, lr, step, steps)
        batch, loss = batch_at(examples, cfg.batch_size, step, cfg.seed), 0.0
        # The batch goes through the model in parts that fit into memory. Each part's mean counts
        # by its share of the learned tokens, so the gradient is that of the whole batch.
        for part, share in micro_batches(batch, cfg.micro_batch_size, learned_tokens):
            part_loss = share * sft_loss(model, part, device)
            part_loss.backward()
            loss += part_loss.detach()
        norm = take_step(model, optimizer)
        state["step"] = step + 1
        yield step, batch, {"loss": total(loss).item(), "lr": rate, "gradient_norm": norm.item()}


def run_loop(model, examples, held_out, folder, steps, lr, cfg, device):
    """Train with a progress bar, curves, and saves to resume from in `folder`."""
    optimizer, state = adamw(model), {"step": 0}
    loop = Loop(folder, steps, cfg, examples, state, model=model, optimizer=optimizer)
    loop.start()            # with --resume: weights, optimiser and step of the last save
    for _, batch, metrics in loop.run(
            train(model, optimizer, examples, steps, lr, state, cfg, device)):
        loop.log(metrics, show=["loss"])
    if held_out:
        loss = test_loss(model, held_out, cfg, device)
        loop.log({"test_loss": loss})
        loop.bar.write(f"{folder.name}: held-out loss {loss:.3f} nats per token")
    loop.close()


def pretrain(texts, tokenizer, run, cfg, device, bf16):
    """A model trained from scratch on `texts`, saved as base/. If that was done before, the saved
    one."""
    base = run / "base"
    model = GPT(GPTConfig(tokenizer.vocab_size, cfg.block_size, cfg.n_layer, cfg.n_head,
                          cfg.n_embd, tokenizer.eos)).place(device, bf16)
    pages = encode_texts(texts, tokenizer, cfg.block_size)
    same = identity(cfg, pages, {"model": model})
    if cfg.resume and (base / "config.json").exists() and not (base / "resume.pt").exists():
        check_same_run(base, read_origin(base).get("identity", same), same)
        return GPT.from_pretrained(base, device, bf16)
    run_loop(model, pages, [], base, cfg.pretrain_steps, cfg.pretrain_lr, cfg, device)
    finish(model, tokenizer, base, cfg, same)
    return model


def main(cfg):
    run, device, bf16 = start(cfg, "base", "sft")
    train_set, test_set = data.load(cfg.data)
    demonstrations = train_set.need("demonstrations", cfg.data)
    if cfg.init == "scratch":
        parse_train(cfg.train, cfg.n_layer)         # fail now, not after pretraining
        tokenizer = (train_vocabulary(train_set.texts, cfg.vocab_size) if cfg.vocab_size
                     else data.tokenizer_for(cfg.data))
        block_size = cfg.block_size
    else:
        folder = find_folder(cfg.init)
        tokenizer, model = Tokenizer.load(folder), GPT.from_pretrained(folder, device, bf16)
        block_size = min(cfg.block_size, model.config.block_size)
    bare = sum(ASSISTANT not in prompt for prompt, _ in demonstrations)
    if bare:
        print(f"{bare:,} of {len(demonstrations):,} prompts are without the frame of a dialogue, "
              f"{HUMAN!r} … {ASSISTANT!r}: they are learned as they are")
    tokenizer.framed = 2 * bare < len(demonstrations)   # chat.py asks as most prompts were
    tokenizer.questions = sample_questions([prompt for prompt, _ in demonstrations],
                                           test_set.prompts)
    examples = encode_demonstrations(demonstrations, tokenizer, block_size)
    held_out = encode_demonstrations(test_set.demonstrations, tokenizer, block_size, held_out=True)
    if cfg.init == "scratch":
        model = pretrain(train_set.need("texts", cfg.data), tokenizer, run, cfg, device, bf16)
    set_trainable(model, cfg.train)
    print("--train {}: {:,} of {:,} weights move".format(cfg.train, *parameter_count(model)))
    run_loop(model, examples, held_out, run / "sft", cfg.steps, cfg.lr, cfg, device)
    finish(model, tokenizer, run / "sft", cfg, came_from=["base"] * (cfg.init == "scratch"))


if __name__ == "__main__":
    launch(main, Config, "sft")
