"""Files that are complete or absent, and JSON that is checked."""
import errno
import json
import os
import shutil
import sys
from pathlib import Path
from secrets import token_hex

from safetensors import SafetensorError

from support import UserError, reason
from support.distributed import rank


def write_whole(path, content):
    """Write a file under a temporary name and move it into place: whatever happens, it is the old
    one or the new one. `content` is text, a dict for JSON, or a function that writes to the path it
    is given. Of several processes only the first one writes."""
    if rank() > 0:
        return
    if isinstance(content, dict):
        content = json.dumps(content, indent=2) + "\n"
    write = content if callable(content) else (
        lambda to: to.write_text(content, encoding="utf-8", newline=""))    # line ends stay
    streams = {Path("/dev/stdout"): sys.stdout, Path("/dev/stderr"): sys.stderr}
    if path in streams:                 # a file, perhaps, in which other lines stand
        streams[path].write(content)
        return
    if path.exists() and not path.is_file():
        write(path)                     # a device or a pipe stays one
        return
    path = path.resolve()               # what a link points to changes, and the link stays
    path.parent.mkdir(parents=True, exist_ok=True)
    # Two programs may write one file. The next run of a stage removes what killed ones left.
    temporary = path.parent / f".{path.name}.{token_hex(4)}.partial"
    try:
        temporary.touch()
        mode = (path if path.exists() else temporary).stat().st_mode
        write(temporary)
        temporary.chmod(mode)       # safetensors lets nobody else read
        flush(temporary)            # else a power cut could leave a new name with nothing in it
        os.replace(temporary, path)
        flush(path.parent)
    except (OSError, RuntimeError, SafetensorError) as error:   # what a full disk raises
        left = shutil.disk_usage(path.parent).free // 2 ** 20
        said = f"could not be written ({reason(error)}; {left:,} MiB were left on its disk)"
        raise OSError(getattr(error, "errno", None) or errno.EIO, said, str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


def flush(path):
    """Return when a file, or the list of files of a folder, has reached the disk."""
    if os.name == "nt":             # Windows flushes no file that is open for reading, no folder
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_text(file):
    """The text in a file. Raises UserError if it can't be read."""
    try:
        return Path(file).read_text(encoding="utf-8-sig")       # some programs mark UTF-8
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read as UTF-8 text ({reason(error)})") from error


def parse_json(text, where, hint=""):
    """The object in a JSON text that stands at `where`. Raises UserError, which ends with `hint`,
    if it is anything else."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:   # RecursionError: brackets in brackets
        said = getattr(error, "msg", reason(error))
        raise UserError(f"{where}: not JSON ({said}){hint}") from error
    if not isinstance(content, dict):
        raise UserError(f"{where}: must be an object, {{…}}, not {text.strip()[:40]}{hint}")
    return content


def read_json(file):
    """The object in a JSON file. Raises UserError if there is none in it."""
    return parse_json(read_text(file), file)
