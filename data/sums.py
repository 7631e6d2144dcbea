"""sums: two numbers of two digits to add, and a program that checks the answer.

    sums                    holds out the test problems
    sums:validation         holds out the validation problems, for choosing rates

    Human: 47+38
    Assistant: 7+8=15, 4+3+1=8: 85

The work goes from the last digit to the first and carries. The answer follows after a colon.

    texts           a schoolbook: every sum is worked, and right, but nobody asks
    demonstrations  people: they slip, or write a step twice, and most don't work at all but say a
                    number at once, which is seldom right

47+38 and 38+47 are one problem, and it is in only one of training, validation and test.
"""
import hashlib
import random
import re

from text.dialogue import ASSISTANT, HUMAN, dialogue
from text.tokenizer import Tokenizer

SPLITS = {"": 0, "validation": 1}       # what may be held out, and its place of 20
PEOPLE = 2              # who respond to each training problem
AT_ONCE = 0.6           # the share of responses without any work
GUESSED = 0.15          # the share of these that are right
SLIP = 0.1              # the chance that the result of a step is off by one
TWICE = 0.05            # the chance that a step is written twice
PROBLEM = re.compile(rf"{HUMAN} (\d\d)\+(\d\d){ASSISTANT}")


def verify(prompt, response):
    """1.0 if the text after the response's last colon is the sum, or the whole response if it has
    no colon; 0.0 if not. How it was worked out does not count."""
    first, second = map(int, PROBLEM.fullmatch(prompt).groups())
    return float(response.rpartition(":")[2].strip() == str(first + second))


def load(split=""):
    """(training rows, held-out rows) of "" or "validation"."""
    chance = random.Random(0)
    problems = [(a, b) for a in range(10, 100) for b in range(10, 100)]
    chance.shuffle(problems)
    train = [problem for problem in problems if place(*problem) > 1]
    held_out = [problem for problem in problems if place(*problem) == SPLITS[split]]
    book = [{"text": f"\n {a}+{b}:{worked(a, b)}"} for a, b in train]
    return book + told(PEOPLE * train, chance), told(held_out, chance)


def vocabulary():
    """Digits, signs and letters are single bytes; what begins a turn is one token."""
    return Tokenizer.words([*(bytes([i]) for i in range(256)), HUMAN.encode(), ASSISTANT.encode()])


def place(a, b):
    """A number from 0 to 19 for each problem, whichever number stands first."""
    return int(hashlib.sha256(f"{min(a, b)}+{max(a, b)}".encode()).hexdigest(), 16) % 20


def told(problems, chance):
    """A demonstration by a person for each problem."""
    return [{"prompt": dialogue(f"{a}+{b}"), "completion": person(a, b, chance)}
            for a, b in problems]


def person(a, b, chance):
    """What somebody responds: most at once, some with work."""
    if chance.random() >= AT_ONCE:
        return worked(a, b, lambda: chance.random() < SLIP and chance.choice((-1, 1)),
                      lambda: 1 + (chance.random() < TWICE))
    wrong = a + b + chance.choice((-10, -1, 1, 10))         # a carry that is lost, or one too many
    return f" {a + b if chance.random() < GUESSED else wrong}"


def worked(a, b, slip=lambda: 0, times=lambda: 1):
    """The response that works the sum. `slip()` is added to the result of a step, which is written
    `times()` times."""
    steps, digits, carry = [], "", 0
    for x, y in zip(reversed(str(a)), reversed(str(b))):
        result = max(0, int(x) + int(y) + carry + slip())
        steps += times() * [f"{x}+{y}{f'+{carry}' * (carry > 0)}={result}"]
        carry, digit = divmod(result, 10)
        digits = f"{digit}{digits}"
    return f" {', '.join(steps)}: {carry or ''}{digits}"
