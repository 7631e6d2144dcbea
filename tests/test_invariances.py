"""What must change nothing: padding, its side, its content, batch mates, what comes after the end."""
from dataclasses import fields, replace

import pytest
import torch

import reward
import sft
from text.batches import micro_batches, pad, row_parts
from ppo import Experience, learn, make_experience, policy_loss, value_loss
from support.optimizer import adamw
from reward import pairwise_loss, score_pairs
from sft import sft_loss
from tiny import EOS, VOCAB, close, critic, model, ppo_config

ROWS = [[1, 2, 3], [4, 5, 6, 7, 8, 9], [3], [2, 2, 5, EOS]]

# ----------------------------------------------------------------------------- padding


@pytest.mark.parametrize("left", [True, False])
@pytest.mark.parametrize("extra", [0, 3])
def test_logits_do_not_depend_on_padding_or_batch_mates(left, extra):
    gpt = model()
    ids, mask = pad(ROWS + [[0] * (6 + extra)], left=left)
    ids = torch.where(mask, ids, torch.randint(VOCAB, ids.shape))
    together = gpt(ids, mask)
    for i, row in enumerate(ROWS):
        close(together[i][mask[i]].detach(), gpt(torch.tensor([row]))[0].detach(), 1e-5)


def test_a_row_with_no_token_at_all_gives_numbers_and_not_nan():
    ids, mask = torch.zeros(2, 3, dtype=torch.long), torch.tensor([[0, 0, 0], [1, 1, 1]]).bool()
    assert torch.isfinite(model()(ids, mask)).all()


@pytest.mark.parametrize("left", [True, False])
def test_scores_do_not_depend_on_padding_or_batch_mates(left):
    rm = critic()
    ids, mask = pad(ROWS, left=left)
    ids = torch.where(mask, ids, EOS)                           # pads that look like an end are still pads
    close(rm.reward(ids, mask), [rm(torch.tensor([row]))[0, -1].item() for row in ROWS], 1e-5)


def noisy_pad(rows, **options):
    """`pad`, with the end token in place of the zeros."""
    ids, mask = pad(rows, **options)
    return torch.where(mask, ids, EOS), mask


def gradient_of(net, loss):
    net.zero_grad()
    loss.backward()
    return torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None])


def test_sft_loss_and_gradient_do_not_see_what_pads_hold(monkeypatch):
    gpt = model()
    examples = [([1, 2], [3, 4, 5, EOS]), ([6], [7, EOS])]
    plain = sft_loss(gpt, examples)
    gradient = gradient_of(gpt, plain)
    monkeypatch.setattr("sft.pad", noisy_pad)
    again = sft_loss(gpt, examples)
    close(again.detach(), plain.detach())
    close(gradient_of(gpt, again), gradient)


def test_pairwise_loss_and_gradient_do_not_see_what_pads_hold(monkeypatch):
    rm = critic()
    examples = [([1, 2], [[3, EOS], [4, 5, 6, EOS]]), ([6], [[7, EOS], [8, EOS], [EOS]])]
    plain = pairwise_loss(*score_pairs(rm, examples))
    gradient = gradient_of(rm, plain)
    monkeypatch.setattr("reward.pad", noisy_pad)
    again = pairwise_loss(*score_pairs(rm, examples))
    close(again.detach(), plain.detach())
    close(gradient_of(rm, again), gradient)


def test_policy_and_value_loss_have_no_gradient_beyond_the_mask():
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]]).bool()
    for loss in (policy_loss, value_loss):
        seen = []
        for garbage in (0.0, 1e4, 1e30):
            torch.manual_seed(0)
            x, old, target = (torch.randn(2, 3).where(mask, garbage) for _ in range(3))
            x.requires_grad_()
            value, clipped = loss(x, old.where(mask, 0.0), target.where(mask, 1.0), mask, 0.2)
            value.backward()
            seen.append(torch.cat([value.detach()[None], clipped[None], x.grad[mask]]))
            assert (x.grad[~mask] == 0).all()
        assert torch.equal(seen[0], seen[1]) and torch.equal(seen[0], seen[2])

# ----------------------------------------------------------------------------- a rollout and its update

PROMPTS, PROMPT_MASK = pad([[1, 2, 3], [4], [5, 6], [7, 8, 9, 1]] * 4, left=True)


def rollout(**changes):
    torch.manual_seed(3)
    return make_experience(model(), critic(1), model(seed=2), critic(4), PROMPTS, PROMPT_MASK, 0.05, ppo_config(**changes))


