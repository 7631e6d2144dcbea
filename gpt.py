"""GPT-2, written out: the model, generation with a cache, Hugging Face's folders in and out.

    python gpt.py out/toy/ppo           talk to any checkpoint; gpt2 to gpt2-xl are downloaded

Axes: B batch, T tokens of this call, S tokens so far (cached and new), C channels, H heads,
D channels of a head (C / H), V vocabulary, R tokens of a response.

Radford et al. 2019, "Language Models are Unsupervised Multitask Learners". Dropout is left out
on purpose: it would make the probability of a token another one in each forward pass, and the
ratio of PPO noise (pass `mask` where rows are padded; that is all a caller has to know).
"""
import json
import math
import re
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from common import UserError, from_hub, read_config, read_json, write_whole

HUB = ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")     # OpenAI's four, 124 million to 1.6 billion parameters


@dataclass
class GPTConfig:
    """The shape of a model; the defaults are GPT-2 small."""
    vocab_size: int = 50257
    block_size: int = 1024          # learned positions: a longer text has no meaning to the model
    n_layer: int = 12
    n_head: int = 12
    n_embd: int = 768
    eos_token_id: int = 50256
    eos_is_pad: bool = False        # a reward model trained elsewhere may never have seen the end: see ScalarGPT.reward
    reward_mean: float = 0.0        # of the scalar head's raw numbers on SFT samples: see reward.py
    reward_std: float = 1.0

# ----------------------------------------------------------------------------- the model

class KVCache:
    """Keys and values of one layer for all tokens so far, so that each new token is computed once."""

    def __init__(self, capacity):
        self.capacity, self.length, self.keys, self.values = capacity, 0, None, None

    def extend(self, k, v):
        """Append (B, H, T, D) keys and values; return all of them, (B, H, S, D)."""
        if self.keys is None:
            B, H, _, D = k.shape
            self.keys, self.values = k.new_empty(B, H, self.capacity, D), v.new_empty(B, H, self.capacity, D)
        end = self.length + k.shape[2]
        self.keys[:, :, self.length:end], self.values[:, :, self.length:end] = k, v
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]


