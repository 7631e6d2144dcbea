"""What the tests share: models, a vocabulary and a data file as small as they can be."""
import copy
import json
import re
from types import SimpleNamespace

import torch

from text.tokenizer import WORDS, Tokenizer
from gpt import GPT, ScalarGPT
from ppo import Config
from support.loop import Loop

VOCAB, EOS, BLOCK = 11, 10, 24


class Stop(BaseException):
    """What a test throws to end a run in its middle, as a power cut would."""


def close(actual, expected, atol=1e-6):
    """Equal up to `atol`; `expected` may be a list of hand-worked numbers."""
    expected = torch.as_tensor(expected, dtype=torch.as_tensor(actual).dtype)
    torch.testing.assert_close(torch.as_tensor(actual), expected, rtol=0, atol=atol)


def model(kind=GPT, seed=0, scale=0.4, **changes):
    """A model all of whose parameters are random: fresh ones have biases of 0 and gains of 1, behind
    which mistakes can hide."""
    torch.manual_seed(seed)
    shape = dict(vocab_size=VOCAB, block_size=BLOCK, n_layer=2, n_head=2, n_embd=8, eos_token_id=EOS)
    made = kind(kind.Config(**{**shape, **changes}))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(scale * torch.randn(parameter.shape))
    return made


def critic(seed=1, **changes):
    return model(ScalarGPT, seed, **changes)


def start(module):
    """Actor, critic, reference and reward model in the classes of a module that is ppo.py with a bug, and prompts."""
    trained = model(module.GPT), model(module.ScalarGPT, 1)
    return (*trained, *(copy.deepcopy(each).requires_grad_(False) for each in trained)), [[1, 2, 3], [4], [5, 6], [7, 8, 9, 1]] * 4


def ppo_config(**changes):
    """A ppo.Config that depends on no default that is there for the toy's sake."""
    return Config(**{**dict(epochs=1, minibatches=1, max_new_tokens=8, temperature=1.0, gamma=1.0, lam=0.95, clip=0.2,
                            value_clip=0.2, missing_eos_score=-1.0), **changes})


ROWS = [{"prompt": f"\n\nHuman: Is {thing} a {kind}?\n\nAssistant:",
         "completions": [f" Yes, {thing} is.", f" {thing} may be a {kind}.", " no"]}
        for thing in ("owl", "the brown cow", "dog", "our cat", "hen") for kind in ("bird", "pet", "tool", "word")]


def write_rows(path, rows=ROWS):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def words(rows=ROWS):
    """The 256 bytes and every word of the rows."""
    text = json.dumps(rows, ensure_ascii=False).replace("\\n", "\n")
    pieces = sorted({piece.encode() for piece in re.findall(WORDS, text)})
    return Tokenizer.words([bytes([b]) for b in range(256)] + [piece for piece in pieces if len(piece) > 1])


class SilentLoop(Loop):
    """In place of support.loop.Loop: keeps what a loop logs, and may end the run when step `stop`
    is logged: a number, or (name of the loop, number)."""
    runs = {}                   # name of the loop -> {step: metrics}, of the latest run
    stop = None

    def open(self):
        self.logged = SilentLoop.runs.setdefault(self.folder.name, {})
        self.texts = self.logged.setdefault("texts", [])
        nothing = lambda *given, **named: None
        self.bar = SimpleNamespace(write=print, update=nothing, set_postfix=nothing, close=nothing)
        self.writer = SimpleNamespace(add_scalar=self.add, flush=nothing, close=nothing,
                                      add_text=lambda name, text, step: self.texts.append(text))

    def add(self, name, value, step):
        if SilentLoop.stop in (step, (self.folder.name, step)):
            raise Stop
        self.logged.setdefault(step, {})[name] = value
