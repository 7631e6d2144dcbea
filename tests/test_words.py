"""The words that a reader meets: what --help says, the words that nobody writes here, how few semicolons there are."""
import json
import re
import sys
from pathlib import Path

import pytest

import chat
import evaluate
import label
import page
import ppo
import reward
import sft
from support.command_line import launch

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
CODE = [path for folder in (".", "data", "text", "support", "export", "judges", "exercises", "experiments")
        for path in sorted((ROOT / folder).glob("*.py"))]
LESSONS = sorted((ROOT / "notebooks").glob("*.ipynb"))
BETTER = {          # nobody writes -> better
    r"in place of": "instead of", r"beside": "next to, with", r"another one": "another NOUN", r"likeliest": "most probable",
    r"nats an? \w+": "nats per", r"tokens an? (?:answer|response)": "tokens per", r"for want of": "without", r"all the same,? ": "still",
    r"had that (?:name )?(?:before )?goes": "is deleted", r"whatever stands there": "whatever the text is", r"goes on from": "continues from"}
ONLY_PAGES = {r"alone": "only"}
SCRIPTS = sft, reward, ppo, evaluate, label, chat, page


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.__name__)
def test_help_begins_with_what_the_script_is_and_writes_flags_as_the_docs_do(script, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [f"{script.__name__}.py", "--help"])
    monkeypatch.setenv("COLUMNS", "160")
    with pytest.raises(SystemExit):
        script.main() if script in (chat, page) else launch(script.main, script.Config, script.__name__)
    said = capsys.readouterr().out
    first = script.__doc__.split("\n\n")[0].replace("\n", " ")
    assert first in " ".join(said.split()) and "(default: '')" not in said
    flags = set(re.findall(r"--[a-z][\w-]*", said))
    assert flags >= {f"--{name}" for name in script.Config.__dataclass_fields__} - {"--folders"}
    assert [flag for flag in flags if "-" in flag[2:]] == []


def prose(page):
    """The text of a page without code blocks and tables, a paragraph or list entry a string."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.S)
    lines = [line for line in text.splitlines() if not line.startswith(("|", "#", "!"))]
    return [" ".join(part.split()) for part in re.split(r"\n\s*\n|\n(?=- |\d+\. )", "\n".join(lines)) if part.strip()]


def written(path):
    """All text of a file; of a lesson what stands between the cells of code."""
    text = path.read_text(encoding="utf-8")
    if path in LESSONS:
        text = "\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown")
    return " ".join(text.split())


@pytest.mark.parametrize("path", [*PAGES, *CODE, *LESSONS], ids=lambda path: str(path.relative_to(ROOT)))
def test_there_is_a_better_word(path):
    text = written(path)
    for word, better in (BETTER if path in CODE else BETTER | ONLY_PAGES).items():
        found = re.search(rf".{{0,30}}\b{word}\b.{{0,20}}", text, re.I)
        assert not found, f"{found[0]}: write {better}"


def test_the_pages_have_few_semicolons():
    counts = {page.name: sum(part.replace("TL;DR", "").count(";") for part in prose(page)) for page in PAGES}
    assert sum(counts.values()) <= 40, counts
