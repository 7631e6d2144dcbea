"""The test split of a data set that has none."""
import hashlib

from support import UserError
from text.dialogue import ASSISTANT

TEST_SHARE = 0.05                   # of the prompts of a data set that has no test split of its own


def split(rows, name):
    """(training rows, test rows): all dialogues that begin alike go to one side, chosen by hash, so
    the split never changes. Pages are split apart from them."""
    pages = in_two([row for row in rows if "text" in row], lambda row: row["text"])
    dialogues = in_two([row for row in rows if "text" not in row], first_turn)
    train, test = (sum(side, []) for side in zip(pages, dialogues))
    if not test:
        raise UserError(f"{name}: 1 different prompt; training and test need at least one each")
    return train, test


def in_two(rows, key):
    """(rows, held-out rows); none of the latter if there is but one key."""
    keys = sorted({key(row) for row in rows},
                  key=lambda one: hashlib.sha256(one.encode()).digest())
    held_out = set(keys[:max(1, int(TEST_SHARE * len(keys)))] if len(keys) > 1 else [])
    return ([row for row in rows if key(row) not in held_out],
            [row for row in rows if key(row) in held_out])


def first_turn(row):
    """The prompt of a row as far as its first question goes."""
    question, assistant, _ = row["prompt"].partition(ASSISTANT)
    return question + assistant
