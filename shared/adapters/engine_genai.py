"""Decoders of real size through onnxruntime-genai, as an `InferenceEngine`, from folders on this machine's disk.

The models here are *stateless decoders*: `ids` int64 (1, T) to `logits` float32 (1, T, vocabulary), of every position.
What is loaded must be in one of the folders, with a `genai_config.json` beside it:

- a model of one file is the bytes of `model.onnx`;
- a larger one is a manifest, canonical JSON `{"files": {NAME: "0x" + SHA-256, …}}`, which names every file that the
  folder's settings refer to, `model.onnx` and `genai_config.json` among them.

Each model runs in a child process (`genai_worker`) and keeps its cache: ids that go on from those before cost what is
new; others rewind it. Logits of a position are those of the pass that computed it, prefill or one token at a time.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Final

import msgspec
import numpy as np
from msgspec import Meta

from shared.adapters.decoder_inputs import INPUT, check_ids
from shared.adapters.engine_onnx import PROVIDERS, SLOWEST_LOAD_BYTES_PER_SECOND, Provider
from shared.adapters.engine_threads import Shelf
from shared.adapters.genai_decoder import PACKAGE, GenaiDecoder
from shared.adapters.genai_worker import MODEL_FILE, Open
from shared.adapters.onnx_file import check_onnx
from shared.canonical import decode_canonical
from shared.constants import INFERENCE_TIMEOUT_SECONDS
from shared.errors import CodecError, ConfigError, InferenceFailed, ModelMismatch
from shared.interfaces import Tensors
from shared.tensors import check_arrays
from shared.types import Digest, Fingerprint

SETTINGS_FILE: Final = "genai_config.json"
MAX_FOLDERS: Final = 1024
MAX_MANIFEST_BYTES: Final = 1 << 16
MAX_SETTINGS_BYTES: Final = 1 << 20
START_SECONDS: Final = 60.0  # of Python and the library, on top of reading the model

_FileName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$")]
_Hex32 = Annotated[str, Meta(pattern="^0x[0-9a-f]{64}$")]


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A model of several files."""

    files: Annotated[dict[_FileName, _Hex32], Meta(min_length=2, max_length=256)]


class GenaiEngine:
    """Models in `folder`, and in the folders in it. Raises `ConfigError` without the package or the folder.

    `max_concurrent` models run at once; each by itself runs one request after the other. `max_loaded_bytes` bounds the
    files of the models that are kept; a child process takes about that and its cache.
    """

    def __init__(
        self,
        folder: Path,
        *,
        max_loaded_bytes: int,
        provider: Provider = "cpu",
        threads: int = 1,
        max_concurrent: int = 2,
        timeout_seconds: float = INFERENCE_TIMEOUT_SECONDS,
    ) -> None:
        if importlib.util.find_spec("onnxruntime_genai") is None:
            package = PACKAGE if provider == "cpu" else f"{PACKAGE}-cuda"
            raise ConfigError(f'inference.engine is "genai", which needs the package {package}; install it with pip')
        if not folder.is_dir():
            raise ConfigError(f"inference.genai_dir: {folder} is not a folder; put each model's folder into it")
        self._folder, self._provider, self._threads = folder, provider, threads
        self._timeout_seconds, self._max_loaded_bytes = timeout_seconds, max_loaded_bytes
        self._models: Shelf[GenaiDecoder] = Shelf(max_loaded_bytes)
        self._loading, self._slots, self._is_closed = asyncio.Lock(), asyncio.Semaphore(max_concurrent), False
        self._ending: set[asyncio.Task[None]] = set()

    async def load(self, model_hash: Digest, model: bytes) -> None:
        """Raises `ModelMismatch` for other bytes, `InferenceFailed` when no folder has these files, or genai refuses
        them."""
        if hashlib.sha256(model).digest() != model_hash:
            raise ModelMismatch(f"the model's bytes do not have the hash {model_hash.hex()}")
        async with self._loading:
            self._check_open()
            if (known := self._models.find(model_hash)) is not None:
                self._models.keep(model_hash, known)
                return
            files = files_of(model)
            folder, size = await asyncio.to_thread(self._find, files)
            if size > self._max_loaded_bytes:
                raise InferenceFailed(f"a model of {size} bytes, at most {self._max_loaded_bytes} may be loaded")
            opening = Open(str(folder), self._provider, self._threads, os.getpid())
            decoder = GenaiDecoder(opening, size, START_SECONDS + size / SLOWEST_LOAD_BYTES_PER_SECOND)
            try:
                await decoder.open()
                _check_provider(PROVIDERS[self._provider], decoder.fingerprint.provider)
            except BaseException:
                await decoder.close()
                raise
            for gone in self._models.keep(model_hash, decoder):
                self._retire(gone)

    def is_loaded(self, model_hash: Digest) -> bool:
        return model_hash in self._models

    async def run(self, model_hash: Digest, inputs: Tensors) -> Tensors:
        """Raises `InputMismatch` before anything runs, `InferenceFailed` for the rest, time running out included."""
        self._check_open()
        decoder = self._models.use(model_hash)
        check_arrays(INPUT, inputs)
        ids = np.asarray(inputs["ids"][0], np.int64)
        check_ids(ids, decoder.context, decoder.vocabulary)
        async with decoder.lock, self._slots:
            self._check_open()
            try:
                await decoder.open()  # has a time limit of its own
                async with asyncio.timeout(self._timeout_seconds):
                    return {"logits": (await decoder.logits(ids))[None]}
            except TimeoutError:
                raise InferenceFailed(f"the model ran for more than {self._timeout_seconds:g} seconds") from None
            finally:
                if decoder.is_retired:
                    await decoder.close()

    def fingerprint(self, model_hash: Digest) -> Fingerprint:
        """As `OnnxEngine`."""
        return self._models.fingerprint(model_hash)

    async def close(self) -> None:
        """Ends the child processes; nothing can be run afterwards."""
        self._is_closed = True
        for decoder in self._models.clear():
            await decoder.close()
        await asyncio.gather(*self._ending)

    def _retire(self, decoder: GenaiDecoder) -> None:
        """A run that has it finishes first."""
        decoder.is_retired = True
        if not decoder.lock.locked():
            task = asyncio.get_running_loop().create_task(decoder.close(), name="genai ends")
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)

    def _check_open(self) -> None:
        if self._is_closed:
            raise InferenceFailed("the engine is closed")

    def _find(self, files: Mapping[str, str]) -> tuple[Path, int]:
        """The folder that has exactly these bytes under these names, and their size. Hashes: call it in a thread."""
        for folder in self._folders():
            if all(_has(folder / name, digest) for name, digest in files.items()):
                _check_references(folder, files)
                return folder, sum((folder / name).stat().st_size for name in files)
        raise InferenceFailed(f"no folder in {self._folder} has {', '.join(files)} with the hashes of this model")

    def _folders(self) -> Iterator[Path]:
        inside = sorted(self._folder.iterdir())[:MAX_FOLDERS]
        yield from (each for each in (self._folder, *inside) if (each / SETTINGS_FILE).is_file())


