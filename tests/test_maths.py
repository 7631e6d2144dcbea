"""The mathematics of ppo.py, reward.py and gpt.py against numbers worked out by hand or by definition."""
import math
from types import SimpleNamespace

import pytest
import torch

from support.optimizer import set_learning_rate
from gpt import token_logprobs
from methods import kl_estimate
from ppo import adapt_kl_coef, gae, kl_penalty, make_experience, masked_mean, policy_loss, value_loss, whiten
from reward import accuracy, pairwise_loss, score_pairs
from ppo import entropy
from tiny import close, ppo_config

MASK = torch.tensor([[1, 1, 1], [1, 1, 0]]).bool()

# ----------------------------------------------------------------------------- means


def test_a_masked_mean_is_over_real_tokens_of_all_rows_at_once():
    close(masked_mean(torch.tensor([[1., 2, 3], [4, 5, 9]]), MASK), 3.0)     # (1+2+3+4+5) / 5, not (2 + 4.5) / 2


def test_a_masked_mean_ignores_even_infinities_beyond_the_mask():
    close(masked_mean(torch.tensor([[1., 2, 3], [4, 5, math.inf]]), MASK), 3.0)


def test_whitening_divides_by_the_biased_deviation_over_real_tokens():
    # mean 3, variance (4+1+0+1+4)/5 = 2
    white = whiten(torch.tensor([[1., 2, 3], [4, 5, 9]]), MASK)
    close(white[MASK], [-1.414214, -0.707107, 0, 0.707107, 1.414214])


def test_whitening_equal_numbers_gives_zeros_and_not_nan():
    close(whiten(torch.full((2, 3), 7.0), MASK), torch.zeros(2, 3))

# ----------------------------------------------------------------------------- advantages

REWARDS = torch.tensor([[.1, -.2, .3, 1], [0, .05, -.1, .5]])
VALUES = torch.tensor([[.5, .4, .3, .2], [.1, .2, .3, .4]])


@pytest.mark.parametrize("gamma, lam, expected", [
    (1.0, .95, [[.5814, .612, .96, .8], [.328238, .24025, .095, .1]]),
    (1.0, 1.0, [[.7, .7, 1, .8], [.35, .25, .1, .1]]),                      # reward to go minus V
    (1.0, 0.0, [[0, -.3, .2, .8], [.1, .15, 0, .1]]),                       # the one-step error δ
    (.99, .9, [[.449094, .508523, .9108, .8], [.296536, .222824, .0851, .1]])])
def test_gae_gives_the_worked_advantages(gamma, lam, expected):
    close(gae(REWARDS, VALUES, gamma, lam)[0], expected)


def test_returns_are_advantages_plus_values():
    close(gae(REWARDS, VALUES, 1.0, .95)[1], [[1.0814, 1.012, 1.26, 1.0], [.428238, .44025, .395, .5]])


def test_gae_is_the_discounted_sum_of_all_later_errors():
    torch.manual_seed(0)
    r, v = torch.randn(3, 9, dtype=torch.double), torch.randn(3, 9, dtype=torch.double)
    gamma, lam = 0.97, 0.8
    delta = r + gamma * torch.cat([v[:, 1:], torch.zeros(3, 1)], 1) - v
    by_definition = torch.stack([sum((gamma * lam) ** (s - t) * delta[:, s] for s in range(t, 9)) for t in range(9)], 1)
    close(gae(r, v, gamma, lam)[0], by_definition, 1e-12)

# ----------------------------------------------------------------------------- the losses of PPO

NEW = torch.tensor([[-1, -.5, -2], [-.3, -1.2, -.7]])
OLD = torch.tensor([[-1.2, -.5, -1.5], [-.9, -1.2, -.7]])
ADVANTAGES = torch.tensor([[1, -.5, 2], [1.5, -1, .3]])


def test_the_policy_loss_clips_the_ratio_and_takes_the_worse():
    # ratio [[1.2214, 1, .6065], [1.8221, 1, (1)]]; -min(ρA, clip(ρ)A) = [[-1.2, .5, -1.2131], [-1.8, 1, (-.3)]]
    loss, clipped = policy_loss(NEW, OLD, ADVANTAGES, MASK, 0.2)
    close(loss, -0.542612)
    close(clipped, 0.4)


