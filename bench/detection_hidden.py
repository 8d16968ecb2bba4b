"""The last hidden state of a decoder, beside its logits: what TOPLOC compares, and no card has among its outputs."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
import onnx

from shared.adapters.onnx_runner import Runner, Setting
from shared.interfaces import Tensors
from shared.verification.method import Forward

HIDDEN: Final = "bench last hidden state"
# The product that makes logits, in float32 and quantised, and what may stand between it and the output.
PRODUCTS: Final = frozenset({"DynamicQuantizeMatMul", "FusedMatMul", "Gemm", "MatMul", "MatMulInteger"})
BEHIND: Final = frozenset({"Add", "Cast", "Identity", "Mul"})
DEFAULT: Final = Setting()

Hidden = npt.NDArray[np.floating]


def with_hidden(model: bytes) -> bytes:
    """The same graph with one more output, (batch, time, width)."""
    parsed = onnx.load_model_from_string(model)
    made_by = {name: node for node in parsed.graph.node for name in node.output}
    node = made_by[parsed.graph.output[0].name]
    while node.op_type not in PRODUCTS:
        if node.op_type not in BEHIND:
            raise SystemExit(f"the logits come from {node.op_type}: no product with the last hidden state in sight")
        node = next(made_by[name] for name in node.input if name in made_by)
    name = node.input[0]
    if (before := made_by.get(name)) is not None and before.op_type == "DynamicQuantizeLinear":
        name = before.input[0]
    parsed.graph.node.append(onnx.helper.make_node("Identity", [name], [HIDDEN]))
    parsed.graph.output.append(onnx.helper.make_tensor_value_info(HIDDEN, onnx.TensorProto.FLOAT, None))
    return parsed.SerializeToString()


class Recording:
    """The hidden states of whatever runs through it since a text was last begun."""

    def __init__(self) -> None:
        self._first = 0  # tokens in the first pass: a prompt, or a whole text
        self._passes: list[Hidden] = []

    def watch(self, runner: Runner, setting: Setting = DEFAULT) -> Forward:
        """`runner` runs a model `with_hidden`."""

        async def run(inputs: Tensors) -> Tensors:
            outputs = runner.run(inputs, setting)
            if "past_keys" not in inputs or inputs["past_keys"].shape[3] == 0:
                self._first, self._passes = inputs["ids"].shape[1], []
            hidden: Hidden = outputs.pop(HIDDEN)[0]
            self._passes.append(hidden)
            return outputs

        return run

    def before(self, tokens: int) -> Hidden | None:
        """(tokens, width): the state before each of as many generated tokens. None where nothing ran."""
        if not self._passes:
            return None
        start = self._first - (tokens if len(self._passes) == 1 else 1)
        return np.concatenate(self._passes)[start : start + tokens]
