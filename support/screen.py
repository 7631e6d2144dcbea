"""The progress bar and TensorBoard's curves of a training loop. If they break, the training goes
on without."""
import sys
import threading
from contextlib import suppress

from support import reason
from support.distributed import rank


def open_screen(folder, done, steps):
    """(bar, writer) of a stage's folder, which begin at step `done`. Only the first process gets
    real ones, the others get silent ones."""
    if rank() > 0:
        return Breakable("", None), Breakable("", None)
    from torch.utils.tensorboard import SummaryWriter
    from tqdm import tqdm
    threading.excepthook = silent_if_no_place(threading.excepthook)
    curves = folder.parent / "logs" / folder.name
    bar = tqdm(total=steps, initial=done, desc=folder.name, dynamic_ncols=True)
    writer = SummaryWriter(log_dir=curves, purge_step=done)
    return Breakable("the progress bar", bar), Breakable(f"curves in {curves}", writer)


def read_curves(folder):
    """{metric: {step: value}} of what such a writer has left in `folder`; {} if that is nothing."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # slow
    logs = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    if folder.is_dir():
        logs.Reload()
    return {name: {event.step: event.value for event in logs.Scalars(name)}
            for name in logs.Tags()["scalars"]}


def silent_if_no_place(hook):
    """TensorBoard writes in a thread. What it raises there comes up at the next call, too."""
    return lambda failed: None if issubclass(failed.exc_type, OSError) else hook(failed)


class Breakable:
    """Passes calls on to `made`, until one raises OSError: a full disk, a folder that is gone."""

    def __init__(self, name, made):
        self.name, self.made = name, made

    def __getattr__(self, method):
        def call(*given, **named):
            try:
                if self.made is not None:
                    getattr(self.made, method)(*given, **named)
            except OSError as error:
                self.made = None
                with suppress(OSError):
                    print(f"\nWARNING: {self.name}: {reason(error)}; training continues without",
                          file=sys.stderr)
        return call
