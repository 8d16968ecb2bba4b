"""Decoders behind an OpenAI-compatible HTTP API (vLLM, llama.cpp and others), as an `InferenceEngine`.

What is loaded is a *manifest*, canonical JSON `{"logprobs": K, "served": NAME, "vocab": N}`: its SHA-256 is the model's
hash. It says what the server calls the model; that the weights there are the right ones is the operator's own word.

The models here are *stateless decoders*: `ids` int64 (1, T) to `logits` float32 (1, T, vocabulary), which are
log-probabilities. Of a position the K best that a server returns are known; **all others are filled with the lowest of
those**. So a sampler sees the truth only where it looks at fewer than K tokens: with `top_k` 0 or K and above it takes
all others for as likely as the K-th, the same on every node. The probability of a token outside cannot be checked.

Styles: `vllm` asks for `prompt_logprobs`; `openai` for an echo with `top_logprobs` under "token_id:N" keys; `llamacpp`
asks its `/completion` once a position, because its server does not echo log-probabilities, and keeps the rows.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

import aiohttp
import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Meta

from shared.adapters.decoder_inputs import INPUT, check_ids
from shared.adapters.engine_threads import Shelf
from shared.adapters.openai_answers import DIALECTS, Row, ServedModels, Style, best_of, check_row, decode
from shared.canonical import decode_canonical
from shared.constants import INFERENCE_TIMEOUT_SECONDS
from shared.crypto.keystore import read_password
from shared.errors import CodecError, ConfigError, InferenceFailed, ModelMismatch
from shared.interfaces import Tensors
from shared.tensors import check_arrays
from shared.types import Digest, Fingerprint

MAX_MANIFEST_BYTES: Final = 4096
MAX_LOGPROBS: Final = 1024
MAX_VOCABULARY: Final = 1 << 20
MAX_LOGITS: Final = 1 << 28  # filled in, 1 GiB: 2,000 positions of a vocabulary of 128,000
BYTES_A_LOGPROB: Final = 512  # of JSON; a token's text with escapes has up to a few hundred
ROOM_BYTES: Final = 1 << 20  # of an answer, beside its log-probabilities
SHOWN_CHARACTERS: Final = 200  # of what a server says when it refuses


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The model's bytes."""

    served: Annotated[str, Meta(min_length=1, max_length=256)]
    vocab: Annotated[int, Meta(ge=1, le=MAX_VOCABULARY)]
    logprobs: Annotated[int, Meta(ge=1, le=MAX_LOGPROBS)]


@dataclass(slots=True)
class _Served:
    manifest: Manifest
    size: int
    fingerprint: Fingerprint
    # Of a server that is asked position by position: what it said last.
    ids: tuple[int, ...] = ()
    rows: list[Row] = field(default_factory=list)


