"""The notebooks run as they stand, import what the scripts have, and are committed with what they print."""
import ast
import importlib
import inspect
import json
import os
import re
import statistics
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from threading import Lock

import nbformat
import pytest
from nbclient import NotebookClient

import answers

FOLDER = Path(__file__).parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
SCRIPTS = ["gpt", "sft", "reward", "ppo", "evaluate", "data", *sorted(
    f"{folder}.{path.stem}" for folder in ("data", "text", "support") for path in (FOLDER.parent / folder).glob("*.py") if path.stem != "__init__")]

SOLUTION = "<summary>Solution</summary>"

each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def cells(path, kind):
    return [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == kind]


def sources(path, kind="code"):
    return ["".join(cell["source"]) for cell in cells(path, kind)]


def outputs(path):
    return [output for cell in cells(path, "code") for output in cell["outputs"]]


def read(path):
    return nbformat.read(path, as_version=4)


def solutions(notebook):
    """{place of the cell for the answer: what the folded solution above it writes there}."""
    code = re.compile(r"```python\n(.*?)\n```", re.DOTALL)
    return {place + 1: code.search(cell.source.partition(SOLUTION)[2])[1]
            for place, cell in enumerate(notebook.cells) if cell.cell_type == "markdown" and SOLUTION in cell.source}


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


def test_the_lessons_are_there():
    lessons = {"1_gpt", "2_sft", "3_reward", "4_policy_gradient", "5_ppo", "6_frontier", "7_beyond_ppo", "8_debug", "9_checked"}
    assert lessons <= {path.stem for path in NOTEBOOKS}


@each
def test_defines_nothing_that_a_script_exports(path):
    names = exported()
    assert {"gae", "GPT", "sft_loss", "pairwise_loss", "make_experience", "pad"} <= names.keys()
    twice = {name: names[name] for code in sources(path) for name in defined(code) if name in names}
    assert not twice, f"{path.name} defines what it should import: {twice}"


@each
def test_is_a_lesson_of_small_steps(path):
    lines = [len(code.splitlines()) for code in sources(path)]
    assert len(lines) >= 20 and max(lines) <= 20 and statistics.median(lines) <= 6
    assert max(len(line) for code in sources(path) for line in code.splitlines()) <= 100    # wider is cut off on a page
    assert sum(isinstance(node, ast.Assert) for code in sources(path) for node in ast.walk(ast.parse(code))) >= 8


@each
def test_each_cell_is_announced_and_none_checks_in_silence(path):
    kinds = [cell["cell_type"] for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]]
    assert ("code", "code") not in zip(kinds, kinds[1:])
    assert not [cell["source"] for cell in cells(path, "code") if "assert" in "".join(cell["source"]) and not cell["outputs"]]


@each
def test_has_exercises_with_hints_and_folded_solutions(path):
    checks = sum(code.count("prepare.check(") for code in sources(path))
    folded = [note for note in sources(path, "markdown") if SOLUTION in note]
    assert 3 <= checks <= 5 and checks == len(folded) == len(solutions(read(path)))
    assert all("<summary>Hint" in note for note in folded)
    assert sum("def my_" in note for note in folded) >= 2
    assert sum("## Three questions" in note for note in sources(path, "markdown")) == 1


@each
def test_is_committed_with_its_outputs(path):
    counts = [cell["execution_count"] for cell in cells(path, "code")]
    assert counts == list(range(1, len(counts) + 1)), "run `python notebooks/run_all.py`"
    assert not complaints(outputs(path))
    assert sum("image/svg+xml" in output.get("data", {}) for output in outputs(path)) >= 3
    assert path.stat().st_size < 500_000


@each
def test_needs_no_network(path):
    code = "\n".join(sources(path))
    assert not [word for word in ("http:", "https:", "urllib", "requests", "urlopen", "!pip", "%pip") if word in code]

# ----------------------------------------------------------------------------- prepare.py


def run_python(program, **environment):
    """In a process of its own, in which no other test has imported anything."""
    return subprocess.run([sys.executable, "-c", program], cwd=FOLDER, capture_output=True, text=True, timeout=900,
                          env={**os.environ, **environment})


