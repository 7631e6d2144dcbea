"""From lists of token ids to batches: padded tensors, and their parts."""
from dataclasses import replace
from functools import lru_cache

import torch

from support import UserError
from support.distributed import own_rows


def encode_prompts(prompts, tokenizer, block_size, max_new_tokens, max_prompt_tokens=0):
    """Ids of prompts (str), cut from the left so that `max_new_tokens` more fit into block_size
    positions, and to max_prompt_tokens if that is given. Raises UserError if there is no room for
    a prompt."""
    room = min(block_size - max_new_tokens, max_prompt_tokens or block_size)
    if room < 1:
        raise UserError(f"--max_new_tokens {max_new_tokens} leaves no room for a prompt in the "
                        f"model's {block_size} positions")
    return [tokenizer.encode(prompt)[-room:] for prompt in prompts]


def pad(rows, left=False, device=None):
    """Lists of ids -> ids (B, T), mask (B, T), True where a row has a token. A mask comes from
    lengths and never from comparing ids: pads hold 0, which is a token, too."""
    width = max(map(len, rows))
    ids = torch.zeros(len(rows), width, dtype=torch.long)       # (B, T)
    mask = torch.zeros(len(rows), width, dtype=torch.bool)      # (B, T)
    for i, row in enumerate(rows):
        where = slice(width - len(row), width) if left else slice(len(row))
        ids[i, where] = torch.tensor(row, dtype=torch.long)
        mask[i, where] = True
    return ids.to(device), mask.to(device)


def batch_at(rows, size, step, seed):
    """The step-th batch of an endless walk through `rows`, reshuffled every epoch; it may end one
    epoch and begin the next. It depends only on (step, seed), so a resumed run finds its place."""
    walk = [divmod(place, len(rows)) for place in range(step * size, (step + 1) * size)]
    return [rows[shuffled(len(rows), seed + 1_000_003 * epoch)[i]] for epoch, i in walk]


@lru_cache(maxsize=1)       # a million rows take 0.1 s, too long for every step
def shuffled(count, seed):
    """The numbers below `count` in a random order."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))     # (count)

# ---------- parts of a batch

def micro_batches(batch, size, weight):
    """This process's rows of a batch, in parts of at most `size` rows (0: in one), each with its
    share of the whole batch's weight. The batch is a list of examples or an Experience (ppo.py).

    A loss is a mean over tokens or pairs, so a part counts by how many of them it has,
    weight(part). A plain mean over parts would favour short texts.
    """
    whole, batch = weight(batch), own_rows(batch)
    split = alike if isinstance(batch, list) else rows_alike
    for part in split(batch, size) if size else [batch]:
        yield part, weight(part) / whole


def alike(examples, size):
    """Parts of at most `size` examples of like length, each padded only to its own longest."""
    examples = sorted(examples, key=longest)
    return [examples[i:i + size] for i in range(0, len(examples), size)]


def longest(example):
    """Tokens of an example's longest text; it has one list of completion ids, or a list of them."""
    prompt, rest = example
    completions = rest if isinstance(rest[0], list) else [rest]
    return len(prompt) + max(map(len, completions))


def rows_alike(experience, size):
    """The same of an Experience, without the columns that are padding in all rows of a part."""
    for rows in experience.mask.sum(1).argsort(stable=True).split(size):
        part = experience[rows]
        R = part.response_mask.sum(1).max().item()              # the longest response
        seen = slice(first_token(part.mask), part.P + R)
        yield replace(part, **{
            name: value[:, seen] if name in ("ids", "mask") else value[:, :R]
            for name, value in vars(part).items() if value.ndim == 2})


def row_parts(ids, mask, size):
    """Rows (B, T) in parts of at most `size` (0: in one), without the columns on the left that are
    padding in all rows of a part."""
    size = size or len(ids)
    for part, real in zip(ids.split(size), mask.split(size)):
        first = first_token(real)
        yield part[:, first:], real[:, first:]                  # 2 x (rows, T)


def first_token(mask):
    """The first column of mask (B, T) in which a row has a token."""
    return mask.any(0).int().argmax().item()
