"""The update of ppo.py, its checks on every run, and which model plays which part."""
import json
import math
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import ppo
import reward
import sft
from support import UserError
from text.batches import pad
from gpt import GPT, ScalarGPT
from ppo import describe, learn, make_experience
import checks
from checks import check_kl, check_ratio, check_reference
from support.optimizer import take_step
from tiny import EOS, ROWS, close, critic, model, ppo_config, words

PROMPTS, PROMPT_MASK = pad([[1, 2, 3], [4], [5, 6], [7, 8, 9, 1]] * 4, left=True)


def rollout(**changes):
    torch.manual_seed(3)
    return make_experience(model(), critic(1), model(seed=2), critic(4), PROMPTS, PROMPT_MASK, 0.05, ppo_config(**changes))


def sgd(net, lr):
    return torch.optim.SGD(net.parameters(), lr=lr)


def learned(experience, lr=0.0, **changes):
    actor, value_model = model(), critic(1)
    metrics = learn(actor, value_model, sgd(actor, lr), sgd(value_model, lr), experience, ppo_config(**changes))
    return actor, value_model, metrics

# ----------------------------------------------------------------------------- the update


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_before_the_first_step_the_ratio_is_one_and_nothing_is_clipped(temperature):
    experience = rollout(temperature=temperature)
    _, _, metrics = learned(experience, temperature=temperature)
    mask = experience.response_mask
    expected = {"val/ratio": 1, "val/ratio_var": 0, "policy/approxkl": 0, "policy/clipfrac": 0, "val/clipfrac": 0,
                "loss/policy": 0,                               # -mean(A), and A is whitened
                "loss/value": 0.5 * (experience.values - experience.returns)[mask].square().mean().item(),
                "val/error": (experience.values - experience.returns)[mask].square().mean().item()}
    for name, value in expected.items():
        assert metrics[name] == pytest.approx(value, abs=1e-5), name


def test_the_entropy_that_is_logged_is_that_of_the_sampled_distributions():
    experience, total = rollout(temperature=0.7), []
    for ids, mask, actions in zip(experience.ids, experience.mask, experience.response_mask):
        logits = model()(ids[mask][None])[0, -actions.sum() - 1:-1] / 0.7
        total.append(torch.distributions.Categorical(logits=logits).entropy())
    _, _, metrics = learned(experience, temperature=0.7)
    assert metrics["policy/entropy"] == pytest.approx(torch.cat(total).mean().item(), abs=1e-5)


def test_after_a_step_the_metrics_measure_how_far_it_went():
    experience = rollout()
    _, _, metrics = learned(experience, lr=0.3, epochs=2)
    ratio = ratios(learned(experience, lr=0.3)[0], experience)[experience.response_mask]
    for name, first, second in (("val/ratio", 1, ratio.mean()), ("val/ratio_var", 0, ((ratio - 1) ** 2).mean()),
                                ("policy/approxkl", 0, 0.5 * (ratio.log() ** 2).mean())):
        assert metrics[name] == pytest.approx((first + second.item()) / 2, abs=1e-5), name
    assert metrics["policy/clipfrac"] > 0


@torch.no_grad()
def ratios(actor, experience):
    """ρ of every action, each row on its own; 1 beyond the end."""
    result = torch.ones(experience.response_mask.shape)
    for i, (ids, mask, actions) in enumerate(zip(experience.ids, experience.mask, experience.response_mask)):
        n = actions.sum()
        logprobs = actor(ids[mask][None])[0, -n - 1:-1].log_softmax(-1)
        result[i, :n] = (logprobs.gather(-1, ids[mask][-n:, None])[:, 0] - experience.logprobs[i, :n]).exp()
    return result


def test_a_step_makes_good_actions_likelier_and_bad_ones_rarer():
    experience = rollout()
    for row, action in ((0, 0), (5, 0), (9, 0)):
        for sign in (1.0, -1.0):
            one = torch.zeros_like(experience.advantages)
            one[row, action] = sign
            actor, _, _ = learned(replace(experience, advantages=one), lr=1e-2)
            assert (ratios(actor, experience)[row, action] - 1) * sign > 0


def test_a_step_moves_the_critic_towards_the_returns():
    experience = rollout()
    before = learned(experience)[2]["loss/value"]
    _, value_model, _ = learned(experience, lr=1e-3)
    after = learn(model(), value_model, sgd(model(), 0), sgd(value_model, 0), experience, ppo_config())["loss/value"]
    assert after < before


