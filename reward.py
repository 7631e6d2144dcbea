"""Stage 2: a reward model, that has learned from comparisons what people prefer.

    python reward.py                    the toy: about a minute on two cores

    comparisons  ──►  reward/           starts from sft/, with a scalar in place of the logits

A person who reads two answers prefers the first with probability σ(r₁ - r₂), says Bradley-Terry;
the reward model is the r that makes the recorded preferences likeliest. Only differences count in
that, so at the end the scores of the SFT model's own answers are measured and mapped to mean 0,
standard deviation 1: then the KL coefficient and the penalty for an unfinished answer, which PPO
sets against the reward, mean the same in every run.

InstructGPT (arXiv:2203.02155, section 3.5), Stiennon et al. (arXiv:2009.01325, section 3.4).

Axes: N texts of a batch (all completions of all its comparisons), T tokens, B prompts.
"""
from dataclasses import dataclass
from itertools import combinations

import torch
import torch.nn.functional as F

import data
from common import Log, UserError, find_model, finish, launch, load_resume, save_resume, set_learning_rate, start
from data.batches import fit, micro_batches, minibatch, pad
from data.tokenizer import Tokenizer
from gpt import GPT, ScalarGPT, find_folder, parameter_count, set_trainable


@dataclass
class Config:
    data: str = "toy"       # data set: toy, hh (or hh:SUBSET+…), tldr, or a .jsonl or .jsonl.gz of your own
    init: str = ""              # first weights: a model's folder; default the run's SFT model, with a new head
    preset: str = ""            # other defaults: gpt2, gpt2-medium, -large, -xl, unified; default by the model
    run: str = ""               # folder of the run; default out/<data>
    steps: int = 1200           # optimiser steps; the toy's are one pass over its rankings, as is usual
    batch_size: int = 16        # rankings a step; one of K completions is K(K-1)/2 comparisons
    micro_batch_size: int = 0   # of these, so many at a time: less memory, the same gradient; 0 is all
    train: str = "all"          # which weights may move: all, last:N blocks, lora:R adapters of rank R; the head always
    lr: float = 1.5e-3          # peak learning rate; at 2e-3 an unlucky seed stays points behind
    max_new_tokens: int = 32    # length of the SFT model's answers that the scores are normalised on
    normalise_samples: int = 512    # how many such answers
    save_every: int = 100       # steps between two checkpoints to resume from
    seed: int = 0               # of the new head and the order of the data
    device: str = ""            # cuda, cpu, mps; default what there is
    precision: str = ""         # fp32 or bf16; default bf16 on a GPU that has it
    resume: bool = False        # go on from the last checkpoint of this run


# Other defaults for OpenAI's GPT-2s, as in sft.py: one pass over 43,835 comparisons, 64 a step, as in the N+
# reproduction (arXiv:2403.17031). 1e-5 is the rate of trlX's TL;DR example; minChatGPT takes 1e-4 with batches of 2.
PRESETS = {
    "gpt2":        dict(lr=1e-5, steps=684, batch_size=64, micro_batch_size=8, max_new_tokens=128),
    "gpt2-medium": dict(lr=1e-5, steps=684, batch_size=64, micro_batch_size=8, max_new_tokens=128),
    "gpt2-large":  dict(lr=5e-6, steps=684, batch_size=64, micro_batch_size=4, max_new_tokens=128),
    "gpt2-xl":     dict(lr=5e-6, steps=684, batch_size=64, micro_batch_size=2, max_new_tokens=128),
    "unified":     dict(lr=3e-6, steps=684, batch_size=64, micro_batch_size=4, max_new_tokens=128),
}

# ----------------------------------------------------------------------------- data

def encode_comparisons(comparisons, tokenizer, block_size):
    """(prompt ids, [completion ids, best first]) of the comparisons that fit; prints how many do not."""
    encoded = [(tokenizer.encode(prompt), [tokenizer.encode("", completion)[1] for completion in ranking])
               for prompt, ranking in comparisons]
    examples = [example for prompt, ranking in encoded if (example := fit(prompt, ranking, block_size))]
    if len(examples) < len(encoded):
        print(f"{len(encoded) - len(examples)} comparisons dropped: a completion alone exceeds {block_size} tokens")
    if not examples:
        raise UserError(f"no comparison fits into the model's {block_size} positions")
    return examples

# ----------------------------------------------------------------------------- loss

def pairwise_loss(chosen, rejected):
    """-log σ(r_chosen - r_rejected), the mean over pairs (nats); ln 2 when the scores are equal.

    chosen, rejected (pairs). logsigmoid, because log(sigmoid(x)) is -inf with a NaN gradient at x = -100.
    """
    return -F.logsigmoid(chosen - rejected).mean()


def score_pairs(model, examples, device=None):
    """Scores of all pairs of a batch of rankings: (chosen, rejected), each (pairs).

    All completions go through the model in one forward; a ranking of K counts as its K(K-1)/2 pairs.
    """
    ids, mask = pad([prompt + completion for prompt, ranking in examples for completion in ranking], device=device)
    scores = model.reward(ids, mask)                                    # (N)
    better, worse, first = [], [], 0
    for _, ranking in examples:
        for i, j in combinations(range(first, first + len(ranking)), 2):    # i before j: i is preferred
            better.append(i)
            worse.append(j)
        first += len(ranking)
    return scores[better], scores[worse]


