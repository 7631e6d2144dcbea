"""What happens around a training loop: the screen, the curves, saves, signals, resuming.

    loop = Loop(folder, steps, cfg, rows, state, model=model, optimizer=optimizer)
    loop.start()
    for step, batch, metrics in loop.run(train(…)):
        loop.log(metrics, show=["loss"])
    loop.close()

The training loop is a generator of its script, which anybody can consume. `resume.pt` in the
stage's folder holds all that is needed to continue as if the run had never stopped.
"""
import math
import os
import signal
import time
from contextlib import suppress

import torch

from support import Stopped, UserError
from support.distributed import gather, rank, total
from support.files import write_whole

MINUTES = 10            # between two saves: what a power cut costs at most


class Loop:
    def __init__(self, folder, steps, cfg, rows, state, **parts):
        """`rows` are the lists of token ids that are learned from; `parts` the models and
        optimisers by name; `state` a dict of all else that changes from step to step. Its "step"
        is the number of steps that are done."""
        self.folder, self.steps, self.cfg, self.rows = folder, steps, cfg, rows
        self.state, self.parts = state, parts
        self.path, self.signal, self.handlers = folder / "resume.pt", None, {}

    def start(self):
        """With --resume, restore parts, state and random generators from the last save. Otherwise
        keep what an earlier run left in the folder under another name."""
        from support.resume import identity
        self.identity = identity(self.cfg, self.rows, self.parts)
        if rank() == 0:
            from support.lock import hold, set_aside    # only who trains needs them
            hold(self.folder)
        if self.cfg.resume and self.path.exists():
            self.load()
        elif rank() == 0:
            set_aside(self.folder)
        self.step, self.saved = self.state["step"], time.monotonic()    # the step of the curves
        self.open()

    def run(self, updates):
        """Pass on what the generator `updates` yields after each step. Save when it is due, after
        the last step, and when Ctrl-C or SIGTERM asks to stop: then raise Stopped."""
        try:
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) != signal.SIG_IGN:      # as for a job with nohup
                    self.handlers[number] = signal.signal(number, self.stop_after_this_step)
            for update in updates:
                yield update
                self.step += 1
                self.bar.update()
                stop = total(float(self.signal is not None)) > 0    # what one is told, all do
                if stop or self.state["step"] == self.steps or self.save_is_due():
                    self.save()
                if stop:
                    raise Stopped(self.signal or signal.SIGTERM,
                                  f"stopped after step {self.state['step']} of {self.steps}, which "
                                  "is saved: the same command with --resume continues from there")
        finally:
            self.give_signals_back()

    def stop_after_this_step(self, number, frame):
        """At the first signal. The next one stops the program at once, as it does elsewhere."""
        self.signal = number
        self.give_signals_back()
        with suppress(OSError):         # a terminal that is gone
            os.write(2, b"\nstopping after this step; once more stops at once, without a save\n")

    def give_signals_back(self):
        for number, handler in self.handlers.items():
            signal.signal(number, handler)

    # ---------- the screen and TensorBoard

    def open(self):
        """The progress bar and TensorBoard folder, of the first process only."""
        from support.screen import open_screen      # slow to import, and tests do without
        self.bar, self.writer = open_screen(self.folder, self.state["step"], self.steps)

    def log(self, metrics, show=()):
        """Log a dict of numbers at this step, those named in `show` on the progress bar, too.
        Raises UserError if a loss or a gradient is not finite."""
        for name, value in metrics.items():
            if not math.isfinite(value) and ("loss" in name or "gradient" in name):
                raise UserError(f"{name} is {value} at step {self.step}, so the training has "
                                "failed: start again with lower learning rates")
            self.writer.add_scalar(name, value, self.step)
        shown = {name.split("/")[-1]: f"{metrics[name]:.3g}" for name in show}
        self.bar.set_postfix(shown, refresh=False)

    def text(self, name, text):
        """Print a text above the bar, and log it."""
        self.bar.write(text)
        self.writer.add_text(name, "```\n" + text + "\n```", self.step)

    def close(self):
        self.bar.close()
        self.writer.close()

    # ---------- resume.pt

    def save_is_due(self):
        """Every --save_every steps, or every ten minutes by the clock of any process."""
        if self.cfg.save_every:
            return self.state["step"] % self.cfg.save_every == 0
        return total(float(time.monotonic() - self.saved > 60 * MINUTES)) > 0

    def save(self):
        """Write the parts, the state, and the random generators of all processes."""
        cuda = torch.empty(0)
        if torch.cuda.is_initialized():
            cuda = torch.stack(torch.cuda.get_rng_state_all())      # (devices, bytes)
        self.writer.flush()                 # else the curves of a killed run have a gap
        saved = {name: part.state_dict() for name, part in self.parts.items()}
        saved.update(identity=self.identity, state=self.state,
                     rng=gather(torch.get_rng_state()[None]), cuda_rng=gather(cuda[None]))
        write_whole(self.path, lambda path: torch.save(saved, path))
        self.saved = time.monotonic()

    def load(self):
        """Raises UserError if the last save is damaged or of another run."""
        from support.resume import check_parts, check_same_run, read_checkpoint
        saved = read_checkpoint(self.path)
        check_same_run(self.path, saved["identity"], self.identity)
        if (done := saved["state"]["step"]) > self.steps:
            raise UserError(f"--resume: {self.path} has {done} steps behind it, more than the "
                            f"{self.steps} asked for")
        check_parts(self.path, saved, self.parts)
        for name, part in self.parts.items():
            part.load_state_dict(saved[name])
        self.state.update(saved["state"])
        if rank() < len(saved["rng"]):      # else there were fewer processes, and it has its seed
            torch.set_rng_state(saved["rng"][rank()].clone())   # torch reads from a storage's start
            for device, rng in zip(range(torch.cuda.device_count()), saved["cuda_rng"][rank()]):
                torch.cuda.set_rng_state(rng, device)