def update(experience, **changes):
    """(metrics, parameters afterwards) of learn on one rollout."""
    actor, value_model = model(), critic(1)
    optimizers = [torch.optim.SGD(net.parameters(), lr=0.05) for net in (actor, value_model)]
    torch.manual_seed(5)
    metrics = learn(actor, value_model, *optimizers, experience, ppo_config(**{**dict(epochs=2, minibatches=2), **changes}))
    return metrics, torch.cat([p.detach().flatten() for net in (actor, value_model) for p in net.parameters()])


def test_what_stands_after_the_end_changes_no_update_and_no_metric():
    clean = rollout()
    assert 0 < (~clean.response_mask).float().mean() < 0.8
    garbage = {name: torch.where(clean.response_mask, getattr(clean, name), 0.3 + torch.rand(clean.response_mask.shape))
               for name in ("logprobs", "values", "advantages", "returns")}
    ids = torch.where(clean.mask, clean.ids, torch.randint(VOCAB, clean.ids.shape))
    metrics, parameters = update(clean)
    dirty_metrics, dirty_parameters = update(replace(clean, ids=ids, **garbage))
    close(dirty_parameters, parameters)
    for name, value in metrics.items():
        assert dirty_metrics[name] == pytest.approx(value, abs=1e-6), name


def test_the_rollout_is_scored_as_if_each_row_were_alone():
    """Log-probabilities, values and scores of the padded batch against plain passes over single rows."""
    temperature = 0.7
    actor, value_model, reference, rm = model(), critic(1), model(seed=2), critic(4)
    torch.manual_seed(3)
    got = make_experience(actor, value_model, reference, rm, PROMPTS, PROMPT_MASK, 0.05, ppo_config(temperature=temperature))
    R = got.response_mask.shape[1]
    for i in range(len(got.ids)):
        row, n = got.ids[i][got.mask[i]][None], got.response_mask[i].sum()
        actions = row[0, -n:]
        for net, logprobs in ((actor, got.logprobs), (reference, got.ref_logprobs)):
            alone = torch.distributions.Categorical(logits=net(row)[0, -n - 1:-1] / temperature).log_prob(actions)
            close(logprobs[i, :n], alone.detach(), 1e-5)
        close(got.values[i, :n], value_model(row)[0, -n - 1:-1].detach(), 1e-5)
        close(got.scores[i], rm(row)[0, -1].item() if actions[-1] == EOS else -1.0, 1e-5)
    ended = got.ids[:, -R:].where(got.response_mask, 0).eq(EOS).any(1)
    assert ended.any() and not ended.all()                      # both kinds were seen


def test_everything_beyond_the_end_of_an_answer_is_zero():
    got = rollout()
    for name in ("logprobs", "ref_logprobs", "values", "rewards", "advantages", "returns"):
        assert (getattr(got, name)[~got.response_mask] == 0).all(), name


def test_the_rewards_of_an_answer_sum_to_its_score_minus_beta_times_its_kl():
    got = rollout()
    close(got.rewards.sum(1), got.scores - 0.05 * (got.logprobs - got.ref_logprobs).sum(1), 1e-5)


def test_a_part_of_an_experience_is_the_same_rows_of_every_field():
    got = rollout()
    part = got[torch.tensor([3, 1])]
    assert all(torch.equal(getattr(part, field.name), getattr(got, field.name)[[3, 1]]) for field in fields(Experience))


def test_an_unchanged_actor_has_no_kl_to_the_reference():
    torch.manual_seed(3)
    got = make_experience(model(), critic(1), model(), critic(4), PROMPTS, PROMPT_MASK, 0.05, ppo_config(temperature=0.7))
    close(got.logprobs, got.ref_logprobs, 1e-5)


def test_the_order_of_the_rows_changes_no_update():
    experience, order = rollout(), torch.randperm(len(PROMPTS))
    _, parameters = update(experience, minibatches=1)
    _, shuffled = update(experience[order], minibatches=1)
    close(shuffled, parameters)

# ----------------------------------------------------------------------------- micro-batches

DEMONSTRATIONS = [([1, 2], [3, EOS]), ([4], [5, 6, 7, 8, 9, EOS]), ([2, 2, 3], [EOS]), ([], [1, 5, 9, EOS])]
RANKINGS = [([1, 2], [[3, EOS], [4, 5, 6, EOS]]), ([6], [[7, EOS], [8, EOS], [EOS], [1, 1, EOS]]), ([3], [[EOS], [2, EOS], [5, EOS]])]


@pytest.fixture
def plain_steps(monkeypatch):
    """SGD in place of AdamW, which blows the rounding of a gradient that is 0 up to a whole step."""
    monkeypatch.setattr(torch.optim, "AdamW", lambda parameters, **_: torch.optim.SGD(parameters, lr=0.0))