@pytest.mark.parametrize("ratio, advantage, loss, pull", [
    (1.5, +1.0, -1.2, 0.0),         # already likelier than the clip allows: nothing more to gain
    (0.5, +1.0, -0.5, -0.5),        # a good token became rarer: pulled back at full strength
    (0.5, -1.0, +0.8, 0.0),         # a bad token is already rarer than the clip allows
    (1.5, -1.0, +1.5, +1.5),        # a bad token became likelier: pulled back at full strength
    (1.1, +1.0, -1.1, -1.1)])       # inside the clip: the plain policy gradient
def test_the_policy_loss_in_its_five_regions(ratio, advantage, loss, pull):
    new = torch.tensor([[math.log(ratio)]], requires_grad=True)
    got, _ = policy_loss(new, torch.zeros(1, 1), torch.tensor([[advantage]]), torch.ones(1, 1).bool(), 0.2)
    got.backward()
    close(got.detach(), loss)
    close(new.grad.item(), pull)


def test_the_value_loss_is_half_the_worse_of_plain_and_clipped():
    # clipped v [[.7, .1, .5], [.2, .6, (.2)]]; larger square [[.09, .01, .09], [.25, .25, (.49)]]
    v = torch.tensor([[.9, .1, .5], [0, .7, .2]])
    v_old = torch.tensor([[.5, .2, .5], [.4, .4, .2]])
    returns = torch.tensor([[1, 0, .8], [.5, .2, .9]])
    loss, clipped = value_loss(v, v_old, returns, MASK, 0.2)
    close(loss, 0.069)
    close(clipped, 0.2)


def test_clipping_holds_the_values_on_both_sides():
    v, v_old, returns = torch.tensor([[1.0, -1.0]]), torch.zeros(1, 2), torch.tensor([[5.0, -5.0]])
    loss, clipped = value_loss(v, v_old, returns, torch.ones(1, 2).bool(), 0.5)
    close(loss, 0.5 * 4.5 ** 2)
    close(clipped, 1.0)

# ----------------------------------------------------------------------------- KL

PI, REF = torch.tensor([.6, .3, .1]), torch.tensor([.3, .3, .4])


@pytest.mark.parametrize("estimator, expected", [("k1", .277259), ("k3", .277259)])
def test_the_estimators_average_to_the_exact_kl(estimator, expected):
    close((PI * kl_estimate(PI.log(), REF.log(), estimator)).sum(), expected)


def test_k1_and_k3_are_exact_for_distributions_far_apart():
    pi, ref = torch.tensor([.9, .09, .01], dtype=torch.double), torch.tensor([.01, .09, .9], dtype=torch.double)
    exact = torch.distributions.kl_divergence(torch.distributions.Categorical(pi), torch.distributions.Categorical(ref))
    for estimator in ("k1", "k3"):
        close((pi * kl_estimate(pi.log(), ref.log(), estimator)).sum(), exact, 1e-12)


def test_the_default_estimator_sums_to_the_log_ratio_of_the_answer():
    logp, ref = torch.tensor([[-1., -2, -.5]]), torch.tensor([[-1.5, -1.8, -.9]])
    close(kl_penalty(logp, ref), [[.5, -.2, .4]])


@pytest.mark.parametrize("kind, place, expected", [
    ("k1", "reward", "forward"), ("k2", "loss", "forward"), ("k3", "loss", "reverse"), ("k1", "loss", "none")])
def test_each_estimator_has_the_mean_gradient_that_its_docstring_says(kind, place, expected):
    """Over all tokens that π may sample, weighted by π, against the gradients of the exact divergences."""
    ref = torch.tensor([.1, .2, .3, .4], dtype=torch.double)
    theta = torch.tensor([.9, -.3, .5, -1.], dtype=torch.double, requires_grad=True)
    logp = theta.log_softmax(0)
    pi, k = logp.detach().exp(), kl_estimate(logp, ref.log(), kind)
    estimated = (pi * k).sum() if place == "loss" else (pi * k.detach() * logp).sum()
    exact = {"forward": (logp.exp() * (logp - ref.log())).sum(), "reverse": (ref * (ref.log() - logp)).sum(),
             "none": 0 * logp.sum()}[expected]
    close(*(torch.autograd.grad(x, theta, retain_graph=True)[0] for x in (estimated, exact)), 1e-12)


