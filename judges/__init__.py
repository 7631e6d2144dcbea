"""Judges say which of two responses is better, and normal.py says whether a run is like good ones.
evaluate.py asks them. No training script may import this folder.

A judge has
    name                    what the table calls it
    ideal                   the score of a response that could not be better, or None
    score(responses)        its points for each Response of evaluate.py, or None if it only compares
    compare(comparisons)    {name: (ours, theirs)}, Responses to the same prompts
                            -> {name: a verdict on each pair}, as win_rate.py explains them
    is_proxy                whether it is the very reward model that PPO learns from
    replies, remark         how it judged: a dict for the JSON, or None, and text to print
"""
import torch

import data
from data import toy_world
from gpt import ScalarGPT
from judges.win_rate import by_scores
from support import UserError
from text.batches import pad
from text.examples import fit
from text.tokenizer import Tokenizer


class Judge:
    """One that scores responses; the higher score wins."""
    ideal = None
    is_proxy = False
    replies = None
    remark = ""

    def compare(self, comparisons):
        return {name: by_scores(*pair) for name, pair in comparisons.items()}


class Proxy(Judge):
    """The run's own reward model, where there is no other judge: how far PPO got by its measure."""
    name = "reward_model"
    is_proxy = True

    def score(self, responses):
        return [response.proxy for response in responses]


class Checker(Proxy):
    """The function of --reward, from which PPO learned. What it scores 1 could not be better, so
    the ideal share of a model is its pass@1."""
    ideal = 1.0

    def __init__(self, name):
        self.name = name


class Gold(Judge):
    """The toy's: the function from which its comparisons were drawn."""
    name = "gold"
    ideal = toy_world.IDEAL

    def score(self, responses):
        return [toy_world.judge(response.prompt, response.text) for response in responses]


class HeldOutRewardModel(Judge):
    """A reward model that PPO did not learn from. It reads texts, so its vocabulary may differ."""

    def __init__(self, folder, cfg, device, bf16):
        self.name = str(folder)
        self.cfg = cfg
        self.device = device
        self.tokenizer = Tokenizer.load(folder)
        self.model = ScalarGPT.from_pretrained(folder, device, bf16, frozen=True)

    @torch.no_grad()
    def score(self, responses):
        """Unfinished ones get a low score, as they do from the run's own reward model."""
        rows, size = [self.encode(response) for response in responses], self.cfg.batch_size
        scores = []
        for i in range(0, len(rows), size):
            scores += self.model.reward(*pad(rows[i:i + size], device=self.device)).tolist()
        lowest = self.model.unfinished_score(self.cfg.missing_eos_score)
        return [score if response.ended else lowest
                for response, score in zip(responses, scores)]

    def encode(self, response):
        """Its ids behind those of its prompt, which is cut from the left until both fit."""
        prompt, completion = self.tokenizer.encode(response.prompt, response.text)
        fitting = fit(prompt, [completion], self.model.config.block_size)
        if not fitting:
            raise UserError(f"--judge {self.name}: a response of {len(completion)} tokens does not "
                            "fit into that model; lower --max_new_tokens")
        return fitting[0] + completion


class Lexicon(Judge):
    """VADER's lexicon and rules (Hutto & Gilbert, ICWSM 2014): how glad the whole text sounds, from
    -1 to 1, prompt and response, ended or not. Nobody's comparisons are in it."""
    name = "vader"

    def __init__(self):
        try:
            from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer
        except ImportError as error:
            raise UserError("--judge vader: `pip install vaderSentiment` first") from error
        self.rules = SentimentIntensityAnalyzer()

    def score(self, responses):
        return [self.rules.polarity_scores(response.prompt + response.text)["compound"]
                for response in responses]


def open_judge(cfg, run, device, bf16):
    """The judge that --judge names: the data set's own (""), a language model (an address), a
    lexicon ("vader"), or a reward model (a folder). Raises UserError if there is no such judge."""
    if cfg.judge.startswith(("http://", "https://")):
        from judges.language_model import LanguageModel         # only this needs an HTTP client
        return LanguageModel(cfg.judge, cfg.judge_model, run / "verdicts.jsonl")
    if cfg.judge_model:
        raise UserError("--judge_model goes with the address of a server, "
                        "such as --judge http://localhost:8000/v1")
    if cfg.judge == "vader":
        return Lexicon()
    if cfg.judge:
        return HeldOutRewardModel(cfg.judge, cfg, device, bf16)
    if cfg.data in data.TOYS:
        return Gold()
    return Checker(cfg.reward) if cfg.reward else Proxy()
