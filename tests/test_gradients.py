"""Every loss in float64: its gradient against finite differences."""
import pytest
import torch
from torch.autograd import gradcheck

from gpt import response_logits, token_logprobs
from ppo import policy_loss, state_values, value_loss
from ppo import entropy
from reward import pairwise_loss, score_pairs
from sft import sft_loss
from tiny import EOS, critic, model

MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0]]).bool()


def numbers(seed, scale=1.0):
    torch.manual_seed(seed)
    return scale * torch.randn(3, 4, dtype=torch.double)


def test_policy_loss():
    old, advantages = numbers(0), numbers(1)
    new = (old + numbers(2, 0.4)).requires_grad_()              # some inside the clip, some outside
    assert gradcheck(lambda x: policy_loss(x, old, advantages, MASK, 0.2)[0], new)


def test_value_loss():
    old, returns = numbers(0), numbers(1)
    values = (old + numbers(2, 0.4)).requires_grad_()
    assert gradcheck(lambda x: value_loss(x, old, returns, MASK, 0.2)[0], values)


def test_pairwise_loss():
    assert gradcheck(pairwise_loss, (numbers(0, 3).requires_grad_(), numbers(1, 3).requires_grad_()))


def test_entropy():
    assert gradcheck(entropy, numbers(0).requires_grad_())


@pytest.fixture
def double(monkeypatch):
    """The losses are computed in float32 whatever the model's type; here that is float64."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)


def whole_sft(gpt):
    return sft_loss(gpt, [([1, 2], [3, 4, 5, EOS]), ([6, 7, 8], [9, EOS])])


def whole_reward(rm):
    return pairwise_loss(*score_pairs(rm, [([1, 2], [[3, EOS], [4, 5, EOS], [EOS]]), ([6], [[7, EOS], [8, EOS]])]))


IDS = torch.tensor([[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, EOS, 0], [0, 0, 3, 2, 1, EOS]])
ROW_MASK = torch.tensor([[0, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 0], [0, 0, 1, 1, 1, 1]]).bool()
ACTIONS = ROW_MASK[:, 3:]


def whole_actor(gpt):
    logprobs = token_logprobs(response_logits(gpt, IDS, ROW_MASK, 3, 0.7), IDS[:, -3:])
    return policy_loss(logprobs, numbers(0, 0.3)[:, :3] - 2, numbers(1)[:, :3], ACTIONS, 0.2)[0]


def whole_critic(value_model):
    values = state_values(value_model, IDS, ROW_MASK, 3)
    return value_loss(values, numbers(0)[:, :3], numbers(1)[:, :3], ACTIONS, 0.2)[0]


@pytest.mark.parametrize("loss, net", [(whole_sft, model), (whole_reward, critic), (whole_actor, model), (whole_critic, critic)])
def test_through_the_whole_model_along_random_directions(double, loss, net):
    net = net().double()
    loss(net).backward()
    parameters = list(net.parameters())
    for seed in range(3):
        torch.manual_seed(seed)
        direction = [torch.randn_like(p) for p in parameters]
        slope = sum((p.grad * d).sum() for p, d in zip(parameters, direction) if p.grad is not None).item()
        ends, h = [], 1e-5
        for step in (h, -2 * h):
            with torch.no_grad():
                for p, d in zip(parameters, direction):
                    p.add_(d, alpha=step)
                ends.append(loss(net).item())
        with torch.no_grad():
            for p, d in zip(parameters, direction):
                p.add_(d, alpha=h)
        assert (ends[0] - ends[1]) / (2 * h) == pytest.approx(slope, rel=1e-5, abs=1e-8)