@pytest.mark.parametrize("size", [1, 2, 3])
def test_two_steps_on_demonstrations_are_the_same_in_micro_batches(plain_steps, size):
    """The completions have 2, 6, 1 and 3 tokens to learn: a mean over examples would be another step."""
    def trained(**changes):
        gpt, cfg = model(), sft.Config(batch_size=4, **changes)
        steps = [metrics for _, _, metrics in sft.train(gpt, adamw(gpt), DEMONSTRATIONS, 2, 0.1, {"step": 0}, cfg)]
        steps.append({"test_loss": sft.test_loss(gpt, DEMONSTRATIONS, cfg, None)})
        return steps, torch.cat([p.detach().flatten() for p in gpt.parameters()])
    (whole, parameters), (parts, again) = trained(), trained(micro_batch_size=size)
    close(again, parameters, 1e-5)
    for step in (0, 1, 2):
        assert parts[step] == pytest.approx(whole[step], abs=1e-5)


@pytest.mark.parametrize("size", [1, 2])
def test_two_steps_on_rankings_are_the_same_in_micro_batches(plain_steps, size):
    """The rankings stand for 1, 6 and 3 pairs."""
    def trained(**changes):
        rm, cfg = critic(), reward.Config(batch_size=3, steps=2, lr=0.1, **changes)
        steps = [metrics for _, _, metrics in reward.train(rm, adamw(rm), RANKINGS, {"step": 0}, cfg)]
        return steps, torch.cat([p.detach().flatten() for p in rm.parameters()])
    (whole, parameters), (parts, again) = trained(), trained(micro_batch_size=size)
    close(again, parameters, 1e-5)
    for step in (0, 1):
        assert parts[step] == pytest.approx(whole[step], abs=1e-5)


@pytest.mark.parametrize("size", [1, 3])
def test_an_update_is_the_same_in_micro_batches(size):
    metrics, parameters = update(rollout())
    part_metrics, part_parameters = update(rollout(), micro_batch_size=size)
    close(part_parameters, parameters)
    assert part_metrics == pytest.approx(metrics, abs=1e-5)


def test_a_rollout_is_the_same_in_micro_batches():
    whole, parts = rollout(), rollout(micro_batch_size=3)
    for field in fields(Experience):
        close(getattr(parts, field.name), getattr(whole, field.name), 1e-5)


def test_micro_batches_of_a_rollout_have_each_row_once_and_no_empty_column():
    def rows(part):
        """Tokens and returns of each row, without padding."""
        return sorted((ids[real].tolist(), returns[actions].tolist()) for ids, real, returns, actions in zip(
            part.ids, part.mask, part.returns, part.response_mask))
    got = rollout()
    parts = [part for part, _ in micro_batches(got, 3, lambda part: part.response_mask.sum())]
    assert sorted(sum(map(rows, parts), [])) == rows(got)
    lengths = [part.mask.sum(1).tolist() for part in parts]
    assert all(max(shorter) <= min(longer) for shorter, longer in zip(lengths, lengths[1:]))
    assert all(part.mask.any(0).all() and part.response_mask.any(0).all() for part in parts)
    assert any(part.ids.shape[1] < got.ids.shape[1] and part.returns.shape[1] < got.returns.shape[1] for part in parts)


def test_parts_of_rows_lose_the_padding_that_all_their_rows_have_on_the_left():
    ids, mask = pad([[1, 2], [3], [4, 5, 6], [7]], left=True)
    parts = [(part.tolist(), real.tolist()) for part, real in row_parts(ids, mask, 2)]
    assert parts == [([[1, 2], [0, 3]], [[True, True], [False, True]]),
                     ([[4, 5, 6], [0, 0, 7]], [[True] * 3, [False, False, True]])]
    whole, = row_parts(ids, mask, 0)
    assert all(map(torch.equal, whole, (ids, mask)))


def test_the_shares_of_micro_batches_are_those_of_their_weight():
    batch, weight = [([1], [2] * n) for n in (5, 1, 2)], lambda part: sum(len(completion) for _, completion in part)
    assert list(micro_batches(batch, 2, weight)) == [([batch[1], batch[2]], 3 / 8), ([batch[0]], 5 / 8)]
    assert list(micro_batches(batch, 0, weight)) == [(batch, 1.0)]


def test_micro_batches_hold_texts_of_like_length():
    """Rankings of one, three and two completions; the longest text of each has 7, 2 and 5 tokens."""
    rankings = [([1, 1], [[2], [2] * 5]), ([1], [[2], [3], [4]]), ([1, 1, 1], [[2, 2], [3]])]
    parts = [part for part, _ in micro_batches(rankings, 1, weight=len)]
    assert parts == [[rankings[1]], [rankings[2]], [rankings[0]]]
