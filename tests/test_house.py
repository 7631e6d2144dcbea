"""The house: imports point one way, and no file or function outgrows its reader."""
import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SCRIPTS = ("gpt", "sft", "reward", "ppo", "evaluate")
FILES = sorted(path.relative_to(ROOT) for folder in (".", "data", "support", "judges") for path in (ROOT / folder).glob("*.py"))
CORE = {"ppo.py": 300, "gpt.py": 280, "sft.py": 170, "reward.py": 180}
# What each floor may import of the project, besides its own folder.
BELOW = {"support": set(), "data": {"support"}, "gpt": {"support"}, "sft": {"gpt", "data", "support"},
         "reward": {"gpt", "data", "support"}, "ppo": {"gpt", "data", "support"},
         "judges": {"gpt", "data", "support"}, "evaluate": {"judges", "gpt", "data", "support"},
         "label": {"gpt", "data", "support"}}
LABEL = Path("label.py")       # lies beside the file that it writes, and is a script: the SFT model answers in it


def floor(path):
    return path.parts[0] if len(path.parts) > 1 and path != LABEL else path.stem


def imports(path, everywhere=True):
    """The modules that a file imports, with dots; only at its top level unless `everywhere`."""
    tree = ast.parse((ROOT / path).read_text())
    for node in ast.walk(tree) if everywhere else tree.body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}


@pytest.mark.parametrize("path", FILES, ids=str)
def test_imports_point_downwards(path):
    # `python gpt.py FOLDER` alone needs a tokenizer, and imports it when it starts to talk
    found = {name.split(".")[0] for name in imports(path, everywhere=path.name != "gpt.py")} & {*BELOW}
    assert found <= BELOW[floor(path)] | {floor(path)}


def test_no_module_imports_the_script_among_the_data():
    assert not [path for path in FILES if path != LABEL and "label" in imports(path)]


def test_no_circle():
    modules = {str(path.with_suffix("")).replace("/", ".").removesuffix(".__init__"): path for path in FILES}
    arrows = {name: {other for other in imports(path, everywhere=path.name != "gpt.py") if other in modules and other != name}
              for name, path in modules.items()}
    while arrows:
        ground = {name for name, others in arrows.items() if not others & arrows.keys()}
        assert ground, f"a circle among {sorted(arrows)}"
        arrows = {name: others for name, others in arrows.items() if name not in ground}


def test_the_core_is_read_in_an_evening():
    lines = {name: len((ROOT / name).read_text().splitlines()) for name in CORE}
    assert all(lines[name] <= most for name, most in CORE.items()) and sum(lines.values()) <= 900, lines


@pytest.mark.parametrize("path", FILES, ids=str)
def test_no_file_and_no_function_is_too_long(path):
    source = (ROOT / path).read_text()
    assert len(source.splitlines()) <= CORE.get(str(path), 250)
    assert max(map(len, source.splitlines())) <= 120
    functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]
    assert all(node.end_lineno - node.lineno < 50 for node in functions)


def test_the_readme_counts_the_lines_of_today():
    rows = [line.split("|") for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("| `")]
    counted = {row[1].strip(" `"): int(row[2]) for row in rows if row[1].strip(" `").endswith(".py")}
    assert set(CORE) < set(counted)
    for name, lines in counted.items():
        assert lines == len((ROOT / name).read_text().splitlines()), name


def test_the_readme_comes_to_the_point():
    before = (ROOT / "README.md").read_text().partition("```\npython3 -m venv")[0]
    assert len(before.split()) <= 100 and len((ROOT / "README.md").read_text().splitlines()) <= 200


def test_ppo_is_read_without_long_lines():
    widths = [len(line) for line in (ROOT / "ppo.py").read_text().splitlines() if line.strip()]
    assert sum(widths) / len(widths) <= 60


def test_the_mathematics_has_all_its_files():
    from conftest import MATHS
    assert all((ROOT / "tests" / f"test_{name}.py").is_file() for name in MATHS)
