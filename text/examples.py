"""From rows to what SFT and reward model learn from: lists of token ids that fit into a model."""
from textwrap import shorten

from support import UserError
from text.dialogue import ASSISTANT, HUMAN


def fit(prompt, completions, block_size):
    """(prompt, completions), ids, the prompt cut from the left so that the longest completion fits
    behind it, all in block_size tokens; None if that leaves no room for a prompt at all."""
    room = block_size - max(map(len, completions))
    return (prompt[-room:], completions) if room > 0 else None


def encode_texts(texts, tokenizer, block_size):
    """Pages as (prompt ids, completion ids) without a prompt, long ones in pieces of block_size."""
    examples = []
    for text in texts:
        _, page = tokenizer.encode("", text)
        pieces = [page[i:i + block_size] for i in range(0, len(page), block_size)]
        examples += [([], piece) for piece in pieces if len(piece) > 1]  # one predicts nothing
    return examples


def encode_demonstrations(demonstrations, tokenizer, block_size, held_out=False):
    """(prompt ids, completion ids) of the demonstrations (prompt, completion) that fit."""
    rankings = [(prompt, [completion]) for prompt, completion in demonstrations]
    examples = encode_comparisons(rankings, tokenizer, block_size, held_out, "demonstration")
    return [(prompt, completion) for prompt, [completion] in examples]


def encode_comparisons(comparisons, tokenizer, block_size, held_out=False, kind="comparison"):
    """(prompt ids, [completion ids, best first]) of the comparisons (prompt, ranking) that fit.
    Prints how many do not. Raises UserError if none does, unless they are only held out."""
    fitted = [fit(tokenizer.encode(prompt),
                  [tokenizer.encode("", completion)[1] for completion in ranking], block_size)
              for prompt, ranking in comparisons]
    examples = [example for example in fitted if example]
    if dropped := len(comparisons) - len(examples):
        kept = "held-out " * held_out + kind
        print(f"{dropped} {kept}s dropped: the completion exceeds {block_size} tokens")
        if held_out and not examples:
            print(f"no {kept} is left, so there will be no held-out number")
    if not examples and not held_out:
        raise UserError(f"no {kind} fits into {block_size} tokens: train the SFT model with a "
                        "larger --block_size")
    return examples


def sample_questions(learned, held_out):
    """Up to three questions for chat.py to suggest, spread over the held-out prompts, else over
    the learned ones. None unless each learned prompt is one question within the frame."""
    if any(prompt.count(HUMAN) != 1 for prompt in learned):
        return []
    prompts = held_out or learned
    chosen = dict.fromkeys(prompts[i * len(prompts) // 6] for i in (1, 3, 5))
    return [shorten(prompt.replace(HUMAN, "").replace(ASSISTANT, ""), 80) for prompt in chosen]
