"""Talking to a language model in the terminal."""
import torch


def chat(model, tokenizer):
    """Ask and answer until an empty line. The model sees the end of the dialogue, half of its positions."""
    print("Ask something; an empty line ends the talk.")
    dialogue, room = "", model.config.block_size // 2
    while question := input("Human: ").strip():
        dialogue += f"\n\nHuman: {question}\n\nAssistant:"
        ids = torch.tensor([tokenizer.encode(dialogue)[-room:]])                        # (1, P)
        tokens, _, _ = model.generate(ids, torch.ones_like(ids), room, temperature=0.7)     # (1, R)
        answer = tokenizer.decode(tokens[0].tolist())
        print(f"Assistant:{answer}")
        dialogue += answer