def pair_count(example):
    """How many comparisons a (prompt ids, ranking) stands for."""
    return len(example[1]) * (len(example[1]) - 1) // 2


@torch.no_grad()
def accuracy(model, examples, batch_size, device):
    """Share of the pairs whose chosen text has the higher score (a tie is a miss), and that share for the
    rule "the longer one wins", which a reward model must beat to have learned more than length."""
    hits, longer, pairs = 0, 0, 0
    for i in range(0, len(examples), batch_size):
        chosen, rejected = score_pairs(model, examples[i:i + batch_size], device)
        hits, pairs = hits + (chosen > rejected).sum().item(), pairs + len(chosen)
    for _, ranking in examples:
        longer += sum(len(a) > len(b) for a, b in combinations(ranking, 2))
    return hits / pairs, longer / pairs

# ----------------------------------------------------------------------------- normalisation

@torch.no_grad()
def fit_normalisation(model, sft, prompts, cfg, device):
    """Set the model's reward_mean and reward_std so that the SFT model's answers to `prompts` (lists of
    ids) score 0 on average, with standard deviation 1. Returns the two."""
    model.config.reward_mean, model.config.reward_std = 0.0, 1.0
    scores = []
    for i in range(0, len(prompts), cfg.batch_size):
        ids, mask = pad(prompts[i:i + cfg.batch_size], left=True, device=device)                # (B, P)
        tokens, response_mask, _ = sft.generate(ids, mask, cfg.max_new_tokens)                  # (B, R)
        scores.append(model.reward(torch.cat([ids, tokens], 1), torch.cat([mask, response_mask], 1)))
    scores = torch.cat(scores)
    model.config.reward_mean, model.config.reward_std = scores.mean().item(), scores.std().item()
    return model.config.reward_mean, model.config.reward_std

# ----------------------------------------------------------------------------- the loop

def train(model, examples, folder, cfg, device):
    """Train `model` in place on (prompt ids, [completion ids, best first])."""
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    first = 0
    if cfg.resume:
        state = load_resume(folder, cfg)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]
    log = Log(folder.parent, "reward", cfg.steps, first)
    for step in range(first, cfg.steps):
        rate = set_learning_rate(optimizer, cfg.lr, step, cfg.steps)
        scores = []
        batch = minibatch(examples, cfg.batch_size, step, cfg.seed)
        for part, share in micro_batches(batch, cfg.micro_batch_size, pair_count):
            chosen, rejected = score_pairs(model, part, device)                         # (pairs), (pairs)
            (share * pairwise_loss(chosen, rejected)).backward()
            scores.append(torch.stack([chosen, rejected]).detach())                     # (2, pairs)
        chosen, rejected = torch.cat(scores, dim=1)
        loss = pairwise_loss(chosen, rejected)
        if not torch.isfinite(loss):
            raise UserError(f"the loss of step {step} is {loss.item()}: lower --lr")
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        log(step, {"loss": loss.item(), "accuracy": (chosen > rejected).float().mean(),
                   "margin": (chosen - rejected).mean(), "score/chosen": chosen.mean(),
                   "score/rejected": rejected.mean(), "lr": rate, "gradient_norm": norm},
            show=["loss", "accuracy"])
        if (step + 1) % cfg.save_every == 0:
            save_resume(folder, cfg, step=step + 1, model=model.state_dict(), optimizer=optimizer.state_dict())
    log.close()


def main(cfg):
    run, device, bf16 = start(cfg)
    train_set, test_set = data.load(cfg.data)
    sft_folder = find_model(run, "sft")
    init = find_folder(cfg.init) if cfg.init else sft_folder
    tokenizer = Tokenizer.shared(sft_folder, init)
    sft = GPT.from_pretrained(sft_folder).place(device, bf16, frozen=True)
    model = ScalarGPT.from_pretrained(init, new_head=True).place(device, bf16)
    set_trainable(model, cfg.train)
    print("--train {}: {:,} of {:,} weights move".format(cfg.train, *parameter_count(model)))
    block_size = model.config.block_size
    examples = encode_comparisons(train_set.need("comparisons", cfg.data), tokenizer, block_size)

    train(model, examples, run / "reward", cfg, device)

    if test_set.comparisons:
        held_out = encode_comparisons(test_set.comparisons[:5000], tokenizer, block_size)
        share, longer = accuracy(model, held_out, cfg.micro_batch_size or cfg.batch_size, device)
        print(f"held-out accuracy {share:.1%} of {len(held_out):,} comparisons "
              f"(chance 50%, the longer one wins {longer:.1%})")
    prompts = [tokenizer.encode(prompt)[-(block_size - cfg.max_new_tokens):] for prompt in train_set.prompts]
    mean, std = fit_normalisation(model, sft, minibatch(prompts, cfg.normalise_samples, 0, cfg.seed), cfg, device)
    print(f"scores of SFT answers: mean {mean:.2f}, standard deviation {std:.2f}, from here on 0 and 1")
    finish(model, tokenizer, run / "reward")


if __name__ == "__main__":
    launch(main, Config, PRESETS)
