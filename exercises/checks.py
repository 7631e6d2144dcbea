"""What `python practice.py check` asks of each function.

A check gets a module in which one function is the reader's and all others are the real ones. Its
docstring is its name. What it finds it raises as `Wrong`, in words that follow "NAME: ".
"""
import json
from collections import Counter
from dataclasses import replace
from inspect import signature
from itertools import islice
from pathlib import Path

import torch

import gpt
import ppo
import reward
from support import UserError
from support.optimizer import set_learning_rate
from text.batches import batch_at, pad

GOLDEN = Path(__file__).parent.parent / "tests" / "golden.json"
EOS = 10


class Wrong(Exception):
    """A function does not do what it should; says what was seen."""

# ---------- what the checks share

def same(what, found, expected, atol=2e-5, where=None):
    """Tensors of equal shape whose numbers are equal, up to atol; only those `where` counts."""
    if not isinstance(found, torch.Tensor | float | int):
        raise Wrong(f"{what} is {found!r:.60}, should be a tensor")
    found, expected = (torch.as_tensor(x).detach().double() for x in (found, expected))
    if found.shape != expected.shape:
        raise Wrong(f"{what} has shape {tuple(found.shape)}, should have {tuple(expected.shape)}")
    differ = ~torch.isclose(found, expected, rtol=1e-5, atol=atol)
    if where is not None:
        differ = differ & where
    if differ.any():
        at = tuple(differ.nonzero()[0].tolist())
        raise Wrong(f"{what}{''.join(f'[{i}]' for i in at)} is {found[at]:.6g}, should be "
                    f"{expected[at] + 0:.6g}")                  # -0 + 0 is 0


def refuses(what, call):
    """`call` raises UserError."""
    try:
        call()
    except UserError:
        return
    raise Wrong(f"{what} should raise UserError")


def known_answers(function, call, gradients=False):
    """A check against tests/golden.json. `call` gets the inputs of a case by name."""
    def check(m):
        """known answers"""
        for case in json.loads(GOLDEN.read_text(encoding="utf-8"))["cases"]:
            if case["function"] == function:
                compare(case, lambda **inputs: call(m, **inputs), gradients)
    return check


def tensor(x):
    """A list as a tensor: float64, or whole numbers where it has no decimal point."""
    return torch.tensor(x, dtype=torch.double if "." in json.dumps(x) else torch.long)


def compare(case, call, gradients):
    """Outputs, and gradients if asked for, of one case of tests/golden.json."""
    inputs = {name: tensor(x) if isinstance(x, list) else x for name, x in case["inputs"].items()}
    mask = inputs["mask"] = inputs["mask"].bool() if "mask" in inputs else None
    by = {name: inputs[name].requires_grad_() for name in case["gradients"] if gradients}
    found = call(**{name: x for name, x in inputs.items() if x is not None})
    found = found if isinstance(found, tuple | list) else (found,)
    for x, (name, expected) in zip(found, case["outputs"].items()):
        expected = tensor(expected)
        same(f"in the case “{case['case']}”, {name}", x, expected,
             where=mask if expected.ndim else None)
    if by:
        (found[0] * torch.tensor(case["weights"])).sum().backward()
    for name, x in by.items():
        gradient = torch.zeros_like(x) if x.grad is None else x.grad
        same(f"in the case “{case['case']}”, gradient by {name}", gradient,
             tensor(case["gradients"][name]))


def model(kind, seed=0):
    """A tiny model all of whose weights are random: behind biases of 0 mistakes can hide."""
    torch.manual_seed(seed)
    made = kind(kind.Config(vocab_size=EOS + 1, block_size=24, n_layer=2, n_head=2, n_embd=8,
                            eos_token_id=EOS))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.4 * torch.randn(parameter.shape))
    return made

# ---------- gpt.py

ROWS = [[3, 1, 4, 1, 5], [9, 2], [6]]


def attention_inputs(m):
    """The reader's attention and the real one; x (2, 5, C); who sees whom (2, 1, 5, 5)."""
    both = [model(module.GPT).transformer.h[0].attn for module in (m, gpt)]
    allowed = (torch.rand(2, 1, 5, 5) < 0.5).tril() | torch.eye(5).bool()
    return *both, torch.randn(2, 5, 8), allowed


