"""What a loop says while it runs."""
import torch


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