def test_a_check_tells_right_from_wrong_and_both_from_an_exception():
    ran = run_python("""
import torch, prepare
def unfinished(x):
    "2x"
    ...
def forgetful(x):
    y = 2 * x
for given in (..., 3, 4, "three", torch.tensor([3, 3])):
    prepare.check(given, lambda given: given - 3 == 0, "Yes.", "Count again.")
prepare.check(lambda x: False, lambda mine: mine(3), "Yes.", "No constant.")
for mine in (unfinished, forgetful, lambda x: 2 * x, lambda x: x, lambda x: x[:1], lambda x: x.no_such_thing,
             lambda x: x + x.detach(), lambda x: (2 * x).detach(), lambda x: (2 * x, x), lambda x: x.add_(x) * torch.nan):
    prepare.check(mine, lambda mine: prepare.same(mine, lambda x: 2 * x, [(torch.ones(2),)], slopes=1), "Yes.", "Twice x.")
""")
    assert ran.stdout.splitlines() == [
        "Not done yet.", "Right. Yes.", "Not yet. Count again.",
        "Not yet. Count again.", "Not yet. Count again.", "Not yet. No constant.",
        "Not done yet.", "It returns None: is a `return` missing?", "Not yet. Twice x.",
        "Right. Yes.", "The largest difference is 1.", "Not yet. Twice x.",
        "Yours has the shape (1,), it should be (2,).", "Not yet. Twice x.",
        "It stopped with AttributeError: 'Tensor' object has no attribute 'no_such_thing'",
        "The largest difference in the gradient by argument 1 is 1.", "Not yet. Twice x.",
        "The largest difference in the gradient by argument 1 is 2.", "Not yet. Twice x.",
        "It returns a tuple, it should return a tensor.", "Not yet. Twice x.",
        "It stopped with RuntimeError: a leaf Variable that requires grad is being used in an in-place operation."], ran.stderr


@pytest.mark.slow
def test_models_are_trained_once_and_say_whose_they_are(tmp_path):
    ran = run_python("""
import prepare
prepare.COMMANDS["base"] = "sft.py --pretrain_steps 1 --steps 1 --n_layer 1 --n_embd 8 --n_head 1"
prepare.toy_run("base")
prepare.COMMANDS["base"] = prepare.COMMANDS["reward"] = "sft.py --no_such_flag 1"
prepare.toy_run("base")                     # found again
prepare.toy_run("reward")
""", LESSONS_RUN=str(tmp_path / "a folder"))
    assert "held-out loss" in ran.stdout and ran.stdout.count("the lessons’ own") == 2
    assert ran.returncode == 1 and "no_such_flag" in ran.stderr and "Traceback" not in ran.stderr


@pytest.mark.notebooks
@pytest.mark.parametrize("lesson", answers.ANSWERS)
def test_checks_refuse_every_wrong_answer_and_accept_every_right_one(lesson):
    ran = subprocess.run([sys.executable, answers.__file__, lesson], capture_output=True, text=True, timeout=900)
    assert ran.returncode == 0, ran.stderr
    tried, start = json.loads(ran.stdout), {"empty": "Not done yet.", "right": "Right. "}
    for name, kind, answer, said, again in tried:
        last = said.splitlines()[-1]
        assert last.startswith(start.get(kind, ("Not yet. ", "It stopped with "))), (name, kind, answer, said)
        assert again.splitlines()[-1] == last, (name, answer, "the check says something else the second time")
        assert kind != "no return" or "is a `return` missing?" in said, (name, said)
    count = Counter((name, kind) for name, kind, *_ in tried)
    exercises = {name for name, _ in count}
    assert len(exercises) == sum(code.count("prepare.check(") for code in sources(FOLDER / f"{lesson}.ipynb"))
    assert all(count[name, "wrong"] >= 5 and count[name, "right"] >= 3 for name in exercises)

# ----------------------------------------------------------------------------- race.py


def test_the_race_is_compared_at_one_kl_on_lines_over_its_root():
    ran = run_python("""
import race
race.KL = 2.25
def end(kl, judge): return {"kl": kl, "judge": judge, "ideal": judge / 4, "score": 0.5}
ends = [end(4.0, 3.0), end(1.0, 1.0), end(0.25, 0.0)]           # √KL 2, 1, ½; asked at 1.5
print(race.at_kl(ends)["judge"], race.at_kl(ends[:1]), race.at_kl(ends[1:]))
found = {"PPO": {0.1: [end(1.0, 1.0), end(1.0, 1.0)], 0.5: [end(4.0, 3.0), end(4.0, 3.2)]},
         "DPO": {0.1: [end(1.0, 2.0), end(1.0, 2.0)], 0.5: [end(4.0, 4.0), end(4.0, 4.0)]},
         "GRPO": {0.1: [end(1.0, 2.0), end(3.0, 2.0)], 0.5: [end(4.0, 4.0), end(4.0, 4.0)]}}
print(race.table(found), race.at_equal_kl(found), sep="\\n")
race.draw(found).savefig("/dev/null", format="svg")
print(race.at_equal_kl({"PPO": {0.1: found["PPO"][0.1]}}))
race.main(["turn"])
""")
    said = ran.stdout.splitlines()
    assert said[0] == "2.0 None None", ran.stderr
    assert "| PPO | 0.5 | 4.00 ± 0.00 | 77.5% ± 3.5 | 3.10 ± 0.14 | 0.50 ± 0.00 |" in said
    assert "| PPO | 2.05 ± 0.07 |  |  |  | 51.2% ± 1.8 |" in said
    assert "| DPO | 3.00 ± 0.00 | +0.95 ± 0.64 | 19.0 | 0.033 | 75.0% ± 0.0 |" in said
    assert "Not on both sides of 2.25 nats with each seed: GRPO." in said
    assert said[-1] == "Not on both sides of 2.25 nats with each seed: PPO."
    assert ran.returncode == 1 and ran.stderr == "the only word is tune\n"