class OpenAiEngine:
    """`url` is the server's, without `/v1`. `key_file` holds its API key alone, readable by its owner only.

    Redirects are not followed, so the key goes nowhere else.
    """

    def __init__(
        self,
        url: str,
        *,
        max_loaded_bytes: int,
        style: Style = "vllm",
        key_file: Path | None = None,
        max_concurrent: int = 2,
        timeout_seconds: float = INFERENCE_TIMEOUT_SECONDS,
    ) -> None:
        self._url, self._dialect, self._style = url.rstrip("/"), DIALECTS[style], style
        self._headers = {"Content-Type": "application/json"}
        if key_file is not None:
            key = read_password(key_file)
            if not key.isascii() or not key.isprintable():
                raise ConfigError(f"inference.openai_key_file: {key_file} does not hold a key of ASCII characters")
            self._headers["Authorization"] = f"Bearer {key}"
        self._timeout_seconds = timeout_seconds
        self._models: Shelf[_Served] = Shelf(max_loaded_bytes)
        self._slots, self._is_closed = asyncio.Semaphore(max_concurrent), False
        self._session: aiohttp.ClientSession | None = None

    async def load(self, model_hash: Digest, model: bytes) -> None:
        """Raises `ModelMismatch` for other bytes, `InferenceFailed` for what is no manifest, and when the server serves
        no model of that name."""
        if hashlib.sha256(model).digest() != model_hash:
            raise ModelMismatch(f"the model's bytes do not have the hash {model_hash.hex()}")
        self._models.check_size(model)
        try:
            manifest: Manifest = decode_canonical(model, Manifest, "manifest", max_bytes=MAX_MANIFEST_BYTES)
        except CodecError as error:
            raise InferenceFailed(f"not a model for an OpenAI-compatible server: {error}") from None
        async with self._limits():
            served = decode(await self._fetch("GET", "/v1/models", None, ROOM_BYTES), ServedModels, "models").data
        owner = next((each.owned_by for each in served if each.id == manifest.served), None)
        if owner is None:
            names = ", ".join(each.id[:SHOWN_CHARACTERS] for each in served[:10]) or "nothing"
            raise InferenceFailed(f"{self._url} does not serve {manifest.served}; it serves {names}")
        host = urlsplit(self._url).hostname or "unknown"
        fingerprint = Fingerprint("openai", owner[:SHOWN_CHARACTERS] or "unknown", self._style, host, "unknown")
        self._models.keep(model_hash, _Served(manifest, len(model), fingerprint))

    def is_loaded(self, model_hash: Digest) -> bool:
        return model_hash in self._models

    async def run(self, model_hash: Digest, inputs: Tensors) -> Tensors:
        """Raises `InputMismatch` before anything is asked, `InferenceFailed` for the rest, time running out too."""
        served = self._models.use(model_hash)
        check_arrays(INPUT, inputs)
        vocabulary = served.manifest.vocab
        check_ids(np.asarray(inputs["ids"][0], np.int64), MAX_LOGITS // vocabulary, vocabulary)
        ids = tuple(int(token) for token in inputs["ids"][0])
        async with self._limits():
            rows = await (self._ask(served, ids) if self._dialect.is_whole else self._step(served, ids))
        return {"logits": _dense(rows, vocabulary)[None]}

    def fingerprint(self, model_hash: Digest) -> Fingerprint:
        """`version` is who the server says owns the model; what really ran there, it does not say."""
        return self._models.fingerprint(model_hash)

    async def close(self) -> None:
        """Nothing can be run afterwards."""
        self._is_closed = True
        self._models.clear()
        if self._session is not None:
            await self._session.close()

    async def _step(self, served: _Served, ids: tuple[int, ...]) -> list[Row]:
        """One request for each position that was not asked for before."""
        rows = list(served.rows[: _common(served.ids, ids)])
        while len(rows) < len(ids):
            rows += await self._ask(served, ids[: len(rows) + 1])
        served.ids, served.rows = ids, rows
        return rows

    async def _ask(self, served: _Served, ids: tuple[int, ...]) -> list[Row]:
        manifest = served.manifest
        body = self._dialect.ask(manifest.served, ids, manifest.logprobs)
        most = (len(ids) + 1) * (manifest.logprobs + 2) * BYTES_A_LOGPROB + ROOM_BYTES
        answer = await self._fetch("POST", self._dialect.path, body, most)
        # Tens of megabytes of JSON would hold up the event loop.
        rows = await asyncio.to_thread(self._dialect.read, answer, ids)
        for position, row in enumerate(rows):
            check_row(row, position, vocabulary=manifest.vocab, logprobs=manifest.logprobs)
        return [best_of(row, manifest.logprobs) for row in rows]

    async def _fetch(self, method: str, path: str, body: Mapping[str, Any] | None, most: int) -> bytes:
        data = None if body is None else msgspec.json.encode(body)
        session = self._opened()
        try:
            async with session.request(
                method, self._url + path, data=data, headers=self._headers, allow_redirects=False
            ) as response:
                found = bytearray()
                async for piece in response.content.iter_chunked(1 << 16):
                    found += piece
                    if len(found) > most:
                        raise InferenceFailed(f"{self._url}{path} answers with more than {most} bytes")
                if response.status != 200:
                    said = found[:SHOWN_CHARACTERS].decode(errors="replace")
                    raise InferenceFailed(f"{self._url}{path} answers {response.status}: {said!a}")
                return bytes(found)
        except (aiohttp.ClientError, OSError) as error:
            raise InferenceFailed(
                f"{self._url}{path} cannot be asked ({error}); see that the server runs and inference.openai_url is its"
            ) from None

    def _opened(self) -> aiohttp.ClientSession:
        """Made within the event loop, and with this engine's own time limit alone."""
        if self._is_closed:
            raise InferenceFailed("the engine is closed")
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None))
        return self._session

    @asynccontextmanager
    async def _limits(self) -> AsyncIterator[None]:
        """A slot, then a time limit."""
        async with self._slots:
            try:
                async with asyncio.timeout(self._timeout_seconds):
                    yield
            except TimeoutError:
                raise InferenceFailed(f"the model ran for more than {self._timeout_seconds:g} seconds") from None


def _common(first: tuple[int, ...], second: tuple[int, ...]) -> int:
    """How many tokens both begin with."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((at for at, (one, other) in pairs if one != other), min(len(first), len(second)))


def _dense(rows: list[Row], vocabulary: int) -> npt.NDArray[np.float32]:
    """(T, vocabulary); what is missing from a row has its lowest number."""
    logits = np.empty((len(rows), vocabulary), np.float32)
    for index, row in enumerate(rows):
        logits[index] = min(row.values())
        logits[index, list(row)] = list(row.values())
    return logits
