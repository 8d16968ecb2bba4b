"""The engines that the settings name."""

from __future__ import annotations

from typing import Protocol

from shared.adapters.engine_genai import GenaiEngine
from shared.adapters.engine_onnx import OnnxEngine
from shared.adapters.engine_openai import OpenAiEngine
from shared.config import InferenceConfig
from shared.interfaces import InferenceEngine


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


def open_reference(settings: InferenceConfig) -> OpenEngine:
    """The judge of close calls: doubles on the CPU, rounded to float32 at the end. It shares no session and no thread
    with `open_engine`'s, and takes ONNX files of one file alone, whatever engine the settings name."""
    return OnnxEngine(
        max_loaded_bytes=settings.max_loaded_bytes, threads=settings.threads, precision="fp64", rounded=True
    )