def test_k3_is_never_negative():
    d = torch.tensor([-3., -1e-4, 0, 1e-4, 3])
    k3 = kl_estimate(torch.zeros(5), d, "k3")
    close(k3, [2.049787, 0, 0, 0, 16.085537])
    assert (k3 >= 0).all()


def test_the_adaptive_coefficient_follows_the_worked_sequence():
    # β 0.15, target 6, horizon 10,000, 512 answers; the error is held between -0.2 and 0.2
    coef, seen = 0.15, []
    for kl in (8, 5.5, 0.5, 6):
        coef = adapt_kl_coef(coef, kl, 6, 10_000, 512)
        seen.append(coef)
    close(torch.tensor(seen, dtype=torch.double), [.151536, .15088945, .14934434, .14934434], 1e-8)


def test_the_coefficient_stays_positive_and_at_most_halves_or_doubles():
    # 0.2 * 2048 / 350 is 1.17: unbounded, the first would be -0.0085
    assert adapt_kl_coef(0.05, 0.0, 6, 350, 2048) == pytest.approx(0.025)
    assert adapt_kl_coef(0.05, 60.0, 6, 350, 2048) == pytest.approx(0.1)

# ----------------------------------------------------------------------------- log-probabilities

LOGITS = torch.tensor([1, 2, .5, -1])


@pytest.mark.parametrize("logits, logprob, nats", [
    (LOGITS, -.495182, 1.014403), (LOGITS / 0.7, -.315346, .791547), (torch.zeros(4), -1.386294, 1.386294)])
def test_log_probability_and_entropy_in_nats(logits, logprob, nats):
    close(token_logprobs(logits, torch.tensor(1)), logprob)
    close(entropy(logits), nats)


def test_log_probabilities_of_half_precision_logits_are_computed_in_float32():
    half = torch.tensor([[8.0, 0.01, -3.0]], dtype=torch.bfloat16)
    got = token_logprobs(half, torch.tensor([0]))
    assert got.dtype == torch.float32
    close(got, torch.log_softmax(half.double(), -1)[:, 0])

# ----------------------------------------------------------------------------- the rewards of an answer


class Scripted:
    """A model that gives each token the log-probability it is told to, and answers what it is told to."""

    def __init__(self, tokens, logprobs, vocab=12):
        self.config = SimpleNamespace(eos_token_id=0)
        self.tokens, self.logprobs, self.vocab = torch.tensor(tokens), torch.tensor(logprobs), vocab

    def generate(self, ids, mask, max_new_tokens, temperature, rows_at_once):
        before = (self.tokens == 0).cumsum(1) - (self.tokens == 0).long()
        return self.tokens, before == 0, self.logprobs

    def transformer(self, ids, mask):
        p = self.logprobs.exp()[..., None]                                       # (B, R, 1)
        here = torch.nn.functional.one_hot(self.tokens, self.vocab)
        logits = (here * p + (1 - here) * (1 - p) / (self.vocab - 1)).log()      # (B, R, V)
        before = torch.zeros(len(ids), ids.shape[1] - logits.shape[1] - 1, self.vocab)
        return torch.cat([before, logits, torch.zeros_like(logits[:, :1])], 1)   # at t, about token t + 1

    def head(self, states):
        return states


def scripted_experience(reward_min=None, **changes):
    """Five tokens, <|endoftext|> is 0. Row 0 ends with its third token; row 1 never does, though its prompt has one."""
    tokens = [[5, 6, 0, 7, 8], [5, 6, 7, 8, 9]]
    actor = Scripted(tokens, [[-1, -2, -.5, -1, -1], [-1.] * 5])
    reference = Scripted(tokens, [[-1.5, -1.8, -.9, -3, -1], [-1.2, -.9, -1, -1.5, -.5]])
    # The prompt has 2 tokens: V of the states that the actions are chosen in stands at 1, 2, 3, 4, 5.
    critic = lambda ids, mask: torch.tensor([[9, .1, .2, .3, .4, .5, 9]] * 2)
    reward_model = SimpleNamespace(reward=lambda ids, mask: torch.tensor([1.3, .7]),
                                   unfinished_score=lambda given: reward_min if given is None else given)
    prompts = torch.tensor([[3, 4], [3, 0]])
    return make_experience(actor, critic, reference, reward_model, prompts, torch.ones(2, 2).bool(), 0.05,
                           ppo_config(max_new_tokens=5, **changes))