@torch.no_grad()
def attention_sees(m):
    """two rows of five tokens"""
    mine, real, x, allowed = attention_inputs(m)
    same("output", mine(x, allowed), real(x, allowed))


@torch.no_grad()
def attention_caches(m):
    """token after token, with a cache"""
    mine, real, x, allowed = attention_inputs(m)
    cache = gpt.KVCache(5)
    steps = [mine(x[:, t:t + 1], allowed[:, :, t:t + 1, :t + 1], cache) for t in range(5)]
    same("output", torch.cat(steps, dim=1), real(x, allowed))


@torch.no_grad()
def positions_plain(m):
    """two rows without pads"""
    ids = torch.tensor([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]])
    mine, real = (model(module.GPT).transformer for module in (m, gpt))
    same("hidden", mine(ids), real(ids))


@torch.no_grad()
def positions_padded(m):
    """pads change no real token"""
    mine, real = (model(module.GPT).transformer for module in (m, gpt))
    for left in (True, False):
        ids, mask = pad(ROWS, left=left)
        states = mine(ids, mask)
        if not states.isfinite().all():
            raise Wrong("the hidden state of a pad is not finite")
        for i, row in enumerate(ROWS):
            same(f"row {i}, with pads on the {'left' if left else 'right'}, hidden",
                 states[i][mask[i]], real(torch.tensor([row]))[0])


@torch.no_grad()
def positions_cached(m):
    """token after token, with caches"""
    mine, real = (model(module.GPT).transformer for module in (m, gpt))
    ids, mask = pad(ROWS, left=True)
    cache = [gpt.KVCache(5) for _ in mine.h]
    parts = [mine(ids[:, :3], mask[:, :3], cache)]
    parts += [mine(ids[:, t:t + 1], mask[:, :t + 1], cache) for t in (3, 4)]
    same("hidden", torch.cat(parts, dim=1), real(ids, mask), where=mask[..., None])


@torch.no_grad()
def positions_end(m):
    """25 tokens for a model of 24 positions"""
    refuses("it", lambda: model(m.GPT).transformer(torch.ones(1, 25, dtype=torch.long)))


def continued(net, prompts, count, *given):
    """Tokens and log-probabilities of each row as `stream` yields them: 2 lists of lists."""
    tokens, logprobs = [[] for _ in prompts], [[] for _ in prompts]
    for rows, new, logp in net.stream(*pad(prompts, left=True), count, *given):
        for row, token, number in zip(rows.tolist(), new.tolist(), logp.tolist(), strict=True):
            if EOS in tokens[row]:
                raise Wrong(f"row {row} continues after its <|endoftext|>")
            tokens[row].append(token)
            logprobs[row].append(number)
    for row, found in enumerate(tokens):
        if EOS not in found and len(found) != count:
            raise Wrong(f"row {row} stops after {len(found)} of {count} tokens, without an end")
    return tokens, logprobs


@torch.no_grad()
def sampling_likeliest(m):
    """temperature 0 takes the most probable token"""
    real = model(gpt.GPT)
    found, _ = continued(model(m.GPT), ROWS, 6, 0.0)
    for row, prompt in enumerate(ROWS):
        right = []
        while len(right) < 6 and EOS not in right:
            right.append(real(torch.tensor([prompt + right]))[0, -1].argmax().item())
        if found[row] != right:
            raise Wrong(f"row {row} gives {found[row]}, should give {right}")


@torch.no_grad()
def sampling_shares(m):
    """each token is taken as often as its probability says, at the temperature"""
    count, T, prompt, real = 1000, 0.7, [3, 1, 4], model(gpt.GPT)
    spread = (torch.arange(count) + 0.5) / count                # (count)
    for t, draws in enumerate((spread[None], torch.stack([torch.full((count,), 0.5), spread]))):
        found, logprobs = continued(model(m.GPT), [prompt] * count, t + 1, T, draws)
        before = prompt + found[0][:t]
        logp = (real(torch.tensor([before]))[0, -1] / T).log_softmax(-1)    # (V)
        counts = Counter(row[t] for row in found)
        for token, share in enumerate(logp.exp().tolist()):
            if abs(counts[token] - count * share) > 1.5:
                raise Wrong(f"after {before}, {count} numbers spread evenly over [0, 1) take token "
                            f"{token} {counts[token]} times, should take it {count * share:.1f} "
                            "times")
        same(f"after {before}, logprobs", torch.tensor([row[t] for row in logprobs]),
             logp[[row[t] for row in found]])


