"""Stage 2: a reward model, trained on comparisons to score what people prefer higher.

    python reward.py                    the toy: about a minute on two cores

    comparisons  ──►  reward/           starts from sft/, with a scalar in place of the logits

Bradley-Terry: a person prefers the first of two completions with probability σ(r₁ - r₂). The reward model is the r
that makes the recorded preferences most likely. This fixes differences of scores only, so at the end the scores are
normalised to mean 0 and standard deviation 1 on the SFT model's own completions. PPO sets the KL coefficient and the
score of an unfinished response against them, and both then mean the same in every run.

InstructGPT (arXiv:2203.02155, section 3.5), Stiennon et al. (arXiv:2009.01325, section 3.4).

Axes: N texts of a batch (all completions of all its comparisons), T tokens, B prompts, P prompt tokens, R response
tokens.
"""
from dataclasses import dataclass
from itertools import combinations

import torch
import torch.nn.functional as F

import data
from text.batches import alike, micro_batches, minibatch, pad
from text.encode import encode_comparisons, encode_prompts
from text.tokenizer import Tokenizer
from gpt import GPT, ScalarGPT
from support import UserError
from support.command_line import TrainingFlags, launch, start
from support.distributed import gather, own_part
from support.hub import find_folder
from support.loop import Loop
from support.optimizer import adamw, set_learning_rate, take_step
from support.runs import find_model, finish
from support.trainable import parameter_count, set_trainable


@dataclass
class Config(TrainingFlags):    # with the flags of every training script
    init: str = ""              # first weights: a model's folder; default the run's SFT model, with a new head
    steps: int = 1200           # optimiser steps; the toy's are one pass over its rankings, as is usual
    batch_size: int = 16        # rankings a step; one of K completions is K(K-1)/2 comparisons
    lr: float = 1.5e-3          # peak learning rate; at 2e-3 an unlucky seed stays points behind
    max_new_tokens: int = 32    # length of the SFT model's completions that the scores are normalised on
    normalise_samples: int = 512    # how many such completions

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


def pair_count(examples):
    """How many comparisons (prompt ids, ranking) pairs stand for."""
    return sum(len(ranking) * (len(ranking) - 1) // 2 for _, ranking in examples)


@torch.no_grad()
def accuracy(model, examples, batch_size, device):
    """Share of the pairs whose chosen text has the higher score (a tie is a miss), and that share for the
    rule "the longer one wins", which a reward model must beat to have learned more than length."""
    hits, longer, pairs = 0, 0, 0
    for part in alike(examples, batch_size):
        chosen, rejected = score_pairs(model, part, device)
        hits += (chosen > rejected).sum().item()
        pairs += len(chosen)
    for _, ranking in examples:
        longer += sum(len(a) > len(b) for a, b in combinations(ranking, 2))
    return hits / pairs, longer / pairs

# ----------------------------------------------------------------------------- normalisation

@torch.no_grad()
def fit_normalisation(model, sft, prompts, cfg, device):
    """Set the model's reward_mean and reward_std so that the SFT model's completions of `prompts` (lists of ids)
    score 0 on average, with standard deviation 1. Returns the two. Raises UserError if fewer than two end."""
    model.config.reward_mean, model.config.reward_std = 0.0, 1.0
    scores, prompts = [], own_part(prompts)
    for i in range(0, len(prompts), cfg.batch_size):
        ids, mask = pad(prompts[i:i + cfg.batch_size], left=True, device=device)                # (B, P)
        tokens, response_mask, _ = sft.generate(ids, mask, cfg.max_new_tokens)                  # (B, R)
        ids, mask = torch.cat([ids, tokens], dim=1), torch.cat([mask, response_mask], dim=1)    # (B, P+R)
        ended = ((tokens == sft.config.eos_token_id) & response_mask).any(1)                    # (B)
        scores.append(model.reward(ids, mask)[ended])
    scores = gather(torch.cat(scores))                                                          # (S) that end
    if len(scores) < 2:
        raise UserError(f"{len(scores)} of {len(prompts)} completions of the SFT model end within --max_new_tokens "
                        f"{cfg.max_new_tokens}, and scores cannot be normalised on the others: raise it")
    model.config.reward_mean, model.config.reward_std = scores.mean().item(), scores.std().item()
    return model.config.reward_mean, model.config.reward_std

# ----------------------------------------------------------------------------- the loop

def train(model, examples, tokenizer, folder, cfg, device):
    """Train `model` in place on (prompt ids, [completion ids, best first])."""
    optimizer = adamw(model)
    loop = Loop(folder, cfg.steps, cfg, examples, tokenizer, model=model, optimizer=optimizer)
    for step in loop:
        rate = set_learning_rate(optimizer, cfg.lr, step, cfg.steps)
        scores = []
        batch = own_part(minibatch(examples, cfg.batch_size, step, cfg.seed))
        for part, share in micro_batches(batch, cfg.micro_batch_size, pair_count):
            chosen, rejected = score_pairs(model, part, device)                         # (pairs), (pairs)
            (share * pairwise_loss(chosen, rejected)).backward()
            scores.append(torch.stack([chosen, rejected]).detach())                     # (2, pairs)
        chosen, rejected = gather(torch.cat(scores, dim=1).T).T                         # (pairs), (pairs)
        loss = pairwise_loss(chosen, rejected)
        norm = take_step(model, optimizer)
        loop.log({
            "loss": loss, "accuracy": (chosen > rejected).float().mean(), "margin": (chosen - rejected).mean(),
            "score/chosen": chosen.mean(), "score/rejected": rejected.mean(), "lr": rate, "gradient_norm": norm,
        }, show=["loss", "accuracy"], batch=batch)
    loop.close()


def main(cfg):
    run, device, bf16 = start(cfg, "reward")
    train_set, test_set = data.load(cfg.data)
    sft_folder = find_model(run, "sft")
    init = find_folder(cfg.init) if cfg.init else sft_folder
    tokenizer = Tokenizer.shared(sft_folder, init)
    sft = GPT.from_pretrained(sft_folder, device, bf16, frozen=True)
    model = ScalarGPT.from_pretrained(init, device, bf16, new_head=True)
    set_trainable(model, cfg.train)
    print("--train {}: {:,} of {:,} weights move".format(cfg.train, *parameter_count(model)))
    block_size = model.config.block_size
    examples = encode_comparisons(train_set.need("comparisons", cfg.data), tokenizer, block_size)
    prompts = encode_prompts(train_set.prompts, tokenizer, block_size, cfg.max_new_tokens)

    train(model, examples, tokenizer, run / "reward", cfg, device)

    if test_set.comparisons:
        held_out = encode_comparisons(test_set.comparisons[:5000], tokenizer, block_size)
        share, longer = accuracy(model, held_out, cfg.micro_batch_size or cfg.batch_size, device)
        print(f"held-out accuracy {share:.1%} of {len(held_out):,} comparisons "
              f"(chance 50%, the longer one wins {longer:.1%})")
    samples = minibatch(prompts, cfg.normalise_samples, 0, cfg.seed)
    mean, std = fit_normalisation(model, sft, samples, cfg, device)
    print(f"scores of SFT completions: mean {mean:.2f}, standard deviation {std:.2f}, from here on 0 and 1")
    finish(model, tokenizer, run / "reward", cfg)


if __name__ == "__main__":
    launch(main, Config, "reward")
