"""Who agrees with people about sentences that nobody learned from: the table of docs/reviews.md.

    python experiments/reviews.py                           a bag of words, VADER, one person
    python experiments/reviews.py out/reviews/reward …      and the reward models in these folders

The bag of words is Bradley-Terry with one weight a word, fitted to the comparisons that reward.py
learns from: the least that a reward model should beat. How strongly its weights are held near 0 is
chosen by the comparisons of the other half.
"""
import re
import sys
from collections import Counter
from itertools import chain, combinations

import torch

from runs import table      # first: it puts the scripts on the path

import data
from gpt import ScalarGPT
from reward import pairwise_loss
from text.batches import pad
from text.tokenizer import Tokenizer

WORD = re.compile(r"[a-z']+|[0-9]+|[^\sa-z0-9']")
PENALTIES = 1e-5, 3e-5, 1e-4, 3e-4, 1e-3
STEPS = 200


def bag(text):
    """The different words of a text, without capitals."""
    return set(WORD.findall(text.lower()))


def pairs_of(comparisons):
    """(better, worse) of all pairs in (prompt, ranking) comparisons."""
    return [pair for _, ranking in comparisons for pair in combinations(ranking, 2)]


def agreement(score, pairs):
    """The share of pairs whose better text has the higher score(text), ties half."""
    of = {text: score(text) for text in set(chain(*pairs))}
    return sum((of[a] > of[b]) + (of[a] == of[b]) / 2 for a, b in pairs) / len(pairs)


def fit_words(pairs, penalty):
    """A function from a text to its score, the sum of its words' weights. The weights make the
    pairs most probable, less `penalty` times the sum of their squares. A word that is in one text
    has none."""
    texts = {text: i for i, text in enumerate(dict.fromkeys(chain(*pairs)))}
    counts = Counter(word for text in texts for word in bag(text))
    known = {word: i for i, word in enumerate(word for word in counts if counts[word] > 1)}
    rows, columns = torch.tensor([(texts[text], known[word]) for text in texts
                                  for word in sorted(bag(text)) if word in known]).T  # 2 x (words)
    better, worse = torch.tensor([(texts[a], texts[b]) for a, b in pairs]).T        # 2 x (pairs)
    weights = torch.zeros(len(known), requires_grad=True)                           # (known)
    optimizer = torch.optim.Adam([weights], lr=0.05)
    for _ in range(STEPS):
        scores = torch.zeros(len(texts)).index_add(0, rows, weights[columns])       # (texts)
        loss = pairwise_loss(scores[better], scores[worse]) + penalty * (weights ** 2).sum()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    weight = dict(zip(known, weights.tolist()))
    return lambda text: sum(weight.get(word, 0.0) for word in bag(text))


def bag_of_words(train, others):
    """`fit_words` of the pairs `train`, with the penalty that suits the pairs `others` best."""
    fitted = [fit_words(train, penalty) for penalty in PENALTIES]
    shares = [agreement(score, others) for score in fitted]
    best = shares.index(max(shares))
    print(f"bag of words: penalty {PENALTIES[best]:g} of {PENALTIES}, by the other half's pairs")
    return fitted[best]


def lexicon():
    """VADER's function from a text to a score, or None where it is not installed."""
    try:
        from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer
    except ImportError:
        return None
    rules = SentimentIntensityAnalyzer()
    return lambda text: rules.polarity_scores(text)["compound"]


def reward_model(folder):
    """A reward model's function from a text to a score."""
    tokenizer, model = Tokenizer.load(folder), ScalarGPT.from_pretrained(folder, frozen=True)
    with torch.no_grad():
        return lambda text: model.reward(*pad([tokenizer.encode("", text)[1]])).item()


def main(folders):
    train, test = data.load("reviews")
    others, _ = data.load("reviews:others")
    by_mean, single = pairs_of(test.comparisons), pairs_of(test.noisy)
    words = bag_of_words(pairs_of(train.comparisons), pairs_of(others.comparisons))
    scores = {"bag of words": words, "VADER's lexicon": lexicon(),
              **{folder: reward_model(folder) for folder in folders}}
    rows = [[name, f"{agreement(score, by_mean):.1%}", f"{agreement(score, single):.1%}"]
            for name, score in scores.items() if score]
    rows.append(["the mean of all other people", "", f"{test.ceiling:.1%}"])
    print(table(["", "means apart by 0.3", "single people"], rows))


if __name__ == "__main__":
    main(sys.argv[1:])