@torch.no_grad()
def sampling_rows(m):
    """a row gives the same alone, from the same random numbers"""
    prompts = ROWS * 4
    draws = torch.rand(8, len(prompts), generator=torch.Generator().manual_seed(0))
    found = continued(model(m.GPT), prompts, 8, 1.0, draws)
    for row, prompt in enumerate(prompts):
        alone = continued(model(m.GPT), [prompt], 8, 1.0, draws[:, row:row + 1])
        if found[0][row] != alone[0][0]:
            raise Wrong(f"row {row} gives {found[0][row]} in a batch, {alone[0][0]} alone")
        same(f"row {row}, logprobs", *map(torch.tensor, (found[1][row], alone[1][0])))
    if continued(model(m.GPT), prompts, 8) == found:
        raise Wrong("without draws it should take random numbers of its own")


@torch.no_grad()
def sampling_edges(m):
    """random numbers of 0 and of nearly 1"""
    for draw in (0.0, 1 - 2 ** -24):
        draws = torch.full((1, len(ROWS)), draw)
        tokens, logprobs = continued(model(m.GPT), ROWS, 1, 0.005, draws)
        if not torch.tensor(logprobs).isfinite().all():
            raise Wrong(f"{draw:.9g} takes a token of probability 0")


@torch.no_grad()
def sampling_end(m):
    """more tokens than positions"""
    refuses("it", lambda: list(model(m.GPT).stream(*pad(ROWS), 20)))


def logprobs_dtype(m):
    """logits in bfloat16"""
    torch.manual_seed(0)
    logits, ids = torch.randn(2, 3, 5).bfloat16(), torch.tensor([[0, 1, 2], [3, 4, 0]])
    found = m.token_logprobs(logits, ids)
    same("logprobs", found, logits.double().log_softmax(-1).gather(-1, ids[..., None])[..., 0])
    if found.dtype != torch.float32:
        raise Wrong(f"they are {found.dtype}, should be float32")

# ---------- sft.py and reward.py

def sft_by_hand(m):
    """four examples, token by token"""
    net, losses = model(gpt.GPT), []
    examples = [([3, 1], [4, 1, EOS]), ([2, 7, 1, 8], [EOS]), ([], [5, 0, EOS]), ([0], [0, 0, EOS])]
    for prompt, completion in examples:
        row = prompt + completion
        logp = net(torch.tensor([row]))[0].log_softmax(-1)      # (T, V)
        losses += [-logp[t - 1, row[t]] for t in range(max(len(prompt), 1), len(row))]
    found, right = m.sft_loss(net, examples), torch.stack(losses).mean()
    same("loss", found, right)
    weight = net.transformer.wte.weight
    same("gradient by wte.weight", *(torch.autograd.grad(x, weight)[0] for x in (
        found, right)))


class Writer:
    """In the SFT model's place: completes each prompt as it is told to."""
    config = gpt.GPTConfig(eos_token_id=EOS)

    def __init__(self, answers):
        self.answers, self.asked = answers, set()

    def generate(self, ids, mask, max_new_tokens, temperature=1.0, **others):
        self.asked.add((max_new_tokens, temperature))
        tokens, response_mask = pad([
            self.answers[tuple(row[real.bool()].tolist())] for row, real in zip(ids, mask)])
        return tokens, response_mask, torch.zeros(tokens.shape)


ANSWERS = {(3,): [1, EOS], (4, 5): [2, EOS], (6, 7, 8): [3, 4, EOS], (1, 2): [5, 5, 5],
           (9, 9, 9, 9): [EOS], (0,): [0, 8, EOS]}
NORMALISED = reward.Config(batch_size=4, max_new_tokens=3, temperature=0.7)


def normalised(m, answers):
    """A reward model that was normalised before, after the reader's fit_normalisation; what that
    returned; the writer."""
    rm, writer = model(gpt.ScalarGPT), Writer(answers)
    rm.config.reward_mean, rm.config.reward_std = 5.0, 2.0
    found = m.fit_normalisation(rm, writer, list(map(list, answers)), NORMALISED, "cpu")
    return rm, found, writer


