"""Stage 2: a reward model, trained on comparisons to score what people prefer higher.

    python reward.py                    the toy: about a minute on two cores

    comparisons  ──►  reward/           starts from sft/, with a scalar instead of the logits

Bradley-Terry: a person prefers the first of two completions with probability σ(r₁ - r₂). The reward
model is the r that makes the recorded preferences most likely. This fixes only differences of
scores, so at the end the scores are normalised to mean 0 and standard deviation 1 on the SFT
model's own completions. So PPO's KL coefficient and its score of an unfinished response mean the
same in every run.

InstructGPT (arXiv:2203.02155, section 3.5), Stiennon et al. (arXiv:2009.01325, section 3.4).

Axes: N texts of a batch (all completions of all its comparisons), T tokens, B prompts, P prompt
tokens, R response tokens.
"""
import math
from dataclasses import dataclass
from itertools import combinations

import torch
import torch.nn.functional as F

import data
from gpt import GPT, ScalarGPT
from support import UserError
from support.command_line import Text, TrainingFlags, launch, start
from support.distributed import gather, own_rows
from support.loop import Loop
from support.optimizer import adamw, set_learning_rate, take_step
from support.runs import find_model, finish
from support.trainable import parameter_count, set_trainable
from text.batches import alike, batch_at, encode_prompts, micro_batches, pad
from text.examples import encode_comparisons
from text.tokenizer import Tokenizer


@dataclass
class Config(TrainingFlags):    # with the flags of every training script
    init: Text = ""             # folder of the first weights; without it sft/, with a new head
    steps: int = 1200           # optimiser steps; here one pass over the rankings, as is usual
    batch_size: int = 16        # rankings per step; one of K completions is K(K-1)/2 comparisons
    lr: float = 1.5e-3          # peak learning rate; at 2e-3 some seeds end several points lower
    normalise_samples: int = 512    # completions of the SFT model that scores are normalised on
    max_new_tokens: int = 32    # maximum length of such a completion
    max_prompt_tokens: int = 0  # maximum prompt length, truncated on the left; 0: all that fits
    temperature: float = 1.0    # sampling temperature: PPO's, so that its scores begin at 0

# ---------- the loss

def pairwise_loss(chosen, rejected):
    """-log σ(r_chosen - r_rejected), the mean over pairs (nats); ln 2 when the scores are equal.

    chosen, rejected (pairs). logsigmoid, because log(sigmoid(x)) is -inf with a NaN gradient at
    x = -100.
    """
    return -F.logsigmoid(chosen - rejected).mean()


def score_pairs(model, examples, device=None):
    """Scores of all pairs of a batch of rankings: (chosen, rejected), each (pairs).

    All completions go through the model in one forward; a ranking of K counts as its K(K-1)/2
    pairs.
    """
    rows = [prompt + completion for prompt, ranking in examples for completion in ranking]
    scores = model.reward(*pad(rows, device=device))                    # (N)
    better, worse, first = [], [], 0
    for _, ranking in examples:
        for i, j in combinations(range(first, first + len(ranking)), 2):  # i is preferred to j
            better.append(i)
            worse.append(j)
        first += len(ranking)
    return scores[better], scores[worse]


