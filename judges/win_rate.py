"""From verdicts to rates with intervals. A verdict on a pair is 1 if our response is better, 0 if
theirs is, ½ for a tie, and None if there is none."""
import math

Z = 1.96                # 95% of a normal distribution lie within so many standard deviations


def by_scores(ours, theirs):
    """The verdict on each pair of Responses, by their scores. Equal texts are a tie, whatever
    their scores: those of a reward model depend a little on the batch."""
    return [0.5 if a.score == b.score or a.text == b.text else float(a.score > b.score)
            for a, b in zip(ours, theirs)]


def design_effect(residuals):
    """How many times larger the variance of a rate is because a prompt's pairs are alike (Kish,
    Survey Sampling, 1965). Residuals: for each prompt those of its pairs, verdict - rate.

        Σ over prompts (Σ residuals)² / Σ residuals²

    is 1 if a prompt's pairs are independent, and m, their number, if they are all alike. Near a
    rate of 0 or 1 there are few residuals, which say little about the effect. So one residual of 1
    with the effect m is added. If all verdicts are equal, a prompt counts once.
    """
    sizes = [len(group) for group in residuals]
    m = sum(size ** 2 for size in sizes) / sum(sizes)       # of a pair's prompt, on average
    together = sum(sum(group) ** 2 for group in residuals)
    apart = sum(residual ** 2 for group in residuals for residual in group)
    return (together + m) / (apart + 1)


def wilson(share, n):
    """Wilson's 95% interval (J. Am. Stat. Assoc. 22, 1927) of a share of n independent cases: as
    (low, high), all shares p with |share - p| ≤ 1.96 √(p (1 - p) / n)."""
    k = Z ** 2 / n
    half = math.sqrt(k * share * (1 - share) + k ** 2 / 4)
    return (share + k / 2 - half) / (1 + k), (share + k / 2 + half) / (1 + k)


def interval(wins, losses, n):
    """The 95% interval, [low, high], of the rate ½ + (wins - losses) / 2, from the shares of wins
    and losses in n independent pairs.

    It ends as far from the rate as the intervals of the two shares, a and b, combined:
    ½ √(a² + b² + 2 r a b), r = -(correlation of the two shares) (Newcombe, Statistics in Medicine
    17, 1998; Zou, Psychological Methods 12, 2007). Without ties r = 1: Wilson's interval.
    """
    ties, rate = 1 - wins - losses, 0.5 + (wins - losses) / 2
    r = math.sqrt(wins * losses / ((1 - wins) * (1 - losses))) if ties > 1e-9 else 1
    (win_low, win_high), (loss_low, loss_high) = wilson(wins, n), wilson(losses, n)

    def reach(a, b):
        return math.sqrt(a ** 2 + b ** 2 + 2 * r * a * b) / 2

    return [max(0.0, rate - reach(wins - win_low, loss_high - losses)),
            min(1.0, rate + reach(win_high - wins, losses - loss_low))]


def rate(responses, points):
    """The mean of the points (1, ½ or 0 for each Response, without any None), its 95% interval, and
    their number. For the interval, several responses to one prompt count as fewer, by their
    `design_effect`."""
    by_prompt = {}
    for response, point in zip(responses, points):
        if point is not None:
            by_prompt.setdefault(response.prompt, []).append(point)
    known = [point for group in by_prompt.values() for point in group]
    if not known:
        return {"rate": None, "ci95": None, "pairs": 0}
    pairs = len(known)
    mean = sum(known) / pairs
    n = pairs / design_effect([[point - mean for point in group] for group in by_prompt.values()])
    ci95 = interval(known.count(1) / pairs, known.count(0) / pairs, n)
    return {"rate": mean, "ci95": ci95, "pairs": pairs}


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
    pairs that both order, as in `rate`. Where they differ, PPO learns to please only the reward
    model."""
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
