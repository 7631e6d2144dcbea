"""The one task whose solution is known. Lessons 6 and 7 look at it, and tests/test_optimum.py holds
PPO to it.

All answers of a few tokens to one prompt are enumerated, each with a reward from a random table.
The policy that earns most under the KL penalty is then known in closed form:

    J(π) = E_π[r(y)] - β KL(π ‖ π_ref)      π*(y) = π_ref(y) exp(r(y)/β) / Z      J(π*) = β log Z

`ppo_policy` looks for it from π_ref on with the real `ppo.train`, by sampling alone.
"""
from itertools import product

import torch

import ppo
from gpt import GPT, ScalarGPT

PROMPT, LETTERS, END = [0, 1], (0, 1, 2), 3
NEVER_ENDED = -1.0                          # the reward of an answer that is cut off
UPDATES = {2: 100, 3: 250}                  # that PPO needs with answers of so many tokens


class Task:
    """One table of rewards, and one reference. answers: tuples of tokens; rewards (A); reference: a
    GPT; ref (A): its log π of every answer. PPO takes the task for a reward model."""

    def __init__(self, length, seed):
        self.length, self.seed = length, seed
        ended = [(*letters, END) for n in range(length) for letters in product(LETTERS, repeat=n)]
        self.answers = ended + list(product(LETTERS, repeat=length))    # those cut off come last
        torch.manual_seed(seed)
        rewards = torch.randn(len(self.answers))                        # (A)
        rewards[len(ended):] = NEVER_ENDED
        self.table = torch.zeros(6 ** length)
        for answer, score in zip(self.answers, rewards):
            self.table[number(torch.tensor([answer]))] = score
        self.rewards = rewards.double()                                 # (A)
        self.reference = network(GPT, seed + 1)
        self.ref = enumerated(self.reference, self.answers).detach()    # (A)

    def reward(self, ids, mask):
        """The rewards (rows) of prompts with answers, (rows, tokens)."""
        return self.table[number(ids.where(mask, -1)[:, len(PROMPT):])]

    def unfinished_score(self, given):
        """The reward of an answer that is cut off."""
        return NEVER_ENDED


def number(answers):
    """A number for each answer (rows, tokens), -1 beyond its end: its digits in base 6."""
    return ((answers + 1) * 6 ** torch.arange(answers.shape[1])).sum(1)


def network(kind, seed):
    """A small GPT or ScalarGPT, all of whose parameters are random."""
    torch.manual_seed(seed)
    made = kind(kind.Config(vocab_size=END + 1, block_size=6, n_layer=1, n_head=2, n_embd=32,
                            eos_token_id=END))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return made


def enumerated(policy, answers):
    """log π (A) of every answer, by one plain pass over each; gradients flow."""
    result = []
    for answer in answers:
        logits = policy(torch.tensor([[*PROMPT, *answer]]))[0, len(PROMPT) - 1:-1]  # (tokens, V)
        logprobs = logits.log_softmax(-1)                                   # (tokens, V)
        result.append(logprobs[range(len(answer)), answer].sum())
    return torch.stack(result).double()


def optimum(rewards, ref, beta):
    """(log π* (A) of every answer, J(π*))."""
    log_z = torch.logsumexp(ref + rewards / beta, 0)
    return ref + rewards / beta - log_z, (beta * log_z).item()


def frontier(rewards, ref, kl):
    """The largest mean reward of any policy at `kl` nats from π_ref: that of π*, whose β is found
    by bisection."""
    low, high = 1e-3, 1e3
    for _ in range(60):
        beta = (low * high) ** 0.5
        best, _ = optimum(rewards, ref, beta)
        too_far = (best.exp() * (best - ref)).sum() > kl
        low, high = (beta, high) if too_far else (low, beta)
    return (best.exp() * rewards).sum().item()


def ppo_policy(task, beta, updates=None):
    """log π (A) of every answer after PPO from π_ref on."""
    actor, critic = network(GPT, task.seed + 1), network(ScalarGPT, task.seed + 2)
    optimizers = [torch.optim.AdamW(net.parameters(), betas=(0.9, 0.95), weight_decay=0.0)
                  for net in (actor, critic)]
    cfg = ppo.Config(                       # no default that is there for the toy's sake
        steps=updates or UPDATES[task.length], batch_size=256, epochs=2, minibatches=1,
        max_new_tokens=task.length, temperature=1.0, lr=3e-3, critic_lr=1e-2, kl_coef=beta,
        gamma=1.0, lam=0.95, clip=0.2, value_clip=0.2)
    for _ in ppo.train(actor, critic, task.reference, task, *optimizers,
                       [PROMPT] * cfg.batch_size, ppo.first_state(cfg), cfg):
        pass
    return enumerated(actor, task.answers).detach()
