"""Kill every script with -9 at random moments, go on each time, and compare with a run that nobody disturbed.

    python tests/stress.py              eight kills a script, and a disk that is full
    python tests/stress.py --kills 1    a short version, which the tests run
    python tests/stress.py --processes 2    the same under torchrun

Every second kill comes while a save is being written. At the end all weights must be equal, bit for bit.
"""
import argparse
import contextlib
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

ROOT = Path(__file__).parent.parent
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "--"]
launcher = []           # TORCHRUN, or nothing
STAGES = {          # stage -> (its command, the folders that it fills, the result last)
    "sft": ("sft.py --pretrain_steps 120 --steps 120 --n_layer 1 --n_head 2 --n_embd 32", ["base", "sft"]),
    "reward": ("reward.py --steps 200 --normalise_samples 64", ["reward"]),
    "ppo": ("ppo.py --steps 60 --batch_size 16 --sample_every 20", ["ppo/critic", "ppo"])}


def start(stage, run, more=""):
    """The stage as a process of its own, with more flags, which goes on if there is something to go on with."""
    folders = [run / folder for folder in STAGES[stage][1]]
    resume = any((folder / "resume.pt").exists() for folder in folders) or stage == "sft" and is_whole(run / "base")
    command = f"{STAGES[stage][0]} --save_every 1 --device cpu --run {run} {more}" + " --resume" * resume
    return subprocess.Popen([sys.executable, *launcher, *command.split()], cwd=ROOT, stdout=subprocess.DEVNULL,
                            stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def is_whole(folder):
    return (folder / "config.json").exists() and not (folder / "resume.pt").exists()


def partial_files(stage, run):
    return [file for folder in STAGES[stage][1] for file in (run / folder).glob(".*.partial")]


def finish(stage, run, more=""):
    """Let the stage come to its end."""
    if not is_whole(run / stage):
        process = start(stage, run, more)
        said = process.communicate(timeout=600)[1]
        assert process.returncode == 0, f"{stage}: {said}"
    assert not list(run.rglob(".*.partial")) and not list(run.rglob("resume.pt"))


def weights(stage, run):
    return [hashlib.sha256((run / folder / "model.safetensors").read_bytes()).hexdigest() for folder in STAGES[stage][1]]


def kill(process):
    """End a process with -9, and torchrun's workers with it, which would go on without it."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    for number in (process.pid, *map(int, children.read_text().split() if children.exists() else ())):
        with contextlib.suppress(ProcessLookupError):           # it has just ended
            os.kill(number, signal.SIGKILL)
    process.communicate()


def kill_once(stage, run, rng, in_a_save):
    """Start the stage and kill it up to a second after its first save. Returns where it was, None if that left it
    nothing to go on with: it had come to its end."""
    logs = {file: file.stat().st_size for file in run.glob("logs/*/events*")}
    process, moment = start(stage, run), None
    while process.poll() is None:
        if moment is None and any(file.stat().st_size > logs.get(file, 0) for file in run.glob("logs/*/events*")):
            moment = time.monotonic() + rng.uniform(0, 1)
        if moment and time.monotonic() > moment and (partial_files(stage, run) or not in_a_save):
            kill(process)
            if is_whole(run / stage):
                return None
            return "while it saved" if partial_files(stage, run) else "between two saves"
        time.sleep(0.001)
    assert process.returncode == 0, process.communicate()[1]


def kill_and_compare(stage, before, expected, kills, rng):
    """Run the stage in a copy of the folder `before`, with `kills` kills. Returns where they came."""
    with tempfile.TemporaryDirectory() as folder:
        run = shutil.copytree(before, Path(folder) / "run")
        places = []
        while len(places) < kills and not is_whole(run / stage):
            if place := kill_once(stage, run, rng, in_a_save=len(places) % 2 == 0):
                places.append(place)
        assert places, f"{stage} came to its end before it could be killed: give it more steps"
        finish(stage, run)
        assert weights(stage, run) == expected, f"{stage}: other weights after the kills {places}"
    return places

# ----------------------------------------------------------------------------- a full disk

@contextlib.contextmanager
def small_disk():
    """A folder on a disk of 64 MB; None if this machine does not let us make one."""
    with tempfile.TemporaryDirectory() as folder:
        made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", folder], capture_output=True)
        try:
            yield Path(folder) if made.returncode == 0 else None
        finally:
            if made.returncode == 0:
                subprocess.run(["umount", "--lazy", folder], check=True)


def fill_and_compare(stage, before, expected):
    """Fill the disk in the middle of a save; then make room and go on. Returns what the stage said, or None."""
    with small_disk() as disk:
        if disk is None:
            return None
        run = shutil.copytree(before, disk / "run")
        process, filler = start(stage, run), open(disk / "filler", "wb", buffering=0)
        while process.poll() is None:
            saves = list(run.rglob("resume.pt"))
            space = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
            if saves and space > 4096:
                with contextlib.suppress(OSError):              # all that is left, but for half a save
                    filler.write(bytes(max(0, space - saves[0].stat().st_size // 2)))
            time.sleep(0.001)
        lines = process.communicate()[1].strip().splitlines()
        said = lines[-1]
        assert process.returncode == 1 and "MiB were left on its disk" in said, (process.returncode, lines)
        assert not list(run.rglob(".*.partial"))
        for save in run.rglob("resume.pt"):
            torch.load(save, weights_only=True)                 # the last one is whole
        filler.close()
        (disk / "filler").unlink()
        finish(stage, run)
        assert weights(stage, run) == expected, f"{stage}: other weights after a full disk"
        return said

# ----------------------------------------------------------------------------- all of it

def main(kills, disk, seed, processes=1, stages=tuple(STAGES)):
    """Disturb these stages; the others only come to their end, in one process and a step."""
    rng, total = random.Random(seed), 0
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        run.mkdir()
        for stage in STAGES:
            before = shutil.copytree(run, Path(folder) / f"before_{stage}")
            if stage not in stages:
                launcher[:] = []
                finish(stage, run, "--steps 1" + " --pretrain_steps 1" * (stage == "sft"))
                continue
            launcher[:] = TORCHRUN if processes > 1 else []
            finish(stage, run)
            expected = weights(stage, run)
            places = kill_and_compare(stage, before, expected, kills, rng)
            total += len(places)
            print(f"{stage:8}{len(places)} kills, {places.count('while it saved')} of them in a save: equal weights",
                  flush=True)
            if disk:
                said = fill_and_compare(stage, before, expected)
                print(f"{stage:8}full disk: " + (f'equal weights after "{said}"' if said else
                                                 "skipped, this machine can mount no small one"), flush=True)
    print(f"{total} kills in all")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=8, help="of each script")
    parser.add_argument("--no_disk", action="store_true", help="leave the full disk out")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=1, choices=(1, 2))
    flags = parser.parse_args()
    main(flags.kills, not flags.no_disk, flags.seed, flags.processes)
