"""What a script checks before its work, and not after it."""
import os
from pathlib import Path

from support import UserError
from support.files import read_text
from support.lock import data_name
from support.runs import run_folder

# A number must be at least 0 and at most a billion, with these exceptions.
AT_LEAST = {"batch_size": 1, "epochs": 1, "minibatches": 1, "max_new_tokens": 1, "samples": 1,
            "prompts": 1, "best_of": 1, "normalise_samples": 2, "answers": 2, "tries": 1,
            "n_layer": 1, "n_head": 1, "n_embd": 1, "block_size": 2, "sample_every": 1,
            "missing_eos_score": -10 ** 9}
AT_MOST = {"gamma": 1, "lam": 1, "answers": 4}
ABOVE_0 = ("temperature", "clip", "value_clip", "kl_horizon")


def check_numbers(cfg):
    """Refuse a flag whose number makes no sense."""
    for name, value in vars(cfg).items():
        if type(value) in (int, float):
            least, most = AT_LEAST.get(name, 0), AT_MOST.get(name, 10 ** 9)
            if not least <= value <= most or name in ABOVE_0 and value == 0:    # or NaN
                low = "above 0" if name in ABOVE_0 else f"at least {least}"
                raise UserError(f"--{name} {str(value)[:40]}: must be {low} and at most {most:,}")
    if getattr(cfg, "kl_target", 0) > 0 and cfg.kl_coef == 0:
        raise UserError(f"--kl_target {cfg.kl_target} with --kl_coef 0: β is multiplied, so it "
                        "would stay 0; give it a start, such as --kl_coef 0.05")
    if "minibatches" in vars(cfg) and cfg.minibatches > cfg.batch_size:
        raise UserError(f"--minibatches {cfg.minibatches}: must be at most --batch_size, which is "
                        f"{cfg.batch_size}")


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
