"""Batches: which rows, padded to tensors, and in parts. Masks come from lengths, never from comparing ids."""
from dataclasses import replace

import torch

from support.distributed import total


def pad(rows, left=False, device=None):
    """Lists of ids -> ids (B, T), mask (B, T), True where a row has a token. Pads hold id 0 and mean nothing."""
    width = max(map(len, rows))
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros(len(rows), width, dtype=torch.bool)
    for i, row in enumerate(rows):
        where = slice(width - len(row), width) if left else slice(len(row))
        ids[i, where] = torch.tensor(row, dtype=torch.long)
        mask[i, where] = True
    return ids.to(device), mask.to(device)


def minibatch(rows, size, step, seed):
    """The step-th batch of an endless walk through `rows`, reshuffled every epoch. A batch may end one epoch and begin
    the next. A function of (step, seed) alone, so a resumed run needs no position to find its place.
    """
    first, last = step * size, (step + 1) * size - 1            # positions in the walk
    orders = []
    for epoch in range(first // len(rows), last // len(rows) + 1):
        generator = torch.Generator().manual_seed(seed + 1_000_003 * epoch)
        orders.append(torch.randperm(len(rows), generator=generator))
    start = first % len(rows)
    return [rows[i] for i in torch.cat(orders)[start:start + size].tolist()]


def micro_batches(batch, size, weight):
    """A batch, a list of examples or a rollout, in parts of at most `size` (0: in one), each with its share of the
    whole batch's weight, that of all processes.

    A loss is a mean over tokens or pairs. Its gradient is the sum of the parts' gradients only if each part
    counts by how many of them it has, weight(part); a plain mean over parts would favour short texts.
    """
    whole = total(weight(batch))
    parts = [batch] if not size else alike(batch, size) if isinstance(batch, list) else rows_alike(batch, size)
    for part in parts:
        yield part, weight(part) / whole


def alike(examples, size):
    """Parts of at most `size` examples of like length: each is padded to its own longest text, and the lengths of real
    dialogues differ a hundredfold."""
    examples = sorted(examples, key=longest)
    return [examples[i:i + size] for i in range(0, len(examples), size)]


def longest(example):
    """Tokens of the longest text of (prompt ids, completion ids) or (prompt ids, [completion ids, …])."""
    prompt, rest = example
    completions = rest if isinstance(rest[0], list) else [rest]
    return len(prompt) + max(map(len, completions))


def rows_alike(experience, size):
    """The same of a rollout (see ppo.py), without the columns that are padding in all rows of a part."""
    for rows in experience.mask.sum(1).argsort(stable=True).split(size):
        part = experience[rows]
        R = part.response_mask.shape[1]
        P, longest_response = part.ids.shape[1] - R, part.response_mask.sum(1).max().item()
        seen = slice(first_token(part.mask), P + longest_response)
        yield replace(part, **{name: value[:, seen] if name in ("ids", "mask") else value[:, :longest_response]
                               for name, value in vars(part).items() if value.ndim == 2})


def row_parts(ids, mask, size):
    """Rows (B, T) in parts of at most `size` (0: in one), without the columns on the left that are all padding."""
    size = size or len(ids)
    for part, real in zip(ids.split(size), mask.split(size)):
        first = first_token(real)
        yield part[:, first:], real[:, first:]


def first_token(mask):
    """The first column of mask (B, T) in which a row has a token."""
    return mask.any(0).int().argmax().item()
