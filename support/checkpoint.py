"""Model folders as `transformers` has them: config.json and model.safetensors. Here weights are a
dict of tensors and a shape is a dict of a config's fields; gpt.py makes models of them."""
import json
import math
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from support import UserError, reason
from support.files import read_json, write_whole

# What config.json says of GPT-2: key -> right values; a missing key means the first.
GPT2 = {
    "model_type": ["gpt2"],
    "activation_function": ["gelu_new", "gelu_pytorch_tanh"],
    "layer_norm_epsilon": [1e-5],
    "scale_attn_weights": [True],
    "scale_attn_by_inverse_layer_idx": [False],
    "add_cross_attention": [False],
    "tie_word_embeddings": [True],
}
LEAST = {"vocab_size": 1, "n_positions": 1, "n_layer": 1, "n_head": 1, "n_embd": 1,
         "eos_token_id": 0}
HUB = ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")      # OpenAI's, 124 million to 1.6 billion


def find_folder(name):
    """The folder called `name`, or that of one of OpenAI's GPT-2s, downloaded if need be."""
    if name in HUB and not Path(name).is_dir():
        from support.hub import from_hub
        files = ["config.json", "model*.safetensors*"]
        return from_hub(f"openai-community/{name}", files, also=["vocab.json"])
    return Path(name)

# ---------- config.json

def read_config(folder):
    """The config.json of a model folder. Raises UserError if it is missing or makes no sense."""
    file = Path(folder) / "config.json"
    if not file.exists():
        raise UserError(f"{folder}: no model here, there is no {file}")
    config = read_json(file)
    for key, least in LEAST.items():
        value = config.get(key, least)
        if type(value) is not int or not least <= value <= 10 ** 7:
            raise UserError(f"{file}: {key} is {in_json(value)}, and must be a whole number from "
                            f"{least} to 10,000,000")
    mean, std = config.get("reward_mean", 0.0), config.get("reward_std", 1.0)
    if not all(type(x) in (int, float) and abs(x) < 1e30 for x in (mean, std)) or std <= 0:
        raise UserError(f"{file}: reward_mean is {in_json(mean)} and reward_std {in_json(std)}, "
                        "which normalises no score: run reward.py again")
    return config


def in_json(value):
    """A value as it stands in JSON, cut short."""
    return json.dumps(value)[:40]


def read_shape(folder, fields):
    """What config.json says of a config's `fields`. Raises UserError if it is no GPT-2's."""
    stored = read_config(folder)
    for key, right in {**GPT2, "n_inner": [None, 4 * stored.get("n_embd", 768)]}.items():
        if stored.get(key, right[0]) not in right:
            raise UserError(f"{folder}/config.json: {key} is {in_json(stored[key])}, and GPT-2's "
                            f"is {json.dumps(right[0])}")
    # By default texts end with GPT-2's token, or with the last token of a small model.
    stored.setdefault("eos_token_id", min(50256, stored.get("vocab_size", 50257) - 1))
    eos_is_pad = stored.get("pad_token_id") == stored["eos_token_id"]
    stored["block_size"] = stored.get("n_positions", 1024)
    stored["eos_is_pad"] = is_scorer(stored) and eos_is_pad
    return {field.name: stored[field.name] for field in fields if field.name in stored}


def is_scorer(config):
    """Whether a config.json is that of a reward model or critic."""
    return config.get("architectures") == ["GPT2ForSequenceClassification"]

# ---------- weights

