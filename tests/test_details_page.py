"""The page "From algebra to code" names only what exists."""
import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PAGE = (TESTS.parent / "docs" / "details.md").read_text()
NAMED = sorted(set(re.findall(r"`([\w/]+\.py):([\w.]+)`", PAGE)))
ROWS = [re.split(r"(?<!\\)\|", line)[1:] for line in PAGE.split("## Deliberately")[0].splitlines()
        if line.startswith("| ") and not line.startswith("| detail")]


def defined(path):
    """Names of all functions, classes and methods of a file."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name
        if isinstance(node, ast.ClassDef):
            yield from (f"{node.name}.{inner.name}" for inner in node.body if isinstance(inner, ast.FunctionDef))


@pytest.mark.parametrize("file, name", NAMED)
def test_each_place_that_is_named_exists(file, name):
    path = TESTS / file if file.startswith("test_") else TESTS.parent / file
    assert name in set(defined(path))


def test_each_detail_names_its_code_and_its_test():
    assert len(ROWS) > 40
    for row in ROWS:
        assert re.search(r"`(?!test_)[\w/]+\.py:", row[2]) and re.search(r"`test_\w+\.py:", row[3]), row[0]


@pytest.mark.parametrize("name", ["masked_mean", "whiten", "kl_penalty", "gae", "policy_loss", "value_loss", "adapt_kl_coef",
                                  "make_experience", "learn"])
def test_the_mathematics_of_ppo_is_on_the_page(name):
    assert ("ppo.py", name) in NAMED
