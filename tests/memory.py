"""How much memory one PPO update takes on the CPU, beside what ppo.py says before it starts.

    python tests/memory.py --n_layer 12 --n_head 12 --n_embd 768 --vocab_size 50257 --prompt 896 --response 128 \
        --batch_size 8 --micro_batch_size 2

Prints one JSON object, in MiB: what was estimated, the peak in all, and that of each phase. What Python and torch take
for themselves is measured by a small update first and left out. Random weights, random prompts of one length.
"""
import contextlib
import io
import json
import os
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

if os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", "65536") and "TRIMMED" not in os.environ:
    # Else freed memory stays with the process, and what is measured is how it was cut into pieces.
    os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, "MALLOC_TRIM_THRESHOLD_": "65536", "TRIMMED": "1"})
sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
import tyro

import ppo
from checks import check_memory
from gpt import GPT, GPTConfig, ScalarGPT
from support.optimizer import adamw


@dataclass
class Flags:
    n_layer: int = 6
    n_head: int = 4
    n_embd: int = 256
    vocab_size: int = 8000
    prompt: int = 448           # tokens
    response: int = 64
    batch_size: int = 8
    micro_batch_size: int = 2


def used():
    """MiB of the process now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2 ** 20


class Watch:
    """The peak of each phase, looked at every 2 ms."""
    def __init__(self):
        self.phase, self.peaks, self.ended = "models", {}, False
        threading.Thread(target=self.look, daemon=True).start()

    def look(self):
        while not self.ended:
            self.peaks[self.phase] = max(self.peaks.get(self.phase, 0), used())
            time.sleep(0.002)

    def named(self, phase, function):
        def watched(*given, **named):
            before, self.phase = self.phase, phase
            try:
                return function(*given, **named)
            finally:
                self.phase = before
        return watched


def update(flags, watch=None):
    """One update, after AdamW has its moments. Returns the four models."""
    shape = GPTConfig(flags.vocab_size, flags.prompt + flags.response, flags.n_layer, flags.n_head, flags.n_embd,
                      flags.vocab_size - 1)
    cfg = ppo.Config(steps=1, batch_size=flags.batch_size, micro_batch_size=flags.micro_batch_size, epochs=1,
                     minibatches=1, max_new_tokens=flags.response)
    actor, critic, reference, reward_model = models = GPT(shape), ScalarGPT(shape), GPT(shape), ScalarGPT(shape)
    reference.load_state_dict(actor.state_dict())
    reference.place("cpu", frozen=True)
    reward_model.place("cpu", frozen=True)
    optimizers = adamw(actor), adamw(critic)
    for model, optimizer in zip(models, optimizers):
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        optimizer.zero_grad()
    if watch:
        actor.generate = watch.named("generation", actor.generate)
        ppo.make_experience = watch.named("scoring", ppo.make_experience)
        ppo.learn = watch.named("learning", ppo.learn)
    prompts = [torch.randint(0, flags.vocab_size - 1, (flags.prompt,)).tolist() for _ in range(flags.batch_size)]
    for _ in ppo.train(*models, *optimizers, prompts, ppo.first_state(cfg), cfg):
        pass
    return models, cfg


def main(flags):
    update(Flags(n_layer=1, n_embd=8, vocab_size=50, prompt=8, response=8))
    before, watch = used(), Watch()
    models, cfg = update(flags, watch)
    watch.ended = True
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        check_memory(models, ("", "", "", ""), flags.prompt, cfg, torch.device("cpu"))
    estimate = float(said.getvalue().split()[-2].replace(",", ""))
    peaks = {phase: round(peak - before) for phase, peak in watch.peaks.items()}
    print(json.dumps({"estimate": estimate, "peak": max(peaks.values()), **peaks}))


if __name__ == "__main__":
    torch.manual_seed(0)
    main(tyro.cli(Flags))
