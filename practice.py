"""Build it yourself: fifteen functions of the core are yours to write, in the order of the lessons.

    python practice.py              lays the core into mine/, with the fifteen blank
    python practice.py check        which are blank, wrong or right; `check gae` looks at one
    python practice.py hint gae     the next of three hints

You write in mine/. When all are right, the toy's story runs there.
"""
import ast
import io
import json
import signal
import sys
import traceback
from contextlib import redirect_stdout
from pathlib import Path
from types import ModuleType

from support import UserError, reason
from support.endings import plain_endings

ROOT = Path(__file__).parent
MINE = ROOT / "mine"
EXERCISES = {exercise["name"]: exercise for exercise in json.loads(
    (ROOT / "exercises" / "list.json").read_text(encoding="utf-8"))}
SCRIPTS = ("gpt", "sft", "reward", "ppo", "checks", "evaluate", "chat")
FOLDERS = ("data", "text", "support", "export", "judges")
SECONDS = 60            # of the processor, for the checks of one function; 2 are enough
STORY = ("the toy's story runs with them: cd mine && python sft.py && python reward.py && "
         "python ppo.py && python evaluate.py")

# ---------- laying the core

def find(tree, function):
    """Where a function such as "GPT.stream" stands in a syntax tree: (body, i), it is body[i].
    Raises UserError if it is not there."""
    for name in function.split("."):
        body, names = tree.body, [getattr(node, "name", "") for node in tree.body]
        if name not in names:
            raise UserError(f"it has no {function} any more")
        i = names.index(name)
        tree = body[i]
    return body, i


def core():
    """(path in mine/, text) of all that the toy's story needs. Of the functions that are to be
    written, signature and docstring are left."""
    paths = [ROOT / f"{name}.py" for name in SCRIPTS]
    for folder in FOLDERS:
        paths += sorted(path for path in (ROOT / folder).iterdir()
                        if path.suffix in (".py", ".json", ".csv"))
    for path in paths:
        name, text = path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")
        for exercise in EXERCISES.values():
            if exercise["file"] == name:
                text = blank(text, exercise)
        yield name, text


def blank(source, exercise):
    """The source without the body of the exercise's function."""
    body, i = find(ast.parse(source), exercise["function"])
    first, lines = body[i].body[0], source.splitlines(keepends=True)
    start = first.end_lineno if ast.get_docstring(body[i]) else first.lineno - 1
    lines[start:body[i].end_lineno] = [
        " " * first.col_offset + "raise NotImplementedError("
        f'"{exercise["function"]} is blank: python practice.py hint {exercise["name"]}")\n']
    return "".join(lines)


def lay(mine):
    """Write what is not there yet; what is there stays as it is. Say what is to be written."""
    laid, kept = 0, []
    for name, text in core():
        path = mine / name
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            laid += 1
        elif path.read_text(encoding="utf-8") != text:
            kept.append(name)
    for number, exercise in enumerate(EXERCISES.values(), 1):
        print("{:2}  {name:16} lesson {lesson}  {file:10} {function}".format(number, **exercise))
    print(f"These are yours to write, in {mine}; {laid} files were laid there. Then: "
          "python practice.py check")
    if kept:
        print(f"Left as you have them: {', '.join(kept)}. To get one as it was laid, delete it and "
              "run this again")

# ---------- checking

def load(exercise, path):
    """A module like the file at `path`, but with the real code in all other exercises; and whether
    the function is blank. Lines keep their numbers."""
    tree, real = (ast.parse(file.read_text(encoding="utf-8"))
                  for file in (path, ROOT / exercise["file"]))
    body, i = find(tree, exercise["function"])
    statements = body[i].body[ast.get_docstring(body[i]) is not None:]
    for other in EXERCISES.values():
        if other["file"] == exercise["file"] and other is not exercise:
            (theirs, i), (right, j) = (find(each, other["function"]) for each in (tree, real))
            theirs[i] = right[j]
    module = ModuleType(path.stem)
    exec(compile(tree, str(path), "exec"), vars(module))
    return module, len(statements) == 1 and isinstance(statements[0], ast.Raise)


def judge(exercise, mine):
    """("blank", "wrong" or "right", what a check saw) of a function in mine/."""
    from exercises.checks import CHECKS, Wrong      # torch takes seconds to import
    path, asked = mine / exercise["file"], exercise["file"]
    try:
        with redirect_stdout(io.StringIO()):
            module, is_blank = load(exercise, path)
            if is_blank:
                return "blank", ""
            for check in CHECKS[exercise["name"]]:
                asked = check.__doc__
                check(module)
    except (Wrong, UserError) as wrong:
        return "wrong", f"{asked}: {wrong}"
    except SyntaxError as error:
        return "wrong", f"{asked}, line {error.lineno}: {error.msg}"
    except Exception as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__)
                 if frame.filename == str(path)]
        where = f" in line {lines[-1]} of {path.name}" if lines else ""
        return "wrong", f"{asked}: {type(error).__name__}{where}: {reason(error)}"
    return "right", ""


def check(names, mine):
    """Print the table. Returns whether all functions in it are right."""
    def too_long(number, frame):
        raise TimeoutError(f"it has not ended after {SECONDS} seconds")
    signal.signal(signal.SIGPROF, too_long)
    states = []
    for name in names:
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        state, saw = judge(EXERCISES[name], mine)
        signal.setitimer(signal.ITIMER_PROF, 0)
        states.append(state)
        print(f"{name:16} {EXERCISES[name]['file']:10} {state:6} {saw}".rstrip(), flush=True)
    right = states.count("right")
    print(f"{right} of {len(names)} right" + f"; {STORY}" * (right == len(EXERCISES)))
    return right == len(names)


def hint(name, mine):
    """Print the next hint; .hints in mine/ keeps how many were given."""
    file, exercise = mine / ".hints", EXERCISES[name]
    given = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    given[name] = min(given.get(name, 0) + 1, len(exercise["hints"]))
    print(f"{exercise['function']} of {exercise['file']}, hint {given[name]} of "
          f"{len(exercise['hints'])}: {exercise['hints'][given[name] - 1]}")
    file.write_text(json.dumps(given), encoding="utf-8")


def main(words, mine=MINE):
    command, *names = words or ["lay"]
    unknown = [name for name in names if name not in EXERCISES]
    if command not in ("lay", "check", "hint") or unknown or command == "hint" and not names:
        raise UserError(f"{' '.join(words)!r} is none of: nothing, `check`, `check NAME`, `hint "
                        f"NAME`; the names are {', '.join(EXERCISES)}")
    elif command == "lay":
        lay(mine)
    elif not mine.is_dir():
        raise UserError(f"there is no {mine} yet: run `python practice.py` first")
    elif command == "hint":
        for name in names:
            hint(name, mine)
    elif not check(names or list(EXERCISES), mine):
        sys.exit(1)


if __name__ == "__main__":
    with plain_endings():
        main(sys.argv[1:])
