"""Another engine: the reference evaluator of the `onnx` package, in numpy, which shares no kernel with ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import onnx
from onnx.reference import ReferenceEvaluator

from shared.adapters.onnx_file import check_onnx
from shared.errors import InferenceFailed
from shared.interfaces import Tensors

TREES: Final = "ai.onnx.ml"  # the operator set that has them
# Its operators are plain Python: what they lack shows in many ways.
ERRORS: Final = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


class Evaluator:
    """One model. Raises `InferenceFailed` for an operator that the evaluator lacks, or, for a graph `in_double`, for
    one that it computes in float32 all the same."""

    def __init__(self, model: bytes, *, in_double: bool = False) -> None:
        check_onnx(model)
        self._model, self._in_double = model, in_double
        self._evaluator: ReferenceEvaluator | None = None  # parsed when first used

    def run_all(self, inputs: Sequence[Tensors]) -> list[Tensors]:
        return [self.run(each) for each in inputs]

    def run(self, inputs: Tensors) -> Tensors:
        try:
            if self._evaluator is None:
                self._evaluator = self._opened()
            outputs = self._evaluator.run(None, dict(inputs))
        except ERRORS as error:
            raise InferenceFailed(f"onnx reference evaluator: {error}") from None
        return dict(zip(self._evaluator.output_names, outputs, strict=True))

    def _opened(self) -> ReferenceEvaluator:
        model = onnx.load_model_from_string(self._model)
        if self._in_double and any(node.domain == TREES for node in model.graph.node):
            raise InferenceFailed("the evaluator sums the leaves of trees in float32")
        return ReferenceEvaluator(model)


def version() -> str:
    return f"onnx {onnx.__version__} reference evaluator"
