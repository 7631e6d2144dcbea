"""Writes tests/golden.json, known answers for any implementation of RLHF: docs/golden.md says how to use them.

    python tests/make_golden.py

Nothing of the project is used here, nor torch. Every function is written from its definition, in decimal numbers
of 100 digits. Gradients are differences at steps of 1e-30, so no derivative is derived, wrongly or not.
"""
import json
import random
from decimal import Decimal, getcontext
from pathlib import Path

getcontext().prec = 100
STEP = Decimal("1e-30")
GOLDEN = Path(__file__).parent / "golden.json"

# ----------------------------------------------------------------------------- the definitions


def log_softmax(row):
    total = sum((x - max(row)).exp() for x in row).ln() + max(row)
    return [x - total for x in row]


def token_logprobs(logits, ids):
    return {"logprobs": [log_softmax(row)[i] for row, i in zip(logits, ids)]}


def entropy(logits):
    return {"entropy": [-sum(x.exp() * x for x in log_softmax(row)) for row in logits]}


def kl_divergence(logits, ref_logits):
    return {"kl": [sum(p.exp() * (p - q) for p, q in zip(log_softmax(row), log_softmax(ref)))
                   for row, ref in zip(logits, ref_logits)]}


def kl_estimates(logprobs, ref_logprobs, mask):
    log_ratios = [[(p - q) * m for p, q, m in zip(*rows)] for rows in zip(logprobs, ref_logprobs, mask)]
    return {"k1": log_ratios, "k2": [[x * x / 2 for x in row] for row in log_ratios],
            "k3": [[(-x).exp() - 1 + x for x in row] for row in log_ratios]}


def token_rewards(logprobs, ref_logprobs, scores, mask, kl_coef):
    return {"rewards": [[m * (score * (t + 1 == sum(real)) - kl_coef * (p - q))
                         for t, (p, q, m) in enumerate(zip(row, ref, real))]
                        for row, ref, score, real in zip(logprobs, ref_logprobs, scores, mask)]}


def gae(rewards, values, mask, gamma, lam):
    """Not the recursion: A_t = Σ_s (γλ)^(s-t) δ_s, over a response's own tokens."""
    advantages, returns = [], []
    for r, v, real in zip(rewards, values, mask):
        n, pads = sum(real), [Decimal(0)] * (len(real) - sum(real))
        delta = [r[s] + (gamma * v[s + 1] if s + 1 < n else 0) - v[s] for s in range(n)]
        row = [sum((gamma * lam) ** (s - t) * delta[s] if s > t else delta[s] for s in range(t, n)) for t in range(n)]
        advantages.append(row + pads)
        returns.append([a + b for a, b in zip(row, v)] + pads)
    return {"advantages": advantages, "returns": returns}


def whiten(x, mask):
    real = [n for row, keep in zip(x, mask) for n, m in zip(row, keep) if m]
    mean = sum(real) / len(real)
    deviation = (sum((n - mean) ** 2 for n in real) / len(real) + Decimal("1e-8")).sqrt()
    return {"whitened": [[(n - mean) / deviation * m for n, m in zip(row, keep)] for row, keep in zip(x, mask)]}


def clamp(x, low, high):
    return low if x < low else high if x > high else x


def mean_of_the_worse(pairs):
    """(plain, clipped) of each real token -> the mean of the larger ones, and how often that is the clipped one."""
    return {"loss": sum(max(pair) for pair in pairs) / len(pairs),
            "clipped": Decimal(sum(clipped > plain for plain, clipped in pairs)) / len(pairs)}


def real_tokens(mask, *tensors):
    return [numbers for rows in zip(mask, *tensors) for m, *numbers in zip(*rows) if m]


def policy_loss(logprobs, old_logprobs, advantages, mask, clip):
    return mean_of_the_worse([(-A * (new - old).exp(), -A * clamp((new - old).exp(), 1 - clip, 1 + clip))
                              for new, old, A in real_tokens(mask, logprobs, old_logprobs, advantages)])


def value_loss(values, old_values, returns, mask, clip):
    return mean_of_the_worse([((v - R) ** 2 / 2, (clamp(v, old - clip, old + clip) - R) ** 2 / 2)
                              for v, old, R in real_tokens(mask, values, old_values, returns)])


def pairwise_loss(chosen, rejected):
    return {"loss": sum((1 + (bad - good).exp()).ln() for good, bad in zip(chosen, rejected)) / len(chosen)}


def groups(numbers, k):
    return [numbers[i:i + k] for i in range(0, len(numbers), k)]


def leave_one_out(rewards, k):
    return {"advantages": [r - (sum(group) - r) / (k - 1) for group in groups(rewards, k) for r in group]}


def within_group(scores, k):
    def deviation(group):
        return (sum((s - sum(group) / k) ** 2 for s in group) / k).sqrt() + Decimal("1e-4")
    return {"advantages": [(s - sum(group) / k) / deviation(group) for group in groups(scores, k) for s in group]}

# ----------------------------------------------------------------------------- outputs and gradients


def deep(f, x):
    return [deep(f, part) for part in x] if isinstance(x, list) else f(x)


def flat(x):
    return sum(map(flat, x), []) if isinstance(x, list) else [x]


