"""A run's folder has one data set, and one script at a time fills a stage."""
import os
import shutil
from pathlib import Path

from support import UserError

HELD = {}       # stage -> open file: its lock ends with the process, however that ends


def hold(folder):
    """Keep other scripts out of a stage's folder, and remove what killed ones have half written.
    Raises UserError if another script is in it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    HELD.pop(folder.name, None)
    # Not in the folder, which `set_aside` may rename.
    file = HELD[folder.name] = open(folder.parent / f".{folder.name}.lock", "w")
    try:
        import fcntl
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise UserError(f"{folder}: another script is at work in it: wait until it has ended, or "
                        "give another --run") from error
    except (ImportError, OSError):      # Windows and some network disks know no such locks
        return
    for partial in folder.rglob(".*.partial"):
        partial.unlink()


def set_aside(folder):
    """Keep what an earlier run left in a stage's folder, and its curves, under another name."""
    if not folder.exists() or not any(folder.iterdir()):
        return
    finished, saved = ((folder / name).exists() for name in ("config.json", "resume.pt"))
    kept = f"{folder.name}.{'old' if finished else 'unfinished' if saved else 'unsaved'}"
    for parent in (folder.parent / "logs", folder.parent):
        if (parent / folder.name).exists():
            if (parent / kept).is_symlink():
                (parent / kept).unlink()
            shutil.rmtree(parent / kept, ignore_errors=True)
            (parent / folder.name).rename(parent / kept)
    print(f"{folder} was there from an earlier run, now kept as {folder.parent / kept}")


def data_name(cfg):
    """`--data` without its held-out part. A file has its path from here, so that a/rows.jsonl and
    b/rows.jsonl differ."""
    exists = Path(cfg.data).exists()
    return os.path.relpath(cfg.data) if exists else cfg.data.removesuffix(":validation")
