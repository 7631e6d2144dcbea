"""The one task whose answer is known: PPO must find it.

All answers of a few tokens to one prompt are enumerated, each with a reward from a random table. The
policy that earns most under the KL penalty is then known in closed form:

    J(π) = E_π[r(y)] - β KL(π ‖ π_ref)        π*(y) = π_ref(y) exp(r(y)/β) / Z        J(π*) = β log Z

The real `make_experience` and `learn` must reach it from π_ref by sampling alone. With longer answers and
a smaller β the landscape has other hills, and no policy gradient is sure to climb the highest: hence the β's.
"""
from itertools import product
from types import SimpleNamespace

import pytest
import torch

from support.optimizer import set_learning_rate
from ppo import learn, make_experience
from tiny import critic, model, ppo_config

PROMPT, LETTERS, END = [0, 1], (0, 1, 2), 3
NEVER_ENDED = -1.0


def all_answers(length):
    """Those that end, with up to `length` tokens, and those that are cut off after as many."""
    ended = [letters + (END,) for n in range(length) for letters in product(LETTERS, repeat=n)]
    return ended + list(product(LETTERS, repeat=length))


def enumerated(policy, answers):
    """log π of every answer, by one plain pass over each."""
    result = []
    for answer in answers:
        logprobs = policy(torch.tensor([[*PROMPT, *answer]]))[0, len(PROMPT) - 1:-1].log_softmax(-1)
        result.append(logprobs[range(len(answer)), answer].sum())
    return torch.stack(result).detach().double()


def number(answers):
    """A number for each answer (rows, tokens), which holds -1 beyond its end: its digits in base 6."""
    return ((answers + 1) * 6 ** torch.arange(answers.shape[1])).sum(1)


def reward_table(answers, length, seed):
    """A reward for every answer, and a reward model that looks them up."""
    torch.manual_seed(seed)
    rewards = torch.randn(len(answers)).where(torch.tensor([END in answer for answer in answers]), NEVER_ENDED)
    table = torch.zeros(6 ** length)
    for answer, score in zip(answers, rewards):
        table[number(torch.tensor([answer]))] = score
    looked_up = SimpleNamespace(reward=lambda ids, mask: table[number(ids.where(mask, -1)[:, len(PROMPT):])])
    return rewards.double(), looked_up


def optimum(answers, rewards, ref, beta):
    """(log π* of every answer, J(π*))."""
    log_z = torch.logsumexp(ref + rewards / beta, 0)
    return ref + rewards / beta - log_z, (beta * log_z).item()


def test_no_other_policy_earns_as_much_as_the_optimum():
    answers = all_answers(2)
    rewards, _ = reward_table(answers, 2, seed=0)
    ref = enumerated(model(scale=0.1, vocab_size=END + 1, eos_token_id=END), answers)
    assert ref.exp().sum().item() == pytest.approx(1, abs=1e-5)         # the answers are all there are
    best, most = optimum(answers, rewards, ref, 0.5)
    for seed in range(20):
        torch.manual_seed(seed)
        other = (best + 0.1 * seed * torch.randn(len(best))).log_softmax(0)
        assert (other.exp() * (rewards - 0.5 * (other - ref))).sum().item() <= most + 1e-9


@pytest.mark.parametrize("length, beta, seed", [
    (2, 0.1, 0), (2, 0.3, 10), (2, 1.0, 20),
    *(pytest.param(*case, marks=pytest.mark.slow) for case in
      ((2, 0.1, 30), (2, 0.3, 40), (2, 1.0, 50), (3, 0.5, 60), (3, 0.5, 70), (3, 1.0, 80)))])
def test_ppo_finds_the_best_policy_there_is(length, beta, seed):
    kl_to_best, way = trained(length, beta, seed)
    assert kl_to_best <= 0.05 and way >= 0.98


def trained(length, beta, seed):
    """PPO from π_ref on. Returns KL(π ‖ π*) and how far J(π) came on the way from J(π_ref) to J(π*)."""
    answers = all_answers(length)
    rewards, reward_model = reward_table(answers, length, seed)
    shape = dict(scale=0.1, vocab_size=END + 1, block_size=6, n_layer=1, n_embd=32, eos_token_id=END)
    actor, reference, value_model = model(seed=seed + 1, **shape), model(seed=seed + 1, **shape), critic(seed + 2, **shape)
    optimizers = [torch.optim.AdamW(net.parameters(), betas=(0.9, 0.95), weight_decay=0.0) for net in (actor, value_model)]
    cfg = ppo_config(epochs=2, minibatches=1, max_new_tokens=length)
    prompts, updates = torch.tensor([PROMPT] * 256), {2: 100, 3: 250}[length]
    for step in range(updates):
        for optimizer, peak in zip(optimizers, (3e-3, 1e-2)):
            set_learning_rate(optimizer, peak, step, updates)
        experience = make_experience(actor, value_model, reference, reward_model, prompts, torch.ones_like(prompts).bool(), beta, cfg)
        learn(actor, value_model, *optimizers, experience, cfg)

    pi, ref = enumerated(actor, answers), enumerated(reference, answers)
    best, most = optimum(answers, rewards, ref, beta)
    earned, start = ((p.exp() * (rewards - beta * (p - ref))).sum().item() for p in (pi, ref))
    return (pi.exp() * (pi - best)).sum().item(), (earned - start) / (most - start)
