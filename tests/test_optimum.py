"""The one task whose answer is known: PPO must find it.

All answers of up to three tokens to one prompt are enumerated, each with a reward from a random table.
The policy that earns most under the KL penalty is then known in closed form:

    J(π) = E_π[r(y)] - β KL(π ‖ π_ref)        π*(y) = π_ref(y) exp(r(y)/β) / Z        J(π*) = β log Z

The real `make_experience` and `learn` must reach it from π_ref by sampling alone.
"""
from itertools import product
from types import SimpleNamespace

import pytest
import torch

from common import set_learning_rate
from ppo import learn, make_experience
from tiny import critic, model, ppo_config

PROMPT, LETTERS, END, LENGTH = [0, 1], (0, 1, 2, 3), 4, 3
ANSWERS = [letters + (END,) for n in range(LENGTH) for letters in product(LETTERS, repeat=n)] + list(product(LETTERS, repeat=LENGTH))
NEVER_ENDED = -1.0


def enumerated(policy):
    """log π of every answer, by one plain pass over each."""
    result = []
    for answer in ANSWERS:
        logits = policy(torch.tensor([[*PROMPT, *answer]]))[0, len(PROMPT) - 1:-1]
        result.append(logits.log_softmax(-1)[torch.arange(len(answer)), list(answer)].sum())
    return torch.stack(result).detach().double()


def reward_table(seed):
    """The rewards of ANSWERS, and a reward model that looks them up."""
    torch.manual_seed(seed)
    table = {answer: score.item() if answer[-1] == END else NEVER_ENDED for answer, score in zip(ANSWERS, torch.randn(len(ANSWERS)))}

    def score(ids, mask):
        return torch.tensor([table[tuple(row[keep].tolist()[len(PROMPT):])] for row, keep in zip(ids, mask)])
    return torch.tensor(list(table.values())).double(), SimpleNamespace(reward=score)


def check(beta, seed, updates=120):
    shape = dict(vocab_size=5, block_size=6, n_layer=1, n_head=2, n_embd=16, eos_token_id=END)
    actor, reference, value_model = model(seed=seed, **shape), model(seed=seed, **shape), critic(seed + 1, **shape)
    rewards, reward_model = reward_table(seed + 2)
    cfg = ppo_config(epochs=2, minibatches=2, max_new_tokens=LENGTH)
    optimizers = [torch.optim.AdamW(net.parameters(), betas=(0.9, 0.95), weight_decay=0.0) for net in (actor, value_model)]
    prompts = torch.tensor([PROMPT] * 256)
    for step in range(updates):
        for optimizer in optimizers:
            set_learning_rate(optimizer, 1e-2, step, updates)
        experience = make_experience(actor, value_model, reference, reward_model, prompts, torch.ones_like(prompts).bool(), beta, cfg)
        learn(actor, value_model, *optimizers, experience, cfg)

    pi, ref = enumerated(actor), enumerated(reference)
    log_z = torch.logsumexp(ref + rewards / beta, 0)
    best = ref + rewards / beta - log_z

    def objective(logp):
        return (logp.exp() * (rewards - beta * (logp - ref))).sum().item()
    kl_to_best = (pi.exp() * (pi - best)).sum().item()
    way = (objective(pi) - objective(ref)) / (beta * log_z.item() - objective(ref))
    return kl_to_best, way
