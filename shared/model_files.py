"""Model files by CID: brought to this node's disk in the background, read into memory when an engine takes them.

What was brought stays, block by block, whatever ends the fetch: the next try, also of another process, goes on there.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, contextmanager, nullcontext
from dataclasses import dataclass
from typing import NoReturn

import structlog

from shared.constants import FETCH_TIMEOUT_SECONDS, PROGRESS_SECONDS
from shared.errors import CodecError, ContentCorrupt, ContentTooLarge, ModelMismatch
from shared.interfaces import ContentStore
from shared.keeping import CACHE
from shared.model_card import ModelFile
from shared.types import Address, Cid, Digest

# A model may take its size at this pace, and never less than FETCH_TIMEOUT_SECONDS.
SLOWEST_MODEL_BYTES_PER_SECOND = 1 << 20
_MIB = 1 << 20

log = structlog.get_logger(__name__)

Claim = tuple[str, int, Digest]
"""What a card says of a model, with the hash on chain: CID, size and hash either fit together or never will."""


@dataclass(slots=True)
class Fetching:
    """A model on its way. `bytes` are verified and on this disk; some may have been there before."""

    cid: Cid
    size: int  # as its card says
    bytes: int = 0


class ModelFiles:
    """`source_of` tells which source brought the last block of a file; for the log."""

    def __init__(self, content: ContentStore, source_of: Callable[[Cid], str | None] = lambda _: None) -> None:
        self._content, self._source_of = content, source_of
        self._lies: dict[Claim, str] = {}  # why; as many as there are task definitions, at most
        self._under_way: list[Fetching] = []

    def under_way(self) -> list[Fetching]:
        return list(self._under_way)

    async def bring(self, file: ModelFile, model_hash: Digest, prefer: Address | None) -> None:
        """To this disk, a chunk at a time, unless it is there. Raises as `read`."""
        self._require_honest(file, model_hash)
        if not await self._content.has(Cid(file.cid)):
            hashed = hashlib.sha256()
            async for chunk in self._chunks(file, model_hash, prefer, was_here=False):
                hashed.update(chunk)
            self._check(hashed.digest(), file, model_hash)

    async def read(self, file: ModelFile, model_hash: Digest, prefer: Address | None) -> bytes:
        """Into memory, where it is held twice for a moment; what is not here is fetched. Its hash is `model_hash`.

        Raises `ModelMismatch`, the second time without reading, `ContentUnavailable` and other `ContentError`s."""
        self._require_honest(file, model_hash)
        was_here = await self._content.has(Cid(file.cid))
        hashed, chunks = hashlib.sha256(), []
        async for chunk in self._chunks(file, model_hash, prefer, was_here=was_here):
            hashed.update(chunk)
            chunks.append(chunk)
        self._check(hashed.digest(), file, model_hash)
        return b"".join(chunks)

    async def _chunks(
        self, file: ModelFile, model_hash: Digest, prefer: Address | None, *, was_here: bool
    ) -> AsyncIterator[bytes]:
        cid, timeout = Cid(file.cid), max(FETCH_TIMEOUT_SECONDS, file.size / SLOWEST_MODEL_BYTES_PER_SECOND)
        try:
            with nullcontext(_say_nothing) if was_here else self._followed(cid, file.size) as add:
                async with aclosing(
                    self._content.open(
                        cid, max_bytes=file.size, timeout_seconds=timeout, prefer=prefer, keep_until=CACHE
                    )
                ) as chunks:
                    async for chunk in chunks:
                        add(len(chunk))
                        yield chunk
        except (ContentTooLarge, ContentCorrupt, CodecError) as error:  # the last for a CID that is none
            self._refuse(f"model {cid}: {error}", file, model_hash)

    # --- lies ------------------------------------------------------------------------------------
    def _require_honest(self, file: ModelFile, model_hash: Digest) -> None:
        why = self._lies.get((file.cid, file.size, model_hash))
        if why is not None:
            raise ModelMismatch(why)

    def _check(self, found: bytes, file: ModelFile, model_hash: Digest) -> None:
        if found != model_hash:
            why = f"model {file.cid} has the SHA-256 {found.hex()}, the chain says {model_hash.hex()}"
            self._refuse(why, file, model_hash)

    def _refuse(self, why: str, file: ModelFile, model_hash: Digest) -> NoReturn:
        """Once and for ever. What came is mere cache, and goes as such: a card may name a proof that is being kept for
        its task meanwhile, and its lie must not take that promise back."""
        self._lies[file.cid, file.size, model_hash] = why
        log.warning("a model is not what its card and the chain say; it is not fetched again", reason=why)
        raise ModelMismatch(why) from None

    # --- progress --------------------------------------------------------------------------------
    @contextmanager
    def _followed(self, cid: Cid, size: int) -> Iterator[Callable[[int], None]]:
        """Gives what is to be told of each chunk. Of several that bring one file, the first tells people."""
        fetching, loop = Fetching(cid, size), asyncio.get_running_loop()
        is_first = all(other.cid != cid for other in self._under_way)
        told_at, told_bytes = loop.time(), 0

        def add(size_of_chunk: int) -> None:
            nonlocal told_at, told_bytes
            fetching.bytes += size_of_chunk
            seconds = loop.time() - told_at
            if is_first and seconds >= PROGRESS_SECONDS:
                log.info(
                    "model on its way",
                    cid=cid,
                    bytes=fetching.bytes,
                    size=size,
                    mib_per_second=round((fetching.bytes - told_bytes) / seconds / _MIB, 2),
                    source=self._source_of(cid),
                )
                told_at, told_bytes = loop.time(), fetching.bytes

        self._under_way.append(fetching)
        try:
            yield add
        finally:
            self._under_way.remove(fetching)


def _say_nothing(_: int) -> None:
    pass
