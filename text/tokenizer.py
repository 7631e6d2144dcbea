"""Text to token ids and back: GPT-2's vocabulary, or a small one that lies beside its model."""
import base64
import hashlib
from pathlib import Path

import tiktoken

from export.tokenizer_json import EOS, read_tokens, write_tokenizer
from support import UserError, reason
from support.checkpoint import read_config
from support.files import read_text, write_whole

SINGLE_BYTES = {bytes([b]) for b in range(256)}
FILE = "tokenizer.tiktoken"         # tiktoken's own format: base64 of the token's bytes, space, rank
# The small vocabulary's pieces: a speaker's name, a word with the space before it, a number, punctuation.
WORDS = r"\n\nHuman:|\n\nAssistant:| ?[A-Za-z']+| ?[0-9]+| ?[^\sA-Za-z0-9']+|\s"
GPT2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
PATTERNS = {"words": WORDS, "gpt2": GPT2}
GPT2_FINGERPRINT = "575286e919ed2641"


class Tokenizer:
    """A tiktoken.Encoding, with the one `encode` that every stage uses."""

    def __init__(self, name, encoding):
        self.name, self.encoding = name, encoding
        self.eos = encoding.encode_single_token(EOS)
        self.vocab_size = encoding.n_vocab
        # Two models can work together only if their tokens mean the same, so checkpoints carry this.
        tokens = b"".join(encoding.decode_single_token_bytes(i) + b"\0" for i in range(self.vocab_size))
        self.fingerprint = hashlib.sha256(tokens).hexdigest()[:16]

    @classmethod
    def gpt2(cls):
        """GPT-2's 50,257 tokens; tiktoken downloads them once. Raises UserError when it can't."""
        try:
            return cls("gpt2", tiktoken.get_encoding("gpt2"))
        except (OSError, ValueError) as error:      # requests' errors are OSErrors; what came is not what was asked for
            raise UserError("GPT-2's vocabulary is not on this machine and could not be downloaded: connect once, "
                            f"or point TIKTOKEN_CACHE_DIR at a folder that has it ({type(error).__name__})") from error

    @classmethod
    def words(cls, tokens, name="words"):
        """A vocabulary of the given byte strings, ids in their order, and <|endoftext|> after them.
        The 256 single bytes must be among them, so that any text can be encoded."""
        ranks = {token: rank for rank, token in enumerate(tokens)}
        return cls(name, tiktoken.Encoding(name, pat_str=PATTERNS[name], mergeable_ranks=ranks,
                                           special_tokens={EOS: len(ranks)}))

    @classmethod
    def load(cls, folder):
        """The tokenizer of a model folder: the vocabulary in it, else GPT-2's from tiktoken. Raises UserError if it is
        not the one that config.json names, by default GPT-2's."""
        folder, config = Path(folder), read_config(folder)
        name = "words" if config.get("tokenizer_name") == "words" else "gpt2"
        tokens = None if name == "words" and (folder / FILE).exists() else read_tokens(folder)
        if tokens is not None:
            tokenizer = cls.words(checked(tokens, folder / "tokenizer.json"), name)
        else:
            tokenizer = cls.read(folder / FILE) if name == "words" else cls.gpt2()
        if tokens and name == "gpt2" and tokenizer.fingerprint != GPT2_FINGERPRINT:
            raise UserError(f"{folder}: its vocabulary of {tokenizer.vocab_size} tokens is not GPT-2's, and no "
                            "other one is known here")
        if config.get("tokenizer_fingerprint", tokenizer.fingerprint) != tokenizer.fingerprint:
            raise UserError(f"{folder}: the tokenizer is not the one this model was trained with "
                            f"({tokenizer.fingerprint}, not {config['tokenizer_fingerprint']}); restore {FILE}")
        size, eos = config.get("vocab_size", tokenizer.vocab_size), config.get("eos_token_id", tokenizer.eos)
        if size < tokenizer.vocab_size or eos != tokenizer.eos:
            raise UserError(f"{folder}: a model of {size} tokens whose texts end with token {eos} does not go with the "
                            f"tokenizer {tokenizer.name} ({tokenizer.vocab_size} tokens, {EOS} is {tokenizer.eos})")
        return tokenizer

    @classmethod
    def shared(cls, *folders):
        """The tokenizer of models that are to work together. Raises UserError if it is not the same one."""
        tokenizers = [cls.load(folder) for folder in folders]
        for folder, tokenizer in zip(folders, tokenizers):
            if tokenizer.fingerprint != tokenizers[0].fingerprint:
                raise UserError(f"{folders[0]} and {folder} have different tokenizers ({tokenizers[0].name} and "
                                f"{tokenizer.name}): train the reward model from this SFT model")
        return tokenizers[0]

    @classmethod
    def read(cls, file):
        """The vocabulary in a `tokenizer.tiktoken`. Raises UserError if there is none."""
        if not Path(file).is_file():
            raise UserError(f"{file} is missing, the vocabulary that the model beside it was trained with")
        try:
            tokens = [base64.b64decode(line.split()[0], validate=True) for line in read_text(file).splitlines()]
        except (ValueError, IndexError) as error:
            raise UserError(f"{file} is damaged ({reason(error)}): copy it or train the model again") from error
        return cls.words(checked(tokens, file))

    def save(self, folder, config=None):
        """Lay the vocabulary into a folder; into a model's, with its config.json as `config`, for transformers, too."""
        tokens = [self.encoding.decode_single_token_bytes(i) for i in range(self.eos)]
        if config:
            write_tokenizer(Path(folder), tokens, PATTERNS[self.name], config)
        if self.name == "words":
            write_whole(Path(folder) / FILE, "".join(f"{base64.b64encode(token).decode()} {rank}\n"
                                                     for rank, token in enumerate(tokens)))

    def encode(self, prompt, completion=None):
        """Ids of the prompt, and of the completion closed by <|endoftext|>, an action like any other.

        The two are encoded apart, so the prompt has the same ids in every stage, whatever follows it.
        Text that spells a special token is plain text. Without a completion: the prompt's ids alone.
        """
        prompt_ids = self.encoding.encode_ordinary(prompt)
        if completion is None:
            return prompt_ids
        return prompt_ids, self.encoding.encode_ordinary(completion) + [self.eos]

    def decode(self, ids):
        """The text of a list of ids. <|endoftext|>, the last token, says nothing; nor does an id above it, which a
        model has whose vocabulary was rounded up."""
        return self.encoding.decode([i for i in ids if i < self.eos])

    def texts(self, ids, mask):
        """Rows of ids (B, T) as text, each as far as its mask (B, T) is True."""
        return [self.decode(row[real].tolist()) for row, real in zip(ids, mask)]


def checked(tokens, file):
    """The tokens of a file. Raises UserError unless all 256 bytes are among them, and none is there twice."""
    if not SINGLE_BYTES <= set(tokens) or len(set(tokens)) < len(tokens):
        raise UserError(f"{file} is damaged (tokens are missing or twice in it): copy it or train the model again")
    return tokens
