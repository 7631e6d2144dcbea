"""The vocabulary in Hugging Face's files: tokenizer.json and its neighbours, which every tool of that world reads.

In them a token is a string in which each of its bytes is one visible character: "Ġowl" is " owl".
"""
import json

from support import UserError
from support.files import read_json, write_whole

EOS = "<|endoftext|>"
VISIBLE = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
HIDDEN = [byte for byte in range(256) if byte not in VISIBLE]           # they get the characters from 256 on
CHARACTER = {byte: chr(byte) for byte in VISIBLE} | {byte: chr(256 + i) for i, byte in enumerate(HIDDEN)}
BYTE = {character: byte for byte, character in CHARACTER.items()}

# A dialogue as everywhere here. The end is written only behind a whole answer: what tools train on.
CHAT = """\
{%- for message in messages -%}
    {%- if message.role != ('assistant' if loop.index0 % 2 else 'user') -%}
        {{- raise_exception('a dialogue here has turns of user and assistant, in turn, and no others') -}}
    {%- endif -%}
    {{- '\\n\\nAssistant: ' if message.role == 'assistant' else '\\n\\nHuman: ' -}}
    {{- message.content | trim -}}
    {{- eos_token if loop.last and message.role == 'assistant' -}}
{%- endfor -%}
{{- '\\n\\nAssistant:' if add_generation_prompt -}}"""


def visible(token):
    return "".join(CHARACTER[byte] for byte in token)


def write_tokenizer(folder, tokens, pattern, config):
    """Write tokenizer.json and tokenizer_config.json for `tokens` (bytes, in the order of their ids, <|endoftext|>
    after them), into which `pattern` cuts a text first. `config` is the folder's config.json."""
    ranks = {token: rank for rank, token in enumerate(tokens)}
    # As tiktoken does it: a whole piece is looked up (ignore_merges); else the two neighbours are joined that make
    # the token of the lowest rank, whichever two they are, until no two make one.
    merges = [[visible(token[:i]), visible(token[i:])] for token in tokens for i in range(1, len(token))
              if token[:i] in ranks and token[i:] in ranks]
    bytes_as_characters = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    end = {"id": len(tokens), "content": EOS, "single_word": False, "lstrip": False, "rstrip": False,
           "normalized": False, "special": True}
    tokenizer = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [end], "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False},
            bytes_as_characters]},
        "post_processor": None, "decoder": bytes_as_characters,
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": True,
                  "vocab": {**{visible(token): rank for token, rank in ranks.items()}, EOS: len(tokens)},
                  "merges": merges}}
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": EOS, "eos_token": EOS, "unk_token": EOS,
                "model_max_length": config["n_positions"], "padding_side": "left", "pad_token": EOS,
                "clean_up_tokenization_spaces": False, "split_special_tokens": True, "chat_template": CHAT}
    if "GPT2ForSequenceClassification" in config["architectures"]:
        # transformers scores the last token that is not its pad, and that must be <|endoftext|>. No token can be the
        # pad of such a model without harm, so tools that need one say so.
        settings.update(padding_side="right", pad_token=None)
    write_whole(folder / "tokenizer.json", json.dumps(tokenizer, ensure_ascii=False) + "\n")
    write_whole(folder / "tokenizer_config.json", json.dumps(settings, indent=2) + "\n")


def read_tokens(folder):
    """The tokens (bytes, in the order of their ids) of a folder's tokenizer.json or vocab.json; None if it has neither.
    Raises UserError if they are not tokens of bytes, numbered without a gap."""
    for file in (folder / "tokenizer.json", folder / "vocab.json"):
        if file.exists():
            content = read_json(file)
            try:
                ids = content["model"]["vocab"] if file.stem == "tokenizer" else content
                tokens = sorted(ids.keys() - {EOS}, key=ids.get)
                if [ids[token] for token in tokens] != list(range(len(tokens))):
                    raise ValueError("ids with gaps")
                return [bytes(BYTE[character] for character in token) for token in tokens]
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                raise UserError(f"{file}: not a vocabulary of GPT-2's kind, in which tokens are bytes") from error
    return None