@pytest.mark.parametrize("clip, value_clip", [(0.4, 0.1), (0.1, 0.4)])
def test_actor_and_critic_are_clipped_each_within_its_own_range(clip, value_clip, monkeypatch):
    # As if the rollout had found values 0.3 higher and log-probabilities 0.2 lower: the ratio is e^0.2 = 1.22.
    experience = rollout()
    mask, A = experience.response_mask, experience.advantages[experience.response_mask]
    shifted = replace(experience, values=experience.values + 0.3 * mask, logprobs=experience.logprobs - 0.2 * mask)
    monkeypatch.setattr(ppo, "check_ratio", lambda ratio, bf16: None)
    _, _, metrics = learned(shifted, clip=clip, value_clip=value_clip)
    v, returns = experience.values[mask], experience.returns[mask]
    near = torch.maximum(v, v + 0.3 - value_clip)
    expected = 0.5 * torch.maximum((v - returns) ** 2, (near - returns) ** 2).mean().item()
    assert metrics["loss/value"] == pytest.approx(expected, abs=1e-5)
    ratio = math.exp(0.2)
    expected = torch.maximum(-A * ratio, -A * min(ratio, 1 + clip)).mean().item()
    assert metrics["loss/policy"] == pytest.approx(expected, abs=1e-5)


def test_each_epoch_visits_every_answer_once_in_a_new_order():
    experience, visited = rollout(), []

    class Recording(ppo.Experience):
        def __getitem__(self, rows):
            visited.append(rows)
            return super().__getitem__(rows)

    steps = []
    actor, value_model = model(), critic(1)
    optimizers = [sgd(net, 1e-3) for net in (actor, value_model)]
    for optimizer in optimizers:
        optimizer.register_step_post_hook(lambda *_: steps.append(1))
    recorded = Recording(*(getattr(experience, name) for name in experience.__dataclass_fields__))
    learn(actor, value_model, *optimizers, recorded, ppo_config(epochs=3, minibatches=4))
    epochs = [torch.cat(visited[i:i + 4]).tolist() for i in (0, 4, 8)]
    assert all(sorted(epoch) == list(range(16)) for epoch in epochs) and len(visited) == 12
    assert epochs[0] != epochs[1] != epochs[2]
    assert len(steps) == 2 * 12


def test_five_answers_in_four_minibatches_are_four_steps():
    experience = rollout()[torch.arange(5)]
    actor, value_model, steps = model(), critic(1), []
    optimizers = [sgd(net, 1e-3) for net in (actor, value_model)]
    optimizers[0].register_step_post_hook(lambda *_: steps.append(1))
    learn(actor, value_model, *optimizers, experience, ppo_config(minibatches=4))
    assert len(steps) == 4


def test_the_metrics_are_means_over_all_minibatches():
    experience = rollout()[torch.tensor([0, 3])]
    each = [learned(experience[torch.tensor([row])])[2]["val/error"] for row in (0, 1)]
    assert each[0] != pytest.approx(each[1], rel=0.01)
    assert learned(experience, minibatches=2)[2]["val/error"] == pytest.approx(sum(each) / 2, rel=1e-5)


@pytest.mark.parametrize("scale, norm", [(10.0, 50.0), (0.01, 0.05)])
def test_a_step_is_clip_step_and_zero_after_backward(scale, norm):
    # the gradient of scale · (3a + 4b) has norm 5 scale; it is clipped to 1
    net = torch.nn.Linear(2, 1, bias=False)
    before = net.weight.detach().clone()
    (scale * (net.weight * torch.tensor([3.0, 4.0])).sum()).backward()
    got = take_step(net, torch.optim.SGD(net.parameters(), lr=0.1))
    close(got, norm, 1e-4)
    close(before - net.weight.detach(), [[0.1 * min(norm, 1) * 0.6, 0.1 * min(norm, 1) * 0.8]], 1e-5)
    assert net.weight.grad is None or (net.weight.grad == 0).all()

# ----------------------------------------------------------------------------- checks on every run


def test_a_ratio_other_than_one_before_the_first_step_is_an_error():
    check_ratio(torch.tensor([[1.0, 1.0005]]))
    for wrong in (1.01, 0.99, math.nan):
        with pytest.raises(UserError, match="ratio .* before the first step.*temperature.*top-k.*dropout"):
            check_ratio(torch.tensor([[1.0, wrong]]))


