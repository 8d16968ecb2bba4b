"""The engines that the settings name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from shared.adapters.engine_genai import GenaiEngine
from shared.adapters.engine_onnx import OnnxEngine
from shared.adapters.engine_openai import OpenAiEngine
from shared.adapters.onnx_precision import Precision
from shared.config import InferenceConfig
from shared.interfaces import InferenceEngine
from shared.profiles import Profile


class OpenEngine(InferenceEngine, Protocol):
    """One that whoever opened it closes."""

    async def close(self) -> None:
        """Stops what runs; nothing can be run afterwards."""
        ...


def open_engine(settings: InferenceConfig) -> OpenEngine:
    """What this node runs models with. Raises `ConfigError` for what the operator can mend."""
    match settings.engine:
        case "genai":
            return GenaiEngine(
                settings.genai_dir,
                max_loaded_bytes=settings.max_loaded_bytes,
                provider=settings.provider,
                threads=settings.threads,
            )
        case "openai":
            return OpenAiEngine(
                settings.openai_url,
                max_loaded_bytes=settings.max_loaded_bytes,
                style=settings.openai_style,
                key_file=settings.openai_key_file,
            )
        case "onnx":
            return OnnxEngine(
                max_loaded_bytes=settings.max_loaded_bytes, provider=settings.provider, threads=settings.threads
            )


def engines_by_profile(
    settings: InferenceConfig, engine: OpenEngine, reference: OpenEngine
) -> Mapping[Profile, OpenEngine]:
    """The engine for each profile of a card. On ONNX Runtime low precisions are emulated, which costs time and no
    accuracy; a served decoder runs in whatever its server does, and the self-test tells whether that fits."""
    if settings.engine != "onnx":
        return dict.fromkeys((Profile.FP32, Profile.FP16, Profile.BF16), engine)

    def another(precision: Precision, threads: int) -> OpenEngine:
        return OnnxEngine(max_loaded_bytes=settings.max_loaded_bytes, threads=threads, precision=precision)

    return {
        Profile.FP32: engine,
        Profile.EXACT_FP64: reference,
        Profile.EXACT_INT: another("native", 1),  # the order in which trees are summed depends on the threads
        Profile.FP16: another("fp16", settings.threads),
        Profile.BF16: another("bf16", settings.threads),
    }


def open_reference(settings: InferenceConfig) -> OpenEngine:
    """The judge of close calls: doubles on the CPU, rounded to float32 at the end. It shares no session and no thread
    with `open_engine`'s, and takes ONNX files of one file alone, whatever engine the settings name."""
    return OnnxEngine(
        max_loaded_bytes=settings.max_loaded_bytes, threads=settings.threads, precision="fp64", rounded=True
    )
