"""Pictures of tokens: the one kind of plot that matplotlib does not have.

`tokens` draws lines of text with a number for each token, `table` a grid with one row for each token,
`experience` the grid of one answer of a rollout.
"""
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.colors import Normalize
from matplotlib.patches import Rectangle

plt.style.use(Path(__file__).parent / "lessons.mplstyle")


def pieces(tokenizer, ids):
    """The text of each token, with line breaks drawn as ↵."""
    return [tokenizer.encoding.decode([i]).replace("\n", "↵") for i in ids]


def tokens(rows, values, note="{:.1f}", low=None, high=None, width=100, title=""):
    """Lines of tokens in boxes, shaded by a value each, the value written below.

    rows: lists of strings; values: lists of numbers, None for a token that has none (it stays white).
    A row longer than `width` characters goes on in the next line.
    """
    flat = [value for row in values for value in row if value is not None]
    shade = Normalize(min(flat) if low is None else low, max(flat) if high is None else high)
    boxes, line = [], -1
    for row, numbers in zip(rows, values):
        line, x = line + 1, 0.0
        for piece, value in zip(row, numbers):
            size = max(len(piece.strip()), 3) + 1.5
            if x + size > width:
                line, x = line + 1, 4.0
            boxes.append((x, line, size, piece.strip() or piece, value))
            x += size
    _, ax = plt.subplots(figsize=(width / 9, 0.6 * (line + 1) + (0.35 if title else 0.05)))
    for x, y, size, piece, value in boxes:
        colour = "white" if value is None else plt.cm.YlOrBr(0.55 * min(max(shade(value), 0.0), 1.0))
        ax.add_patch(Rectangle((x, y), size, 0.88, facecolor=colour, edgecolor="0.6"))
        ax.text(x + size / 2, y + (0.44 if value is None or not note else 0.3), piece, ha="center", va="center", fontsize=9)
        if value is not None and note:
            ax.text(x + size / 2, y + 0.67, note.format(value), ha="center", va="center", fontsize=7.5)
    ax.set(xlim=(-0.5, width + 0.5), ylim=(line + 1, -0.05), title=title)
    ax.axis("off")
    plt.show()


def table(row_names, columns, title=""):
    """Numbers in a grid, one row a token, one column a quantity, {name: numbers}; each column is shaded on
    its own scale, blue for below 0 and orange for above, the darker the further away."""
    rows, names = len(row_names), list(columns)
    _, ax = plt.subplots(figsize=(1.15 * len(names) + 1.9, 0.3 * rows + 0.75))
    for j, name in enumerate(names):
        largest = max(max(abs(float(value)) for value in columns[name]), 1e-9)
        for i, value in enumerate(columns[name]):
            strength = 0.6 * abs(float(value)) / largest
            colour = (plt.cm.Oranges if value > 0 else plt.cm.Blues)(strength) if abs(value) > 5e-4 else "white"
            ax.add_patch(Rectangle((j, i), 1, 1, facecolor=colour, edgecolor="0.85"))
            ax.text(j + 0.5, i + 0.53, f"{float(value):.3f}".replace("-0.000", "0.000"), ha="center", va="center", fontsize=9)
        ax.text(j + 0.5, -0.25, name, ha="center", va="bottom", fontsize=9)
    for i, name in enumerate(row_names):
        ax.text(-0.1, i + 0.53, name.strip() or name, ha="right", va="center", fontsize=9)
    ax.set(xlim=(-1.6, len(names)), ylim=(rows, -1.1), title=title)
    ax.axis("off")
    plt.show()


def experience(tokenizer, e, row, advantages):
    """The table of one answer of the Experience `e`: all numbers of its actions, and the (B, R)
    `advantages` before they were whitened."""
    actions = e.response_mask.sum(1)[row].item()
    start = e.ids.shape[1] - e.response_mask.shape[1]                   # of the answer, after the padded prompt
    columns = {"log π": e.logprobs, "log π ref": e.ref_logprobs, "KL": e.logprobs - e.ref_logprobs, "reward": e.rewards,
               "value": e.values, "A (GAE)": advantages, "A whitened": e.advantages, "return": e.returns}
    question = tokenizer.decode(e.ids[row, :start][e.mask[row, :start]].tolist())
    table(pieces(tokenizer, e.ids[row, start:start + actions].tolist()),
          {name: column[row, :actions].tolist() for name, column in columns.items()}, title=question.strip().split("\n")[0])
