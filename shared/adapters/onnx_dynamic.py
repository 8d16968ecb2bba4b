"""Dynamic int8 by ONNX Runtime's own tool: int8 weights, and activations that are quantised as they come."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
from onnxruntime.quantization import QuantType, quantize_dynamic


def quantise_dynamically(model: bytes) -> bytes:
    """Weights are uint8, with 7 bits of them used, so that convolutions have a kernel and no CPU saturates."""
    with tempfile.TemporaryDirectory(prefix="poi-int8-") as folder, _silence():
        target = Path(folder, "model.onnx")
        parsed = onnx.load_model_from_string(model)
        quantize_dynamic(parsed, target, weight_type=QuantType.QUInt8, reduce_range=True)
        return target.read_bytes()


@contextmanager
def _silence() -> Iterator[None]:
    """The tool advises on the root logger, and would give that one a handler of its own if it had none."""
    root, handler, before = logging.getLogger(), logging.NullHandler(), logging.root.manager.disable
    root.addHandler(handler)
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
        root.removeHandler(handler)
