"""From verdicts to rates with intervals. A verdict on a pair is 1 if our response is better, 0 if
theirs is, ½ for a tie, and None if there is none."""
import torch

DRAWS = 2000            # bootstrap samples


def by_scores(ours, theirs):
    """The verdict on each pair of Responses, by their scores. The same text is a tie whatever the
    scores say: a reward model's depend a little on the batch it was read in."""
    return [0.5 if a.score == b.score or a.text == b.text else float(a.score > b.score)
            for a, b in zip(ours, theirs)]


def draw_prompts(count, seed=0):
    """The bootstrap samples: indices of `count` prompts drawn with replacement, (DRAWS, count)."""
    return torch.randint(count, (DRAWS, count), generator=torch.Generator().manual_seed(seed))


def interval(values):
    """What the middle 95% of the bootstrap's values (DRAWS) lie between, [low, high]."""
    return torch.quantile(values, torch.tensor([0.025, 0.975], dtype=values.dtype)).tolist()


def rate(responses, points):
    """The mean of the points (one for each Response, None is left out), its 95% interval, and how
    many they are. The interval is from bootstrap samples of the prompts: several responses to one
    prompt stay together."""
    by_prompt = {}
    for response, point in zip(responses, points):
        if point is not None:
            by_prompt.setdefault(response.prompt, []).append(point)
    if not by_prompt:
        return {"rate": None, "ci95": None, "pairs": 0}
    sums = torch.tensor([float(sum(group)) for group in by_prompt.values()])    # (prompts)
    counts = torch.tensor([float(len(group)) for group in by_prompt.values()])  # (prompts)
    draws = draw_prompts(len(sums))                                             # (DRAWS, prompts)
    rates = sums[draws].sum(1) / counts[draws].sum(1)                           # (DRAWS)
    pairs = sum(map(len, by_prompt.values()))
    mean = sum(map(sum, by_prompt.values())) / pairs
    return {"rate": mean, "ci95": interval(rates), "pairs": pairs}


def win_rate(ours, theirs, verdicts=None):
    """Two lists of Responses to the same prompts: shares of wins, ties and losses, and the rate
    win + tie/2 as in `rate`. Without the verdicts of a judge the scores decide. Pairs without a
    verdict are left out."""
    verdicts = by_scores(ours, theirs) if verdicts is None else verdicts
    known = [verdict for verdict in verdicts if verdict is not None]
    shares = {name: known.count(verdict) / len(known) if known else None
              for name, verdict in (("win", 1), ("tie", 0.5), ("loss", 0))}
    return {**shares, **rate(ours, verdicts)}


def siblings(responses):
    """(ours, theirs): each Response and the next one, if that is to the same prompt."""
    pairs = [(a, b) for a, b in zip(responses, responses[1:]) if a.prompt == b.prompt]
    return [a for a, _ in pairs], [b for _, b in pairs]


def agreement(ours, theirs, verdicts):
    """How often reward model and judge prefer the same one of two responses to a prompt, of the
    pairs that both order; as in `rate`. Where they differ, PPO learns to please the reward model
    and nobody else."""
    alike = []
    for a, b, verdict in zip(ours, theirs, verdicts):
        unordered = verdict in (0.5, None) or a.proxy == b.proxy or a.text == b.text
        alike.append(None if unordered else float((a.proxy > b.proxy) == (verdict == 1)))
    return rate(ours, alike)


def percent(row):
    """The rate of a row and its interval as text."""
    if row["rate"] is None:
        return "-"
    low, high = row["ci95"]
    return f"{row['rate']:.1%}  [{low:.1%}, {high:.1%}]"
