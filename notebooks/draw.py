"""The pictures that matplotlib does not have. All are vector graphics, and signed numbers have one
scale of colours: blue below 0, white at 0, orange above.

`pipeline` draws the four models and lights those of a lesson, `tokens` lines of text with a number
for each token, `grid` a table with coloured cells, `experience` the grid of one response of a
rollout, `strips` the grids of several responses.
"""
import warnings
from itertools import product
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.patches import Rectangle
from matplotlib_inline.backend_inline import set_matplotlib_formats

plt.style.use(Path(__file__).parent / "lessons.mplstyle")
set_matplotlib_formats("svg", dpi=200, metadata={"Date": None})     # the same file every time
# matplotlib warns of a legend that takes a second to place. On a busy machine any of them may.
warnings.filterwarnings("ignore", message="Creating legend")
SIGNED = LinearSegmentedColormap.from_list("signed", ["#5b8fd0", "white", "#f0a04b"])   # pale


def pieces(tokenizer, ids):
    """The text of each token, with line breaks drawn as ↵."""
    return [tokenizer.encoding.decode([i]).replace("\n", "↵") for i in ids]


def pipeline(lesson):
    """The whole of RLHF: which model starts from which, what it learns from, and which of them this
    lesson is about."""
    boxes = {"base": (0, 1.5, "base\nreads pages", "12"),
             "sft": (2.6, 1.5, "SFT\nimitates answers", "12"),
             "rm": (5.2, 0.5, "reward model\nlearns from comparisons", "136"),
             "actor": (8.2, 3, "actor: answers\ntrained", "1456789"),
             "ref": (8.2, 2, "reference: holds it back\nfrozen", "15678"),
             "critic": (8.2, 1, "critic: foresees the score\ntrained", "1589"),
             "judge": (8.2, 0, "reward model: scores\nfrozen", "15678")}
    _, ax = plt.subplots(figsize=(9.5, 2.6))
    for x, y, text, lessons in boxes.values():
        colour = "#fbd9b0" if str(lesson) in lessons else "0.96"
        ax.add_patch(Rectangle((x, y), 2.1, 0.75, facecolor=colour, edgecolor="0.4"))
        ax.text(x + 1.05, y + 0.375, text, ha="center", va="center", fontsize=8)
    for a, b in (("base", "sft"), ("sft", "rm"), ("sft", "actor"), ("sft", "ref"), ("rm", "critic"),
                 ("rm", "judge")):
        (x, y, *_), (to_x, to_y, *_) = boxes[a], boxes[b]
        ax.annotate("", (to_x, to_y + 0.375), (x + 2.1, y + 0.375),
                    arrowprops={"arrowstyle": "->", "color": "0.4"})
    for x, text in ((0, "lesson 1: what is in every box"), (2.6, "lesson 2"), (5.2, "lesson 3"),
                    (8.2, "lessons 4 and 5: PPO")):
        ax.text(x, 3.95, text, fontsize=8, color="0.35")
    ax.set(xlim=(-0.05, 10.4), ylim=(-0.1, 4.2))
    ax.axis("off")
    plt.show()


def tokens(rows, values, note="{:.1f}", largest=None, width=100, title=""):
    """Lines of tokens in boxes, coloured by a value each, the value written below.

    rows: lists of strings; values: lists of numbers, None for a token that has none (it stays
    white); the colour is full at `largest`, by default the largest there is. A row longer than
    `width` characters goes on in the next line.
    """
    largest = largest or max(abs(x) for row in values for x in row if x is not None)
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
        colour = "white" if value is None else SIGNED(0.5 + 0.5 * max(min(value / largest, 1), -1))
        ax.add_patch(Rectangle((x, y), size, 0.88, facecolor=colour, edgecolor="0.6"))
        centre = {"ha": "center", "va": "center"}
        ax.text(x + size / 2, y + (0.44 if value is None else 0.3), piece, fontsize=9, **centre)
        if value is not None:
            ax.text(x + size / 2, y + 0.67, note.format(value), fontsize=7.5, **centre)
    ax.set(xlim=(-0.5, width + 0.5), ylim=(line + 1, -0.05), title=title)
    ax.axis("off")
    plt.show()


def grid(values, rows, columns, note="{:.2f}", least=0.0, largest=None, title="", ax=None):
    """A table of numbers (rows, columns) with coloured cells, all on one scale: the colour is full
    at `largest`, by default the largest there is; a list gives each column its own. Numbers nearer
    to 0 than `least` are not written."""
    values = torch.as_tensor(values, dtype=torch.float32)
    scale = torch.as_tensor(values.abs().max() if largest is None else largest)
    (height, width), slanted, alone = values.shape, max(map(len, columns)) > 13, ax is None
    if alone:
        size = min(0.85 * width + 2.5, 11), 0.31 * height + (1.1 if title else 0.8)
        _, ax = plt.subplots(figsize=size)
    ax.imshow(values / (scale + 1e-9), cmap=SIGNED, vmin=-1, vmax=1, aspect="auto",
              interpolation="nearest")
    for i, j in product(range(height), range(width)):
        if abs(values[i, j]) >= least:
            written = note.format(values[i, j].item())
            written = written if float(written) else written.replace("-", "")
            ax.text(j, i, written, ha="center", va="center", fontsize=8)
    ax.set_xticks(range(width), [name.strip() or name for name in columns], fontsize=9,
                  rotation=30 * slanted, ha="left" if slanted else "center")
    ax.set_yticks(range(height), [name.strip() or name for name in rows], fontsize=9)
    ax.tick_params(length=0, top=False, labeltop=True, labelbottom=False)
    ax.spines[:].set_visible(False)
    ax.set_title(title, fontsize=10)
    if alone:
        plt.show()


def experience(tokenizer, e, row, advantages):
    """All numbers of the actions of one response of the Experience `e`, and its (B, R) `advantages`
    before they were whitened: one row a token. The quantities differ, so each column has a scale of
    its own."""
    actions = e.response_mask.sum(1)[row].item()
    columns = {"log π": e.logprobs, "log π ref": e.ref_logprobs, "KL": e.kl, "reward": e.rewards,
               "value": e.values, "A (GAE)": advantages, "A whitened": e.advantages,
               "return": e.returns}
    numbers = torch.stack([column[row, :actions] for column in columns.values()], dim=1).detach()
    question = tokenizer.decode(e.ids[row, :e.P][e.mask[row, :e.P]].tolist())
    grid(numbers, pieces(tokenizer, e.ids[row, e.P:e.P + actions].tolist()), list(columns),
         largest=numbers.abs().amax(0).clamp_min(5e-4).tolist(),
         title=question.strip().split("\n")[0])


def strips(responses, rows, largest):
    """Responses [(title, token strings, numbers (rows, tokens))], one panel each, all coloured on
    one scale."""
    _, axes = plt.subplots(len(responses), 1, figsize=(10.5, 1.3 * len(responses)))
    longest = max(len(names) for _, names, _ in responses)
    for ax, (title, names, numbers) in zip(axes, responses):
        grid(numbers, rows, names, largest=largest, ax=ax)
        ax.set_title(title, fontsize=9, loc="left")
        ax.set_xlim(-0.5, longest - 0.5)
    plt.show()
