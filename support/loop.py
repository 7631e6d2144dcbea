"""The steps of a training loop: where they start, what they log, when they save.

    loop = Loop(folder, steps, cfg, model=model, optimizer=optimizer)
    for step in loop:
        …
        loop.log({"loss": loss}, show=["loss"])
    loop.close()

`folder` is that of the stage. `resume.pt` in it holds all that the loop needs to go on as if it had never stopped.
"""
import torch

from support import UserError
from support.files import write_whole


class Loop:
    def __init__(self, folder, steps, cfg, values=None, **parts):
        """`parts` are the models and optimisers by name; `values` is a dict of what else changes from step to step."""
        self.folder, self.steps, self.cfg, self.parts = folder, steps, cfg, parts
        self.values = {} if values is None else values
        self.path, self.step = folder / "resume.pt", 0
        if cfg.resume and self.path.exists():
            self.load()

    def __iter__(self):
        self.open()
        while self.step < self.steps:
            yield self.step
            self.step += 1
            self.bar.update()
            if self.step % self.cfg.save_every == 0:
                self.save()

    # ------------------------------------------------------------------------- the screen and TensorBoard

    def open(self):
        """One progress bar and one folder of TensorBoard's."""
        from torch.utils.tensorboard import SummaryWriter       # slow to import, and tests do without
        from tqdm import tqdm
        self.writer = SummaryWriter(self.folder.parent / "logs" / self.folder.name, purge_step=self.step)
        self.bar = tqdm(total=self.steps, initial=self.step, desc=self.folder.name, dynamic_ncols=True)

    def log(self, metrics, show=()):
        """Log a dict of numbers at this step; those named in `show` also stand on the progress bar."""
        metrics = {name: torch.as_tensor(value).item() for name, value in metrics.items()}
        for name, value in metrics.items():
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

    def save(self):
        """Write the parts, the values, the step and the state of the random generator."""
        state = {name: part.state_dict() for name, part in self.parts.items()}
        state.update(values=self.values, step=self.step, rng=torch.get_rng_state(), train=self.cfg.train)
        write_whole(self.path, lambda path: torch.save(state, path))

    def load(self):
        """Go on from the last checkpoint. Raises UserError if it is of a run in which other weights moved."""
        state = torch.load(self.path, map_location="cpu", weights_only=True)
        if state["train"] != self.cfg.train:
            raise UserError(f"--resume: {self.path} was written with --train {state['train']}, not {self.cfg.train}")
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
        self.values.update(state["values"])
        self.step = state["step"]
        torch.set_rng_state(state["rng"])
