"""Going on after an interruption: `resume.pt` holds all that a loop needs to go on as if it had never stopped."""
import torch

from support import UserError
from support.files import write_whole


class Resume:
    """The checkpoint `resume.pt` in the folder of a stage. `parts` are its models and optimisers, by name."""

    def __init__(self, folder, cfg, **parts):
        self.path, self.train, self.parts = folder / "resume.pt", cfg.train, parts

    def save(self, **values):
        """Write the parts, the random generator's state and `values`, such as the step."""
        state = {name: part.state_dict() for name, part in self.parts.items()}
        state.update(values, rng=torch.get_rng_state(), train=self.train)
        write_whole(self.path, lambda path: torch.save(state, path))

    def load(self):
        """Restore the parts and the random generator. Returns the values. Raises UserError if there is no
        checkpoint, or one of a run in which other weights moved."""
        if not self.path.exists():
            raise UserError(f"--resume: there is no {self.path}; start without --resume")
        state = torch.load(self.path, map_location="cpu", weights_only=True)
        if state["train"] != self.train:
            raise UserError(f"--resume: {self.path} was written with --train {state['train']}, not {self.train}")
        for name, part in self.parts.items():
            part.load_state_dict(state.pop(name))
        torch.set_rng_state(state.pop("rng"))
        return state