def files_of(model: bytes) -> dict[str, str]:
    """SHA-256 in hex by name, of the files that a model stands for. Raises `InferenceFailed`."""
    try:
        if model[:1] == b"{":
            manifest: Manifest = decode_canonical(model, Manifest, "manifest", max_bytes=MAX_MANIFEST_BYTES)
            missing = {MODEL_FILE, SETTINGS_FILE} - manifest.files.keys()
            if missing:
                raise CodecError(f"the manifest does not name {', '.join(sorted(missing))}")
            return {name: digest[2:] for name, digest in manifest.files.items()}
        check_onnx(model)
        return {MODEL_FILE: hashlib.sha256(model).hexdigest()}
    except CodecError as error:
        raise InferenceFailed(f"not a model for {PACKAGE}: {error}") from None


def _check_provider(asked: str, got: str) -> None:
    if got != asked:  # it fell back
        raise InferenceFailed(f"asked for {asked}, got {got}; see that its driver and libraries are found")


def _has(path: Path, digest: str) -> bool:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == digest
    except OSError:
        return False


def _check_references(folder: Path, files: Mapping[str, str]) -> None:
    """Raises `InferenceFailed` when the settings name a file whose hash is not known: it could be anything."""
    path = folder / SETTINGS_FILE
    if path.stat().st_size > MAX_SETTINGS_BYTES:
        raise InferenceFailed(f"{path} has more than {MAX_SETTINGS_BYTES} bytes")
    try:
        named = set(_filenames(msgspec.json.decode(path.read_bytes())))
    except (msgspec.DecodeError, RecursionError) as error:
        raise InferenceFailed(f"{path} is not JSON: {error}") from None
    if unknown := named - files.keys():
        raise InferenceFailed(f"{path} names {', '.join(sorted(unknown))}; a manifest of all files would cover them")


def _filenames(value: object) -> Iterator[str]:
    """Every value of a key "filename", at any depth."""
    if isinstance(value, dict):
        yield from (str(inner) for key, inner in value.items() if key == "filename")
        yield from (name for inner in value.values() for name in _filenames(inner))
    elif isinstance(value, list):
        yield from (name for inner in value for name in _filenames(inner))
