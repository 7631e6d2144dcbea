"""tests/golden.json, known answers in plain decimal arithmetic: our code, and the page's JavaScript, give them."""
import json
from types import SimpleNamespace

import pytest
import torch

import gpt
import make_golden
import methods
import ppo
import reward
from test_maths import Scripted
from test_page import javascript, needs_node
from tiny import close, ppo_config

CASES = json.loads(make_golden.GOLDEN.read_text(encoding="utf-8"))["cases"]


def kl_estimates(logprobs, ref_logprobs, mask):
    assert torch.equal(ppo.kl_penalty(logprobs, ref_logprobs), methods.kl_estimate(logprobs, ref_logprobs, "k1"))
    return [methods.kl_estimate(logprobs, ref_logprobs, kind) for kind in ("k1", "k2", "k3")]


def gae(rewards, values, mask, gamma, lam):
    return ppo.gae(rewards * mask, values * mask, gamma, lam)       # their caller holds pads at 0


def token_rewards(logprobs, ref_logprobs, scores, mask, kl_coef):
    """Of make_experience, for models that say what they are told to: 0 ends a response, and stands in its pads."""
    tokens = (torch.arange(mask.shape[1]) < mask.sum(1, keepdim=True) - 1) * 5
    actor, reference = (Scripted(tokens.tolist(), x.tolist()) for x in (logprobs, ref_logprobs))
    reward_model = SimpleNamespace(reward=lambda ids, real: scores.float(), unfinished_score=lambda given: -99.0)
    prompts = torch.ones(len(mask), 1, dtype=torch.long)
    return ppo.make_experience(actor, methods.no_critic, reference, reward_model, prompts, prompts.bool(), kl_coef,
                               ppo_config(max_new_tokens=mask.shape[1])).rewards


OURS = {"token_logprobs": gpt.token_logprobs, "entropy": ppo.entropy, "kl_divergence": ppo.kl_divergence,
        "kl_estimates": kl_estimates, "token_rewards": token_rewards, "gae": gae, "whiten": ppo.whiten,
        "policy_loss": ppo.policy_loss, "value_loss": ppo.value_loss, "pairwise_loss": reward.pairwise_loss,
        "leave_one_out": methods.leave_one_out, "within_group": methods.within_group}


def tensor(x):
    """A list as a tensor: of float64, or of whole numbers where there is no point."""
    found = torch.tensor(x, dtype=torch.double)
    return found if "." in json.dumps(x) else found.long()


def read(inputs):
    found = {name: tensor(x) if isinstance(x, list) else x for name, x in inputs.items()}
    return {name: x.bool() if name == "mask" else x for name, x in found.items()}


def precision(x):
    return 1e-10 if x.dtype == torch.double else 1e-5


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['function']}: {case['case']}")
def test_our_code_gives_the_known_answers(case):
    inputs = read(case["inputs"])
    by = [inputs[name].requires_grad_() for name in case["gradients"]]
    found = OURS[case["function"]](**inputs)
    found = found if isinstance(found, (tuple, list)) else (found,)
    for actual, expected in zip(found, case["outputs"].values(), strict=True):
        keep = inputs.get("mask", ...) if actual.ndim else ...
        close(actual.detach().double()[keep], tensor(expected)[keep], precision(actual))
    if by and found[0].requires_grad:                               # make_experience gives none
        (found[0] * torch.tensor(case["weights"], dtype=torch.double)).sum().backward()
        for x, expected in zip(by, case["gradients"].values(), strict=True):
            close(x.grad, tensor(expected), precision(found[0]))


def test_the_file_is_what_its_program_writes():
    assert make_golden.GOLDEN.read_text(encoding="utf-8") == make_golden.text()
    assert {case["function"] for case in CASES} == OURS.keys()


THEIRS = """
const rows = (x, mask) => x.map((row, i) => row.filter((_, t) => mask[i][t]));
const run = {
  kl_estimates: (g) => ({k1: rows(g.logprobs, g.mask).map((row, i) => kl_penalty(row, rows(g.ref_logprobs, g.mask)[i]))}),
  token_rewards: (g) => ({rewards: rows(g.logprobs, g.mask).map((row, i) =>
      token_rewards(row, rows(g.ref_logprobs, g.mask)[i], g.scores[i], g.kl_coef))}),
  gae: (g) => {
    const found = rows(g.rewards, g.mask).map((row, i) => gae(row, rows(g.values, g.mask)[i], g.gamma, g.lam));
    return {advantages: found.map((row) => row.advantages), returns: found.map((row) => row.returns)}; },
  whiten: (g) => ({whitened: whiten(rows(g.x, g.mask))}),
  policy_loss: (g) => {
    const [logprobs, old, advantages] = [g.logprobs, g.old_logprobs, g.advantages].map((x) => rows(x, g.mask).flat());
    return policy_loss(logprobs, old, advantages, g.clip); },
  value_loss: (g) => {
    const [values, old, returns] = [g.values, g.old_values, g.returns].map((x) => rows(x, g.mask).flat());
    return value_loss(values, old, returns, g.clip); }};
return given.cases.map((c) => c.function in run ? run[c.function](c.inputs) : null);"""


@needs_node
def test_the_javascript_of_the_page_gives_the_known_answers():
    checked = set()
    for case, found in zip(CASES, javascript(THEIRS, cases=CASES), strict=True):
        if found is None:
            continue
        mask = torch.tensor(case["inputs"]["mask"]).bool()
        gradient = next(iter(case["gradients"].values()), None)     # that of log π, or of the value
        for name, x in found.items():
            expected = tensor(gradient if name == "gradient" else case["outputs"][name])
            real = expected[mask] if expected.ndim else expected
            numbers = x if isinstance(x, (int, float)) else sum((row if isinstance(row, list) else [row] for row in x), [])
            close(torch.tensor(numbers, dtype=torch.double), real, 1e-10)
            checked.add((case["function"], name))
    assert len(checked) == 9 and ("policy_loss", "gradient") in checked
