"""Tables in Markdown: what the experiments, the race of lesson 7 and docs/ show."""
from statistics import fmean, stdev


def table(head, rows):
    """Rows of cells, any objects, under their heads."""
    lines = [head, *rows]
    text = ["| " + " | ".join(map(str, cells)) + " |" for cells in lines]
    return "\n".join([text[0], "|" + "---|" * len(head), *text[1:]])


def spread(values, digits=2, percent=False):
    """Mean ± standard deviation; of shares as percentages, if asked for."""
    values = [100 * value if percent else value for value in values]
    deviation = stdev(values) if len(values) > 1 else 0.0
    mean = round(fmean(values), digits) + 0.0                   # + 0.0: no "-0.00"
    return f"{mean:.{digits}f}{'%' * percent} ± {deviation:.{digits}f}"