def answer(function, case, inputs, by):
    """One entry of the file, with the gradients by the inputs named in `by`."""
    exact = {name: deep(lambda x: x if isinstance(x, int) else Decimal(repr(x)), x) for name, x in inputs.items()}
    outputs = function(**exact)
    first = next(iter(outputs))
    rng = random.Random(case)
    weights = 1
    if isinstance(outputs[first], list):
        real = inputs.get("mask", deep(lambda _: 1, outputs[first]))
        weights = deep(lambda m: m * round(rng.uniform(-1, 1), 2), real)

    def loss():
        return sum(Decimal(repr(w)) * x for w, x in zip(flat(weights), flat(function(**exact)[first])))

    def derivative(row, i):
        before, values = row[i], []
        for move in (-STEP, 0, STEP):
            row[i] = before + move
            values.append(loss())
        row[i] = before
        left, right = (values[1] - values[0]) / STEP, (values[2] - values[1]) / STEP
        assert abs(right - left) < Decimal("1e-20"), f"{case} lies on a kink"
        return (left + right) / 2

    def gradient(x):
        return [gradient(part) if isinstance(part, list) else derivative(x, i) for i, part in enumerate(x)]
    return {"function": function.__name__, "case": case, "inputs": inputs, "outputs": deep_dict(outputs),
            "weights": weights, "gradients": deep_dict({name: gradient(exact[name]) for name in by})}


def deep_dict(named):
    return {name: deep(float, x) for name, x in named.items()}

# ----------------------------------------------------------------------------- the cases

LENGTHS = {"one response of one token": [1], "no padding": [3, 3], "one token, all, one token": [1, 4, 1],
           "a short response between long ones": [5, 2, 5, 1, 4]}


def cases():
    rng = random.Random(0)

    def numbers(*shape, low=-3.0, high=3.0):
        if shape:
            return [numbers(*shape[1:], low=low, high=high) for _ in range(shape[0])]
        return round(rng.uniform(low, high), 3)

    for case, logits, ref in (("three tokens", numbers(3, 5), numbers(3, 5)),
                              ("logits near -100, as GPT-2's", numbers(2, 4, low=-103.0, high=-97.0), numbers(2, 4)),
                              ("equal logits", [[0.0] * 4], numbers(1, 4)),
                              ("one token is all but certain", [[40.0, 0.0, -3.0]], [[38.0, 1.0, 0.0]])):
        yield token_logprobs, case, {"logits": logits, "ids": [len(row) - 1 - t for t, row in enumerate(logits)]}, ["logits"]
        yield entropy, case, {"logits": logits}, ["logits"]
        yield kl_divergence, case, {"logits": logits, "ref_logits": ref}, ["logits"]

    for case, lengths in LENGTHS.items():
        B, R = len(lengths), max(lengths)
        mask = [[int(t < length) for t in range(R)] for length in lengths]

        def padded(pad, low=-3.0, high=3.0):
            """Random numbers; in pads, what must not matter."""
            return [[x if m else pad for x, m in zip(row, keep)] for row, keep in zip(numbers(B, R, low=low, high=high), mask)]
        logprobs, ref_logprobs = padded(-1.0, -4.0, 0.0), padded(-9.0, -4.0, 0.0)
        yield kl_estimates, case, {"logprobs": logprobs, "ref_logprobs": ref_logprobs, "mask": mask}, ["logprobs"]
        yield token_rewards, case, {"logprobs": logprobs, "ref_logprobs": ref_logprobs, "scores": numbers(B),
                                    "mask": mask, "kl_coef": 0.05}, ["scores"]
        for gamma, lam in ((1.0, 0.95), (0.9, 0.8), (1.0, 0.0)):
            yield gae, f"{case}, γ {gamma}, λ {lam}", {"rewards": padded(9000.0), "values": padded(-9000.0), "mask": mask,
                                                       "gamma": gamma, "lam": lam}, ["rewards", "values"]
        yield whiten, case, {"x": padded(9000.0), "mask": mask}, ["x"]
        old = padded(-9000.0, -3.0, -1.0)
        for shift, size in (("first step", 0.0), ("later", 0.6)):
            new = [[round(x + size * rng.uniform(-1, 1), 3) if m else 9000.0 for x, m in zip(row, keep)]
                   for row, keep in zip(old, mask)]
            yield policy_loss, f"{case}, {shift}", {"logprobs": new, "old_logprobs": old, "advantages": padded(-9000.0),
                                                    "mask": mask, "clip": 0.2}, ["logprobs"]
        # Of 64ths a float32 rounds nothing, so old + (new - old) is new, and no other way to clip counts one more.
        values, old_values = (deep(lambda x: round(64 * x) / 64, padded(pad, -0.5, 0.5)) for pad in (9000.0, -9000.0))
        yield value_loss, case, {"values": values, "old_values": old_values,
                                 "returns": padded(9000.0, -0.6, 0.6), "mask": mask, "clip": 0.2}, ["values"]
    yield whiten, "equal numbers", {"x": [[7.0, 7.0], [7.0, 9000.0]], "mask": [[1, 1], [1, 0]]}, []
    for case, chosen, rejected in (("three pairs", numbers(3), numbers(3)), ("equal scores", [0.5], [0.5]),
                                   ("right by 100", [60.0], [-40.0]), ("wrong by 1000", [-500.0, 1.0], [500.0, 0.0])):
        yield pairwise_loss, case, {"chosen": chosen, "rejected": rejected}, ["chosen", "rejected"]
    for function, name in ((leave_one_out, "rewards"), (within_group, "scores")):
        for count, k in ((2, 2), (6, 3)):
            yield function, f"{count} responses, {k} to a prompt", {name: numbers(count), "k": k}, [name]


ABOUT = ("Known answers for implementations of RLHF, see docs/golden.md. Rows are responses, columns their tokens; mask is 1 "
         "on real tokens. What outputs say in pads means nothing; inputs in pads must not matter. gradients: of the sum "
         "of weights times the first output, and 0 in pads.")


def text():
    lines = ",\n".join(json.dumps(answer(*case), ensure_ascii=False) for case in cases())
    return f'{{"about": {json.dumps(ABOUT, ensure_ascii=False)},\n"cases": [\n{lines}\n]}}\n'


if __name__ == "__main__":
    GOLDEN.write_text(text(), encoding="utf-8")
