"""The one task whose answer is known (notebooks/enumerable.py): PPO must find it.

The real `ppo.train` must reach π* from π_ref by sampling alone. With longer answers and a smaller β the
landscape has other hills, and no policy gradient is sure to climb the highest: hence the β's.
"""
import pytest
import torch

from notebooks.enumerable import Task, frontier, optimum, ppo_policy


def test_no_other_policy_earns_as_much_as_the_optimum():
    task = Task(2, seed=0)
    assert task.ref.exp().sum().item() == pytest.approx(1, abs=1e-5)    # the answers are all there are
    best, most = optimum(task.rewards, task.ref, 0.5)
    for seed in range(20):
        torch.manual_seed(seed)
        other = (best + 0.1 * seed * torch.randn(len(best))).log_softmax(0)
        reward, kl = (other.exp() * task.rewards).sum().item(), (other.exp() * (other - task.ref)).sum().item()
        assert reward - 0.5 * kl <= most + 1e-9 and reward <= frontier(task.rewards, task.ref, kl) + 1e-9


@pytest.mark.parametrize("length, beta, seed", [
    (2, 0.1, 0), (2, 0.3, 10), (2, 1.0, 20),
    *(pytest.param(*case, marks=pytest.mark.slow) for case in
      ((2, 0.1, 30), (2, 0.3, 40), (2, 1.0, 50), (3, 0.5, 60), (3, 0.5, 70), (3, 1.0, 80)))])
def test_ppo_finds_the_best_policy_there_is(length, beta, seed):
    kl_to_best, way = trained(length, beta, seed)
    assert kl_to_best <= 0.05 and way >= 0.98


def trained(length, beta, seed):
    """PPO from π_ref on. Returns KL(π ‖ π*) and how far J(π) came on the way from J(π_ref) to J(π*)."""
    task = Task(length, seed)
    pi, (best, most) = ppo_policy(task, beta), optimum(task.rewards, task.ref, beta)
    earned, start = ((p.exp() * (task.rewards - beta * (p - task.ref))).sum().item() for p in (pi, task.ref))
    return (pi.exp() * (pi - best)).sum().item(), (earned - start) / (most - start)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [60, 90, 120])
def test_ppo_ends_on_the_frontier(seed):
    """No policy earns more at the KL at which it ends, and at four of five β at least it earns nearly as much."""
    task, ways = Task(3, seed), []
    for beta in (0.35, 0.5, 0.7, 1.0, 2.0):
        pi = ppo_policy(task, beta, updates=80)
        earned, start = ((p.exp() * task.rewards).sum().item() for p in (pi, task.ref))
        most = frontier(task.rewards, task.ref, (pi.exp() * (pi - task.ref)).sum().item())
        assert earned <= most + 1e-5            # the network's probabilities add up to 1 in float32 only
        ways.append((earned - start) / (most - start))
    assert sum(way >= 0.97 for way in ways) >= 4, ways
