"""From torch to one ONNX file (opset 17): what the training scripts share."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

Axes = Mapping[str, Mapping[int, str]]  # the free axes of each input or output, in order: {"image": {0: "batch"}}


def export(model: nn.Module, example: tuple[Tensor, ...], path: Path, inputs: Axes, outputs: Axes) -> None:
    """Write `model` as it is in evaluation, in float32."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracing exporter warns of its own retirement
        torch.onnx.export(
            model.eval().float(),
            example,
            path,
            dynamo=False,
            opset_version=17,
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_axes={name: dict(axes) for name, axes in {**inputs, **outputs}.items()},
        )