def test_in_bf16_the_mean_error_counts_and_not_the_largest():
    # GPT-2's shapes with weights three times their usual size: a mean |ratio - 1| of 0.01, a largest of 0.05
    rounded = 1 + 0.01 * torch.randn(100_000, generator=torch.Generator().manual_seed(0))
    rounded[0] = 1.5                                            # among so many, one may be far off
    check_ratio(rounded, bf16=True)
    check_reference(rounded - 1, bf16=True)
    for check, wrong in ((check_ratio, 1 + 0.1 * torch.ones(5)), (check_reference, 0.1 * torch.ones(5)),
                         (check_ratio, torch.full((5,), math.nan))):
        with pytest.raises(UserError):
            check(wrong, bf16=True)


def test_in_bf16_a_wrong_temperature_is_found_all_the_same():
    experience = rollout(temperature=0.7)
    actor, value_model = model().place("cpu", bf16=True), critic(1)
    with pytest.raises(UserError, match="ratio"):
        learn(actor, value_model, sgd(actor, 0.0), sgd(value_model, 0.0), experience, ppo_config(temperature=1.0))


def test_learn_finds_a_rollout_that_was_sampled_otherwise():
    with pytest.raises(UserError, match="ratio"):
        learned(rollout(temperature=0.7), temperature=1.0)
    with pytest.raises(UserError, match="ratio"):
        experience = rollout()
        learned(replace(experience, logprobs=experience.logprobs.roll(1, dims=1)))


def test_a_first_step_that_was_taken_is_no_error():
    learned(rollout(), lr=1.0, epochs=3)


def test_a_kl_at_step_zero_is_an_error():
    check_reference(torch.tensor([[0.0, -5e-4]]))
    for wrong in (0.01, -0.01, math.nan):
        with pytest.raises(UserError, match="KL .* at step 0.*sft/"):
            check_reference(torch.tensor([[0.0, wrong]]))


def test_a_kl_that_stays_negative_is_an_error_at_the_third_rollout():
    negative, noisy = torch.tensor([-1.0, -1.1, -0.9, -1.0]), torch.tensor([-1.0, 1.1, -2.0, 1.5])
    assert check_kl(noisy, 0) == 0 and check_kl(negative, 0) == 1 and check_kl(negative, 1) == 2
    assert check_kl(noisy, 2) == 0 and check_kl(-negative, 2) == 0
    with pytest.raises(UserError, match="clearly negative in 3 rollouts.*top-k"):
        check_kl(negative, 2)


def test_clearly_negative_means_beyond_what_chance_reaches_with_so_many_responses():
    # mean -1 and a deviation of 2.31 with 4 responses (standard error 1.15), 2.05 with 20 (standard error 0.46)
    four = torch.tensor([-3.0, 1.0, -3.0, 1.0])
    assert check_kl(four, 0) == 0 and check_kl(four.repeat(5), 0) == 1
    # 3.3 standard errors below 0: two responses reach that by chance, ten do not
    assert check_kl(torch.tensor([-1.3, -0.7]), 0) == 0 and check_kl(torch.tensor([-1.3, -0.7] * 5), 0) == 1


def test_a_kl_below_zero_by_rounding_is_not_negative_however_many_responses_agree():
    agreeing = torch.linspace(-1e-5, 1e-5, 1000)                # standard error 2e-7
    for mean, counted in ((-0.001, 0), (-0.009, 0), (-0.011, 1)):
        assert check_kl(mean + agreeing, 0) == counted


@pytest.mark.parametrize("count", [2, 3, 8, 64])
def test_correct_runs_of_few_responses_raise_no_alarm(count):
    """The log-ratio of samples of π is on average not below 0, whatever its spread: no run of 300 rollouts is stopped in
    20 seeds when the KL is of the size of rounding, and fewer than one in twenty when it is exactly 0 and noisy."""
    stopped = {scale: 0 for scale in (1e-4, 1.0)}
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        for scale in stopped:
            negatives = 0
            try:
                for _ in range(300):
                    negatives = check_kl(scale * torch.randn(count, generator=generator), negatives)
            except UserError:
                stopped[scale] += 1
    assert stopped[1e-4] == 0 and stopped[1.0] <= 1, stopped


