"""From lists of token ids to padded tensors. Masks come from lengths, never from comparing ids."""
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
    """A batch in parts of at most `size` examples (0: in one), each with its share of the whole batch's weight, that of
    all processes.

    A loss is a mean over tokens or pairs. Its gradient is the sum of the parts' gradients only if each part
    counts by how many of them it has, weight(part); a plain mean over parts would favour short texts.
    """
    whole = total(weight(batch))
    for part in alike(batch, size) if size else [batch]:
        yield part, weight(part) / whole


def alike(batch, size):
    """Parts of at most `size` examples of like length. A part is padded to its own longest text, so of real dialogues,
    which have from ten to a thousand tokens, this leaves half of the padding or less."""
    if isinstance(batch, list):
        batch = sorted(batch, key=longest)
        return [batch[i:i + size] for i in range(0, len(batch), size)]
    return [trimmed(batch[rows]) for rows in batch.mask.sum(1).argsort(stable=True).split(size)]


def longest(example):
    """Tokens of the longest text of (prompt ids, completion ids) or (prompt ids, [completion ids, …])."""
    prompt, rest = example
    return len(prompt) + max((len(text) for text in rest if isinstance(text, list)), default=len(rest))


def trimmed(experience):
    """The rows of a rollout (see ppo.py) without the columns that are padding in all of them."""
    P = experience.ids.shape[1] - experience.response_mask.shape[1]
    R = experience.response_mask.sum(1).max()                   # actions of the longest response
    seen = slice(first_token(experience.mask), P + R)
    return replace(experience, **{name: value[:, seen] if name in ("ids", "mask") else value[:, :R]
                                  for name, value in vars(experience).items() if value.ndim == 2})


def row_parts(ids, mask, size):
    """Rows (B, T) in parts of at most `size` (0: in one), without the columns on the left that are all padding."""
    for part, real in zip(ids.split(size or len(ids)), mask.split(size or len(ids))):
        first = first_token(real)
        yield part[:, first:], real[:, first:]


def first_token(mask):
    """The first column of mask (B, T) in which a row has a token."""
    return mask.any(0).int().argmax()
