"""From strings to lists of token ids that fit into a model's positions. What does not fit is counted and printed."""
from support import UserError


def fit(prompt, completions, block_size):
    """Cut a prompt's ids from the left until its longest completion fits behind it, all in block_size tokens;
    None if a completion leaves no room for a prompt at all. All completions keep the same prompt."""
    room = block_size - max(map(len, completions))
    return (prompt[-room:], completions) if room > 0 else None


def encode_prompts(prompts, tokenizer, block_size, max_new_tokens):
    """Ids of prompts (str), cut from the left so that `max_new_tokens` more fit into block_size positions: the end
    of a prompt matters most. Raises UserError if that leaves no room for a prompt."""
    room = block_size - max_new_tokens
    if room < 1:
        raise UserError(f"--max_new_tokens {max_new_tokens} leaves no room for a prompt in the model's "
                        f"{block_size} positions")
    return [tokenizer.encode(prompt)[-room:] for prompt in prompts]


def encode_texts(texts, tokenizer, block_size):
    """Pages as (prompt ids, completion ids) with an empty prompt, long ones in pieces of block_size."""
    examples = []
    for text in texts:
        _, page = tokenizer.encode("", text)
        pieces = [page[i:i + block_size] for i in range(0, len(page), block_size)]
        examples += [([], piece) for piece in pieces if len(piece) > 1]     # one token alone predicts nothing
    return examples


def encode_demonstrations(demonstrations, tokenizer, block_size):
    """(prompt ids, completion ids) of the demonstrations (prompt, completion) that fit."""
    rankings = [(prompt, [completion]) for prompt, completion in demonstrations]
    examples = encode_comparisons(rankings, tokenizer, block_size, "demonstration")
    return [(prompt, completion) for prompt, [completion] in examples]


def encode_comparisons(comparisons, tokenizer, block_size, kind="comparison"):
    """(prompt ids, [completion ids, best first]) of the comparisons (prompt, ranking) that fit. Prints how many do
    not. Raises UserError if none does."""
    examples = []
    for prompt, ranking in comparisons:
        completions = [tokenizer.encode("", completion)[1] for completion in ranking]
        if example := fit(tokenizer.encode(prompt), completions, block_size):
            examples.append(example)
    if len(examples) < len(comparisons):
        print(f"{len(comparisons) - len(examples)} {kind}s dropped: a completion alone exceeds {block_size} tokens")
    if not examples:
        raise UserError(f"no {kind} fits into {block_size} tokens: train the SFT model with a larger --block_size")
    return examples
