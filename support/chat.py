"""python gpt.py FOLDER: talking to a language model in the terminal."""
import sys

import torch

from support import UserError, printable
from support.endings import plain_endings
from support.hub import find_folder


def talk(GPT, Tokenizer):
    """Load the model in the folder that the command line names, and chat until an empty line."""
    with plain_endings():
        if len(sys.argv) != 2:
            raise UserError("give the folder of a model, such as out/toy/ppo")
        folder, device = find_folder(sys.argv[1]), "cuda" if torch.cuda.is_available() else "cpu"
        model, tokenizer = GPT.from_pretrained(folder, device), Tokenizer.load(folder)
        if hasattr(sys.stdin, "reconfigure"):
            sys.stdin.reconfigure(errors="replace")         # what is typed need not be UTF-8
        try:
            chat(model, tokenizer)
        except (EOFError, KeyboardInterrupt):
            print()


def chat(model, tokenizer):
    """Ask and answer until an empty line. The model sees the end of the dialogue, half of its positions."""
    print("Ask something; an empty line ends the talk.")
    dialogue, room = "", max(1, model.config.block_size // 2)
    device = model.transformer.wte.weight.device
    while question := one_line(input("Human: ")):
        dialogue += f"\n\nHuman: {question}\n\nAssistant:"
        dialogue = dialogue[-100 * room:]                   # more characters than so many tokens ever have
        ids = torch.tensor([tokenizer.encode(dialogue)[-room:]], device=device)             # (1, P)
        tokens, _, _ = model.generate(ids, torch.ones_like(ids), room, temperature=0.7)     # (1, R)
        answer = tokenizer.decode(tokens[0].tolist()).partition("\n\nHuman:")[0]      # the next turn is not its own
        print("Assistant:" + "\n".join(map(printable, answer.split("\n"))))
        dialogue += answer


def one_line(text):
    """The text without what no person means to type: control characters, and with them what could begin a turn."""
    return "".join(c if c.isprintable() else " " for c in text).strip()
