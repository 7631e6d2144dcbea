"""python chat.py FOLDER …: talking to language models in the terminal, to several of them side by side."""
import random
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

from gpt import GPT, ScalarGPT
from support import UserError, printable
from support.command_line import check_numbers
from support.endings import plain_endings
from support.hub import find_folder
from text.tokenizer import Tokenizer

TURN, ANSWER = "\n\nHuman:", "\n\nAssistant:"


@dataclass
class Config:
    folders: tyro.conf.Positional[tuple[str, ...]] = ()     # of models, or gpt2 to gpt2-xl
    temperature: float = 0.7    # of sampling, as in evaluate.py
    greedy: bool = False        # take the likeliest token each time instead
    seed: int = 0               # of sampling: the same questions get the same answers
    turns: int = 0              # newest turns that a model sees, the question's own with them; 0: as many as fit


def talk():
    """Load the models in the folders that the command line names, and chat until an empty line."""
    with plain_endings():
        cfg = tyro.cli(Config)
        check_numbers(cfg)
        if not cfg.folders:
            raise UserError("give the folder of a model, such as out/toy/ppo, or of several")
        speakers = [load(name) for name in cfg.folders]
        if hasattr(sys.stdin, "reconfigure"):
            sys.stdin.reconfigure(errors="replace")         # what is typed need not be UTF-8
        try:
            chat(speakers, cfg)
        except (EOFError, KeyboardInterrupt):
            print()


def load(name):
    """The speaker in a folder, with the reward model of its run if there is one beside it."""
    folder, device = find_folder(name), "cuda" if torch.cuda.is_available() else "cpu"
    model, tokenizer, reward = GPT.from_pretrained(folder, device), Tokenizer.load(folder), folder.parent / "reward"
    if not (reward / "config.json").exists():
        return Speaker(name, model, tokenizer)
    Tokenizer.shared(folder, reward)
    return Speaker(name, model, tokenizer, ScalarGPT.from_pretrained(reward, device))


def chat(speakers, cfg):
    """Ask, and let each speaker answer, until an empty line."""
    print("Ask something; an empty line ends the talk.")
    names = [Path(speaker.name).name for speaker in speakers]
    if len(set(names)) < len(names):
        names = [speaker.name for speaker in speakers]
    heads = [f"  {name:{max(map(len, names))}} " for name in names] if len(names) > 1 else ["Assistant:"]
    seeds = random.Random(cfg.seed)
    while question := one_line(input("Human: ")):
        seed = seeds.getrandbits(63)                        # for all: what one answers does not depend on the others
        for head, speaker in zip(heads, speakers):
            torch.manual_seed(seed)
            print(head, end="", flush=True)
            print(speaker.answer(question, 0 if cfg.greedy else cfg.temperature, write, cfg.turns))


def write(text):
    print("\n".join(map(printable, text.split("\n"))), end="", flush=True)


def one_line(text):
    """The text without what no person means to type: control characters, and with them what could begin a turn."""
    return "".join(c if c.isprintable() else " " for c in text).strip()


class NextTurn(Exception):
    """The model has answered, and goes on with what the human might ask next."""


class Speaker:
    """A model in a dialogue of its own: half of its positions hold what was said, half are for the answer."""

    def __init__(self, name, model, tokenizer, reward_model=None):
        self.name, self.model, self.tokenizer, self.reward_model = name, model, tokenizer, reward_model
        self.room = max(1, min(m.config.block_size for m in (model, reward_model) if m) // 2)
        self.turns = []                                     # a question with its answer each, oldest first

    def answer(self, question, temperature, write, most_turns=0):
        """Answer; `write` each piece of text as soon as it is sure. Returns a remark: what was left out, the score."""
        self.turns = [*self.turns, f"{TURN} {question}{ANSWER}"][-most_turns:]      # -0: all
        prompt, remarks = self.context()
        ids = torch.tensor([prompt], device=self.model.transformer.wte.weight.device)               # (1, P)
        heard, written = [], 0

        def hear(transformer, given):       # `generate` hands the transformer the prompt, and then token after token
            nonlocal written
            heard.extend(given[0][0].tolist())
            text = self.tokenizer.decode(heard[len(prompt):])
            if TURN in text:
                raise NextTurn
            write(sure(text)[written:])
            written = len(sure(text))

        hook = self.model.transformer.register_forward_pre_hook(hear)
        try:
            tokens = self.model.generate(ids, torch.ones_like(ids), self.room, temperature)[0]      # (1, R)
        except NextTurn:
            tokens = ids.new_tensor([heard[len(prompt):]])                                          # (1, R)
        finally:
            hook.remove()
        text = self.tokenizer.decode(tokens[0].tolist()).partition(TURN)[0]
        write(text[written:])
        self.turns[-1] += text
        remarks += self.judged(torch.cat([ids, tokens], dim=1))
        return f"   ({'; '.join(remarks)})" if remarks else ""

    def context(self):
        """Ids of the newest turns that fit, and a list of what had to be left out: the oldest turns, each whole."""
        left_out = 0
        while len(ids := self.encoded()) > self.room and len(self.turns) > 1:
            self.turns.pop(0)
            left_out += 1
        if len(ids) > self.room:
            return ids[-self.room:], ["only the end of the question fits"]
        return ids, [f"oldest turns forgotten: {left_out}"] * (left_out > 0)

    def encoded(self):
        return self.tokenizer.encode("".join(self.turns)[-100 * self.room:])    # so many tokens never have more letters

    @torch.no_grad()
    def judged(self, ids):
        """A list of what there is to say of a dialogue (1, P+R) whose last token is that of an answer."""
        if ids[0, -1] != self.tokenizer.eos:
            return ["not ended" + ", so no score" * (self.reward_model is not None)]
        if self.reward_model is None:
            return []
        return [f"score {self.reward_model.reward(ids, torch.ones_like(ids)).item():.2f}"]


def sure(text):
    """What can be shown of a text that goes on: no part of a character, and nothing that may become the next turn."""
    text = text.rstrip("\ufffd")
    return text[:len(text) - max(n for n in range(len(TURN)) if text.endswith(TURN[:n]))]


if __name__ == "__main__":
    talk()
