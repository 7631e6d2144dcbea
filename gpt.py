"""GPT-2, written out: the model, generation with a key-value cache, and the scalar head that
turns it into a reward model or a critic.

Radford et al. 2019, "Language Models are Unsupervised Multitask Learners". No dropout: PPO
compares the probabilities of two passes over the same text, and dropout would change them.

`python chat.py out/toy/ppo` talks to a model that is trained.

Axes: B batch, T tokens of this call, S tokens so far (cached and new), C channels, H heads,
D channels of a head (C / H), V vocabulary, P prompt tokens, R response tokens.
"""
import math
import sys
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F

from support import UserError
from support.checkpoint import find_folder, read_shape, read_weights, write_model
from support.trainable import merged_state


@dataclass
class GPTConfig:
    """The shape of a model; the defaults are GPT-2 small."""
    vocab_size: int = 50257
    block_size: int = 1024          # learned positions: the maximum context length
    n_layer: int = 12
    n_head: int = 12
    n_embd: int = 768
    eos_token_id: int = 50256

# ---------- the model

class KVCache:
    """Keys and values of one layer for all tokens so far, so that each token is computed once."""

    def __init__(self, capacity):
        self.capacity, self.length, self.stored = capacity, 0, None

    def extend(self, new):
        """Append keys and values (2, B, H, T, D); return all of them, (2, B, H, S, D).
        Raises ValueError if there is no room for them."""
        if self.stored is None:
            self.stored = new.new_empty(*new.shape[:3], self.capacity, new.shape[4])
        start, self.length = self.length, self.length + new.shape[3]
        if self.length > self.capacity:
            raise ValueError(f"{self.length} tokens in a cache for {self.capacity}")
        self.stored[:, :, :, start:self.length] = new
        return self.stored[:, :, :, :self.length]

    def keep(self, rows):
        """Keep only the rows of the batch where `rows` (B) is True."""
        self.stored = self.stored[:, rows]


class Attention(nn.Module):
    """Each token collects values from the tokens it may see, weighted by how well its query
    matches their keys."""

    def __init__(self, config):
        super().__init__()
        if config.n_embd % config.n_head:
            raise UserError(f"{config.n_embd} channels can't be divided evenly among "
                            f"{config.n_head} heads")
        self.n_head = config.n_head
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd)   # queries, keys, values in one
        self.c_proj = nn.Linear(config.n_embd, config.n_embd)

    def forward(self, x, allowed, cache=None):
        B, T, C = x.shape
        heads = self.c_attn(x).view(B, T, 3, self.n_head, C // self.n_head)  # (B, T, 3, H, D)
        qkv = heads.permute(2, 0, 3, 1, 4)                          # (3, B, H, T, D)
        q, k, v = qkv                                               # 3 x (B, H, T, D)
        if cache is not None:
            k, v = cache.extend(qkv[1:])                            # 2 x (B, H, S, D)
        # softmax(q kᵀ / √D) v: the weights (B, H, T, S) are 0 where `allowed` is False
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed)  # (B, H, T, D)
        return self.c_proj(y.transpose(1, 2).reshape(B, T, C))      # (B, T, C)


class MLP(nn.Module):
    """Two layers, applied to each token on its own."""

    def __init__(self, config):
        super().__init__()
        self.c_fc = nn.Linear(config.n_embd, 4 * config.n_embd)
        self.c_proj = nn.Linear(4 * config.n_embd, config.n_embd)

    def forward(self, x):
        x = F.gelu(self.c_fc(x), approximate="tanh")                # (B, T, 4C), GPT-2's GELU
        return self.c_proj(x)                                       # (B, T, C)


class Block(nn.Module):
    """Attention, then MLP. Both read the residual stream x through a LayerNorm and add to it."""

    def __init__(self, config):
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd)
        self.attn = Attention(config)
        self.ln_2 = nn.LayerNorm(config.n_embd)
        self.mlp = MLP(config)

    def forward(self, x, allowed, cache=None):
        x = x + self.attn(self.ln_1(x), allowed, cache)             # (B, T, C)
        return x + self.mlp(self.ln_2(x))                           # (B, T, C)


