"""One model under any setting of ONNX Runtime: what calibration, the detection bench and tests compare runs with.

`OnnxEngine` is what a node runs, at one setting; this is for looking at what other nodes' settings would give.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import onnxruntime

from shared.adapters.engine_onnx import ORT_ERRORS
from shared.errors import InferenceFailed
from shared.interfaces import Tensors
from shared.tensors import Array

Optimisation = Literal["off", "basic", "extended", "all"]
LEVELS: dict[Optimisation, str] = {
    "off": "ORT_DISABLE_ALL",
    "basic": "ORT_ENABLE_BASIC",
    "extended": "ORT_ENABLE_EXTENDED",
    "all": "ORT_ENABLE_ALL",
}
# TF32 cuts ten bits off each operand; it is on unless it is turned off.
PROVIDER_OPTIONS: dict[str, dict[str, str]] = {"CUDAExecutionProvider": {"use_tf32": "0"}}


@dataclass(frozen=True, slots=True)
class Setting:
    """How a session runs. `threads` work on one operator."""

    threads: int = 1
    optimisation: Optimisation = "all"
    provider: str = "CPUExecutionProvider"


class Runner:
    """Sessions of one ONNX file, one for each setting, made when first used and kept."""

    def __init__(self, model: bytes) -> None:
        self.model = model
        self._sessions: dict[Setting, Any] = {}

    def session(self, setting: Setting = Setting()) -> Any:
        if setting not in self._sessions:
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads, options.log_severity_level = setting.threads, 4
            options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, LEVELS[setting.optimisation])
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # others need the cores
            provider = (setting.provider, PROVIDER_OPTIONS.get(setting.provider, {}))
            self._sessions[setting] = onnxruntime.InferenceSession(self.model, options, providers=[provider])
        return self._sessions[setting]

    def run(self, inputs: Tensors, setting: Setting = Setting()) -> dict[str, Array]:
        """Raises `InferenceFailed`."""
        try:
            session = self.session(setting)
            names = [output.name for output in session.get_outputs()]
            return dict(zip(names, session.run(names, dict(inputs)), strict=True))
        except ORT_ERRORS as error:
            raise InferenceFailed(f"onnxruntime: {error}") from None

    async def forward(self, inputs: Tensors) -> Tensors:
        """As a `Forward`, at the default setting."""
        return self.run(inputs)

    def has_free_batch(self) -> bool:
        """The graph takes many inputs at once, whatever a card allows."""
        return all(value.shape and not isinstance(value.shape[0], int) for value in self.session().get_inputs())


def providers() -> tuple[str, ...]:
    """Execution providers of this build whose numbers are the model's own: others quantise, or run elsewhere."""
    known = ("CPUExecutionProvider", "CUDAExecutionProvider")
    return tuple(name for name in known if name in onnxruntime.get_available_providers())


def version() -> str:
    return f"onnxruntime {onnxruntime.__version__}"
