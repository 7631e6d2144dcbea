"""Does the reward model order responses as the judge does? Where it does not, PPO learns to please
it and nobody else.

The two are compared on two responses to the same prompt: both of the SFT model, whose responses the
reward model has learned to tell apart; one of PPO and one of SFT; both of PPO, where the policy has
gone and no comparison was made. With the reward model of another seed as the judge, it says how far
two reward models agree.
"""
from judges.win_rate import rate


def siblings(responses):
    """(ours, theirs): each Response and the next one, if that is to the same prompt."""
    pairs = [(a, b) for a, b in zip(responses, responses[1:]) if a.prompt == b.prompt]
    return [a for a, _ in pairs], [b for _, b in pairs]


def agreement(ours, theirs, verdicts):
    """Share of the pairs that reward model and judge order alike, of those that both order; see
    win_rate.rate."""
    alike = []
    for a, b, verdict in zip(ours, theirs, verdicts):
        unordered = verdict in (0.5, None) or a.proxy == b.proxy or a.text == b.text
        alike.append(None if unordered else float((a.proxy > b.proxy) == (verdict == 1)))
    return rate(ours, alike)
