"""The child process of `GenaiEngine`: onnxruntime-genai keeps Python's lock through a whole forward pass and cannot be
stopped, so it runs where it blocks nobody and can be killed.

Frames on stdin and stdout: 8 bytes length, big-endian, then msgpack. First `Open`, answered by `Opened`; then any
number of `Extend`, each answered by `Rows`. `Failed` answers either. It ends when stdin does.
"""

from __future__ import annotations

import ctypes
import os
import signal
import struct
import sys
from pathlib import Path
from typing import Any, BinaryIO, Literal

import msgspec
import numpy as np

LENGTH = struct.Struct(">Q")
PROVIDERS = {"CPU": "CPUExecutionProvider", "CUDA": "CUDAExecutionProvider"}  # by genai's name of the device
MODEL_FILE = "model.onnx"


class Open(msgspec.Struct, frozen=True, tag=True):
    """Load the model of a folder."""

    folder: str
    provider: Literal["cpu", "cuda"]
    threads: int  # 0: one a core
    parent: int  # process id


class Extend(msgspec.Struct, frozen=True, tag=True):
    """Keep the first `kept` tokens that are in the cache, forget the rest, append these."""

    kept: int
    ids: bytes  # int32, as the machine has them; at least one


class Opened(msgspec.Struct, frozen=True, tag=True):
    """What runs."""

    version: str
    provider: str
    context: int  # tokens
    vocabulary: int


class Rows(msgspec.Struct, frozen=True, tag=True):
    """Logits of the tokens that were appended: float32 (tokens, vocabulary), as the machine has them."""

    data: bytes


class Failed(msgspec.Struct, frozen=True, tag=True):
    """Nothing is in the cache any more."""

    error: str


REQUEST = msgspec.msgpack.Decoder(Open | Extend)
ANSWER = msgspec.msgpack.Decoder(Opened | Rows | Failed)
encode = msgspec.msgpack.Encoder().encode


class _Decoder:
    """A model and its one generator."""

    def __init__(self, opening: Open) -> None:
        import onnxruntime_genai as genai  # only the child has it, and only where it is used

        settings = msgspec.json.decode((Path(opening.folder) / "genai_config.json").read_bytes())["model"]
        config = genai.Config(opening.folder)
        config.clear_providers()
        if opening.provider == "cuda":
            config.append_provider("cuda")
            config.set_provider_option("cuda", "use_tf32", "0")  # it cuts ten bits off each operand
        options: dict[str, object] = {"inter_op_num_threads": 1, "log_severity_level": 4}
        if opening.threads:
            options["intra_op_num_threads"] = opening.threads
        # The file whose hash was checked, whatever the folder's settings name.
        decoder = {"filename": MODEL_FILE, "session_options": options}
        config.overlay(msgspec.json.encode({"model": {"decoder": decoder}}).decode())
        self._genai, self._model = genai, genai.Model(config)
        self._generator: Any = None
        self.opened = Opened(
            version=genai.__version__,
            provider=PROVIDERS.get(self._model.device_type, self._model.device_type),
            context=int(settings["context_length"]),
            vocabulary=int(settings["vocab_size"]),
        )

    def extend(self, kept: int, ids: bytes) -> Rows:
        tokens = np.frombuffer(ids, np.int32).copy()  # genai wants one it could write to
        try:
            if self._generator is None or kept == 0:
                self._generator = self._new()
            elif kept < self._generator.token_count():
                self._generator.rewind_to(kept)
            self._generator.append_tokens(tokens)
            logits = np.asarray(self._generator.get_output("logits"))
        except Exception:
            self._generator = None
            raise
        if logits.shape != (1, tokens.size, self.opened.vocabulary):
            self._generator = None
            raise ValueError(
                f"logits of shape {list(logits.shape)} for {tokens.size} tokens; export the model with logits of every"
                f" position and a vocab_size that is the model's"
            )
        return Rows(np.ascontiguousarray(logits, np.float32).tobytes())

    def _new(self) -> Any:
        parameters = self._genai.GeneratorParams(self._model)
        parameters.set_search_options(max_length=self.opened.context, batch_size=1, num_beams=1)
        return self._genai.Generator(self._model, parameters)


def main() -> None:
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print is no answer
    requests = sys.stdin.buffer
    decoder: _Decoder | None = None
    while (frame := _read(requests)) is not None:
        request = REQUEST.decode(frame)
        answer: Opened | Rows | Failed
        try:
            if isinstance(request, Open):
                _end_with(request.parent)
                decoder = _Decoder(request)
                answer = decoder.opened
            elif decoder is None:
                answer = Failed("no model is open")
            else:
                answer = decoder.extend(request.kept, request.ids)
        except Exception as error:  # noqa: BLE001  # whatever it is, the parent is told and decides
            answer = Failed(f"{type(error).__name__}: {error}")
        data = encode(answer)
        answers.write(LENGTH.pack(len(data)) + data)
        answers.flush()


def _end_with(parent: int) -> None:
    """On Linux also in the middle of a forward pass, when the parent was killed."""
    if sys.platform == "linux":
        set_death_signal = 1  # PR_SET_PDEATHSIG
        ctypes.CDLL(None).prctl(set_death_signal, signal.SIGKILL)
        if os.getppid() != parent:  # it went before we asked
            os._exit(1)


def _read(stream: BinaryIO) -> bytes | None:
    head = stream.read(LENGTH.size)
    return stream.read(LENGTH.unpack(head)[0]) if len(head) == LENGTH.size else None


if __name__ == "__main__":
    main()
