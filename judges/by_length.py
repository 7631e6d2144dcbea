"""Who wins at which length? Judges like long responses, and policies find that out.

A comparison is seen in bins of the difference in length, and in one number with the length held
fixed: the rate of a pair of equal lengths, by the logistic regression

    logit P(ours wins) = a + b tanh(d / std d)        rate = σ(a)        d: ours - theirs, tokens

It is AlpacaEval's length-controlled win rate (arXiv:2404.04475) without the term for how hard a
prompt is, which takes many models' responses to the same prompts, and with a small fixed ridge.
A tie counts as half a win and half a loss.
"""
import torch

from judges.win_rate import draw_prompts, interval, rate

# Bins in tokens, both ends included; an end of None is infinity.
LONGER = ((1, 2), (3, 5), (6, 10), (11, 20), (21, 50), (51, None))
SHORTER = tuple((last and -last, -first) for first, last in reversed(LONGER))
BINS = (*SHORTER, (0, 0), *LONGER)
RIDGE = 0.01            # on a and b: a best fit exists even where one side wins everything


def by_length(ours, theirs, verdicts):
    """Both views, their rows as in win_rate.rate; a bin's row says where it begins and ends."""
    differences = [a.length - b.length for a, b in zip(ours, theirs)]
    rows = []
    for first, last in BINS:
        inside = [(first is None or first <= d) and (last is None or d <= last)
                  for d in differences]
        points = [verdict if there else None for verdict, there in zip(verdicts, inside)]
        rows.append({"first": first, "last": last, **rate(ours, points)})
    return {"difference": rows, "held_fixed": held_fixed(ours, differences, verdicts)}


def held_fixed(ours, differences, verdicts):
    """The rate of pairs of equal lengths, as in win_rate.rate; None where all pairs differ by the
    same length, so that nothing tells the two causes apart."""
    rows = zip(ours, differences, verdicts)
    known = [(r.prompt, d, verdict) for r, d, verdict in rows if verdict is not None]
    if len({d for _, d, _ in known}) < 2:
        return {"rate": None, "ci95": None, "pairs": len(known)}
    prompts, d, y = zip(*known)                                         # (pairs) each
    d, y = torch.tensor([d, y], dtype=torch.double)                     # (pairs) each
    numbers = {prompt: i for i, prompt in enumerate(dict.fromkeys(prompts))}
    number = torch.tensor([numbers[prompt] for prompt in prompts])      # (pairs), its prompt's
    draws = draw_prompts(len(numbers))                                  # (DRAWS, prompts)
    times = torch.zeros(draws.shape, dtype=torch.double)                # how often each was drawn
    times.scatter_add_(1, draws, torch.ones_like(times))
    once = torch.ones(1, len(y), dtype=torch.double)
    weights = torch.cat([once, times[:, number]])                       # (1 + DRAWS, pairs)
    coefficients = fit_logistic(torch.tanh(d / d.std()), y, weights)    # (1 + DRAWS, 2)
    rates = torch.sigmoid(coefficients[:, 0])                           # (1 + DRAWS)
    return {"rate": rates[0].item(), "ci95": interval(rates[1:]), "pairs": len(known)}


def fit_logistic(x, y, weights):
    """(a, b) of logit P(y = 1) = a + b x for each row of weights (F, pairs): (F, 2).

    Newton's method minimises the weighted log-loss + RIDGE / 2 (a² + b²). x, y (pairs); y may be ½.
    """
    X = torch.stack([torch.ones_like(x), x], dim=1)                     # (pairs, 2)
    products = (X[:, :, None] * X[:, None, :]).flatten(1)               # (pairs, 4)
    ridge = RIDGE * torch.eye(2, dtype=x.dtype)                         # (2, 2)
    coefficients = x.new_zeros(len(weights), 2)                         # (F, 2)
    for _ in range(100):
        p = torch.sigmoid(coefficients @ X.T)                           # (F, pairs)
        gradient = (weights * (p - y)) @ X + RIDGE * coefficients       # (F, 2)
        curvature = (weights * p * (1 - p)) @ products                  # (F, 4)
        curvature = curvature.view(-1, 2, 2) + ridge                    # (F, 2, 2)
        step = torch.linalg.solve(curvature, gradient).clamp(-2, 2)     # (F, 2), not to overshoot
        coefficients = coefficients - step
        if step.abs().max() < 1e-9:
            break
    return coefficients
