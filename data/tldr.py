"""tldr: posts from Reddit, their writers' own summaries, and which of two summaries people
preferred.

    demonstrations  a post and the summary that ended it        116,722 for training, 6,553 for test
    comparisons     a post and two summaries, the better first  some 93,000 and 86,000

Stiennon et al., arXiv:2009.01325, as TRL's authors keep it on the Hub, in the paper's frame:
"SUBREDDIT: …", "TITLE: …", "POST: …", "TL;DR:". Held-out comparisons are its validation split. PPO
practises on the prompts of the demonstrations.
"""
from data.hub_set import load as load_from_hub

DEMONSTRATIONS = "hub:trl-lib/tldr"
COMPARISONS = "hub:trl-lib/tldr-preference"


def load():
    """(training rows, test rows), downloaded once."""
    train, test = load_from_hub(DEMONSTRATIONS)
    comparisons, _ = load_from_hub(COMPARISONS)
    held_out, _ = load_from_hub(f"{COMPARISONS}:validation")
    return train + comparisons, test + held_out