@torch.no_grad()
def normalisation_fits(m):
    """five completions that end, and one that doesn't"""
    rows = [[*prompt, *answer] for prompt, answer in ANSWERS.items() if EOS in answer]
    raw = model(gpt.ScalarGPT)
    scores = torch.stack([raw(torch.tensor([row]))[0, -1] for row in rows])     # (5)
    rm, found, writer = normalised(m, ANSWERS)
    mean, std, least = rm.config.reward_mean, rm.config.reward_std, rm.config.reward_min
    if not all(isinstance(x, float) for x in (mean, std, least)):
        raise Wrong("reward_mean, reward_std and reward_min should be floats, for config.json")
    same("reward_mean", mean, scores.mean())
    same("reward_std", std, min(scores.std(), scores.std(correction=0), key=lambda x: abs(x - std)))
    same("reward_min", least, (scores.min() - mean) / std)
    if found != (mean, std):
        raise Wrong(f"it returns {found}, should return {(mean, std)}")
    if writer.asked != {(3, 0.7)}:
        raise Wrong("completions are sampled with other max_new_tokens and temperature than cfg's")


@torch.no_grad()
def normalisation_edges(m):
    """completions that don't end, or are all the same"""
    refuses("one completion that ends, of three,", lambda: normalised(m, {
        key: ANSWERS[key] if key == (3,) else [1, 1, 1] for key in ((3,), (4, 5), (1, 2))}))
    rm, *_ = normalised(m, {(3,): [1, EOS], (3, 1): [EOS]})
    same("for equal scores (see LEAST_STD), reward_std", rm.config.reward_std, 1.0)

# ---------- ppo.py

def networks():
    """Actor, critic, reference, reward model."""
    rm = model(gpt.ScalarGPT, 3)
    rm.config.reward_min = -2.5
    return model(gpt.GPT), model(gpt.ScalarGPT, 1), model(gpt.GPT, 2), rm


def rollout(m, **flags):
    """Twelve prompts, some with an end token in them, and responses, some without, by the
    make_experience of module m. Returns the Experience and the call of actor.generate."""
    cfg = ppo.Config(**{**dict(max_new_tokens=6, temperature=0.7, gamma=0.9, lam=0.8), **flags})
    rng = torch.Generator().manual_seed(0)

    def some(most):
        return torch.randint(EOS, (int(torch.randint(most, (), generator=rng)) + 1,),
                             generator=rng).tolist()
    prompts = [some(4) + [EOS] * (i % 3 == 0) + [i % EOS] for i in range(12)]
    answers = [some(5) + [EOS] if i % 4 else [*range(i % 3, i % 3 + 6)] for i in range(11)]
    ids, mask = pad(prompts, left=True)
    tokens, response_mask = pad([*answers, [EOS]])
    actor, *others = networks()
    whole = torch.cat([ids, tokens], 1), torch.cat([mask, response_mask], 1)
    with torch.no_grad():
        logprobs = gpt.response_logprobs(actor, *whole, tokens.shape[1], cfg.temperature)
    asked = {}

    def generate(*given, **named):
        asked.update(signature(gpt.GPT.generate).bind(actor, *given, **named).arguments)
        return tokens.clone(), response_mask.clone(), logprobs * response_mask
    actor.generate = generate
    return m.make_experience(actor, *others, ids, mask, 0.1, cfg), asked


def experience_is(m, **flags):
    """The twelve responses give what they should, field by field."""
    right, _ = rollout(ppo, **flags)
    found, asked = rollout(m, **flags)
    for name in ("ids", "mask", "response_mask", "logprobs", "ref_logprobs", "values", "exact_kl",
                 "scores", "rewards", "returns", "advantages"):
        same(name, getattr(found, name), getattr(right, name),
             where=right.mask if name == "ids" else None)
    if (asked["max_new_tokens"], asked.get("temperature", 1.0)) != (6, flags["temperature"]):
        raise Wrong("responses are sampled with other max_new_tokens and temperature than cfg's")


def experience_whole(m):
    """twelve responses at once"""
    experience_is(m, temperature=0.7)


def experience_parts(m):
    """the same, five rows at a time, with --missing_eos_score"""
    experience_is(m, temperature=1.0, micro_batch_size=5, missing_eos_score=-1.5)


