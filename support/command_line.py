"""From the command line to a running stage: flags, presets, limits, device. A mistake is one sentence."""
import math
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

from support import UserError, reason
from support.checkpoint import read_config
from support.distributed import join
from support.endings import plain_endings
from support.files import read_json
from support.memory import check_weights
from support.runs import check_run, run_folder


@dataclass
class Flags:
    """The flags that all stages share; the Config of each stage adds its own."""
    data: str = "toy"       # data set: toy, hh (or hh:SUBSET+…), tldr, hub:OWNER/NAME[:SPLIT], or your own .jsonl[.gz]
    run: str = ""           # folder of the run; default out/<data>
    preset: str = ""        # other defaults: gpt2, gpt2-medium, -large, -xl, unified; default by the model
    seed: int = 0           # of the first weights, the order of the data, and sampling
    device: str = ""        # cuda, mps, cpu; default cuda if there is one, else cpu
    precision: str = ""     # fp32 or bf16; default bf16 on a GPU that has it


@dataclass
class TrainingFlags(Flags):
    """The further flags that the training scripts share."""
    train: str = "all"          # weights that move: all, last:N blocks, lora:R adapters of rank R; a scalar head always
    micro_batch_size: int = 0   # examples of a batch at a time: less memory and padding, the same gradient; 0 is all
    save_every: int = 0         # steps between two saves to resume from; 0 is one every ten minutes
    resume: bool = False        # go on from the last save of this run


# The smallest and the largest value that makes sense, flag by flag; all numbers must be finite and at most a billion.
AT_LEAST = {
    "steps": 0, "pretrain_steps": 0, "batch_size": 1, "micro_batch_size": 0, "epochs": 1, "minibatches": 1,
    "max_new_tokens": 1, "samples": 1, "prompts": 1, "best_of": 1, "normalise_samples": 2,
    "answers": 2, "repeat_every": 1, "tries": 1, "turns": 0,
    "n_layer": 1, "n_head": 1, "n_embd": 1, "block_size": 2, "sample_every": 1, "save_every": 0,
    "lr": 0, "pretrain_lr": 0, "critic_lr": 0, "kl_target": 0, "kl_coef": 0, "gamma": 0, "lam": 0, "seed": 0,
}
AT_MOST = {"seed": 2 ** 63 - 1, "gamma": 1, "lam": 1, "samples": 10_000, "best_of": 10_000, "epochs": 1000,
           "answers": 4, "n_layer": 1000, "n_embd": 100_000, "block_size": 1_000_000}
ABOVE_0 = ("temperature", "clip", "value_clip", "kl_horizon")
DEVICES = ("cpu", "cuda", "mps", "xpu")
WIDTHS = {768: "gpt2", 1024: "gpt2-medium", 1280: "gpt2-large", 1600: "gpt2-xl"}

PRESETS = Path(__file__).parent / "presets.json"        # stage -> model -> flags; docs/gpt2.md has the sources


def launch(main, Config, stage):
    """Read the command line into a Config and run `main`. The preset that --preset names or that fits the model
    replaces the defaults; flags override it. Exit codes are those of `plain_endings`, and 2 after a wrong flag."""
    with plain_endings():
        cfg, presets = tyro.cli(Config), read_json(PRESETS)[stage]
        if name := cfg.preset or preset_of(cfg):
            if name not in presets:
                raise UserError(f"--preset {name}: there is no such preset; there are {', '.join(presets)}")
            print(f"preset {name}: " + " ".join(f"--{flag} {value}" for flag, value in presets[name].items()))
            cfg = tyro.cli(Config, default=Config(preset=name, **presets[name]))
        main(cfg)


def preset_of(cfg):
    """"gpt2" to "gpt2-xl" if a stage starts from one of them, known by its name or its width; else ""."""
    init = getattr(cfg, "init", "")
    folder = Path(init) if init else run_folder(cfg) / "sft"
    if (folder / "config.json").exists() and init != "scratch":
        return WIDTHS.get(read_config(folder).get("n_embd"), "")
    return init if init in WIDTHS.values() else ""


def start(cfg, *stages):
    """Check the flags, seed the generator. Returns the run's folder, the device, whether to use bf16. `stages` are the
    folders that the script fills, in order."""
    check_numbers(cfg)
    check_run(cfg, stages)
    torch.manual_seed(cfg.seed)
    try:
        device = torch.device(cfg.device or ("cuda" if torch.cuda.is_available() else "cpu"))
        if device.type not in DEVICES:
            raise RuntimeError(f"there are: {', '.join(DEVICES)}")
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {cfg.device}: this machine can't use it ({reason(error)})") from error
    gpu = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    precision = cfg.precision or ("bf16" if gpu else "fp32")
    if precision not in ("fp32", "bf16"):
        raise UserError(f"--precision {precision}: must be fp32 or bf16")
    if gpu and precision == "bf16":
        torch.set_float32_matmul_precision("high")              # the heads: TF32 rounds what they multiply, not sums
    return run_folder(cfg), join(device, cfg), precision == "bf16"


def check_numbers(cfg):
    """Refuse a flag whose number makes no sense."""
    for name, value in vars(cfg).items():
        if type(value) not in (int, float):
            continue
        if not math.isfinite(value):
            raise UserError(f"--{name} {value}: must be a finite number")
        if name in AT_LEAST and value < AT_LEAST[name]:
            raise UserError(f"--{name} {value}: must be at least {AT_LEAST[name]}")
        if name in ABOVE_0 and value <= 0:
            raise UserError(f"--{name} {value}: must be above 0")
        if value > (most := AT_MOST.get(name, 10 ** 9)):
            raise UserError(f"--{name} {value}: must be at most {most:,}")
    if "minibatches" in vars(cfg) and cfg.minibatches > cfg.batch_size:
        raise UserError(f"--minibatches {cfg.minibatches}: must be at most --batch_size, which is {cfg.batch_size}")
    if getattr(cfg, "init", "") == "scratch":
        check_weights(50257, cfg.block_size, cfg.n_layer, cfg.n_embd, "--n_layer, --n_embd, --block_size")