@pytest.mark.slow
def test_every_method_runs_and_tune_sees_other_prompts_than_the_race(tmp_path):
    ran = run_python("""
import functools
from dataclasses import replace
import prepare
prepare.COMMANDS["sft"] = "sft.py --pretrain_steps 1 --steps 1 --n_layer 1 --n_embd 8 --n_head 1"
prepare.COMMANDS["reward"] = "reward.py --steps 1 --normalise_samples 64"
prepare.toy_run("sft", "reward")
import race
race.UPDATES, race.RESPONSES, race.SAMPLES, load = 1, 16, 1, functools.cache(race.data.load)

def few(name):
    print("held out:", name)
    train_set, held_out = load(name)
    return replace(train_set, comparisons=train_set.comparisons[:64]), held_out
race.data.load = few
for name, method in race.METHODS.items():
    for seed in (0, 101):
        found = race.run((name, method.settings[0], method.lr), seed)
        assert (found["kl"] > 1e-8) == bool(method.lr), (name, found)
""", LESSONS_RUN=str(tmp_path))
    assert ran.returncode == 0, ran.stderr
    held_out = [line for line in ran.stdout.splitlines() if line.startswith("held out:")]
    assert held_out == ["held out: toy", "held out: toy:validation"] * 9

# ----------------------------------------------------------------------------- the lessons run


EXECUTION = "test_runs_from_top_to_bottom_and_every_folded_solution_is_right"


class Twice(NotebookClient):
    """Runs every cell a second time, as a reader does, but those tagged "slow"."""

    async def async_execute_cell(self, cell, *given, **named):
        await super().async_execute_cell(cell, *given, **named)
        if cell.cell_type == "code" and "slow" not in cell.metadata.get("tags", []):
            await super().async_execute_cell(cell, *given, **named)
        return cell


@pytest.fixture(scope="session")
def executed(request, tmp_path_factory):
    """{path: the executed notebook, as a future} of all that this test run asks for, two at a time, with models that
    today's code has trained: those that all lessons share first, each lesson's own when it comes to them. Lessons 5 and 6
    share more, so one waits for the other; lesson 5, the shorter one, comes last."""
    wanted = {item.callspec.params["path"] for item in request.session.items if item.originalname == EXECUTION}
    one_of_the_two = Lock()

    def run(path):
        with one_of_the_two if path.stem[0] in "56" else nullcontext():
            return run_all.execute(answered(run_all.read(path)), Twice)

    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(2) as pool:
        patch.syspath_prepend(FOLDER)
        patch.setenv("LESSONS_RUN", str(tmp_path_factory.mktemp("lessons")))
        run_all = importlib.import_module("run_all")
        ran = run_python("import prepare; prepare.toy_run('base', 'sft', 'reward')")
        assert ran.returncode == 0, ran.stderr
        longest_first = sorted(wanted, key=lambda path: (path.stem[0] != "5", path.stem), reverse=True)
        yield {path: pool.submit(run, path) for path in longest_first}


def printed(notebook):
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def answered(notebook):
    """The notebook with two more cells after the check of each exercise: the folded solution, and the check again."""
    cells, folded = [], solutions(notebook)
    for place, cell in enumerate(notebook.cells):
        cells.append(cell)
        if cell.cell_type == "code" and "prepare.check(" in cell.source:
            solution = folded.pop(max(before for before in folded if before < place))
            cells += [nbformat.v4.new_code_cell(solution), nbformat.v4.new_code_cell(cell.source)]
    assert not folded
    notebook.cells = cells
    return notebook


@pytest.mark.notebooks
@each
def test_runs_from_top_to_bottom_and_every_folded_solution_is_right(path, executed):
    exercises, notebook = len(solutions(read(path))), executed[path].result()
    said = [output["text"] for output in printed(notebook) if "text" in output]
    assert not complaints(printed(notebook))
    assert sum(text.startswith("Not done yet.") for text in said) == exercises
    assert sum("Right. " in text for text in said) == exercises