def learned(m, experience, **flags):
    """Actor and critic, and what the learn of module m returned and did: how many steps each
    optimiser took, and the rows of each of the actor's passes."""
    cfg = ppo.Config(**{**dict(epochs=2, minibatches=1, temperature=0.7, clip=0.2, value_clip=0.1),
                        **flags})
    actor, critic, *_ = networks()
    optimizers = [torch.optim.SGD(net.parameters(), lr=0.3) for net in (actor, critic)]
    steps, passes = Counter(), []
    for net, optimizer in zip(("actor", "critic"), optimizers):
        optimizer.register_step_post_hook(lambda *given, net=net: steps.update([net]))
    actor.transformer.register_forward_pre_hook(lambda net, given, named: passes.append(
        frozenset(map(tuple, (given[0] if given else named["ids"]).tolist()))), with_kwargs=True)
    torch.manual_seed(0)
    metrics = m.learn(actor, critic, *optimizers, experience, cfg)
    return {"actor": actor, "critic": critic}, metrics, steps, passes


def learn_is(m, experience, **flags):
    """Weights and metrics after two epochs, each of one minibatch: no random number counts."""
    right, wanted, *_ = learned(ppo, experience)
    nets, metrics, *_ = learned(m, experience, **flags)
    for net in ("actor", "critic"):
        for (name, expected), found in zip(right[net].named_parameters(), nets[net].parameters()):
            same(f"{net}: {name}", found, expected)
    for name, expected in wanted.items():
        if name not in metrics:
            raise Wrong(f"the metric {name} is missing (docs/metrics.md)")
        same(f"the metric {name}", metrics[name], expected, 1e-4)


def learn_steps(m):
    """two steps on the whole rollout"""
    learn_is(m, rollout(ppo)[0])


def learn_parts(m):
    """the same steps, five rows at a time"""
    learn_is(m, rollout(ppo)[0], micro_batch_size=5)


def learn_minibatches(m):
    """three epochs of four minibatches"""
    experience = rollout(ppo)[0]
    _, _, steps, passes = learned(m, experience, epochs=3, minibatches=4)
    if steps != {"actor": 12, "critic": 12}:
        raise Wrong(f"actor and critic take {steps['actor']} and {steps['critic']} steps, should "
                    "take 12 each")
    each = Counter(row for rows in passes for row in rows)
    if len(each) != len(experience) or len(set(each.values())) != 1:
        raise Wrong("not every response is learned from equally often")
    third = len(passes) // 3
    if len({frozenset(passes[i:i + third]) for i in range(0, len(passes), third)}) == 1:
        raise Wrong("every epoch has the same minibatches, should have others")


def learn_ratio(m):
    """log-probabilities that are not the actor's (see check_ratio)"""
    experience = rollout(ppo)[0]
    refuses("it", lambda: learned(m, replace(experience, logprobs=experience.logprobs - 0.5)))


PROMPTS = [[1], [2, 3], [4, 5, 6], [7, 8], [9], [1, 2, 3, 4], [5], [6, 7]]


