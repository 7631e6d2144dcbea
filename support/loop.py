"""The steps of a training loop: where they start, what they log, when they save, how they end.

    loop = Loop(folder, steps, cfg, rows, tokenizer, model=model, optimizer=optimizer)
    for step in loop:
        …
        loop.log({"loss": loss}, show=["loss"])
    loop.close()

`folder` is that of the stage. `resume.pt` in it holds all that the loop needs to go on as if it had never stopped. It
is written every so often, after the last step, and when Ctrl-C or a scheduler's SIGTERM asks the loop to stop.
"""
import math
import os
import signal
import time

import torch

from support import UserError
from support.distributed import gather, rank, total
from support.endings import Stopped
from support.files import write_whole
from support.resume import check_same_run, identity, read_checkpoint, write_batch
from support.runs import set_aside

MINUTES = 10            # between two saves: what a power cut costs at most


class Loop:
    def __init__(self, folder, steps, cfg, rows, tokenizer, values=None, **parts):
        """`rows` are the lists of token ids that the loop learns from, `parts` the models and optimisers by name,
        `values` a dict of what else changes from step to step. With cfg.resume it goes on from the last save."""
        self.folder, self.steps, self.cfg, self.tokenizer, self.parts = folder, steps, cfg, tokenizer, parts
        self.values = {} if values is None else values
        self.path, self.step, self.signal, self.saved = folder / "resume.pt", 0, None, time.monotonic()
        there = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        self.handlers = {number: handler for number, handler in there.items() if handler != signal.SIG_IGN}
        self.identity = identity(cfg, rows, parts)
        if cfg.resume and self.path.exists():
            self.load()
        elif rank() == 0:
            set_aside(folder)

    def __iter__(self):
        self.open()
        try:
            for number in self.handlers:
                signal.signal(number, self.stop_after_this_step)
            while self.step < self.steps:
                yield self.step
                self.step += 1
                self.bar.update()
                stop = total(float(self.signal is not None)) > 0       # what one process is told, all do
                if stop or self.step == self.steps or self.save_is_due():
                    self.save()
                if stop:
                    raise Stopped(self.signal or signal.SIGTERM,
                                  f"stopped after step {self.step} of {self.steps}, which is saved: "
                                  "the same command with --resume goes on from there")
        finally:
            self.give_signals_back()

    def stop_after_this_step(self, number, frame):
        """The first signal asks the loop to stop; the next one stops the program at once, as it does elsewhere."""
        self.signal = number
        self.give_signals_back()
        os.write(2, b"\nstopping after this step; once more stops at once, without a save\n")

    def give_signals_back(self):
        for number, handler in self.handlers.items():
            signal.signal(number, handler)

    # ------------------------------------------------------------------------- the screen and TensorBoard

    def open(self):
        """One progress bar and one folder of TensorBoard's, of the first process."""
        if rank() > 0:
            self.writer = self.bar = Silence()
            return
        from torch.utils.tensorboard import SummaryWriter       # slow to import, and tests do without
        from tqdm import tqdm
        self.writer = SummaryWriter(self.folder.parent / "logs" / self.folder.name, purge_step=self.step)
        self.bar = tqdm(total=self.steps, initial=self.step, desc=self.folder.name, dynamic_ncols=True)

    def log(self, metrics, show=(), batch=None):
        """Log a dict of numbers at this step; those named in `show` also stand on the progress bar. Raises UserError if
        a loss or a gradient is not finite, after it has written `batch` as text: nested lists of token ids, or padded
        `ids` with their `mask`."""
        metrics = {name: torch.as_tensor(value).item() for name, value in metrics.items()}
        for name, value in metrics.items():
            if not math.isfinite(value) and ("loss" in name or "gradient" in name):
                raise UserError(write_batch(self, name, value, batch))
            self.writer.add_scalar(name, value, self.step)
        self.bar.set_postfix({name.split("/")[-1]: f"{metrics[name]:.3g}" for name in show}, refresh=False)

    def text(self, name, text):
        """Print a text above the bar, and log it."""
        self.bar.write(text)
        self.writer.add_text(name, "```\n" + text + "\n```", self.step)

    def close(self):
        self.bar.close()
        self.writer.close()

    # ------------------------------------------------------------------------- resume.pt

    def save_is_due(self):
        """Every --save_every steps, or every ten minutes by the clock of any process."""
        if self.cfg.save_every:
            return self.step % self.cfg.save_every == 0
        return total(float(time.monotonic() - self.saved > 60 * MINUTES)) > 0

    def save(self):
        """Write the parts, the values, the step and the states of all processes' random generators."""
        cuda = torch.stack(torch.cuda.get_rng_state_all()) if torch.cuda.is_initialized() else torch.empty(0)
        self.writer.flush()                 # so that the curves have no gap where a killed run went on
        state = {name: part.state_dict() for name, part in self.parts.items()}
        state.update(identity=self.identity, values=self.values, step=self.step,
                     rng=gather(torch.get_rng_state()[None]), cuda_rng=gather(cuda[None]))
        write_whole(self.path, lambda path: torch.save(state, path))
        self.saved = time.monotonic()

    def load(self):
        """Go on from the last save. Raises UserError if that is damaged or of another run."""
        state = read_checkpoint(self.path)
        check_same_run(self.path, state, self.identity, self.steps)
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
        self.values.update(state["values"])
        self.step = state["step"]
        if rank() < len(state["rng"]):              # else there were fewer processes, and this one has its seed
            torch.set_rng_state(state["rng"][rank()].clone())       # torch reads where a tensor's storage begins
            for device, rng in zip(range(torch.cuda.device_count()), state["cuda_rng"][rank()]):
                torch.cuda.set_rng_state(rng, device)


class Silence:
    """Progress bar and writer of all processes but the first."""

    def __getattr__(self, name):
        return lambda *given, **named: None