class Attention(nn.Module):
    def __init__(self, config):
        super().__init__()
        if config.n_embd % config.n_head:
            raise UserError(f"{config.n_embd} channels can't be shared out evenly among {config.n_head} heads")
        self.n_head = config.n_head
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd)   # queries, keys and values in one
        self.c_proj = nn.Linear(config.n_embd, config.n_embd)

    def forward(self, x, allowed, cache=None):
        B, T, C = x.shape
        q, k, v = (part.view(B, T, self.n_head, C // self.n_head).transpose(1, 2)
                   for part in self.c_attn(x).split(C, dim=2))      # 3 x (B, H, T, D)
        if cache is not None:
            k, v = cache.extend(k, v)                               # (B, H, S, D)
        # softmax(q kᵀ / √D) v, with -inf wherever `allowed` is False   (B, H, T, S) x (B, H, S, D)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed)  # (B, H, T, D)
        return self.c_proj(y.transpose(1, 2).reshape(B, T, C))      # (B, T, C)


class MLP(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.c_fc = nn.Linear(config.n_embd, 4 * config.n_embd)
        self.c_proj = nn.Linear(4 * config.n_embd, config.n_embd)

    def forward(self, x):
        return self.c_proj(F.gelu(self.c_fc(x), approximate="tanh"))    # GPT-2's GELU is the tanh one


class Block(nn.Module):
    """Pre-norm: the residual stream x is only ever added to."""

    def __init__(self, config):
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd)
        self.attn = Attention(config)
        self.ln_2 = nn.LayerNorm(config.n_embd)
        self.mlp = MLP(config)

    def forward(self, x, allowed, cache=None):
        x = x + self.attn(self.ln_1(x), allowed, cache)
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    """Ids to hidden states: all of GPT-2 but its head."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.block_size, config.n_embd)
        self.h = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd)
        self.bf16 = False           # see GPT.place

    def forward(self, ids, mask=None, cache=None):
        """ids (B, T), mask (B, S) with True on real tokens -> (B, T, C). S = T, or more with a cache."""
        T, S = ids.shape[1], ids.shape[1] + (cache[0].length if cache else 0)
        if S > self.config.block_size:
            raise UserError(f"{S} tokens, but this model has only {self.config.block_size} positions")
        mask = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.bool()
        # A token's position is the number of real tokens before it, so pads on the left shift nothing.
        position = (mask.cumsum(1) - mask.long())[:, -T:]           # (B, T)
        # Each token sees the real tokens up to itself. Pads see themselves too: a softmax over nothing is NaN.
        query = torch.arange(S - T, S, device=ids.device)[:, None]  # (T, 1)
        key = torch.arange(S, device=ids.device)                    # (S)
        allowed = (key <= query) & mask[:, None, :] | (key == query)    # (B, T, S)
        x = self.wte(ids) + self.wpe(position)                      # (B, T, C)
        with torch.autocast(ids.device.type, torch.bfloat16, enabled=self.bf16):
            for i, block in enumerate(self.h):
                x = block(x, allowed[:, None], cache[i] if cache else None)
        return self.ln_f(x)                                         # (B, T, C)


class GPT(nn.Module):
    """The language model: logits for the next token at every position."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.transformer = Transformer(config)
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif parameter.ndim == 2:                               # LayerNorm weights stay 1
                # GPT-2 draws with 0.02 at 768 channels; a sum over fewer needs more to be as large. The 2L
                # branches that add to the residual stream get 1/√2L, so that it does not grow with depth.
                std = 0.02 * math.sqrt(768 / config.n_embd)
                branch = math.sqrt(2 * config.n_layer) if name.endswith("c_proj.weight") else 1
                nn.init.normal_(parameter, std=std / branch)

    def head(self, hidden):
        """(…, C) -> (…, V). The head is tied: the token embedding read the other way round."""
        return F.linear(hidden, self.transformer.wte.weight)

    def forward(self, ids, mask=None):
        """ids (B, T), mask (B, T) -> logits (B, T, V); logits[:, t] are about token t + 1."""
        return self.head(self.transformer(ids, mask))

    @torch.no_grad()
    def generate(self, ids, mask, max_new_tokens, temperature=1.0):
        """Continue left-padded prompts (B, P) until each row's <|endoftext|>, or max_new_tokens.

        Returns tokens, mask, logprobs, all (B, R). The mask is True up to and including a row's
        <|endoftext|>; logprobs (nats) are those of the distribution that was sampled from, softmax(logits /
        temperature), nothing cut off. Temperature 0 takes the likeliest token.
        """
        P = ids.shape[1]
        if P + max_new_tokens > self.config.block_size:
            raise UserError(f"a prompt of {P} tokens and {max_new_tokens} new ones do not fit into the "
                            f"{self.config.block_size} positions of this model")
        cache = [KVCache(P + max_new_tokens) for _ in self.transformer.h]
        alive = torch.ones(len(ids), dtype=torch.bool, device=ids.device)   # (B)
        new, steps = ids, []
        while alive.any() and len(steps) < max_new_tokens:
            logits = self.head(self.transformer(new, mask, cache)[:, -1]).float()     # (B, V)
            logprobs = F.log_softmax(logits / (temperature or 1.0), dim=-1)
            token = torch.multinomial(logprobs.exp(), 1) if temperature else logits.argmax(-1, keepdim=True)  # (B, 1)
            steps.append((token, alive[:, None], logprobs.gather(1, token)))
            mask = torch.cat([mask, alive[:, None]], dim=1)         # what follows an <|endoftext|> is a pad
            alive = alive & (token[:, 0] != self.config.eos_token_id)
            new = token
        return tuple(torch.cat(column, dim=1) for column in zip(*steps))

    def place(self, device, bf16=False, frozen=False):
        """Move the model to `device`, to work in bfloat16 or float32 there; a frozen one gets no gradients.

        In bf16 the blocks run under autocast, from float32 weights, which a small step can still move. A frozen
        model takes no step: its matrices are stored as autocast would round them, in half the memory and with
        the very same results. The head stays in float32, and with it every log-probability: GPT-2's logits lie
        near -100, where bf16 knows only halves.
        """
        self.transformer.bf16 = bf16
        if frozen:
            self.requires_grad_(False)
            for module in self.transformer.h.modules():
                if bf16 and isinstance(module, nn.Linear):
                    module.bfloat16()
        return self.to(device)

    # ------------------------------------------------------------------------- folders

    @classmethod
    def blank(cls, folder):
        """The model of a folder's config.json without its weights: shapes alone, no memory."""
        with torch.device("meta"):
            return cls(read_model_config(folder))

    @classmethod
    def from_pretrained(cls, name, new_head=False):
        """The model in a folder that `transformers` or `save_pretrained` wrote, or one of OpenAI's four by its
        name, downloaded once. With `new_head` a scalar model may start from a language model, its head random.
        Raises UserError if a tensor is missing, left over, of another shape, or of another architecture."""
        folder = find_folder(name)
        model = cls.blank(folder).to_empty(device="cpu")
        tensors = plain_names(read_tensors(folder), folder)
        if new_head:
            tensors.setdefault("score.weight", torch.randn(1, model.config.n_embd) / math.sqrt(model.config.n_embd + 1))
        own = model.state_dict()
        for name, tensor in own.items():
            if name not in tensors:
                raise UserError(f"{folder}: the tensor {name} is missing"
                                + (", so this is no reward model" if name == "score.weight" else ""))
            if tensors[name].shape != tensor.shape:
                raise UserError(f"{folder}: {name} has shape {tuple(tensors[name].shape)}, "
                                f"its config.json asks for {tuple(tensor.shape)}")
        if left := sorted(tensors.keys() - own.keys()):
            raise UserError(f"{folder}: {left[0]} is no part of "
                            + ("a language model" if left[0] == "score.weight" else "GPT-2"))
        model.load_state_dict(tensors)
        return model

    def save_pretrained(self, folder, tokenizer=None):
        """Write config.json, model.safetensors and the tokenizer so that `transformers` can open the folder.
        What LoRA learned is added to the matrices it belongs to: the file has GPT-2's own tensors only."""
        folder = Path(folder)
        tensors = {name: tensor for name, tensor in self.state_dict().items() if ".lora_" not in name}
        adapted = [(name, part) for name, part in self.named_modules() if isinstance(part, LoRA)]
        tensors.update({f"{name}.weight": part.merged() for name, part in adapted})
        tensors = {name: transposed(name, tensor).contiguous() for name, tensor in tensors.items()}
        write_whole(folder / "model.safetensors", lambda path: save_file(tensors, path, metadata={"format": "pt"}))
        write_whole(folder / "config.json", json.dumps(self.hf_config(tokenizer), indent=2) + "\n")
        if tokenizer:
            tokenizer.save(folder)

    def hf_config(self, tokenizer):
        config = asdict(self.config)
        config["n_positions"] = config.pop("block_size")
        del config["eos_is_pad"]                                    # said by the pad id of a scalar model
        names = {"tokenizer_name": tokenizer.name, "tokenizer_fingerprint": tokenizer.fingerprint} if tokenizer else {}
        return {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "activation_function": "gelu_new",
                "layer_norm_epsilon": 1e-5, "attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0,
                "bos_token_id": self.config.eos_token_id, **config, **names}


class ScalarGPT(GPT):
    """GPT-2 with one number a token in place of logits: the reward model and the critic."""

    def __init__(self, config):
        super().__init__(config)
        self.score = nn.Linear(config.n_embd, 1, bias=False)
        nn.init.normal_(self.score.weight, std=1 / math.sqrt(config.n_embd + 1))    # first numbers near 0, std 1

    def forward(self, ids, mask=None):
        """ids (B, T), mask (B, T) -> (B, T), in standard deviations of the reward on SFT samples."""
        raw = self.score(self.transformer(ids, mask)).squeeze(-1).float()           # (B, T)
        return (raw - self.config.reward_mean) / self.config.reward_std

    def reward(self, ids, mask):
        """The number at each row's last real token, (B): only that one has seen the whole text."""
        positions = torch.arange(ids.shape[1], device=ids.device)
        if self.config.eos_is_pad:      # transformers took the end for padding, and read the score before it
            positions = positions * (ids != self.config.eos_token_id)               # (B, T)
        last = (mask * positions).argmax(dim=1)                                     # (B)
        return self(ids, mask)[torch.arange(len(ids), device=ids.device), last]     # (B)

    def hf_config(self, tokenizer):
        # transformers reads the score at the last token that is not its pad id, and a text ends with
        # <|endoftext|>: so the pad id is another one, that no scored text ends with.
        return {**super().hf_config(tokenizer), "architectures": ["GPT2ForSequenceClassification"],
                "id2label": {"0": "reward"}, "label2id": {"reward": 0},
                "pad_token_id": self.config.eos_token_id if self.config.eos_is_pad else 0}


def token_logprobs(logits, ids):
    """log softmax(logits) at the given ids, in float32 nats: (…, V), (…) -> (…)."""
    return F.log_softmax(logits.float(), dim=-1).gather(-1, ids.unsqueeze(-1)).squeeze(-1)

# ----------------------------------------------------------------------------- what is trained

class LoRA(nn.Linear):
    """A frozen matrix W and a learned step away from it, of few parameters: (W + α/R B A) x + b, where A (R, in)
    starts random and B (out, R) at zero, so that nothing has changed yet (arXiv:2106.09685, section 4.1)."""
    alpha = 32          # so large that the learning rate of a whole model suits a thin matrix, too

    def __init__(self, linear, rank):
        super().__init__(linear.in_features, linear.out_features, device="meta")
        self.weight, self.bias, self.scale = linear.weight, linear.bias, self.alpha / rank
        self.lora_a = nn.Parameter(linear.weight.new_empty(rank, linear.in_features))
        nn.init.normal_(self.lora_a, std=linear.in_features ** -0.5)
        self.lora_b = nn.Parameter(linear.weight.new_zeros(linear.out_features, rank))

    def forward(self, x):
        return super().forward(x) + self.scale * F.linear(F.linear(x, self.lora_a), self.lora_b)

    def merged(self):
        """The one matrix (out, in) that does the same."""
        return self.weight + self.scale * self.lora_b @ self.lora_a


def set_trainable(model, train):
    """Freeze all of the model but what `train` names: "all", "last:N" blocks and what follows them, or "lora:R",
    adapters of rank R on every matrix of the blocks. A scalar head is always trained. Raises UserError."""
    kind, number = parse_train(train, model.config.n_layer)
    if kind == "all":
        return
    model.requires_grad_(False)
    if kind == "last":
        model.transformer.h[-number:].requires_grad_(True)
        model.transformer.ln_f.requires_grad_(True)
    else:
        for block in model.transformer.h:
            block.attn.c_attn, block.attn.c_proj = LoRA(block.attn.c_attn, number), LoRA(block.attn.c_proj, number)
            block.mlp.c_fc, block.mlp.c_proj = LoRA(block.mlp.c_fc, number), LoRA(block.mlp.c_proj, number)
    if isinstance(model, ScalarGPT):
        model.score.requires_grad_(True)    # it starts at random, and a random head would stay one


def parse_train(train, n_layer):
    """("all", 0), ("last", N) or ("lora", R) of a --train. Raises UserError if it is none of them."""
    match = re.fullmatch(r"(all)|(last|lora):([1-9]\d*)", train)
    if not match or match[2] == "last" and int(match[3]) > n_layer:
        raise UserError(f"--train {train}: must be all, last:N with N of the model's {n_layer} blocks, or lora:R")
    return match[1] or match[2], int(match[3] or 0)


def parameter_count(model):
    """(trained, all)."""
    return (sum(p.numel() for p in model.parameters() if p.requires_grad), sum(p.numel() for p in model.parameters()))

# ----------------------------------------------------------------------------- Hugging Face's folders

def find_folder(name):
    """The folder of that name, or that of one of OpenAI's GPT-2s in Hugging Face's cache, downloaded if need be."""
    if name in HUB and not Path(name).is_dir():
        return from_hub(f"openai-community/{name}", ["config.json", "model*.safetensors*"])
    return Path(name)


def read_model_config(folder):
    """The GPTConfig of a folder. Raises UserError for anything that is not GPT-2 as it stands above."""
    stored = read_config(folder)
    for key, right in {"model_type": ["gpt2"], "activation_function": ["gelu_new", "gelu_pytorch_tanh"],
                       "layer_norm_epsilon": [1e-5], "n_inner": [None, 4 * stored.get("n_embd", 768)],
                       "scale_attn_weights": [True], "scale_attn_by_inverse_layer_idx": [False],
                       "add_cross_attention": [False], "tie_word_embeddings": [True]}.items():
        if stored.get(key, right[0]) not in right:
            raise UserError(f"{folder}/config.json: {key} is {json.dumps(stored[key])}, "
                            f"and GPT-2's is {json.dumps(right[0])}")
    if "model_type" not in stored:
        raise UserError(f"{folder}/config.json names no model_type, so this is no model that transformers saved")
    stored["block_size"] = stored.get("n_positions", 1024)
    stored["eos_is_pad"] = is_scorer(stored) and stored.get("pad_token_id") == stored.get("eos_token_id", 50256)
    return GPTConfig(**{name: stored[name] for name in GPTConfig.__dataclass_fields__ if name in stored})


def is_scorer(stored):
    """Whether a config.json is that of a reward model."""
    return "GPT2ForSequenceClassification" in (stored.get("architectures") or [])


def read_tensors(folder):
    """All tensors of a folder, from one model.safetensors or from the shards that an index lists."""
    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").exists():
        files = ["model.safetensors"]
    elif index.exists():
        files = sorted(set(read_json(index).get("weight_map", {}).values()))
    elif list(folder.glob("pytorch_model*.bin")):
        kind = "SequenceClassification" if is_scorer(read_config(folder)) else "CausalLM"
        raise UserError(f"{folder} has its weights as pytorch_model.bin only, a format that can hide programs; convert "
                        f"it: python -c \"from transformers import AutoModelFor{kind} as M; "
                        f"M.from_pretrained('{folder}').save_pretrained('{folder}')\"")
    else:
        raise UserError(f"{folder}: there is no model.safetensors")
    tensors = {}
    for file in files:
        try:
            tensors.update(load_file(folder / file))
        except (OSError, SafetensorError) as error:
            raise UserError(f"{folder / file}: cannot be read ({error})") from error
    return tensors


def plain_names(tensors, folder):
    """Tensors under this file's names and orientation: `transformer.` added where a bare GPT2Model was saved, and
    two things dropped that old files carry: the causal mask of each block, the tied head a second time."""
    named = {}
    for name, tensor in tensors.items():
        name = name if name.startswith(("transformer.", "score.", "lm_head.")) else "transformer." + name
        if not name.endswith((".attn.bias", ".attn.masked_bias")):
            named[name] = transposed(name, tensor)
    head, embedding = named.pop("lm_head.weight", None), named.get("transformer.wte.weight")
    if head is not None and embedding is not None and not torch.equal(head, embedding):
        raise UserError(f"{folder}: lm_head.weight is not the token embedding, and GPT-2's head is tied to it")
    return named


def transposed(name, tensor):
    """GPT-2 stores the matrices of its blocks as (in, out), nn.Linear as (out, in); the swap undoes itself."""
    swap = name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight")) and tensor.ndim == 2
    return tensor.t() if swap else tensor

# ----------------------------------------------------------------------------- talking

def main():
    from data.tokenizer import Tokenizer
    if len(sys.argv) != 2:
        raise UserError("give the folder of a model, such as out/toy/ppo")
    folder = find_folder(sys.argv[1])
    tokenizer, model = Tokenizer.load(folder), GPT.from_pretrained(folder)
    print("Ask something; an empty line ends the talk.")
    dialogue = ""
    while question := input("Human: ").strip():
        dialogue += f"\n\nHuman: {question}\n\nAssistant:"
        room = model.config.block_size // 2
        ids = torch.tensor([tokenizer.encode(dialogue)[-room:]])
        tokens, mask, _ = model.generate(ids, torch.ones_like(ids, dtype=torch.bool), room, temperature=0.7)
        answer = tokenizer.decode(tokens[0].tolist())
        print(f"Assistant:{answer}")
        dialogue += answer


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"gpt.py: {error}")
    except (EOFError, KeyboardInterrupt):
        print()
