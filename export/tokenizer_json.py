"""tokenizer.json and tokenizer_config.json, in which Hugging Face's tools read a vocabulary; and
vocabularies of others, from such a file or a vocab.json.

In them a token is a string in which each of its bytes is one visible character: "Ġowl" is " owl".
"""
import json

# The bytes that are no visible character have the characters from 256 on.
VISIBLE = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), 256)]
OTHERS = [byte for byte in range(256) if byte not in VISIBLE]
CHARACTER = {byte: chr(byte) for byte in VISIBLE} | {b: chr(256 + i) for i, b in enumerate(OTHERS)}
BYTE = {character: byte for byte, character in CHARACTER.items()}

# A dialogue as everywhere here. The end is written only behind a whole one, which tools train on.
CHAT = """\
{%- for message in messages -%}
    {%- if message.role != ('assistant' if loop.index0 % 2 else 'user') -%}
        {{- raise_exception(
            'a dialogue here has turns of user and assistant, in turn, and no others') -}}
    {%- endif -%}
    {{- ASSISTANT + ' ' if message.role == 'assistant' else HUMAN + ' ' -}}
    {{- message.content | trim -}}
    {{- eos_token if loop.last and message.role == 'assistant' -}}
{%- endfor -%}
{{- ASSISTANT if add_generation_prompt -}}\
"""


def tokens_of(ids, eos):
    """The tokens (bytes) of a dict of token -> id, in the order of their ids, but for `eos`. Raises
    ValueError, KeyError, TypeError or AttributeError if it is none of GPT-2's kind."""
    tokens = sorted(ids.keys() - {eos}, key=ids.get)
    if [ids[token] for token in tokens] != list(range(len(tokens))):
        raise ValueError("ids with gaps")
    return [bytes(BYTE[character] for character in token) for token in tokens]


# The same for a model that has learned bare prompts.
BARE = """\
{%- for message in messages -%}
    {{- message.content -}}
    {{- eos_token if loop.last and message.role == 'assistant' -}}
{%- endfor -%}"""


def tokenizer_json(tokens, eos, pattern):
    """The text of tokenizer.json for `tokens` (bytes, in the order of their ids); `eos` has the id
    after them. `pattern` cuts a text first."""
    tokens = ["".join(CHARACTER[byte] for byte in token) for token in tokens]
    ids = {token: i for i, token in enumerate(tokens)}
    # As tiktoken does it: a whole piece is looked up (ignore_merges); else the two neighbours are
    # joined that make the token of the lowest id, whichever two, until no two make one.
    merges = [[token[:i], token[i:]] for token in tokens for i in range(1, len(token))
              if token[:i] in ids and token[i:] in ids]
    bytes_as_characters = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False,
                           "use_regex": False}
    end = {"id": len(tokens), "content": eos, "single_word": False, "lstrip": False,
           "rstrip": False, "normalized": False, "special": True}
    cut = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return json.dumps({
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [end],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [cut, bytes_as_characters]},
        "post_processor": None, "decoder": bytes_as_characters,
        "model": {"type": "BPE", "dropout": None, "unk_token": None,
                  "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": False,
                  "byte_fallback": False, "ignore_merges": True,
                  "vocab": {**ids, eos: len(tokens)}, "merges": merges}}, ensure_ascii=False) + "\n"


def tokenizer_config(eos, frame, config):
    """tokenizer_config.json for the config.json `config`. `frame` is what begins the turns of a
    dialogue, the human's and the assistant's; None where prompts have no frame."""
    chat = BARE
    if frame:
        human, assistant = map(repr, frame)
        chat = CHAT.replace("ASSISTANT", assistant).replace("HUMAN", human)
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": eos, "eos_token": eos,
        "unk_token": eos, "model_max_length": config["n_positions"], "padding_side": "left",
        "pad_token": eos, "clean_up_tokenization_spaces": False, "split_special_tokens": True,
        "chat_template": chat}
    if "GPT2ForSequenceClassification" in config["architectures"]:
        # transformers scores the last token that is not its pad, and that must be <|endoftext|>. No
        # token can be the pad of such a model without harm, so tools that need one say so.
        settings.update(padding_side="right", pad_token=None)
    return settings