class Transformer(nn.Module):
    """From token ids to hidden states: all of GPT-2 but its head."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.block_size, config.n_embd)
        self.h = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd)
        self.bf16 = False           # see GPT.place

    def forward(self, ids, mask=None, cache=None):
        """ids (B, T), mask (B, S) with True on real tokens -> (B, T, C). S = T without a cache."""
        T = ids.shape[1]
        S = T + cache[0].length if cache else T
        if S > self.config.block_size:
            raise UserError(f"{S} tokens, but this model has only {self.config.block_size} "
                            "positions")
        mask = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.bool()

        # A token's position is the number of real tokens before it: pads on the left shift nothing.
        position = (mask.cumsum(1) - mask.long())[:, -T:]           # (B, T)
        # Each token sees the real tokens up to itself. A pad sees itself, too: a softmax over
        # nothing is NaN.
        query = torch.arange(S - T, S, device=ids.device)[:, None]  # (T, 1)
        key = torch.arange(S, device=ids.device)                    # (S)
        causal = (key <= query) & mask[:, None, :]                  # (B, T, S)
        allowed = causal | (key == query)                           # (B, T, S)

        x = self.wte(ids) + self.wpe(position)                      # (B, T, C)
        with torch.autocast(ids.device.type, torch.bfloat16, enabled=self.bf16):
            for i, block in enumerate(self.h):
                x = block(x, allowed[:, None], cache[i] if cache else None)  # (B, T, C)
        return self.ln_f(x)                                         # (B, T, C)


class GPT(nn.Module):
    """The language model: logits for the next token at every position."""
    Config = GPTConfig

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.transformer = Transformer(config)
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif parameter.ndim == 2:                               # LayerNorm weights stay 1
                # GPT-2 has 0.02 for 768 channels; a sum over fewer needs larger weights. The 2L
                # branches that add to the residual stream get 1/√2L, so that it does not grow
                # with depth.
                std = 0.02 * math.sqrt(768 / config.n_embd)
                adds = name.endswith("c_proj.weight")
                nn.init.normal_(parameter, std=std / (math.sqrt(2 * config.n_layer) if adds else 1))

    def head(self, hidden):
        """Hidden states (…, C) -> logits (…, V). The head is tied: its matrix is the token
        embedding. Ids above <|endoftext|> have no text, as in a model whose vocabulary was rounded
        up: they get no logit, and so no probability."""
        return F.linear(hidden, self.transformer.wte.weight[:self.config.eos_token_id + 1])

    def forward(self, ids, mask=None):
        """ids (B, T), and their mask where rows are padded -> logits (B, T, V).
        logits[:, t] is about token t + 1."""
        return self.head(self.transformer(ids, mask))

    @torch.no_grad()
    def stream(self, ids, mask, max_new_tokens, temperature=1.0, draws=None):
        """Continue left-padded prompts (B, P), token by token, until each row has ended with
        <|endoftext|>, or for max_new_tokens.

        Yields rows, tokens, logprobs, each (A): the indices of the A rows that had not ended yet,
        their next tokens, and log π of these in nats. Here π is the distribution that is sampled,
        softmax(logits / temperature), without top-k or top-p. Temperature 0 takes the
        most probable token. `draws` (max_new_tokens, B) are uniform random numbers in [0, 1), by
        default new ones. Raises UserError if the model has too few positions.
        """
        P = ids.shape[1]
        if P + max_new_tokens > self.config.block_size:
            raise UserError(f"a prompt of {P} tokens and {max_new_tokens} new ones do not fit into "
                            f"the {self.config.block_size} positions of this model")
        if draws is None:
            draws = torch.rand(max_new_tokens, len(ids), device=ids.device)
        cache = [KVCache(P + max_new_tokens) for _ in self.transformer.h]
        rows = torch.arange(len(ids), device=ids.device)            # (A), at first all B
        seen, new = mask.bool(), ids                                # (A, S), (A, T)
        for t in range(max_new_tokens):
            states = self.transformer(new, seen, cache)             # (A, T, C), T = P and then 1
            logits = self.head(states[:, -1]).float()               # (A, V)
            probs = F.softmax(logits / (temperature or 1.0), dim=-1)  # (A, V)
            ends = probs.cumsum(-1)                                 # (A, V)
            if not ends[:, -1].isfinite().all():
                raise UserError("the model gives tokens probabilities that are not finite: its "
                                "training has failed, or the temperature is too close to 0")
            if temperature:     # the token in whose share of (0, total] a random number falls
                point = ends[:, -1:] * (1 - draws[t, rows, None])   # (A, 1)
                new = torch.searchsorted(ends, point)               # (A, 1)
            else:
                new = logits.argmax(-1, keepdim=True)               # (A, 1)
            yield rows, new[:, 0], probs.gather(1, new)[:, 0].log()

            goes_on = new[:, 0] != self.config.eos_token_id         # (A)
            if not goes_on.any():
                return
            if not goes_on.all():           # what has ended costs nothing any more
                rows, seen, new = rows[goes_on], seen[goes_on], new[goes_on]
                for layer in cache:
                    layer.keep(goes_on)
            seen = torch.cat([seen, torch.ones_like(seen[:, :1])], dim=1)   # (A, S)

    @torch.no_grad()
    def generate(self, ids, mask, max_new_tokens, temperature=1.0, rows_at_once=0, generator=None):
        """Responses to left-padded prompts (B, P): tokens, mask, logprobs, each (B, R). The mask is
        True up to and including a row's <|endoftext|>; beyond it all three are 0.

        At most `rows_at_once` rows are generated at a time (0: all), prompts of like length
        together. Each row has random numbers of its own, so the parts change no response.
        """
        B, device = len(ids), ids.device
        draws = torch.rand(max_new_tokens, B, device=device, generator=generator)
        tokens = ids.new_zeros(B, max_new_tokens)                   # (B, max_new_tokens)
        response_mask = torch.zeros_like(tokens, dtype=torch.bool)
        logprobs = torch.zeros_like(draws.T)
        # bf16 copies of the weights live as long as the outermost autocast: one copy serves all
        # tokens.
        with torch.autocast(device.type, enabled=False):
            for part in mask.sum(1).argsort(stable=True).split(rows_at_once or B):
                first = mask[part].any(0).int().argmax()    # where its longest prompt starts
                steps = self.stream(ids[part, first:], mask[part, first:], max_new_tokens,
                                    temperature, draws[:, part])
                for t, (rows, new, logp) in enumerate(steps):
                    rows = part[rows]                               # (A)
                    tokens[rows, t], logprobs[rows, t], response_mask[rows, t] = new, logp, True
        R = response_mask.any(0).sum()                              # tokens of the longest
        return tokens[:, :R], response_mask[:, :R], logprobs[:, :R]

    def place(self, device, bf16=False, frozen=False):
        """Move the model to `device`, to compute in bfloat16 or float32; a frozen one gets no
        gradients.

        In bf16 the blocks run under autocast, from float32 weights, which even a small step
        changes. A frozen model takes no steps: its matrices are stored as autocast would round
        them, in half the memory and with the same results. Logits and all that follows are
        float32: GPT-2's logits lie near -100, where neighbouring bf16 numbers are 0.5 apart.
        """
        self.transformer.bf16 = bf16
        if frozen:
            self.requires_grad_(False)
            for module in self.transformer.h.modules():
                if bf16 and isinstance(module, nn.Linear):
                    module.bfloat16()
        return self.to(device)

    @classmethod
    def from_pretrained(cls, name, device="cpu", bf16=False, frozen=False, new_head=False):
        """The model in a folder that `transformers` or `save_pretrained` wrote, or one of OpenAI's
        GPT-2s, downloaded once; placed as `place` says.

        On the device "meta" it has shapes and no weights. With `new_head` a scalar model may start
        from a language model. Raises UserError for what is not GPT-2.
        """
        folder = find_folder(name)
        with torch.device("meta"):
            model = cls(cls.Config(**read_shape(folder, fields(cls.Config))))
        if device != "meta":
            weights = read_weights(folder, model.state_dict(), new_head)
            model.to_empty(device="cpu").load_state_dict(weights)
        return model.place(device, bf16, frozen)

    def save_pretrained(self, folder, tokenizer=None):
        """Write config.json, model.safetensors and the tokenizer so that `transformers` can open
        the folder."""
        write_model(Path(folder), merged_state(self), asdict(self.config), tokenizer)


@dataclass
class ScalarConfig(GPTConfig):
    reward_mean: float = 0.0        # of the raw scores on SFT samples: see reward.py
    reward_std: float = 1.0
    reward_min: float = -3.0        # the lowest score of an SFT sample, in deviations
    eos_is_pad: bool = False        # a reward model from elsewhere may never have read the end


class ScalarGPT(GPT):
    """GPT-2 with one number per token instead of logits: the reward model and the critic."""
    Config = ScalarConfig

    def __init__(self, config):
        super().__init__(ScalarConfig(**asdict(config)))            # a GPTConfig will do
        self.score = nn.Linear(config.n_embd, 1, bias=False)
        # The first scores have mean 0 and standard deviation 1.
        nn.init.normal_(self.score.weight, std=1 / math.sqrt(config.n_embd + 1))

    def forward(self, ids, mask=None):
        """ids (B, T), mask (B, T) -> (B, T), in standard deviations of the reward on SFT
        samples."""
        raw = self.score(self.transformer(ids, mask)).squeeze(-1).float()  # (B, T)
        return (raw - self.config.reward_mean) / self.config.reward_std    # (B, T)

    def reward(self, ids, mask):
        """The score of each row, (B): the number at its last real token, the only one that has
        seen the whole text.

        It means something only for texts that end with <|endoftext|>, since the reward model has
        learned from no others. See `unfinished_score`.
        """
        positions = torch.arange(ids.shape[1], device=ids.device)   # (T)
        if self.config.eos_is_pad:      # transformers took the end for padding, and read before it
            positions = positions * (ids != self.config.eos_token_id)  # (B, T)
        last = (mask * positions).argmax(dim=1)                     # (B)
        return self(ids, mask)[torch.arange(len(ids), device=ids.device), last]  # (B)

    def unfinished_score(self, given=None):
        """The score of a response without <|endoftext|>: `given` (--missing_eos_score), or the
        lowest that a completion of the SFT model got in reward.py."""
        return self.config.reward_min if given is None else given

# ---------- log-probabilities

def token_logprobs(logits, ids):
    """log softmax(logits) at the given ids, in float32 nats: (…, V), (…) -> (…)."""
    return F.log_softmax(logits.float(), dim=-1).gather(-1, ids.unsqueeze(-1)).squeeze(-1)


def response_logits(model, ids, mask, R, temperature):
    """Logits (B, R, V) that the last R tokens were drawn from: those of the state before each, at
    the temperature of sampling. At another, ratio and KL would compare distributions from
    which nothing was sampled."""
    states = model.transformer(ids, mask)[:, -R - 1:-1]             # (B, R, C)
    return model.head(states).float() / temperature                 # (B, R, V)


def response_logprobs(model, ids, mask, R, temperature):
    """log π of the last R tokens, each at the state before it: (B, R), nats."""
    return token_logprobs(response_logits(model, ids, mask, R, temperature), ids[:, -R:])


if __name__ == "__main__":
    sys.exit("gpt.py: to talk to a model, run `python chat.py FOLDER`")
