"""A run is a folder: base/, sft/, reward/, ppo/, and TensorBoard's logs. Each stage finds its predecessors there."""
from pathlib import Path

from support import UserError
from support.card import write_card
from support.files import read_config
from support.hub import find_folder


def run_folder(cfg):
    """`--run`, or out/<data set>, or out/<name of the data file>. "hh:a+b" becomes out/hh-a-b, "hub:a/b" out/b."""
    if cfg.run:
        return Path(cfg.run)
    name = Path(cfg.data).name.removesuffix(".gz").removesuffix(".jsonl")
    if cfg.data.startswith("hub:"):
        name = cfg.data.partition("/")[2].replace("/", "-")
    return Path("out") / name.replace(":", "-").replace("+", "-")


def find_model(run, stage):
    """The folder of an earlier stage's model. Raises UserError that says what to run first."""
    if not (run / stage / "config.json").exists():
        script = "sft.py" if stage == "base" else f"{stage}.py"
        raise UserError(f"no {stage} model in {run / stage}: run `python {script}` first, "
                        "with the same --data or --run")
    return run / stage


def find_reward_model(run, name):
    """The folder of the reward model: the run's, or the one called `name`, trained elsewhere."""
    folder = find_folder(name) if name else find_model(run, "reward")
    if "reward_mean" not in read_config(folder):
        print(f"the scores of {folder} are used as they are; `python reward.py --init {folder} --steps 0` would "
              "normalise them to mean 0 and standard deviation 1 on completions of the SFT model, as β expects")
    return folder


def finish(model, tokenizer, folder, cfg):
    """Save a stage's model and its card. What was needed to resume the stage is needed no more."""
    model.save_pretrained(folder, tokenizer)
    write_card(folder, cfg)
    (folder / "resume.pt").unlink(missing_ok=True)
    print(f"saved {folder}")
