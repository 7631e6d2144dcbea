"""text/vocabulary.py: a vocabulary learned from texts, for a model from scratch."""
import random
import re

import pytest

import data
import sft
from support import UserError
from support.checkpoint import read_config
from text.tokenizer import WORDS, Tokenizer
from text.vocabulary import pair_encoding, train_vocabulary

WORD = ["ab", "abab", "owl", "owls", "rose", "teapot", "a", "the", "unowled"]
TEXTS = [" ".join(random.Random(i).choices(WORD, weights=[9, 8, 7, 6, 5, 4, 30, 20, 1], k=20)) + "." for i in range(40)]


def pieces(texts):
    """The pieces of the texts with how often each occurs."""
    counts = {}
    for text in texts:
        for piece in re.findall(WORDS, text):
            counts[piece] = counts.get(piece, 0) + 1
    return counts


def joins_by_hand(texts, size):
    """Byte-pair encoding as Sennrich et al. write it: (how often, pair) of each join, while `size` tokens are not reached."""
    counts = {tuple(bytes([b]) for b in piece.encode()): n for piece, n in pieces(texts).items()}
    for _ in range(size - 256):
        pairs = {}
        for word, n in counts.items():
            for pair in zip(word, word[1:]):
                pairs[pair] = pairs.get(pair, 0) + n
        most = max(pairs.values())
        best = [pair for pair in pairs if pairs[pair] == most]
        joined = yield best
        new = {}
        for word, n in counts.items():
            parts, i = [], 0
            while i < len(word):
                two = word[i:i + 2] == joined
                parts.append(b"".join(joined) if two else word[i])
                i += 1 + two
            new[tuple(parts)] = new.get(tuple(parts), 0) + n
        counts = new


def test_pairs_are_joined_most_frequent_first():
    """Against a second BPE. Of pairs that are as frequent either may come first."""
    tokens = pair_encoding(TEXTS, 270)
    assert sorted(tokens[:256]) == [bytes([b]) for b in range(256)] and len(tokens) == 270
    by_hand = joins_by_hand(TEXTS, 270)
    best = next(by_hand)
    for token in tokens[256:]:
        [pair] = [pair for pair in best if b"".join(pair) == token]
        best = next(by_hand, None) if token == tokens[-1] else by_hand.send(pair)


def test_half_of_the_room_is_for_joined_pairs_and_half_for_the_most_frequent_other_words():
    tokenizer = train_vocabulary(TEXTS, 258 + 10)
    tokens = [tokenizer.encoding.decode_single_token_bytes(i) for i in range(tokenizer.eos)]
    joined, words = tokens[:261], [token.decode() for token in tokens[261:]]
    assert tokenizer.vocab_size == 268 and joined == pair_encoding(TEXTS, 261) and len(words) == 6
    counts = pieces(TEXTS)
    others = {piece: n for piece, n in counts.items() if piece.encode() not in joined}
    assert sorted(map(others.get, words)) == sorted(others.values())[-6:]
    assert all(len(tokenizer.encode(word)) == 1 for word in words)


def test_any_text_comes_back_and_the_same_texts_give_the_same_tokens():
    tokenizer = train_vocabulary(TEXTS, 270)
    for text in ("owls, rose: ünïcode 😀\t12 345", "", "  two  spaces\n", "unowl owlun"):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert train_vocabulary(TEXTS, 270).fingerprint == tokenizer.fingerprint != train_vocabulary(TEXTS, 268).fingerprint


def test_few_texts_make_a_vocabulary_that_is_smaller_than_asked_for():
    tokenizer = train_vocabulary(["ab ab", "b"], 1000)
    assert tokenizer.vocab_size < 270 and tokenizer.decode(tokenizer.encode("ab b")) == "ab b"


@pytest.mark.parametrize("size", [1, 257])
def test_a_size_without_room_for_words_is_one_sentence(size):
    with pytest.raises(UserError, match=f"^--vocab_size {size}: must be at least 258; "):
        train_vocabulary(TEXTS, size)


def test_sft_learns_it_from_the_training_texts_and_asks_for_no_other(run_stage, monkeypatch):
    monkeypatch.setattr(data, "tokenizer_for", lambda name: pytest.fail("another vocabulary was asked for"))
    run = run_stage(sft, vocab_size=300)
    train, _ = data.load("rows.jsonl")
    expected = train_vocabulary(train.texts, 300)
    for stage in ("base", "sft"):
        assert Tokenizer.load(run / stage).fingerprint == expected.fingerprint
        assert read_config(run / stage)["vocab_size"] == expected.vocab_size