def read_weights(folder, expected, new_head=False):
    """The finite tensors of a folder, with the names and shapes of `expected`, else UserError. With
    `new_head` a missing scalar head is random."""
    tensors = plain_names(read_tensors(folder), folder)
    if new_head:
        channels = expected["score.weight"].shape[1]
        tensors.setdefault("score.weight", torch.randn(1, channels) / math.sqrt(channels + 1))
    for name, right in expected.items():
        if name not in tensors:
            hint = ", so this is no reward model" if name == "score.weight" else ""
            if like := [other for other in tensors if other.endswith("." + name)]:
                prefix = like[0].removesuffix(name)
                hint = f"; there is {like[0]}: take the prefix {prefix} away from all names"
            raise UserError(f"{folder}: the tensor {name} is missing{hint}")
        if tensors[name].shape != right.shape:
            raise UserError(f"{folder}: {name} has shape {tuple(tensors[name].shape)}, its "
                            f"config.json asks for {tuple(right.shape)}")
        if not tensors[name].float().isfinite().all():
            raise UserError(f"{folder}: {name} holds NaN or infinity, so the training that made it "
                            "had failed")
    if left := sorted(tensors.keys() - expected.keys()):
        whole = "a language model" if left[0] == "score.weight" else "GPT-2"
        raise UserError(f"{folder}: {left[0]} is no part of {whole}")
    return tensors


def read_tensors(folder):
    """All tensors of a folder: of its model.safetensors, or of the files that an index lists."""
    index, files = folder / "model.safetensors.index.json", ["model.safetensors"]
    if not (folder / files[0]).exists():
        if not index.exists():
            raise UserError(f"{folder}: there is no model.safetensors; `save_pretrained` of "
                            "`transformers` makes one of a pytorch_model.bin")
        listed = read_json(index).get("weight_map")
        if not isinstance(listed, dict) or not all(isinstance(x, str) for x in listed.values()):
            raise UserError(f"{index}: weight_map must name the file of each tensor")
        files = sorted(set(listed.values()))
    tensors = {}
    for file in files:
        try:
            tensors.update(load_file(folder / file))
        except (OSError, ValueError, SafetensorError) as error:
            raise UserError(f"{folder / file}: cannot be read ({reason(error)}); copy or train it "
                            "again") from error
    return tensors


def plain_names(tensors, folder):
    """Tensors under gpt.py's names and orientation: `transformer.` is added where a bare GPT2Model
    was saved; each block's causal mask and the tied head, which some files have, are dropped."""
    named = {}
    for name, tensor in tensors.items():
        if name.startswith(("wte.", "wpe.", "h.", "ln_f.")):
            name = "transformer." + name
        if not name.endswith((".attn.bias", ".attn.masked_bias")):
            named[name] = transposed(name, tensor)
    head, embedding = named.pop("lm_head.weight", None), named.get("transformer.wte.weight")
    if head is not None and embedding is None:      # of tied weights, some programs keep this one
        named["transformer.wte.weight"] = head
    elif head is not None and not torch.equal(head, embedding):
        raise UserError(f"{folder}: lm_head.weight is not the token embedding, and GPT-2's head is "
                        "tied to it")
    return named


def transposed(name, tensor):
    """GPT-2 stores its blocks' matrices as (in, out), nn.Linear as (out, in). Undoes itself."""
    swap = name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight")) and tensor.ndim == 2
    return tensor.t() if swap else tensor


def write_model(folder, tensors, shape, tokenizer):
    """Write model.safetensors, config.json and the tokenizer, if there is one. Raises UserError,
    and writes nothing, if a number is not finite."""
    from export.config_json import config_json, generation_json     # only who saves needs it
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise UserError(f"{folder}: not saved, since {name} holds NaN or infinity: the "
                            "training has failed, so start again with lower learning rates")
    tensors = {name: transposed(name, tensor).contiguous() for name, tensor in tensors.items()}
    write_whole(folder / "model.safetensors",
                lambda path: save_file(tensors, path, metadata={"format": "pt"}))
    config = config_json(shape, tokenizer)
    if not is_scorer(config):
        write_whole(folder / "generation_config.json", generation_json(config))
    if tokenizer:
        tokenizer.save(folder, config)
    # The config comes last: a folder that has one is a whole model.
    write_whole(folder / "config.json", config)
