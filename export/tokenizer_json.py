"""tokenizer.json and tokenizer_config.json, in which Hugging Face's tools read a vocabulary."""
import json

from support.files import write_whole
from text.dialogue import ASSISTANT, HUMAN

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
""".replace("ASSISTANT", repr(ASSISTANT)).replace("HUMAN", repr(HUMAN))


def write_tokenizer(folder, tokens, eos, pattern, config):
    """Write both files for `tokens`, strings with a character for each byte, in the order of their
    ids; `eos` has the id after them. `pattern` cuts a text first. `config` is the config.json."""
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
    tokenizer = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [end],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [cut, bytes_as_characters]},
        "post_processor": None, "decoder": bytes_as_characters,
        "model": {"type": "BPE", "dropout": None, "unk_token": None,
                  "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": False,
                  "byte_fallback": False, "ignore_merges": True,
                  "vocab": {**ids, eos: len(tokens)}, "merges": merges}}
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": eos, "eos_token": eos,
        "unk_token": eos, "model_max_length": config["n_positions"], "padding_side": "left",
        "pad_token": eos, "clean_up_tokenization_spaces": False, "split_special_tokens": True,
        "chat_template": CHAT}
    if "GPT2ForSequenceClassification" in config["architectures"]:
        # transformers scores the last token that is not its pad, and that must be <|endoftext|>. No
        # token can be the pad of such a model without harm, so tools that need one say so.
        settings.update(padding_side="right", pad_token=None)
    write_whole(folder / "tokenizer.json", json.dumps(tokenizer, ensure_ascii=False) + "\n")
    write_whole(folder / "tokenizer_config.json", json.dumps(settings, indent=2) + "\n")
