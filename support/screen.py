"""The progress bar and TensorBoard's curves of a training loop. If they break, the training goes
on without."""
import sys
import threading
from contextlib import suppress

from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from support import reason


def open_screen(folder, done, steps):
    """(bar, writer) of a stage's folder, which begin at step `done`."""
    # TensorBoard writes in a thread. What it raises comes up at the next call, too.
    threading.excepthook = silent_if_no_place(threading.excepthook)
    curves = folder.parent / "logs" / folder.name
    bar = Breakable("the progress bar", tqdm, total=steps, initial=done, desc=folder.name,
                    dynamic_ncols=True)
    return bar, Breakable(f"curves in {curves}", SummaryWriter, log_dir=curves, purge_step=done)


def silent_if_no_place(hook):
    def silent(failed):
        if not issubclass(failed.exc_type, OSError):
            hook(failed)
    return silent


class Breakable:
    """Makes something and passes calls on to it, until one raises OSError: a full disk, a folder
    that is gone."""

    def __init__(self, name, make, **named):
        self.name = name
        self.made = self.attempt(make, **named)

    def __getattr__(self, method):
        def call(*given, **named):
            if self.made is not None:
                self.attempt(getattr(self.made, method), *given, **named)
        return call

    def attempt(self, call, *given, **named):
        try:
            return call(*given, **named)
        except OSError as error:
            self.made = None
            with suppress(OSError):
                said = f"WARNING: {self.name}: {reason(error)}; the training goes on without"
                print("\n" + said, file=sys.stderr)
