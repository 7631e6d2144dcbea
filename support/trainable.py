"""Which weights training may move: all, the last N blocks', or those of LoRA adapters."""
import re

import torch.nn as nn
import torch.nn.functional as F

from support import UserError


class LoRA(nn.Linear):
    """A frozen matrix W and a learned update of low rank R: (W + α/R B A) x + b (arXiv:2106.09685,
    section 4.1). A starts random and B at zero, so the model starts unchanged."""
    alpha = 32          # so large that a whole model's learning rate suits a thin matrix, too

    def __init__(self, linear, rank):
        super().__init__(linear.in_features, linear.out_features, device="meta")
        self.weight, self.bias, self.scale = linear.weight, linear.bias, self.alpha / rank
        a = linear.weight.new_empty(rank, linear.in_features)           # (R, in)
        b = linear.weight.new_zeros(linear.out_features, rank)          # (out, R)
        nn.init.normal_(a, std=linear.in_features ** -0.5)
        self.lora_a, self.lora_b = nn.Parameter(a), nn.Parameter(b)

    def forward(self, x):
        return super().forward(x) + self.scale * F.linear(F.linear(x, self.lora_a), self.lora_b)

    def merged(self):
        """The one matrix (out, in) that does the same."""
        return self.weight + self.scale * self.lora_b @ self.lora_a


def set_trainable(model, train):
    """Freeze all weights of `model` except those `train` names: "all", "last:N" (N blocks and the
    final LayerNorm), "lora:R" (adapters of rank R on the blocks' matrices). Raises UserError."""
    kind, number = parse_train(train, model.config.n_layer)
    if kind == "all":
        return
    model.requires_grad_(False)
    if kind == "last":
        model.transformer.h[-number:].requires_grad_(True)
        model.transformer.ln_f.requires_grad_(True)
    else:
        for block in model.transformer.h:
            block.attn.c_attn = LoRA(block.attn.c_attn, number)
            block.attn.c_proj = LoRA(block.attn.c_proj, number)
            block.mlp.c_fc = LoRA(block.mlp.c_fc, number)
            block.mlp.c_proj = LoRA(block.mlp.c_proj, number)
    if hasattr(model, "score"):
        model.score.requires_grad_(True)    # always: it may start at random


def parse_train(train, n_layer):
    """("all", 0), ("last", N) or ("lora", R). Raises UserError if `train` is none of them."""
    match = re.fullmatch(r"(all)|(last|lora):([1-9]\d*)", train)
    if not match or match[2] == "last" and int(match[3]) > n_layer:
        raise UserError(f"--train {train}: must be all, last:N with N of the model's {n_layer} "
                        "blocks, or lora:R")
    return match[1] or match[2], int(match[3] or 0)


def parameter_count(model):
    """(trained, all)."""
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return trained, sum(p.numel() for p in model.parameters())


def merged_state(model):
    """The state dict of a model, each LoRA update added to its matrix: GPT-2's own tensors only."""
    state = {name: tensor for name, tensor in model.state_dict().items() if ".lora_" not in name}
    for name, module in model.named_modules():
        if isinstance(module, LoRA):
            state[f"{name}.weight"] = module.merged()
    return state