def updates(m, experience, first=1, **flags):
    """What the train of module m yields from the step `first` on, all checked on the way: a
    generator of metrics. Rollouts and gradient steps are replaced; each rollout is `experience`."""
    cfg = ppo.Config(steps=5, batch_size=6, kl_coef=0.1, lr=0.01, critic_lr=0.03, **flags)
    nets = networks()
    optimizers = [torch.optim.SGD(net.parameters(), lr=9.0) for net in nets[:2]]
    state, done, beta = {**ppo.first_state(cfg), "step": first}, [], cfg.kl_coef

    def make_experience(actor, critic, reference, reward_model, prompts, prompt_mask, kl_coef, cfg):
        step = state["step"]
        ids, mask = pad(batch_at(PROMPTS, 6, step, cfg.seed), left=True)
        if any(a is not b for a, b in zip((actor, critic, reference, reward_model), nets)):
            raise Wrong("make_experience gets the networks in another order")
        same(f"at step {step}, the mask of the prompts", prompt_mask, mask)
        same(f"at step {step}, the prompt", prompts, ids, where=mask)
        same(f"at step {step}, β", kl_coef, beta)
        done.append("rollout")
        return experience

    def learn(actor, critic, actor_optimizer, critic_optimizer, rolled, cfg):
        if not (actor is nets[0] and critic is nets[1] and rolled is experience
                and [actor_optimizer, critic_optimizer] == optimizers):
            raise Wrong("learn does not get the two networks, their optimisers and the rollout")
        for net, optimizer, peak in zip(("actor", "critic"), optimizers, (cfg.lr, cfg.critic_lr)):
            unused = torch.optim.SGD([torch.zeros(1)], lr=1.0)
            same(f"at step {state['step']}, the {net}'s learning rate",
                 optimizer.param_groups[0]["lr"],
                 set_learning_rate(unused, peak, state["step"], cfg.steps), 1e-8)
        done.append("learn")
        return {"loss/policy": 0.25}
    m.make_experience, m.learn = make_experience, learn
    loop = m.train(*nets, *optimizers, PROMPTS, state, cfg)
    for step in range(first, cfg.steps):
        found = next(loop, None)
        if found is None:
            raise Wrong(f"it ends before step {step} of {cfg.steps}")
        if done != ["rollout", "learn"] * (step - first + 1):
            raise Wrong(f"a step does {done[2 * (step - first):]}, should do rollout, learn")
        if found[0] != step or found[1] is not experience or state["step"] != step + 1:
            raise Wrong(f"at step {step} it should yield (step, experience, metrics), and state"
                        f"[\"step\"] be {step + 1}")
        rolled = ppo.describe(experience, beta, EOS)
        if cfg.kl_target:
            beta = ppo.adapt_kl_coef(beta, rolled["objective/kl"], cfg.kl_target, cfg.kl_horizon, 6)
        yield found[2], {**rolled, "loss/policy": 0.25}
    if next(loop, None) is not None:
        raise Wrong(f"it continues after step {cfg.steps}")


def apart():
    """An Experience in which each action has a KL of 0.3."""
    experience = rollout(ppo)[0]
    return replace(experience, ref_logprobs=experience.logprobs - 0.3 * experience.response_mask)


def train_loop(m):
    """four updates of a run that continues at step 1"""
    for metrics, wanted in updates(m, apart()):
        for name, expected in wanted.items():
            if name not in metrics:
                raise Wrong(f"the metric {name} is missing (see describe and learn)")
            same(f"the metric {name}", metrics[name], expected)
        if "lr" not in metrics:
            raise Wrong("the metric lr is missing")


def train_beta(m):
    """β follows the KL when --kl_target asks for it"""
    experience = apart()
    kl = experience.kl.sum(1).mean().item()
    for target in (kl / 1.1, kl / 0.9):
        for _ in updates(m, experience, kl_target=target, kl_horizon=20):
            pass


def train_checks(m):
    """a KL that no right run has (see check_rollout)"""
    refuses("a KL that is not 0 in the first update", lambda: list(updates(m, apart(), 0)))
    below = replace(apart(), logprobs=apart().ref_logprobs, ref_logprobs=apart().logprobs)
    refuses("the third KL below 0 in a row", lambda: list(islice(updates(m, below), 3)))


CHECKS = {
    "attention": [attention_sees, attention_caches],
    "positions": [positions_plain, positions_padded, positions_cached, positions_end],
    "sampling": [sampling_likeliest, sampling_shares, sampling_rows, sampling_edges, sampling_end],
    "token_logprobs": [
        known_answers("token_logprobs", lambda m, **x: m.token_logprobs(**x), True),
        logprobs_dtype],
    "sft_loss": [sft_by_hand],
    "pairwise_loss": [known_answers("pairwise_loss", lambda m, **x: m.pairwise_loss(**x), True)],
    "normalisation": [normalisation_fits, normalisation_edges],
    "kl_penalty": [known_answers("kl_estimates", lambda m, logprobs, ref_logprobs, mask: (
        m.kl_penalty(logprobs, ref_logprobs)))],
    "gae": [known_answers("gae", lambda m, rewards, values, mask, gamma, lam: m.gae(
        rewards * mask, values * mask, gamma, lam))],
    "whiten": [known_answers("whiten", lambda m, **x: m.whiten(**x))],
    "policy_loss": [known_answers("policy_loss", lambda m, **x: m.policy_loss(**x), True)],
    "value_loss": [known_answers("value_loss", lambda m, **x: m.value_loss(**x), True)],
    "make_experience": [experience_whole, experience_parts],
    "learn": [learn_steps, learn_parts, learn_minibatches, learn_ratio],
    "train": [train_loop, train_beta, train_checks],
}
