"""The notebooks run as they stand, import what the scripts have, and are committed with what they print."""
import ast
import importlib
import inspect
import json
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
SCRIPTS = ["gpt", "sft", "reward", "ppo", "evaluate", "data", *sorted(
    f"{folder}.{path.stem}" for folder in ("data", "support") for path in (FOLDER.parent / folder).glob("*.py") if path.stem != "__init__")]

each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def cells(path, kind):
    return [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == kind]


def sources(path, kind="code"):
    return ["".join(cell["source"]) for cell in cells(path, kind)]


def outputs(path):
    return [output for cell in cells(path, "code") for output in cell["outputs"]]


def complaints(found):
    """The outputs that say something went wrong: errors, and whatever was written to stderr."""
    return [output for output in found if output["output_type"] == "error" or output.get("name") == "stderr"]


def exported():
    """The functions and classes that the scripts define, by name."""
    modules = [importlib.import_module(name) for name in SCRIPTS]
    return {name: module.__name__ for module in modules for name, thing in vars(module).items()
            if (inspect.isfunction(thing) or inspect.isclass(thing)) and thing.__module__ == module.__name__}


def defined(code):
    """The names that a cell gives a meaning to: by def, class, assignment, loop or with; imports are none."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id


def test_the_four_lessons_are_there():
    assert {"1_gpt", "2_sft", "3_reward", "4_ppo"} <= {path.stem for path in NOTEBOOKS}


@each
def test_defines_nothing_that_a_script_exports(path):
    names = exported()
    assert {"gae", "GPT", "sft_loss", "pairwise_loss", "make_experience", "pad"} <= names.keys()
    twice = {name: names[name] for code in sources(path) for name in defined(code) if name in names}
    assert not twice, f"{path.name} defines what it should import: {twice}"


@each
def test_is_a_lesson_of_small_steps(path):
    lines = [len(code.splitlines()) for code in sources(path)]
    assert 30 <= len(cells(path, "code")) + len(cells(path, "markdown")) <= 55
    assert max(lines) <= 20 and statistics.median(lines) <= 6
    assert max(len(line) for code in sources(path) for line in code.splitlines()) <= 100    # wider is cut off on a page
    assert sum(isinstance(node, ast.Assert) for code in sources(path) for node in ast.walk(ast.parse(code))) >= 8


@each
def test_has_exercises_with_folded_solutions(path):
    checks = sum(code.count("prepare.check(") for code in sources(path))
    places = sum(code.strip().endswith("= ...") for code in sources(path))
    folded = sum(note.count("<details>") for note in sources(path, "markdown"))
    assert 3 <= checks <= 5 and checks == places == folded


@each
def test_is_committed_with_its_outputs(path):
    counts = [cell["execution_count"] for cell in cells(path, "code")]
    assert counts == list(range(1, len(counts) + 1)), "run `python notebooks/run_all.py`"
    assert not complaints(outputs(path))
    assert sum("image/png" in output.get("data", {}) for output in outputs(path)) >= 3
    assert path.stat().st_size < 500_000


@each
def test_needs_no_network(path):
    code = "\n".join(sources(path))
    assert not [word for word in ("http:", "https:", "urllib", "requests", "urlopen", "!pip", "%pip") if word in code]


@pytest.mark.parametrize("given, said", [("...", "Not done yet."), ("3", "Right."), ("4", "Not yet."), ("'three'", "Not yet.")])
def test_a_check_tells_right_from_wrong(given, said):
    # In a process of its own: a notebook silences progress bars for its whole process.
    program = f"import prepare; prepare.check({given}, lambda given: given - 3 == 0, 'Yes.', 'Count again.')"
    ran = subprocess.run([sys.executable, "-c", program], cwd=FOLDER, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0 and ran.stdout.startswith(said), ran.stdout + ran.stderr


@pytest.mark.notebooks
@each
def test_runs_from_top_to_bottom(path, monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    run_all = importlib.import_module("run_all")
    before = path.read_bytes()
    notebook = run_all.execute(path)
    assert not complaints(output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs)
    assert path.read_bytes() == before
