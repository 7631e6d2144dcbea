"""Who wins at which length? Judges like long responses, and policies find that out."""
from judges.win_rate import rate

# Bins of the difference in tokens, both ends included; an end of None is infinity.
LONGER = ((1, 2), (3, 5), (6, 10), (11, 20), (21, 50), (51, None))
SHORTER = tuple((last and -last, -first) for first, last in reversed(LONGER))
BINS = (*SHORTER, (0, 0), *LONGER)


def by_length(ours, theirs, verdicts):
    """A row for each bin: where it begins and ends, and the rate of its pairs as in
    win_rate.rate."""
    differences = [a.length - b.length for a, b in zip(ours, theirs)]
    rows = []
    for first, last in BINS:
        inside = [(first is None or first <= d) and (last is None or d <= last)
                  for d in differences]
        points = [verdict if there else None for verdict, there in zip(verdicts, inside)]
        rows.append({"first": first, "last": last, **rate(ours, points)})
    return rows
