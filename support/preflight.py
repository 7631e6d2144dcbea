"""What a script finds out before the work, and not after it."""
import os
from pathlib import Path

from support import UserError
from support.files import read_text
from support.lock import data_name
from support.runs import run_folder


def check_run(cfg, stages):
    """Raises UserError if the results could not be saved, if there is nothing to resume, or if the
    run is another data set's. `stages` are the folders that a script fills, in order."""
    run, file = run_folder(cfg), getattr(cfg, "json", "")
    if file and Path(file).is_dir():
        raise UserError(f"--json {file}: a folder; give the name of a file in it")
    if file and (Path(file).is_file() or not Path(file).exists()):      # no device, no pipe
        check_writable(Path(file).resolve().parent)
    for name in (*stages, "logs") if stages else ():
        check_writable(run / name)
    kept = run / "data.txt"
    if not cfg.run and kept.exists() and (made := read_text(kept).strip()) != data_name(cfg):
        raise UserError(f"{run} is a run on --data {made}, not on {data_name(cfg)}: give another "
                        f"folder, --run, or --run {run} if you mean this one")
    if stages and cfg.resume and not any((run / name / "resume.pt").exists() for name in stages):
        begun, finished = ((run / stages[i] / "config.json").exists() for i in (0, -1))
        if finished or not begun:
            there = "is finished" if finished else "has no resume.pt"
            raise UserError(f"--resume: {run / stages[-1]} {there}, so there is nothing to go on "
                            "with; start without --resume")


def check_writable(folder):
    """Raises UserError if files cannot be written into `folder`, which need not be there yet."""
    there = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    if not (there.is_dir() and os.access(there, os.W_OK)):
        what = "can't be written to" if there.is_dir() else "is no folder"
        raise UserError(f"{there} {what}: change that, or give another --run")
