"""python chat.py FOLDER …: talk to a language model in the terminal, or to several side by side."""
import random
from dataclasses import dataclass
from typing import Annotated

import torch
import tyro

from gpt import GPT, ScalarGPT
from support import UserError
from support.checkpoint import find_folder
from support.preflight import check_numbers
from support.endings import plain_endings
from support.typed import edit_lines, forget_typed, typed
from text.dialogue import HUMAN, dialogue
from text.tokenizer import Tokenizer


Folders = Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(
    metavar="FOLDER …", help_behavior_hint="")]


@dataclass
class Config:
    folders: Folders = ()       # folders of models, or gpt2 to gpt2-xl
    temperature: float = 0.7    # sampling temperature, as in evaluate.py
    greedy: bool = False        # take the most probable token each time instead
    seed: int = 0               # seed of sampling: the same questions get the same responses
    turns: int = 0              # turns that a model sees; 0: one if it has learned one, else all


class Speaker:
    """A model in a dialogue of its own: half of its positions are for what was said, half for the
    response. With a reward model, responses are scored."""

    def __init__(self, name, model, tokenizer, reward_model=None):
        self.name, self.model, self.tokenizer = name, model, tokenizer
        self.reward_model = reward_model
        self.room = max(1, min(m.config.block_size for m in (model, reward_model) if m) // 2)
        self.turns = []                 # each a question with its response, oldest first

    @torch.no_grad()
    def respond(self, question, temperature, most_turns=0):
        """Yields pieces of text, each as soon as it is settled; the last one is a remark: what was
        forgotten, the score."""
        if self.tokenizer.framed:
            most_turns = most_turns or bool(self.tokenizer.questions)       # it has learned one
            self.turns = [*self.turns, dialogue(question)][-most_turns:]    # -0: all
        else:
            self.turns = [question]     # it has learned bare prompts, which have no second turn
        prompt, remarks = self.context()
        ids = torch.tensor([prompt], device=self.model.transformer.wte.weight.device)  # (1, P)
        text, shown = "", 0
        for _, token, _ in self.model.stream(ids, torch.ones_like(ids), self.room, temperature):
            ids = torch.cat([ids, token[None]], dim=1)                  # (1, P+R)
            text = self.tokenizer.decode(ids[0, len(prompt):].tolist())
            if HUMAN in text:           # the model continues with what the human might ask
                break
            yield settled(text)[shown:]
            shown = len(settled(text))
        text = text.partition(HUMAN)[0]
        yield text[shown:]
        self.turns[-1] += text
        if ids[0, -1] != self.tokenizer.eos:
            remarks.append("not ended, so no score" if self.reward_model else "not ended")
        elif self.reward_model:
            score = self.reward_model.reward(ids, torch.ones_like(ids)).item()
            remarks.append(f"score {score:.2f}")
        yield f"   ({'; '.join(remarks)})" if remarks else ""

    def context(self):
        """Ids of the newest turns that fit, and a list of remarks. Turns are forgotten whole."""
        for forgotten in range(len(self.turns)):
            ids = self.tokenizer.encode("".join(self.turns[forgotten:]))
            if len(ids) <= self.room:
                self.turns = self.turns[forgotten:]
                return ids, [f"oldest turns forgotten: {forgotten}"] * (forgotten > 0)
        self.turns = self.turns[-1:]
        return ids[-self.room:], ["only the end of the question fits"]


def settled(text):
    """What can be shown of an unfinished text: no half of a character at its end, and no part of
    what may become the next turn."""
    text = text.rstrip("\ufffd")
    return text[:len(text) - max(n for n in range(len(HUMAN)) if text.endswith(HUMAN[:n]))]


def load(name):
    """The speaker in a folder, with the reward model of its run if there is one."""
    folder, device = find_folder(name), "cuda" if torch.cuda.is_available() else "cpu"
    reward, reward_model = folder.parent / "reward", None
    if (reward / "config.json").exists():
        Tokenizer.shared(folder, reward)
        reward_model = ScalarGPT.from_pretrained(reward, device)
    model = GPT.from_pretrained(folder, device)
    return Speaker(name, model, Tokenizer.load(folder), reward_model)


def chat(speakers, cfg):
    """Ask, and let each speaker respond, until an empty line."""
    print("Ask something; an empty line ends the talk.")
    width = max(len(speaker.name) for speaker in speakers)
    seeds = random.Random(cfg.seed)
    while question := typed("Human: ").strip():
        seed = seeds.getrandbits(63)    # one for all: no response depends on the other speakers
        for speaker in speakers:
            torch.manual_seed(seed)
            head = f"  {speaker.name:{width}} " if len(speakers) > 1 else "Assistant:"
            print(head, end="", flush=True)
            for piece in speaker.respond(question, 0 if cfg.greedy else cfg.temperature, cfg.turns):
                print(piece, end="", flush=True)
            print()


def main():
    with plain_endings():
        cfg = tyro.cli(Config, description=__doc__, use_underscores=True)
        check_numbers(cfg)
        if not cfg.folders:
            raise UserError("give the folder of a model, such as out/toy/ppo, or of several")
        speakers = [load(name) for name in cfg.folders]
        if questions := speakers[0].tokenizer.questions:
            print("It has learned to respond to one question at a time, such as these:",
                  *questions, sep="\n  ")
        edit_lines()
        try:
            chat(speakers, cfg)
        except (EOFError, KeyboardInterrupt):
            print()
        finally:
            forget_typed()


if __name__ == "__main__":
    main()
