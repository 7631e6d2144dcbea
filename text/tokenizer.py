"""Text to token ids and back: GPT-2's vocabulary, or a small one in its model's folder."""
import base64
import hashlib
import re
from pathlib import Path

import tiktoken

from support import UserError, reason
from support.checkpoint import read_config
from support.files import read_json, read_text, write_whole
from text.dialogue import ASSISTANT, HUMAN

EOS = "<|endoftext|>"
# The pieces into which a text is cut first. The small vocabulary's: a speaker's name, a word with
# the space before it, a number, punctuation.
WORDS = rf"{HUMAN}|{ASSISTANT}| ?[A-Za-z']+| ?[0-9]+| ?[^\sA-Za-z0-9']+|\s"
GPT2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
PATTERNS = {"words": WORDS, "gpt2": GPT2}
GPT2_FINGERPRINT = "575286e919ed2641"
FILE = "tokenizer.tiktoken"         # tiktoken's own format: base64 of a token's bytes, space, rank


class Tokenizer:
    """A tiktoken.Encoding, with the one `encode` that every stage uses."""
    framed = True                   # whether its models have learned dialogues, or bare prompts
    questions = ()                  # samples, if its models have learned one question at a time

    def __init__(self, name, encoding):
        self.name, self.encoding = name, encoding
        self.eos = encoding.encode_single_token(EOS)
        self.vocab_size = encoding.n_vocab
        # Models work together only if their tokens mean the same, so checkpoints carry this.
        tokens = map(encoding.decode_single_token_bytes, range(self.vocab_size))
        ended = b"".join(token + b"\0" for token in tokens)
        self.fingerprint = hashlib.sha256(ended).hexdigest()[:16]

    @property
    def frame(self):
        """What begins the turns of a dialogue, the human's and the assistant's; None without it."""
        return (HUMAN, ASSISTANT) if self.framed else None

    @classmethod
    def gpt2(cls):
        """GPT-2's 50,257 tokens; tiktoken downloads them once. Raises UserError when it can't."""
        try:
            return cls("gpt2", tiktoken.get_encoding("gpt2"))
        except (OSError, ValueError) as error:      # no connection; another file than was asked for
            raise UserError("GPT-2's vocabulary is not on this machine and could not be fetched: "
                            "connect once, or point TIKTOKEN_CACHE_DIR at a folder that has it "
                            f"({type(error).__name__})") from error

    @classmethod
    def words(cls, tokens, name="words"):
        """A vocabulary of the given byte strings, ids in their order, and <|endoftext|> after them.
        The 256 single bytes must be among them, so that any text can be encoded."""
        ranks = {token: rank for rank, token in enumerate(tokens)}
        return cls(name, tiktoken.Encoding(name, pat_str=PATTERNS[name], mergeable_ranks=ranks,
                                           special_tokens={EOS: len(ranks)}))

    @classmethod
    def load(cls, folder):
        """The tokenizer of a model folder: the vocabulary in it, else GPT-2's. Raises UserError if
        it is not the one that config.json names, by default GPT-2's."""
        folder, config = Path(folder), read_config(folder)
        name = "words" if config.get("tokenizer_name") == "words" else "gpt2"
        tokens = read_tokens(folder)
        if name == "words" and not tokens:
            raise UserError(f"{folder / FILE} is missing, the vocabulary of the model there")
        tokenizer = cls.words(tokens, name) if tokens else cls.gpt2()
        tokenizer.framed = config.get("framed", True)
        tokenizer.questions = config.get("questions", ())
        known = GPT2_FINGERPRINT if tokens and name == "gpt2" else tokenizer.fingerprint
        if tokenizer.fingerprint != config.get("tokenizer_fingerprint", known):
            raise UserError(f"{folder}: its vocabulary of {tokenizer.vocab_size} tokens is not "
                            "that of its model, by default GPT-2's: copy the folder again")
        size = config.get("vocab_size", tokenizer.vocab_size)
        eos = config.get("eos_token_id", tokenizer.eos)
        if size < tokenizer.vocab_size or eos != tokenizer.eos:
            raise UserError(f"{folder}: a model of {size} tokens whose texts end with token {eos} "
                            f"does not go with the tokenizer {tokenizer.name} "
                            f"({tokenizer.vocab_size} tokens, {EOS} is {tokenizer.eos})")
        return tokenizer

    @classmethod
    def shared(cls, *folders):
        """The tokenizer of models that are to work together. Raises UserError if they differ."""
        first, *others = map(cls.load, folders)
        for folder, other in zip(folders[1:], others):
            if other.fingerprint != first.fingerprint:
                raise UserError(f"{folders[0]} and {folder} have different tokenizers "
                                f"({first.name} and {other.name}): train the reward model from "
                                "this SFT model")
        return first

    def save(self, folder, config=None):
        """Write the vocabulary; with a model's config.json also as Hugging Face's tools read it."""
        tokens = [self.encoding.decode_single_token_bytes(i) for i in range(self.eos)]
        if config:
            from export.tokenizer_json import tokenizer_config, tokenizer_json
            whole = tokenizer_json(tokens, EOS, PATTERNS[self.name])
            write_whole(folder / "tokenizer.json", whole)
            settings = tokenizer_config(EOS, self.frame, config)
            write_whole(folder / "tokenizer_config.json", settings)
        if self.name == "words":
            lines = [f"{base64.b64encode(token).decode()} {i}\n" for i, token in enumerate(tokens)]
            write_whole(folder / FILE, "".join(lines))

    def encode(self, prompt, completion=None):
        """Ids of the prompt; with a completion also those of it and <|endoftext|>, an action like
        any other. The two are encoded apart, so a prompt has the same ids whatever follows. Text
        that spells a special token is plain text."""
        prompt_ids = self.ids(prompt)
        return prompt_ids if completion is None else (prompt_ids, self.ids(completion) + [self.eos])

    def ids(self, text):
        """Ids of a text. GPT-2's pattern fails on a very long run of blanks, so that is cut up."""
        pieces = re.split(r"(\s{10000})", text)
        return [i for piece in pieces for i in self.encoding.encode_ordinary(piece)]

    def decode(self, ids):
        """The text of a list of ids. <|endoftext|>, the last token, has no text. Nor have ids above
        it, which exist if a model's vocabulary was rounded up."""
        return self.encoding.decode([i for i in ids if i < self.eos])

    def texts(self, ids, mask):
        """Rows of ids (B, T) as text, each as far as its mask (B, T) is True."""
        return [self.decode(row[real].tolist()) for row, real in zip(ids, mask)]

# ---------- vocabulary files

def read_tokens(folder):
    """The tokens (bytes, in the order of their ids) of a folder's vocabulary; None if it has none.
    Raises UserError if they are not the 256 bytes and others, each once."""
    files = [folder / name for name in (FILE, "tokenizer.json", "vocab.json")]
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        return None
    try:
        if file.name == FILE:
            lines = read_text(file).splitlines()
            tokens = [base64.b64decode(line.split()[0], validate=True) for line in lines]
        else:                           # as others write it
            from export.tokenizer_json import tokens_of
            content = read_json(file)
            ids = content if file.name == "vocab.json" else content["model"]["vocab"]
            tokens = tokens_of(ids, EOS)
        if not {bytes([b]) for b in range(256)} <= set(tokens) or len(set(tokens)) < len(tokens):
            raise ValueError("tokens are missing or twice in it")
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{file} is damaged or not a vocabulary of GPT-2's kind ({reason(error)})"
                        ": copy it or train the model again") from error
    return tokens
