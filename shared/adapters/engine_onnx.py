"""ONNX Runtime as an `InferenceEngine`: checked models, bounded memory and threads, runs that can be stopped.

Every choice here that can change a number in the last bits is fixed or read back: TF32 is off, algorithms are the
deterministic ones, and the provider that really ran stands in the fingerprint. With a `precision`, the graph is
rewritten (see `onnx_precision`) after its hash was checked; sessions are known by the hash of the original.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from shared.adapters.engine_threads import Shelf, Threads
from shared.adapters.onnx_file import check_onnx
from shared.adapters.onnx_precision import PRECISIONS, Precision, convert, to_float32
from shared.constants import INFERENCE_TIMEOUT_SECONDS
from shared.errors import CodecError, ConfigError, InferenceFailed, ModelMismatch
from shared.interfaces import Tensors
from shared.tensors import TensorSpec, check_arrays
from shared.types import Digest, Fingerprint

Provider = Literal["cpu", "cuda"]
PROVIDERS: Final[dict[Provider, str]] = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
DTYPES: Final = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(uint8)": "uint8",
    "tensor(bool)": "bool",
}
SLOWEST_LOAD_BYTES_PER_SECOND = 50_000_000  # a load may take this long on top of a run's time
# Its bindings raise a dozen unrelated classes, and Python's own where numpy arrays are converted.
ORT_ERRORS: Final[tuple[type[Exception], ...]] = (
    *(kind for kind in vars(ort_errors).values() if isinstance(kind, type) and issubclass(kind, Exception)),
    RuntimeError,
    TypeError,
    ValueError,
    MemoryError,
    OSError,
)


@dataclass(frozen=True, slots=True)
class _Session:
    session: Any
    size: int  # bytes of the model file
    inputs: tuple[TensorSpec, ...]
    fingerprint: Fingerprint


class OnnxEngine:
    """Sessions on one provider. Raises `ConfigError` when this build of the runtime does not have that provider.

    `threads` work on one operator (0: one a core), `max_concurrent` runs at once. `max_loaded_bytes` bounds the model
    files whose sessions are kept; a session takes about twice its file, in fp64 four times. `rounded` gives what the
    model gives in double as float32: bytes that honest machines agree on.
    """

    def __init__(
        self,
        *,
        max_loaded_bytes: int,
        provider: Provider = "cpu",
        threads: int = 1,
        max_concurrent: int = 2,
        timeout_seconds: float = INFERENCE_TIMEOUT_SECONDS,
        allow_tf32: bool = False,
        precision: Precision = "native",
        rounded: bool = False,
    ) -> None:
        if provider not in PROVIDERS:
            raise ConfigError(
                f"inference.provider: {provider} is not one of {', '.join(PROVIDERS)}; others quantise, fuse or split "
                "graphs in ways that cannot be read back"
            )
        if precision not in PRECISIONS:
            raise ConfigError(f"precision {precision} is not one of {', '.join(PRECISIONS)}")
        available = onnxruntime.get_available_providers()
        if PROVIDERS[provider] not in available:
            raise ConfigError(
                f"inference.provider: this onnxruntime has no {PROVIDERS[provider]}; it has {', '.join(available)}"
            )
        self._provider, self._threads, self._allow_tf32 = PROVIDERS[provider], threads, allow_tf32
        self._precision, self._is_rounded = precision, rounded
        self._timeout_seconds = timeout_seconds
        self._sessions: Shelf[_Session] = Shelf(max_loaded_bytes)
        self._pool = Threads(max_concurrent, "onnxruntime", ORT_ERRORS)

    async def load(self, model_hash: Digest, model: bytes) -> None:
        """Raises `ModelMismatch` for other bytes, `InferenceFailed` for bytes that are no model of one file, are over
        the budget, or that the runtime refuses."""
        self._sessions.check_size(model)
        options = self._session_options()
        seconds = self._timeout_seconds + len(model) / SLOWEST_LOAD_BYTES_PER_SECOND
        known = self._sessions.find(model_hash)
        session = await self._pool.run(
            lambda: self._open(model_hash, model, options, known),
            lambda: options.set_load_cancellation_flag(True),
            seconds,
        )
        self._sessions.keep(model_hash, session)

    def is_loaded(self, model_hash: Digest) -> bool:
        return model_hash in self._sessions

    async def run(self, model_hash: Digest, inputs: Tensors) -> Tensors:
        """Raises `InputMismatch` before anything runs, `InferenceFailed` for the rest, time running out included."""
        loaded = self._sessions.use(model_hash)
        check_arrays(loaded.inputs, inputs)
        options = onnxruntime.RunOptions()
        options.log_severity_level = 4
        names = [output.name for output in loaded.session.get_outputs()]

        def stop() -> None:
            options.terminate = True  # the runtime looks at it between operators

        outputs = await self._pool.run(
            lambda: loaded.session.run(names, dict(inputs), options), stop, self._timeout_seconds
        )
        named = dict(zip(names, outputs, strict=True))
        return {name: to_float32(output) for name, output in named.items()} if self._is_rounded else named

    def fingerprint(self, model_hash: Digest) -> Fingerprint:
        return self._sessions.fingerprint(model_hash)

    async def close(self) -> None:
        """Stops what runs and waits for its threads; nothing can be run afterwards."""
        self._sessions.clear()
        await self._pool.close()

    def _open(self, model_hash: Digest, model: bytes, options: Any, known: _Session | None) -> _Session:
        """In the pool: hashing and optimising a large model takes seconds."""
        if hashlib.sha256(model).digest() != model_hash:
            raise ModelMismatch(f"the model's bytes do not have the hash {model_hash.hex()}")
        if known is not None:
            return known
        try:
            check_onnx(model)
            graph = convert(model, self._precision, fused=True)  # as the accelerators do whose place it takes
        except (CodecError, InferenceFailed) as error:
            raise InferenceFailed(f"model {model_hash.hex()}: {error}") from None
        provider = (self._provider, self._provider_options())
        session = onnxruntime.InferenceSession(graph, options, providers=[provider])
        _check_providers(self._provider, session.get_providers())
        inputs = tuple(_spec(value) for value in session.get_inputs())
        for value in session.get_outputs():
            _spec(value)
        fingerprint = Fingerprint(
            "onnxruntime", onnxruntime.__version__, self._provider, _device(self._provider), self._precision
        )
        return _Session(session, len(model), inputs, fingerprint)

    def _session_options(self) -> Any:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.use_deterministic_compute = True
        options.log_severity_level = 4  # its errors reach us as exceptions; the rest would go to stderr
        # The arena keeps the peak of every shape it has seen, for ever; a node runs few, small and differing shapes.
        options.enable_cpu_mem_arena = False
        options.enable_mem_pattern = False
        # Waiting threads must not burn the cores that other roles need.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        return options

    def _provider_options(self) -> dict[str, str]:
        if self._provider != PROVIDERS["cuda"]:
            return {}
        # TF32 cuts ten bits off each operand: with it on, an honest node would be voted down.
        return {"use_tf32": "1" if self._allow_tf32 else "0", "cudnn_conv_algo_search": "DEFAULT"}


def _check_providers(asked: str, got: Sequence[str]) -> None:
    """The runtime falls back to the CPU without an error, and may put providers of its own before it."""
    foreign = [provider for provider in got if provider not in PROVIDERS.values()]
    if foreign:
        raise InferenceFailed(f"{', '.join(foreign)} would run part of the model; its numbers are not {asked}'s")
    if got[:1] != [asked]:
        raise InferenceFailed(f"asked for {asked}, got {', '.join(got)}; see that its driver and libraries are found")


def _spec(value: Any) -> TensorSpec:
    """Free dimensions have a name instead of a size. Raises `InferenceFailed` for a type no document carries."""
    dtype: Any = DTYPES.get(value.type)
    if dtype is None:
        raise InferenceFailed(f"the model has {value.name} of type {value.type}, not one of {', '.join(DTYPES)}")
    return TensorSpec(value.name, dtype, tuple(size if isinstance(size, int) else -1 for size in value.shape))


def _device(provider: str) -> str:
    return "cuda:0" if provider == PROVIDERS["cuda"] else platform.machine() or "cpu"
