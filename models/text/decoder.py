"""The small decoder: RMSNorm, rotary positions, SwiGLU, tied embedding (LLaMA's layout), and its export to ONNX.

One graph serves prefill (no past) and decode (one token). The rotary tables are constants of the graph: computed at run
time they would differ between C libraries, and honest nodes would disagree.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.export import export as onnx_export


@dataclass(frozen=True)
class Shape:
    """Sizes of one decoder."""

    vocab: int = 258
    width: int = 128
    layers: int = 5
    heads: int = 4
    hidden: int = 344
    context: int = 256

    @property
    def head_width(self) -> int:
        return self.width // self.heads


def rms_norm(x: Tensor, weight: Tensor) -> Tensor:
    return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-5) * weight


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding of x (batch, heads, time, head width) in the half-split layout."""
    half = x.shape[-1] // 2
    return x * cos + torch.cat([-x[..., half:], x[..., :half]], -1) * sin


class Block(nn.Module):
    """One layer: attention, then SwiGLU, each behind its norm."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.attention_norm = nn.Parameter(torch.ones(shape.width))
        self.hidden_norm = nn.Parameter(torch.ones(shape.width))
        self.qkv = nn.Linear(shape.width, 3 * shape.width, bias=False)
        self.out = nn.Linear(shape.width, shape.width, bias=False)
        self.gate = nn.Linear(shape.width, shape.hidden, bias=False)
        self.up = nn.Linear(shape.width, shape.hidden, bias=False)
        self.down = nn.Linear(shape.hidden, shape.width, bias=False)

    def forward(
        self, x: Tensor, mask: Tensor, cos: Tensor, sin: Tensor, past: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        batch, time, width = x.shape
        shape = self.shape
        heads = self.qkv(rms_norm(x, self.attention_norm)).reshape(batch, time, 3, shape.heads, shape.head_width)
        query, key, value = (heads[:, :, i].transpose(1, 2) for i in range(3))
        key = torch.cat([past[0], rotate(key, cos, sin)], 2)
        value = torch.cat([past[1], value], 2)
        weights = rotate(query, cos, sin) @ key.transpose(-1, -2) * (1 / math.sqrt(shape.head_width)) + mask
        x = x + self.out((torch.softmax(weights, -1) @ value).transpose(1, 2).reshape(batch, time, width))
        y = rms_norm(x, self.hidden_norm)
        return x + self.down(functional.silu(self.gate(y)) * self.up(y)), key, value


class Decoder(nn.Module):
    """Tokens and the past's keys and values in; logits and all keys and values out."""

    cos: Tensor
    sin: Tensor

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.embedding = nn.Embedding(shape.vocab, shape.width)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.norm = nn.Parameter(torch.ones(shape.width))
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.02)
        frequency = 10_000.0 ** -(torch.arange(0, shape.head_width, 2, dtype=torch.float64) / shape.head_width)
        angle = torch.outer(torch.arange(shape.context, dtype=torch.float64), frequency)
        self.register_buffer("cos", torch.cat([angle.cos()] * 2, -1).float(), persistent=False)
        self.register_buffer("sin", torch.cat([angle.sin()] * 2, -1).float(), persistent=False)

    def forward(self, ids: Tensor, past_keys: Tensor, past_values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`ids` (batch, time); pasts (layers, batch, heads, past, head width), past may be 0."""
        time, past = ids.shape[1], past_keys.shape[3]
        x = self.embedding(ids)
        cos, sin = self.cos[past : past + time], self.sin[past : past + time]
        query_at = torch.arange(time).unsqueeze(1) + past
        mask = torch.where(torch.arange(past + time).unsqueeze(0) <= query_at, 0.0, -1e9)
        keys, values = [], []
        for i, block in enumerate(self.blocks):
            x, key, value = block(x, mask, cos, sin, (past_keys[i], past_values[i]))
            keys.append(key)
            values.append(value)
        return rms_norm(x, self.norm) @ self.embedding.weight.t(), torch.stack(keys), torch.stack(values)

    def empty_past(self, batch: int) -> Tensor:
        shape = self.shape
        return torch.zeros(shape.layers, batch, shape.heads, 0, shape.head_width)


def export(model: nn.Module, path: Path, shape: Shape) -> None:
    """Write the float32 graph to `path`; batch, time and past lengths stay free. The pasts are those of `shape`."""
    past = torch.zeros(shape.layers, 2, shape.heads, 3, shape.head_width)
    free, grown = {1: "batch", 3: "past"}, {1: "batch", 3: "total"}
    tokens = {0: "batch", 1: "time"}
    onnx_export(
        model,
        (torch.zeros(2, 5, dtype=torch.long), past, past.clone()),
        path,
        {"ids": tokens, "past_keys": free, "past_values": free},
        {"logits": tokens, "keys": grown, "values": grown},
    )
