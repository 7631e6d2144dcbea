"""The house: each room imports only what lies below it, `import ppo` loads little, and the README counts right."""
import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("data", "text", "support", "export", "judges", "exercises", "experiments", "notebooks")
FILES = sorted(path.relative_to(ROOT) for folder in (".", *FOLDERS) for path in (ROOT / folder).glob("*.py"))
STAGES = {"gpt", "data", "text", "support", "export"}
# What each room may import of the project, besides its own files.
BELOW = {"support": {"export"}, "text": {"support", "export"}, "export": set(), "data": {"text", "support"},
         "gpt": {"support"}, "checks": {"support"}, "sft": STAGES, "reward": STAGES, "ppo": {*STAGES, "checks"},
         "methods": {"gpt", "sft", "reward", "ppo", "text", "support"}, "chat": STAGES, "label": STAGES,
         "judges": STAGES, "evaluate": {*STAGES, "judges"}, "page": {*STAGES, "ppo"},
         "exercises": {*STAGES, "reward", "ppo"}, "practice": {"exercises", "support"}}
WIDTH = 100


def room(path):
    return path.parts[0] if len(path.parts) > 1 else path.stem


def imports(path):
    """The modules that a file imports, with dots, wherever it does."""
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}


@pytest.mark.parametrize("path", FILES, ids=str)
def test_each_room_imports_only_what_lies_below_it(path):
    if room(path) in ("experiments", "notebooks"):
        return                                          # they may import all
    found = {name.split(".")[0] for name in imports(path)} & {*BELOW, "experiments", "notebooks"}
    assert found <= BELOW[room(path)] | {room(path)}


def test_no_circle():
    modules = {str(path.with_suffix("")).replace("/", ".").removesuffix(".__init__"): path for path in FILES}
    arrows = {name: {other for other in imports(path) if other in modules and other != name} for name, path in modules.items()}
    while arrows:
        ground = {name for name, others in arrows.items() if not others & arrows.keys()}
        assert ground, f"a circle among {sorted(arrows)}"
        arrows = {name: others for name, others in arrows.items() if name not in ground}


def test_little_is_loaded_with_ppo():
    program = "import sys, ppo; print(*[m.__file__ for m in sys.modules.values() if getattr(m, '__file__', None)], sep='\\n')"
    said = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    ours = [path for path in map(Path, said.splitlines()) if path.is_relative_to(ROOT) and path.relative_to(ROOT) in FILES]
    lines = sum(len(path.read_text().splitlines()) for path in ours)
    assert ROOT / "ppo.py" in ours and len(ours) <= 20 and lines <= 2100, (len(ours), lines)


@pytest.mark.parametrize("path", FILES, ids=str)
def test_no_line_is_too_wide_and_no_function_too_long(path):
    source = (ROOT / path).read_text()
    assert max(map(len, source.splitlines()), default=0) <= WIDTH
    functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]
    assert all(node.end_lineno - node.lineno < 50 for node in functions)


def test_the_readme_counts_the_lines_of_today():
    rows = [line.split("|") for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("| `")]
    counted = {row[1].strip(" `"): int(row[2]) for row in rows if row[2].strip().isdigit()}
    assert {"gpt.py", "sft.py", "reward.py", "ppo.py", "data/"} < counted.keys()
    for name, lines in counted.items():
        files = [ROOT / name] if name.endswith(".py") else (ROOT / name).glob("*.py")
        assert lines == sum(len(file.read_text().splitlines()) for file in files), name


def test_the_readme_comes_to_the_point():
    readme = (ROOT / "README.md").read_text()
    assert len(readme.partition("```\npython3 -m venv")[0].split()) <= 100 and len(readme.splitlines()) <= 200
    assert all(len(line) <= 95 for block in readme.split("```")[1::2] for line in block.splitlines())   # what GitHub shows at 860 pixels
    core = sum(len((ROOT / name).read_text().splitlines()) for name in ("gpt.py", "sft.py", "reward.py", "ppo.py"))
    assert f"{round(core, -2):,} lines" in readme
    table = readme.split("```\n               score")[1].split("```")[0]
    assert table in (ROOT / "docs" / "results.md").read_text()


def test_the_mathematics_has_all_its_files():
    from conftest import MATHS
    assert all((ROOT / "tests" / f"test_{name}.py").is_file() for name in MATHS)
