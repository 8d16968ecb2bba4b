"""The text encoder: token and position embeddings, attention layers, a mean over the text, unit length (BERT's layout,
with the norms before the layers, where small models train faster)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

PAD = 256  # behind the text; tokens below are the bytes of UTF-8


@dataclass(frozen=True)
class Shape:
    """Sizes of one encoder."""

    length: int = 64  # tokens of every input, padding included
    width: int = 64
    layers: int = 2
    heads: int = 4
    hidden: int = 256


class Layer(nn.Module):
    """Multi-head attention, then two linear layers with GELU, each behind its norm."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.attention_norm = nn.LayerNorm(shape.width)
        self.hidden_norm = nn.LayerNorm(shape.width)
        self.qkv = nn.Linear(shape.width, 3 * shape.width)
        self.out = nn.Linear(shape.width, shape.width)
        self.up = nn.Linear(shape.width, shape.hidden)
        self.down = nn.Linear(shape.hidden, shape.width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x (batch, length, width); `mask` is added to the attention's weights before their softmax."""
        x = x + self.out(self._attention(self.qkv(self.attention_norm(x)), mask))
        # The tanh form of GELU: ONNX Runtime has no float64 kernel for the Erf of the exact one, and attesters need it.
        return x + self.down(functional.gelu(self.up(self.hidden_norm(x)), approximate="tanh"))

    def _attention(self, qkv: Tensor, mask: Tensor) -> Tensor:
        shape = self.shape
        heads = qkv.reshape(-1, shape.length, 3, shape.heads, shape.width // shape.heads)
        query, key, value = (heads[:, :, i].transpose(1, 2) for i in range(3))
        weights = torch.softmax(query @ key.transpose(-1, -2) * (1 / math.sqrt(key.shape[-1])) + mask, -1)
        return (weights @ value).transpose(1, 2).reshape(-1, shape.length, shape.width)


class Encoder(nn.Module):
    """(batch, length) token ids in, (batch, width) embeddings of unit length out."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.tokens = nn.Embedding(PAD + 1, shape.width)
        self.positions = nn.Parameter(torch.empty(shape.length, shape.width))
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.norm = nn.LayerNorm(shape.width)
        self.embedding = nn.Linear(shape.width, shape.width)
        nn.init.normal_(self.tokens.weight, std=0.5)
        nn.init.normal_(self.positions, std=0.1)

    def forward(self, ids: Tensor) -> Tensor:
        text = (ids != PAD).float().unsqueeze(-1)  # 1 where the text is
        mask = (1 - text).reshape(-1, 1, 1, self.shape.length) * -1e9
        x = self.tokens(ids) + self.positions
        for layer in self.layers:
            x = layer(x, mask)
        mean = (self.norm(x) * text).sum(1) / text.sum(1).clamp(min=1)  # no text at all must not divide by zero
        y = self.embedding(mean)
        unit: Tensor = y / torch.sqrt((y * y).sum(-1, keepdim=True) + 1e-12)
        return unit
