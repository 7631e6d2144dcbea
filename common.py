"""What every stage needs and none is about: starting, finding models, logging, stopping and resuming."""
import json
import os
import random
import sys
from pathlib import Path

import torch
import tyro


class UserError(Exception):
    """Something the user can mend. `launch` shows its one sentence and no traceback."""

# ----------------------------------------------------------------------------- start

def launch(main, Config, presets=None):
    """Read the command line into a Config and run `main`: exit code 1 after a UserError, 2 after a wrong flag, 130
    after Ctrl-C. A preset changes the defaults, which flags override: the one that --preset names, or that of the
    GPT-2 which the run is about."""
    try:
        cfg = tyro.cli(Config)
        if name := presets and (cfg.preset or preset_of(cfg)):
            if name not in presets:
                raise UserError(f"--preset {name}: there is no such preset; there are {', '.join(presets)}")
            print(f"preset {name}: " + " ".join(f"--{flag} {value}" for flag, value in presets[name].items()))
            cfg = tyro.cli(Config, default=Config(preset=name, **presets[name]))
        main(cfg)
    except UserError as error:
        sys.exit(f"{Path(sys.argv[0]).name}: {error}")
    except KeyboardInterrupt:
        print("\nstopped; the same command with --resume goes on from the last checkpoint", file=sys.stderr)
        sys.exit(130)


def preset_of(cfg):
    """"gpt2" to "gpt2-xl" if a stage starts from one of them, known by its name or its width; "" for other models."""
    widths = {768: "gpt2", 1024: "gpt2-medium", 1280: "gpt2-large", 1600: "gpt2-xl"}
    init = getattr(cfg, "init", "")
    file = (Path(init) if init else run_folder(cfg) / "sft") / "config.json"
    if init in widths.values() and not file.exists():
        return init
    return widths.get(read_json(file).get("n_embd"), "") if file.exists() and init != "scratch" else ""


