"""From the command line to a running stage: flags, presets, device."""
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro

from support import UserError, reason
from support.checkpoint import read_config
from support.distributed import join, leave
from support.files import read_json
from support.runs import run_folder

# A flag whose comment says what is done without it: --help shows no "(default: '')" behind that.
Text = Annotated[str, tyro.conf.arg(help_behavior_hint="")]


@dataclass
class Flags:
    """The flags that all stages share; the Config of each stage adds its own."""
    data: str = "toy"       # toy, toy2, sums, reviews, hh[:SUBSET], tldr, hub:OWNER/NAME, a file
    run: Text = ""          # folder of the run; without it out/<data>
    preset: Text = ""       # set of defaults: gpt2 to gpt2-xl, unified; else by model or data
    seed: int = 0           # seed of the first weights, the order of the data, and sampling
    device: Text = ""       # cuda, mps or cpu; without it cuda if there is one, else cpu
    precision: Text = ""    # fp32 or bf16; without it bf16 on a GPU that has it, else fp32


@dataclass
class TrainingFlags(Flags):
    """The further flags that the training scripts share."""
    train: str = "all"          # weights that move: all, last:N blocks, lora:R (rank R)
    micro_batch_size: int = 0   # examples at a time: less memory, the same gradient; 0: all
    save_every: int = 0         # steps between two saves to resume from; 0: every ten minutes
    resume: bool = False        # continue from the last save of this run


WIDTHS = {768: "gpt2", 1024: "gpt2-medium", 1280: "gpt2-large", 1600: "gpt2-xl"}

# stage -> model or data set -> flags; docs/gpt2.md, docs/reviews.md and docs/sums.md say why
PRESETS = Path(__file__).parent / "presets.json"


def launch(main, Config, stage):
    """Run `main` with the Config of the command line. After a wrong flag the exit code is 2."""
    from support.endings import plain_endings       # a program ends, and an import does not
    with plain_endings("; --resume continues from the last save" * hasattr(Config, "resume")):
        about = (sys.modules[Config.__module__].__doc__ or "").partition("\n\n")[0]
        cfg = tyro.cli(Config, description=about, use_underscores=True)
        take_preset(cfg, read_json(PRESETS)[stage])
        main(cfg)
        leave()


def take_preset(cfg, presets):
    """Apply the preset of --preset, of the model, or of the data set, to all flags that the user
    has not set."""
    data = cfg.data.partition(":")[0]
    cfg.preset = cfg.preset or preset_of(cfg) or (data if data in presets else "")
    if not cfg.preset:
        return
    if cfg.preset not in presets:
        raise UserError(f"--preset {cfg.preset}: there is no such preset; there are "
                        + ", ".join(presets))
    preset = presets[cfg.preset]
    print(f"preset {cfg.preset}: " + " ".join(f"--{flag} {preset[flag]}" for flag in preset))
    # --batch_size 8, --batch-size 8, --batch_size=8: all of them are the flag batch_size
    given = {word.split("=")[0].replace("-", "_") for word in sys.argv if word.startswith("--")}
    for flag, value in preset.items():
        if f"__{flag}" not in given:
            setattr(cfg, flag, value)


def preset_of(cfg):
    """"gpt2" to "gpt2-xl" if a stage starts from one, known by name or width; else ""."""
    init = getattr(cfg, "init", "")
    folder = Path(init) if init else run_folder(cfg) / "sft"
    if (folder / "config.json").exists() and init != "scratch":
        return WIDTHS.get(read_config(folder).get("n_embd"), "")
    return init if init in WIDTHS.values() else ""


def start(cfg, *stages):
    """Check the flags, seed the generator. Returns the run's folder, the device, whether to use
    bf16. `stages` are the folders that the script fills."""
    from support.preflight import check_numbers, check_run
    check_numbers(cfg)
    check_run(cfg, stages)
    torch.manual_seed(cfg.seed)
    try:
        device = torch.device(cfg.device or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError) as error:
        said = f"--device {cfg.device}: this machine can't use it ({reason(error)})"
        raise UserError(said) from error
    gpu = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    precision = cfg.precision or ("bf16" if gpu else "fp32")
    if precision not in ("fp32", "bf16"):
        raise UserError(f"--precision {precision}: must be fp32 or bf16")
    if gpu and precision == "bf16":     # the heads use TF32: it rounds what they multiply, not sums
        torch.set_float32_matmul_precision("high")
    return run_folder(cfg), join(device, cfg), precision == "bf16"
