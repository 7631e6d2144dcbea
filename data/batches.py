"""From lists of token ids to padded tensors. Masks come from lengths, never from comparing ids."""
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
    for i in range(0, len(batch), size or len(batch)):
        part = batch[i:i + (size or len(batch))]
        yield part, weight(part) / whole