def test_the_quantile_is_that_of_students_t():
    # the 97.725% quantiles of tables: 4.527, 3.307, 2.869, 2.320, 2.087, and 2 of the normal distribution
    for n, quantile in ((2, 4.527), (3, 3.307), (4, 2.869), (9, 2.320), (30, 2.087), (10**6, 2.0)):
        assert checks.t_quantile(n) == pytest.approx(quantile, rel=0.04)
    assert checks.t_quantile(0) == math.inf


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_changes_no_weight(wrong):
    experience = rollout()
    for field in ("advantages", "returns"):
        actor, value_model, stepped = model(), critic(1), []
        optimizers = [sgd(net, 1.0) for net in (actor, value_model)]
        for optimizer in optimizers:
            optimizer.register_step_post_hook(lambda *_: stepped.append(1))
        spoilt = replace(experience, **{field: getattr(experience, field) * wrong})
        metrics = learn(actor, value_model, *optimizers, spoilt, ppo_config())
        assert len(stepped) == 1                                # the other network's step
        loss, norm = {"advantages": ("loss/policy", "policy/gradient_norm"), "returns": ("loss/value", "val/gradient_norm")}[field]
        assert not math.isfinite(metrics[loss]) and not math.isfinite(metrics[norm])

# ----------------------------------------------------------------------------- metrics of a rollout


def test_the_metrics_of_a_rollout_have_their_usual_definitions():
    experience = rollout()
    metrics = {name: float(value) for name, value in describe(experience, 0.05, EOS).items()}
    mask, B = experience.response_mask, len(experience.ids)
    kl = sum((row[m] - ref[m]).sum() for row, ref, m in zip(experience.logprobs, experience.ref_logprobs, mask)).item() / B
    ended = [EOS in ids[-len(m):][m].tolist() for ids, m in zip(experience.ids, mask)]
    values, returns = experience.values[mask], experience.returns[mask]
    exact = 0.0                                             # over the vocabulary, each response on its own
    for ids, real, actions in zip(experience.ids, experience.mask, mask):
        pi, ref = (torch.distributions.Categorical(logits=net(ids[real][None])[0, -actions.sum() - 1:-1])
                   for net in (model(), model(seed=2)))
        exact += torch.distributions.kl_divergence(pi, ref).sum().item()
    expected = {
        "objective/kl": kl, "objective/kl_exact": exact / B,
        "objective/non_score_reward": -0.05 * kl, "objective/scores": experience.scores.mean().item(),
        "objective/score_total": experience.scores.mean().item() - 0.05 * kl,
        "objective/entropy": -experience.logprobs[mask].sum().item() / B,
        "returns/mean": returns.mean().item(), "returns/var": returns.var().item(),
        "val/mean": values.mean().item(), "val/var": values.var().item(),
        "val/var_explained": 1 - (values - returns).var().item() / returns.var().item(),
        "val/num_eos_tokens": sum(ended), "eos_rate": sum(ended) / B, "length": mask.sum().item() / B, "kl_coef": 0.05}
    assert metrics == pytest.approx(expected, abs=1e-4)

# ----------------------------------------------------------------------------- the loop


@pytest.fixture
def trained(run_stage, once):
    """A run folder with an SFT model and a reward model."""
    if not once.exists():
        run_stage(sft)
        run_stage(reward).rename(once)
    return Path(shutil.copytree(once, "run"))


@pytest.fixture
def seen(monkeypatch):
    """What the loop hands to make_experience and learn, at every step."""
    calls = []

    def spy_make(actor, critic, reference, reward_model, prompts, mask, kl_coef, cfg):
        first = {} if calls else {name: [p.detach().clone() for p in net.parameters()] for name, net in
                                  (("actor", actor), ("critic", critic), ("reference", reference), ("reward", reward_model))}
        made = make_experience(actor, critic, reference, reward_model, prompts, mask, kl_coef, cfg)
        calls.append(dict(actor=actor, critic=critic, reference=reference, reward=reward_model, first=first,
                          kl_coef=kl_coef, prompts=prompts, mask=mask, experience=made))
        return made

    def spy_learn(actor, critic, actor_optimizer, critic_optimizer, experience, cfg):
        calls[-1]["optimizers"] = actor_optimizer, critic_optimizer
        calls[-1]["rates"] = actor_optimizer.param_groups[0]["lr"], critic_optimizer.param_groups[0]["lr"]
        return learn(actor, critic, actor_optimizer, critic_optimizer, experience, cfg)

    monkeypatch.setattr(ppo, "make_experience", spy_make)
    monkeypatch.setattr(ppo, "learn", spy_learn)
    return calls