def start(cfg):
    """Check the flags that all stages share, seed the generators, return (the run's folder, device, bf16 or not)."""
    for names, least, above in (
            ("batch_size epochs minibatches max_new_tokens samples prompts best_of", 1, False),
            ("n_layer n_head n_embd sample_every save_every", 1, False), ("block_size normalise_samples", 2, False),
            ("steps pretrain_steps micro_batch_size lr pretrain_lr critic_lr kl_target", 0, False),
            ("temperature clip value_clip kl_horizon", 0, True)):
        for name in names.split():
            value = getattr(cfg, name, None)
            if value is not None and not (value > least if above else value >= least):
                raise UserError(f"--{name} {value}: must be {'above' if above else 'at least'} {least}")
    torch.manual_seed(cfg.seed)
    random.seed(cfg.seed)
    try:
        device = torch.device(cfg.device or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {cfg.device}: this machine can't use it ({str(error).splitlines()[0]})") from error
    gpu = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    precision = cfg.precision or ("bf16" if gpu else "fp32")
    if precision not in ("fp32", "bf16"):
        raise UserError(f"--precision {precision}: must be fp32 or bf16")
    if gpu and precision == "bf16":
        torch.set_float32_matmul_precision("high")              # TF32, for what stays in float32: the heads
    return run_folder(cfg), device, precision == "bf16"


def run_folder(cfg):
    """`--run`, or out/<data set>, or out/<name of the data file>; hh:a+b is no name for a folder, hh-a-b is."""
    name = Path(cfg.data).name.removesuffix(".gz").removesuffix(".jsonl")
    return Path(cfg.run) if cfg.run else Path("out") / name.replace(":", "-").replace("+", "-")


def from_hub(repo, files, kind="model"):
    """The folder with `files` (glob patterns) of a Hugging Face repository: out of its cache, or downloaded once,
    with progress. HF_HOME and HF_HUB_OFFLINE are respected. Raises UserError with address and destination."""
    from huggingface_hub import constants, snapshot_download    # slow to import, and the toy does without
    try:
        folder = Path(snapshot_download(repo, repo_type=kind, allow_patterns=files))
        if missing := [pattern for pattern in files if not any(folder.glob(pattern))]:
            raise FileNotFoundError("the cache lacks " + ", ".join(missing))    # offline it is returned as it is
    except Exception as error:      # OSError, RuntimeError, what the HTTP client raises: they have no common base
        address = f"{constants.ENDPOINT}/{'datasets/' if kind == 'dataset' else ''}{repo}"
        reason = str(error).partition("\n")[0]
        raise UserError(f"{address} could not be downloaded to {constants.HF_HUB_CACHE} ({reason}); connect once, "
                        "and it is read from there ever after") from error
    return folder


def find_model(run, stage):
    """The folder of an earlier stage's model. Raises UserError that says what to run first."""
    script = {"base": "sft.py", "sft": "sft.py", "reward": "reward.py", "ppo": "ppo.py"}[stage]
    if not (run / stage / "config.json").exists():
        raise UserError(f"no {stage} model in {run / stage}: run `python {script}` first, "
                        "with the same --data or --run")
    return run / stage

# ----------------------------------------------------------------------------- learning rate

def set_learning_rate(optimizer, peak, step, steps, warmup=0.05):
    """Linear warm-up over the first twentieth, then linear decay to 0. Returns the rate.

    The rate is a function of the step alone, so a resumed run needs no scheduler state.
    """
    done = step / steps
    rate = peak * min((step + 1) / max(1, warmup * steps), (1 - done) / (1 - warmup), 1.0)
    for group in optimizer.param_groups:
        group["lr"] = rate
    return rate

# ----------------------------------------------------------------------------- logging

class Log:
    """One progress bar and one TensorBoard folder for a loop over `steps` steps, from step `start` on."""

    def __init__(self, folder, name, steps, start=0):
        from torch.utils.tensorboard import SummaryWriter       # slow to import, and tests do without
        from tqdm import tqdm
        self.writer = SummaryWriter(folder / "logs" / name, purge_step=start)
        self.bar = tqdm(total=steps, initial=start, desc=name, dynamic_ncols=True)

    def __call__(self, step, metrics, show=()):
        """Log a dict of numbers; those named in `show` also stand on the progress bar."""
        metrics = {key: torch.as_tensor(value).item() for key, value in metrics.items()}
        for key, value in metrics.items():
            self.writer.add_scalar(key, value, step)
        self.bar.set_postfix({key.split("/")[-1]: f"{metrics[key]:.3g}" for key in show}, refresh=False)
        self.bar.update()

    def text(self, step, name, text):
        """Print sample texts above the bar, and log them."""
        self.bar.write(text)
        self.writer.add_text(name, "```\n" + text + "\n```", step)

    def close(self):
        self.bar.close()
        self.writer.close()

# ----------------------------------------------------------------------------- files

def write_whole(path, content):
    """Write a text file under a temporary name and move it into place, so that no reader ever sees half
    of it and a crash leaves the old one. `content` is text, or a function that is given the path to write."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.{os.getpid()}"
    temporary.write_text(content, encoding="utf-8") if isinstance(content, str) else content(temporary)
    os.replace(temporary, path)


def read_config(folder):
    """The config.json of a model's folder. Raises UserError if there is none, or no JSON in it."""
    file = Path(folder) / "config.json"
    if not file.exists():
        raise UserError(f"{folder}: no model here, there is no {file}")
    return read_json(file)


def read_json(file):
    """The object in a JSON file. Raises UserError if there is none in it."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:                                 # no JSON, or not even UTF-8
        raise UserError(f"{file}: not JSON ({error})") from error
    if not isinstance(content, dict):
        raise UserError(f"{file}: must hold an object, {{…}}")
    return content


def save_resume(folder, cfg, **state):
    """Write `resume.pt`: all that a loop needs to go on as if it had never stopped, the RNG's state included."""
    state.update(rng=torch.get_rng_state(), train=cfg.train)
    write_whole(folder / "resume.pt", lambda path: torch.save(state, path))


def load_resume(folder, cfg):
    """Read `resume.pt` back and restore the RNG. Raises UserError if there is nothing (of this kind) to resume."""
    if not (folder / "resume.pt").exists():
        raise UserError(f"--resume: there is no {folder / 'resume.pt'}; start without --resume")
    state = torch.load(folder / "resume.pt", weights_only=True)
    if state["train"] != cfg.train:
        raise UserError(f"--resume: {folder / 'resume.pt'} was written with --train {state['train']}, not {cfg.train}")
    torch.set_rng_state(state.pop("rng"))
    return state


def finish(model, tokenizer, folder):
    """Save a stage's model; what was needed to resume it is needed no more."""
    model.save_pretrained(folder, tokenizer)
    (folder / "resume.pt").unlink(missing_ok=True)
    print(f"saved {folder}")