def test_each_token_pays_for_its_kl_and_the_last_one_gets_the_score():
    # kl [[.5, -.2, .4], [.2, -.1, 0, .5, -.5]]; β 0.05; scores 1.3, and -1 for the one that never ends
    experience = scripted_experience()
    close(experience.scores, [1.3, -1])
    close(experience.rewards, [[-.025, .01, 1.28, 0, 0], [-.01, .005, 0, -.025, -.975]])


def test_an_unfinished_response_gets_the_lowest_score_of_the_sft_samples_unless_a_flag_says_another():
    close(scripted_experience(reward_min=-2.5, missing_eos_score=None).scores, [1.3, -2.5])
    close(scripted_experience(reward_min=-2.5, missing_eos_score=0.0).scores, [1.3, 0])


def test_the_worked_rollout_has_the_worked_returns():
    # V [[.1, .2, .3, (0), (0)], [.1, .2, .3, .4, .5]]: the advantages of row 0 are 1.06395, 1.041, .98
    close(scripted_experience().returns,
          [[1.16395, 1.241, 1.28, 0, 0], [-.757094, -.796941, -.859938, -.92625, -.975]])


def test_advantages_are_whitened_over_the_actions_of_the_whole_rollout():
    advantages = scripted_experience().advantages
    raw = torch.tensor([1.06395, 1.041, .98, -.857094, -.996941, -1.159938, -1.32625, -1.475], dtype=torch.double)
    expected = (raw - raw.mean()) / raw.std(correction=0)
    close(torch.cat([advantages[0, :3], advantages[1]]), expected)
    close(advantages[0, 3:], [0, 0])

# ----------------------------------------------------------------------------- the reward model

CHOSEN, REJECTED = [1, .2, -.5], [.5, .7, -.5]


def test_the_pairwise_loss_of_the_worked_pairs():
    # per pair .474077, .974077, ln 2
    close(pairwise_loss(torch.tensor(CHOSEN), torch.tensor(REJECTED)), .713767)


def test_the_pairwise_loss_has_a_gradient_even_a_thousand_points_off():
    margin = torch.tensor([-1000.0], requires_grad=True)
    pairwise_loss(margin, torch.zeros(1)).backward()
    close(margin.grad, [-1.0])


def by_table(scores):
    """A reward model that gives the completions, which are numbered in order, these scores."""
    return SimpleNamespace(reward=lambda ids, mask: torch.tensor([scores[row[keep][-1]] for row, keep in zip(ids, mask)]))


def test_a_ranking_counts_as_all_its_pairs_with_the_better_one_first():
    # 0.8 > 0.7 > 0.6 and, in another ranking, 0.1 against 0.9
    examples = [([7], [[0], [1], [2]]), ([7, 7], [[3], [4]])]
    chosen, rejected = score_pairs(by_table([.8, .7, .6, .1, .9]), examples)
    close(chosen, [.8, .8, .7, .1])
    close(rejected, [.7, .6, .6, .9])
    close(pairwise_loss(chosen[:3], rejected[:3]), .628977)


def test_accuracy_counts_a_tie_as_a_miss_and_knows_how_often_the_longer_and_the_shorter_one_win():
    scores = [number for pair in zip(CHOSEN, REJECTED) for number in pair]
    examples = [([7], [[9, 9, 0], [1]]), ([7], [[2], [9, 3]]), ([7], [[9, 4], [9, 5]])]
    for batch_size in (1, 2, 3):
        close(torch.tensor(accuracy(by_table(scores), examples, batch_size, None)), [1 / 3] * 4)             # right, longer, shorter, equal

# ----------------------------------------------------------------------------- learning rate


def test_the_learning_rate_warms_up_for_a_twentieth_and_then_falls_to_zero():
    optimizer = torch.optim.SGD([torch.zeros(1), torch.zeros(1)], lr=9)
    rates = [set_learning_rate(optimizer, 2.0, step, 100) for step in (0, 1, 4, 5, 50, 99)]
    close(torch.tensor(rates), [.4, .8, 2.0, 2.0, 1.052632, .021053])
    assert [group["lr"] for group in optimizer.param_groups] == [rates[-1]]


def test_a_run_of_one_step_takes_it_at_the_full_rate():
    assert set_learning_rate(torch.optim.SGD([torch.zeros(1)], lr=9), 3.0, 0, 1) == 3.0