def same(parameters, net):
    return all(torch.equal(a, b) for a, b in zip(parameters, net.parameters(), strict=True))


def test_actor_and_critic_learn_while_reference_and_reward_model_stay(run_stage, trained, seen):
    run_stage(ppo)
    first, last = seen[0]["first"], seen[-1]
    assert same(first["actor"], GPT.from_pretrained(trained / "sft")) and same(first["actor"], last["reference"])
    assert same(first["critic"], ScalarGPT.from_pretrained(trained / "reward")) and same(first["critic"], last["reward"])
    assert not same(first["actor"], last["actor"]) and not same(first["critic"], last["critic"])
    assert not any(p.requires_grad for part in ("reference", "reward") for p in last[part].parameters())
    assert not any(module.training and isinstance(module, torch.nn.Dropout)
                   for part in ("actor", "critic", "reference", "reward") for module in last[part].modules())
    assert same(last["actor"].parameters(), GPT.from_pretrained(trained / "ppo"))
    assert same(last["critic"].parameters(), ScalarGPT.from_pretrained(trained / "ppo" / "critic"))


def test_each_network_has_its_own_adamw_with_two_betas_and_its_own_rate(run_stage, trained, seen):
    run_stage(ppo, lr=0.02, critic_lr=0.03)
    actor_optimizer, critic_optimizer = seen[0]["optimizers"]
    for optimizer, net in ((actor_optimizer, seen[0]["actor"]), (critic_optimizer, seen[0]["critic"])):
        group = optimizer.param_groups[0]
        assert (type(optimizer), group["betas"], group["weight_decay"]) == (torch.optim.AdamW, (0.9, 0.95), 0.0)
        assert {id(p) for p in group["params"]} == {id(p) for p in net.parameters()}
    assert seen[0]["rates"] == (0.02, 0.03)
    assert seen[3]["rates"] == pytest.approx((0.02 * 0.25 / 0.95, 0.03 * 0.25 / 0.95))


def test_every_rollout_answers_other_prompts_until_all_are_answered(run_stage, trained, seen):
    run_stage(ppo)
    rows = [str(row[keep].tolist()) for call in seen[:3] for row, keep in zip(call["prompts"], call["mask"])]
    assert len(set(rows)) == 18
    masks = [call["mask"] for call in seen]                     # ragged, and padded on the left
    assert not all(mask.all() for mask in masks) and all(mask[:, -1].all() for mask in masks)


def test_the_defaults_are_the_usual_ones():
    cfg = ppo.Config()
    assert (cfg.kl_coef, cfg.gamma, cfg.lam, cfg.clip, cfg.value_clip) == (0.05, 1.0, 0.95, 0.2, 0.2)
    assert (cfg.missing_eos_score, cfg.kl_target) == (None, 0.0)
    assert cfg.epochs * cfg.minibatches > 1                     # with one step a rollout the clip would be inert


def with_reference(monkeypatch, change):
    """make_experience, with other log-probabilities of the reference."""
    def changed(*args):
        made = make_experience(*args)
        return replace(made, ref_logprobs=change(made.ref_logprobs))
    monkeypatch.setattr(ppo, "make_experience", changed)


def test_a_run_whose_reference_is_not_its_actor_stops_at_step_zero(run_stage, trained, monkeypatch):
    with_reference(monkeypatch, lambda logprobs: logprobs - 0.01)
    with pytest.raises(UserError, match="at step 0"):
        run_stage(ppo)


def test_a_run_whose_kl_stays_negative_stops_at_its_third_rollout(run_stage, trained, monkeypatch, quiet):
    monkeypatch.setattr(checks, "check_reference", lambda kl, bf16: None)
    with_reference(monkeypatch, lambda logprobs: logprobs + 1)
    with pytest.raises(UserError, match="clearly negative"):
        run_stage(ppo)
    assert [step for step in quiet.runs["ppo"] if step != "texts"] == [0, 1]


