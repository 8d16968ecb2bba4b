"""An `InferenceEngine` whose models are Python functions, for simulations: no thread, no clock but asyncio's."""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from shared.errors import InferenceFailed, ModelMismatch
from shared.interfaces import Tensors
from shared.tensors import TensorSpec, check_arrays
from shared.types import Digest, Fingerprint


@dataclass(frozen=True, slots=True)
class FunctionModel:
    """What a model's bytes stand for. `function` is pure; what it raises is the engine's failure."""

    inputs: tuple[TensorSpec, ...]
    function: Callable[[Tensors], Tensors]


class FunctionEngine:
    """`models` maps the SHA-256 of a model's bytes to its function. A run takes `seconds` of the loop's time; at most
    `max_loaded_bytes` of model files stay loaded, as in the real engine."""

    def __init__(
        self,
        models: Mapping[Digest, FunctionModel],
        *,
        max_loaded_bytes: int = 1 << 30,
        seconds: float = 0.0,
        timeout_seconds: float = 60.0,
    ) -> None:
        self._models = models
        self._max_loaded_bytes, self._seconds, self._timeout_seconds = max_loaded_bytes, seconds, timeout_seconds
        self._loaded: OrderedDict[Digest, int] = OrderedDict()  # sizes; the least recently used first
        self._known: set[Digest] = set()

    async def load(self, model_hash: Digest, model: bytes) -> None:
        """Raises `ModelMismatch` for other bytes, `InferenceFailed` for one without a function or over the budget."""
        if hashlib.sha256(model).digest() != model_hash:
            raise ModelMismatch(f"the model's bytes do not have the hash {model_hash.hex()}")
        if model_hash not in self._models or len(model) > self._max_loaded_bytes:
            raise InferenceFailed(f"model {model_hash.hex()} cannot be loaded")
        self._loaded[model_hash] = len(model)
        self._loaded.move_to_end(model_hash)
        self._known.add(model_hash)
        while sum(self._loaded.values()) > self._max_loaded_bytes:
            self._loaded.popitem(last=False)

    def is_loaded(self, model_hash: Digest) -> bool:
        return model_hash in self._loaded

    async def run(self, model_hash: Digest, inputs: Tensors) -> Tensors:
        if model_hash not in self._loaded:
            raise InferenceFailed(f"model {model_hash.hex()} is not loaded")
        self._loaded.move_to_end(model_hash)
        model = self._models[model_hash]
        check_arrays(model.inputs, inputs)
        try:
            # Not `wait_for`: in Python 3.11 it swallows a cancellation that comes with the result.
            async with asyncio.timeout(self._timeout_seconds):
                await asyncio.sleep(self._seconds)
        except TimeoutError:
            raise InferenceFailed(f"the model ran for more than {self._timeout_seconds:g} seconds") from None
        try:
            return model.function(inputs)
        except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
            raise InferenceFailed(f"model {model_hash.hex()}: {error}") from error

    def fingerprint(self, model_hash: Digest) -> Fingerprint:
        if model_hash not in self._known:
            raise InferenceFailed(f"model {model_hash.hex()} was never loaded")
        return Fingerprint("memory", "1", "FunctionProvider", "python")

    async def close(self) -> None:
        """Nothing can be run afterwards."""
        self._loaded.clear()