def pair_count(examples):
    """How many comparisons (prompt ids, ranking) pairs stand for."""
    return sum(len(ranking) * (len(ranking) - 1) // 2 for _, ranking in examples)


@torch.no_grad()
def accuracy(model, examples, batch_size, device):
    """Share of the pairs whose chosen text has the higher score (a tie is a miss); and the shares
    in which the chosen text is the longer, the shorter, and as long. A reward model that
    has learned more than length beats each of the first two plus half of the last."""
    hits, longer, shorter, pairs = 0, 0, 0, 0
    for part in alike(examples, batch_size):
        chosen, rejected = score_pairs(model, part, device)
        hits += (chosen > rejected).sum().item()
        pairs += len(chosen)
    for _, ranking in examples:
        longer += sum(len(a) > len(b) for a, b in combinations(ranking, 2))
        shorter += sum(len(a) < len(b) for a, b in combinations(ranking, 2))
    return [count / pairs for count in (hits, longer, shorter, pairs - longer - shorter)]


def print_accuracy(model, examples, cfg, device, noisy="", ceiling=None):
    """Print how often the model is right on held-out comparisons, and what that must exceed."""
    if not examples:
        return
    batch_size = cfg.micro_batch_size or cfg.batch_size
    share, longer, shorter, equal = accuracy(model, examples, batch_size, device)
    print(f"held-out accuracy {share:.1%} of {pair_count(examples):,} {noisy}comparisons ("
          + (f"ceiling {ceiling:.1%}, " if ceiling else "")
          + f"chance 50%; the longer one wins {longer:.1%}, the shorter one {shorter:.1%}, equally "
            f"long {equal:.1%})")

# ---------- normalisation

LEAST_STD = 0.05        # of raw scores: pairs that are trained on are soon apart by 1 and more

@torch.no_grad()
def fit_normalisation(model, sft, prompts, cfg, device):
    """Set the model's reward_mean and reward_std so that the SFT model's completions of `prompts`
    (lists of ids) score 0 on average, with standard deviation 1, and its reward_min to the lowest
    of these scores. Returns mean and deviation. Raises UserError if fewer than two end."""
    model.config.reward_mean, model.config.reward_std = 0.0, 1.0        # raw scores
    scores, own = [], own_rows(prompts)
    for i in range(0, len(own), cfg.batch_size):
        ids, mask = pad(own[i:i + cfg.batch_size], left=True, device=device)    # (B, P)
        tokens, response_mask, _ = sft.generate(
            ids, mask, cfg.max_new_tokens, cfg.temperature)                     # (B, R)
        ids = torch.cat([ids, tokens], dim=1)                                   # (B, P+R)
        mask = torch.cat([mask, response_mask], dim=1)                          # (B, P+R)
        ended = ((tokens == sft.config.eos_token_id) & response_mask).any(1)    # (B)
        scores.append(model.reward(ids, mask)[ended])
    scores = gather(torch.cat(scores))                      # (S) of the completions that end
    if len(scores) < 2:
        raise UserError(f"{len(scores)} of {len(prompts)} completions of the SFT model end within "
                        f"--max_new_tokens {cfg.max_new_tokens}, and scores cannot be normalised "
                        "on the others: raise it")
    mean, std = scores.mean().item(), scores.std().item()
    if not math.isfinite(mean + std):
        raise UserError("the reward model's scores are not finite, so its training has failed: "
                        "start again with a lower --lr")
    if std < LEAST_STD:
        print(f"WARNING: {len(scores)} completions of the SFT model have nearly the same score "
              f"(standard deviation {std:.1g}): are they nearly the same text? Divided by that, "
              "the scores would be noise, so they are only shifted to mean 0")
        std = 1.0
    model.config.reward_mean, model.config.reward_std = mean, std
    model.config.reward_min = (scores.min().item() - mean) / std
    return mean, std

# ---------- the loop

def train(model, optimizer, examples, state, cfg, device=None):
    """Train `model` in place on (prompt ids, [completion ids, best first]). After each step yield
    (step, batch, metrics). It begins at state["step"], which it counts up."""
    for step in range(state["step"], cfg.steps):
        rate = set_learning_rate(optimizer, cfg.lr, step, cfg.steps)
        batch, scores = batch_at(examples, cfg.batch_size, step, cfg.seed), []
        # The batch goes through the model in parts that fit into memory. Each part's mean counts
        # by its share of the pairs, so the gradient is that of the whole batch.
        for part, share in micro_batches(batch, cfg.micro_batch_size, pair_count):
            chosen, rejected = score_pairs(model, part, device)         # 2 x (pairs)
            (share * pairwise_loss(chosen, rejected)).backward()
            scores.append(torch.stack([chosen, rejected], dim=1).detach())  # (pairs, 2)
        norm = take_step(model, optimizer)
        chosen, rejected = gather(torch.cat(scores)).T                  # 2 x (pairs)
        state["step"] = step + 1
        yield step, batch, {
            "loss": pairwise_loss(chosen, rejected).item(),
            "accuracy": (chosen > rejected).float().mean().item(),
            "margin": (chosen - rejected).mean().item(),
            "score/chosen": chosen.mean().item(),
            "score/rejected": rejected.mean().item(),
            "lr": rate,
            "gradient_norm": norm.item()}


def main(cfg):
    run, device, bf16 = start(cfg, "reward")
    train_set, test_set = data.load(cfg.data)
    sft_folder = find_model(run, "sft")
    init = find_model(run, "sft", cfg.init)
    tokenizer = Tokenizer.shared(sft_folder, init)
    sft = GPT.from_pretrained(sft_folder, device, bf16, frozen=True)
    model = ScalarGPT.from_pretrained(init, device, bf16, new_head=True)
    # The loss depends on the scale of the scores, so a model that is trained further gives its raw
    # scores here, not the normalised ones.
    model.config.reward_mean, model.config.reward_std = 0.0, 1.0
    set_trainable(model, cfg.train)
    print("--train {}: {:,} of {:,} weights move".format(cfg.train, *parameter_count(model)))
    block_size = min(model.config.block_size, sft.config.block_size)
    examples = encode_comparisons(train_set.need("comparisons", cfg.data), tokenizer, block_size)
    prompts = encode_prompts(train_set.prompts, tokenizer, block_size,
                             cfg.max_new_tokens, cfg.max_prompt_tokens)
    held_out, noisy = (encode_comparisons(rankings[:5000], tokenizer, block_size, held_out=True)
                       for rankings in (test_set.comparisons, test_set.noisy))

    optimizer, state = adamw(model), {"step": 0}
    loop = Loop(run / "reward", cfg.steps, cfg, examples, state,
                model=model, optimizer=optimizer)
    loop.start()            # with --resume: weights, optimiser and step of the last save
    for _, batch, metrics in loop.run(train(model, optimizer, examples, state, cfg, device)):
        loop.log(metrics, show=["loss", "accuracy"])
    loop.close()

    print_accuracy(model, held_out, cfg, device)
    print_accuracy(model, noisy, cfg, device, "noisy ", test_set.ceiling)
    samples = batch_at(prompts, cfg.normalise_samples, 0, cfg.seed)
    mean, std = fit_normalisation(model, sft, samples, cfg, device)
    print(f"scores of SFT completions: mean {mean:.2f}, standard deviation {std:.2f}, from here on "
          f"0 and 1; the lowest is then {model.config.reward_min:.2f}")
    finish(model, tokenizer, run / "reward", cfg, came_from=["sft"])


if __name__ == "__main__":
    launch(main, Config, "reward")