def test_the_kl_coefficient_stays_unless_it_has_a_target(run_stage, trained, seen):
    run_stage(ppo, kl_coef=0.3)
    assert [call["kl_coef"] for call in seen] == [0.3] * 4


def test_the_kl_coefficient_is_steered_by_the_kl_of_the_last_rollout(run_stage, trained, seen, quiet, monkeypatch):
    steered_by, adapt = [], ppo.adapt_kl_coef
    monkeypatch.setattr(ppo, "adapt_kl_coef", lambda kl_coef, kl, *rest: steered_by.append(kl) or adapt(kl_coef, kl, *rest))
    run_stage(ppo, kl_coef=0.3, kl_target=0.5, kl_horizon=12)
    for step in range(3):
        kl = quiet.runs["ppo"][step]["objective/kl"]            # of an answer, not of a token
        assert steered_by[step] == pytest.approx(kl, rel=1e-4, abs=1e-7)
        error = max(-0.2, min(0.2, kl / 0.5 - 1))
        assert seen[step + 1]["kl_coef"] == pytest.approx(seen[step]["kl_coef"] * (1 + error * 6 / 12), rel=1e-5)
    assert steered_by[2] > 1e-4                                 # so the two could not be mistaken for each other


def test_the_same_test_prompts_are_shown_before_and_after(run_stage, trained, quiet):
    run_stage(ppo, steps=5, sample_every=2)
    texts = quiet.runs["ppo"]["texts"]
    assert len(texts) == 2 and "after 2 updates" in texts[0] and "after 4 updates" in texts[1]
    before = [[line for line in text.splitlines() if "SFT" in line] for text in texts]
    assert before[0] == before[1] and before[0]


def test_looking_changes_no_run(run_stage, trained):
    ends = []
    for looks in (1, 100):
        run_stage(ppo, steps=4, sample_every=looks)
        ends.append(load_file(trained / "ppo" / "model.safetensors"))
    assert all(torch.equal(a, b) for a, b in zip(ends[0].values(), ends[1].values(), strict=True))


def test_a_rollout_is_generated_in_parts_of_eight_times_a_micro_batch(run_stage, trained, monkeypatch):
    sizes, plain = [], GPT.stream
    monkeypatch.setattr(GPT, "stream", lambda self, ids, *given: sizes.append(len(ids)) or plain(self, ids, *given))
    run_stage(ppo, steps=1, batch_size=20, micro_batch_size=1)
    assert sorted(sizes) == [4, 4, 8, 8]                        # four test prompts and the rollout


def test_long_prompts_lose_their_beginning_so_that_the_answer_fits(run_stage, trained, seen):
    full = ppo.Tokenizer.load(trained / "sft")
    run_stage(ppo, steps=1, max_new_tokens=61)                  # 64 positions: 3 tokens of prompt
    for ids, mask in zip(seen[0]["prompts"], seen[0]["mask"]):
        assert full.decode(ids[mask].tolist()).endswith("?\n\nAssistant:")
        assert mask.sum() == 3
    run_stage(ppo, steps=1, max_prompt_tokens=4)
    assert (seen[1]["mask"].sum(1) == 4).all()


def test_a_rollout_larger_than_the_prompts_responds_to_some_of_them_twice(run_stage, trained, seen):
    run_stage(ppo, steps=1, batch_size=44)                      # of 19 prompts
    rows = Counter(str(row[keep].tolist()) for row, keep in zip(seen[0]["prompts"], seen[0]["mask"]))
    assert len(rows) == 19 and sorted(rows.values()) == [2] * 13 + [3] * 6


def test_empty_minibatches_are_refused(run_stage, trained):
    with pytest.raises(UserError, match="--minibatches 7: must be at most --batch_size, which is 6"):
        run_stage(ppo, steps=1, batch_size=6, minibatches=7)


def test_an_answer_as_long_as_the_model_is_refused(run_stage, trained):
    with pytest.raises(UserError, match="--max_new_tokens 64 leaves no room for a prompt in the model's 64 positions"):
        run_stage(ppo, max_new_tokens=64)


def test_a_reward_model_with_another_vocabulary_is_refused(run_stage, trained, monkeypatch):
    other = json.loads(json.dumps(ROWS).replace("owl", "ewe"))
    ScalarGPT.from_pretrained(trained / "reward").save_pretrained(trained / "reward", words(other))
    with pytest.raises(UserError, match="different tokenizers"):
        run_stage(ppo)
