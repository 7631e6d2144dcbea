"""Judges say which of two answers is better. evaluate.py asks them; no training script may import this folder.

A judge has
    name                    what the table calls it
    ideal                   the score of an answer that could not be better, if there is one, else None
    score(answers)          its points for each Answer of evaluate.py; None for each, if it only compares
    compare(comparisons)    {name: (ours, theirs)}, Answers to the same prompts -> {name: a verdict on each pair}
    is_proxy                whether it is the very reward model that PPO learns from
    replies, remark         how it judged: a dict for the JSON, or None, and text to print

win_rate.py says what a verdict is. `open_judge` gives the judge that the command line names.
"""
import torch

from text.batches import fit, pad
from text.tokenizer import Tokenizer
from gpt import ScalarGPT
from judges.win_rate import by_scores
from support import UserError


class Judge:
    """One that scores answers; the higher score wins."""
    ideal, is_proxy, replies, remark = None, False, None, ""

    def compare(self, comparisons):
        return {name: by_scores(*pair) for name, pair in comparisons.items()}


class Proxy(Judge):
    """The run's own reward model, where there is no other judge: how far PPO got by its own measure."""
    name, is_proxy = "reward_model", True

    def score(self, answers):
        return [answer.proxy for answer in answers]


class Gold(Judge):
    """The toy's: the function from which its comparisons were drawn."""
    name = "gold"

    def __init__(self):
        from data import toy_world
        self.points, self.ideal = toy_world.judge, toy_world.IDEAL

    def score(self, answers):
        return [self.points(answer.prompt, answer.text) for answer in answers]


class HeldOutRewardModel(Judge):
    """A reward model that PPO did not learn from. It reads the texts, so its vocabulary may be another one."""

    def __init__(self, folder, cfg, device, bf16):
        self.name, self.cfg, self.device = str(folder), cfg, device
        self.tokenizer = Tokenizer.load(folder)
        self.model = ScalarGPT.from_pretrained(folder, device, bf16, frozen=True)

    @torch.no_grad()
    def score(self, answers):
        """Unfinished answers get --missing_eos_score, as they do from the run's own reward model."""
        rows = [self.encode(answer) for answer in answers]
        scores = []
        for i in range(0, len(rows), self.cfg.batch_size):
            scores += self.model.reward(*pad(rows[i:i + self.cfg.batch_size], device=self.device)).tolist()
        return [score if answer.ended else self.cfg.missing_eos_score for answer, score in zip(answers, scores)]

    def encode(self, answer):
        prompt, completion = self.tokenizer.encode(answer.prompt, answer.text)
        fitting = fit(prompt, [completion], self.model.config.block_size)
        if fitting is None:
            raise UserError(f"--judge {self.name}: an answer of {len(completion)} tokens does not fit into its "
                            f"{self.model.config.block_size} positions; lower --max_new_tokens")
        return fitting[0] + completion


def open_judge(cfg, run, device, bf16):
    """The judge that --judge names: the data set's own (""), a language model (an address), or a reward model (a
    folder). Raises UserError if there is no such judge."""
    if cfg.judge.startswith(("http://", "https://")):
        from judges.language_model import LanguageModel         # alone in needing an HTTP client
        return LanguageModel(cfg.judge, cfg.judge_model, run / "verdicts.jsonl")
    if cfg.judge_model:
        raise UserError("--judge_model goes with the address of a server, such as --judge http://localhost:8000/v1")
    if cfg.judge:
        return HeldOutRewardModel(cfg.judge, cfg, device, bf16)
    return Gold() if cfg.data == "toy" else Proxy()
