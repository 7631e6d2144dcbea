"""A vocabulary of one's own texts, for `sft.py --init scratch --vocab_size N`."""
import re
from collections import Counter
from itertools import islice

from export.tokenizer_json import tokens_of
from support import UserError
from text.tokenizer import EOS, WORDS, Tokenizer

LEAST = 258             # the 256 bytes, one word, and <|endoftext|>


def train_vocabulary(texts, size):
    """A Tokenizer of at most `size` tokens, learned from texts (str): the 256 bytes; pairs that
    byte-pair encoding joins, most frequent first (Sennrich et al., arXiv:1508.07909), for half of
    the room; and the most frequent words that are not among them, whole. BPE alone spends much on
    pieces that only lead to words, and a small model that has to spell makes words up. Raises
    UserError if `size` leaves no room for words."""
    if size < LEAST:
        raise UserError(f"--vocab_size {size}: must be at least {LEAST}; some thousands suit a "
                        "small model")
    joined = pair_encoding(texts, 256 + (size - LEAST) // 2)
    words = Counter(word for text in texts for word in re.findall(WORDS, text))
    known = set(joined)
    others = (word.encode() for word, _ in words.most_common() if word.encode() not in known)
    return Tokenizer.words([*joined, *islice(others, size - 1 - len(joined))])


def pair_encoding(texts, size):
    """The 256 bytes and what BPE joins, `size` tokens (bytes) at most, in the order of joining."""
    from tokenizers import Regex, Tokenizer as Fast, models, pre_tokenizers, trainers
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe = Fast(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(WORDS), "isolated"), byte_level])
    bpe.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=byte_level.alphabet(), show_progress=False))
    return tokens_of(bpe.get_vocab(), EOS)
