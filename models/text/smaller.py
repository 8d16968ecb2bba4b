"""A smaller decoder behind a larger one's inputs and outputs, as a performer who saves money would serve it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.text.decoder import Decoder, Shape


class Smaller(nn.Module):
    """Speaks in the shapes of `outer`. The layers and heads that `model` lacks are zeros, which it never reads."""

    def __init__(self, model: Decoder, outer: Shape) -> None:
        super().__init__()
        self.model, self.outer = model, outer

    def forward(self, ids: Tensor, past_keys: Tensor, past_values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits, keys, values = self.model(ids, self._shrunk(past_keys), self._shrunk(past_values))
        return logits, self._grown(keys), self._grown(values)

    def _shrunk(self, past: Tensor) -> Tensor:
        shape = self.model.shape
        return past[: shape.layers, :, : shape.heads, :, : shape.head_width]

    def _grown(self, kept: Tensor) -> Tensor:
        """(layers, batch, heads, time, head width) of `outer`."""
        inner, outer = self.model.shape, self.outer
        missing = (outer.head_width - inner.head_width, outer.heads - inner.heads, outer.layers - inner.layers)
        return functional.pad(kept, (0, missing[0], 0, 0, 0, missing[1], 0, 0, 0, missing[2]))


def smaller(seed: int) -> Decoder:
    """Half the width, three layers of five: a sixth of the parameters, untrained."""
    torch.manual_seed(seed)
    return Decoder(Shape(width=64, layers=3, heads=2, hidden=172))
