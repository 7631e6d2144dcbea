"""A run is a folder: base/, sft/, reward/, ppo/, one for each stage, and TensorBoard's logs/."""
import hashlib
from pathlib import Path

from support import UserError, printable
from support.checkpoint import find_folder
from support.files import read_json, write_whole


def run_folder(cfg):
    """`--run`, or out/<name of the data>: "hh:a+b" gives out/hh-a-b, "hub:a/b" out/b. The held-out
    part does not count: "toy:validation" gives out/toy, too."""
    if cfg.run:
        return Path(cfg.run)
    name = Path(cfg.data).name.removesuffix(".gz").removesuffix(".jsonl")
    name = name.removesuffix(":validation")
    if cfg.data.startswith("hub:"):
        name = cfg.data.partition("/")[2].replace("/", "-")
    return Path("out") / name.replace(":", "-").replace("+", "-")


def find_model(run, stage, name=""):
    """The folder of an earlier stage's model, or of the model `name`, made elsewhere. Raises
    UserError that says what to run first."""
    if name:
        return find_folder(name)
    if not (run / stage / "config.json").exists():
        script = "sft.py" if stage == "base" else f"{stage}.py"
        raise UserError(f"no {stage} model in {run / stage}: run `python {script}` first, with the "
                        "same --data or --run")
    return run / stage


def finish(model, tokenizer, folder, cfg, same=None, came_from=()):
    """Save a stage's model, its card, and run.json. That has the run's identity, `same`, and
    fingerprints of the models in the run's folders `came_from`, from which the stage was made."""
    from export.card import card            # only a finished stage has one
    from support.lock import data_name
    model.save_pretrained(folder, tokenizer)
    written = card(folder.resolve(), cfg, tokenizer.frame)
    write_whole(folder / "README.md", printable(written, kept="\n"))
    origin = {stage: weights_digest(folder.parent / stage) for stage in came_from}
    write_whole(folder / "run.json", {"identity": same or {}, "came_from": origin})
    if not cfg.run:
        write_whole(run_folder(cfg) / "data.txt", data_name(cfg) + "\n")
    (folder / "resume.pt").unlink(missing_ok=True)
    print(f"saved {folder}")


def read_origin(folder):
    """The dict in a stage's run.json; {} if there is none."""
    return read_json(folder / "run.json") if (folder / "run.json").exists() else {}


def weights_digest(folder):
    """A hash of all weights in a model folder."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        with open(path, "rb") as file:
            while piece := file.read(1 << 20):
                digest.update(piece)
    return digest.hexdigest()[:16]


def check_origin(run, stage):
    """Warn if a stage was made from a model that has been replaced since."""
    for name, digest in read_origin(run / stage).get("came_from", {}).items():
        if (run / name / "config.json").exists() and weights_digest(run / name) != digest:
            print(f"WARNING: {run / stage} was made from another {name} model than the one that is "
                  f"in {run / name} now: run `python {stage}.py` again, or the stages do not go "
                  "together")
