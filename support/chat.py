"""python gpt.py FOLDER: talking to a language model in the terminal."""
import sys

import torch

from support import UserError
from support.hub import find_folder


def talk(GPT, Tokenizer):
    """Load the model in the folder that the command line names, and chat until an empty line."""
    try:
        if len(sys.argv) != 2:
            raise UserError("give the folder of a model, such as out/toy/ppo")
        folder, device = find_folder(sys.argv[1]), "cuda" if torch.cuda.is_available() else "cpu"
        chat(GPT.from_pretrained(folder, device), Tokenizer.load(folder))
    except UserError as error:
        sys.exit(f"gpt.py: {error}")
    except (EOFError, KeyboardInterrupt):
        print()


def chat(model, tokenizer):
    """Ask and answer until an empty line. The model sees the end of the dialogue, half of its positions."""
    print("Ask something; an empty line ends the talk.")
    dialogue, room, device = "", model.config.block_size // 2, model.transformer.wte.weight.device
    while question := input("Human: ").strip():
        dialogue += f"\n\nHuman: {question}\n\nAssistant:"
        ids = torch.tensor([tokenizer.encode(dialogue)[-room:]], device=device)             # (1, P)
        tokens, _, _ = model.generate(ids, torch.ones_like(ids), room, temperature=0.7)     # (1, R)
        answer = tokenizer.decode(tokens[0].tolist())
        print(f"Assistant:{answer}")
        dialogue += answer
