"""Files that are complete or absent, and JSON that is checked."""
import json
import os
from pathlib import Path

from support import UserError
from support.distributed import rank


def write_whole(path, content):
    """Write a file under a temporary name and move it into place: no reader ever sees half of it, and a
    crash leaves the old one. `content` is text, or a function that is given the path to write. Of several processes
    only the first one writes."""
    if rank() > 0:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.{os.getpid()}"
    try:
        if isinstance(content, str):
            temporary.write_text(content, encoding="utf-8")
        else:
            content(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_json(file):
    """The object in a JSON file. Raises UserError if there is none in it."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:                                 # no JSON, or not even UTF-8
        raise UserError(f"{file}: not JSON ({error})") from error
    if not isinstance(content, dict):
        raise UserError(f"{file}: must hold an object, {{…}}")
    return content


def read_config(folder):
    """The config.json of a model folder. Raises UserError if there is none, or no JSON in it."""
    file = Path(folder) / "config.json"
    if not file.exists():
        raise UserError(f"{folder}: no model here, there is no {file}")
    return read_json(file)
