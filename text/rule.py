"""A function as the reward, where a program can check a response and no reward model is needed.

    python ppo.py --reward data.sums:verify

The function gets prompt and response as text, and returns a number. It may be in a file of your own
in the current folder: `--reward rules:short` is the function `short` of rules.py.
"""
import importlib
import math
import sys
from numbers import Real

import torch

from support import UserError, reason
from text.tokenizer import Tokenizer


def find(name):
    """The function that MODULE:FUNCTION names. Raises UserError if there is none."""
    module, colon, function = name.partition(":")
    if not (module and colon and function):
        raise UserError(f"--reward {name}: must be MODULE:FUNCTION, such as data.sums:verify")
    sys.path.append("")                 # last: no file of the user takes the place of one of ours
    try:
        found = importlib.import_module(module)
    except Exception as error:          # the module is missing, or any program fails in it
        raise UserError(f"--reward {name}: the module {module} can't be imported from here "
                        f"({type(error).__name__}: {reason(error)})") from error
    if not callable(getattr(found, function, None)):
        where = getattr(found, "__file__", None) or module
        raise UserError(f"--reward {name}: there is no function {function} in {where}")
    return getattr(found, function)


def open_rule(cfg, folder):
    """The Rule of --reward, for models with the tokenizer in a folder. Raises UserError if there is
    none, or if --reward_model names a scorer, too."""
    if cfg.reward_model:
        raise UserError(f"--reward {cfg.reward} with --reward_model {cfg.reward_model}: only one "
                        "can score; leave one out, or write --reward \"\" where a preset has it")
    return Rule(cfg.reward, Tokenizer.load(folder))


class Rule:
    """What `make_experience` and evaluate.py ask of a reward model, from a function."""

    def __init__(self, name, tokenizer):
        self.name, self.function, self.tokenizer = name, find(name), tokenizer
        self.prompts, self.lowest = {}, 0.0

    def expect(self, prompts, encoded):
        """Say which prompts (str) will be asked, and their ids as the models read them, cut to fit.
        Raises UserError if two have the same ids, since `reward` could not tell them apart."""
        for prompt, ids in zip(prompts, encoded):
            if self.prompts.setdefault(tuple(ids), prompt) != prompt:
                raise UserError(f"--reward {self.name}: two prompts have the same last {len(ids)} "
                                "tokens, and what differs is cut off; give more room, "
                                "--max_prompt_tokens, or shorter prompts")
        self.lengths = sorted({len(ids) for ids in self.prompts})

    def reward(self, ids, mask):
        """The score of each row (rows, T), a left-padded prompt and a response: (rows)."""
        rows, starts = [row[real].tolist() for row, real in zip(ids, mask)], mask.int().argmax(1)
        # Where does the response begin? Not at its "Assistant:", which a response may write, too.
        # Prompts are known, and all of a batch end in one column: that decides where one prompt
        # begins as another, but for a batch of which all do. There the longer one was asked.
        ends = [{start + n for n in self.lengths if tuple(row[:n]) in self.prompts}
                for row, start in zip(rows, starts.tolist())]
        end = max(set.intersection(*ends))
        scores = []
        for row, start in zip(rows, starts.tolist()):
            prompt = self.prompts[tuple(row[:end - start])]
            scores.append(self.score(prompt, self.tokenizer.decode(row[end - start:])))
        self.lowest = min([self.lowest, *scores])
        return torch.tensor(scores, device=ids.device)      # (rows)

    def score(self, prompt, response):
        """The function's number. Raises UserError if it has none."""
        where = f"--reward {self.name}: for the prompt {prompt[-60:]!r} and the response " \
                f"{response[:60]!r}"
        try:
            score = self.function(prompt, response)
        except Exception as error:      # any program may fail
            raise UserError(f"{where} it stopped with {type(error).__name__}: "
                            f"{reason(error)}") from error
        if not isinstance(score, Real) or not math.isfinite(score):
            raise UserError(f"{where} it returned {str(score)[:40]!r}, and must return a finite "
                            "number")
        return float(score)

    def unfinished_score(self, given=None):
        """The score of a response without <|endoftext|>: `given` (--missing_eos_score), or 0.
        Raises UserError if a finished one can get less: never to end would be rewarded."""
        if given is None and self.lowest < 0:
            raise UserError(f"--reward {self.name} gave a score of {self.lowest:g}, less than the "
                            "0 of a response that never ends: give --missing_eos_score")
        return given or 0.0
