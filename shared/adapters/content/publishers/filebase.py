"""Filebase, or a service like it: Kubo's RPC API behind a token. Our blocks travel as a CAR, so the CID is ours."""

from __future__ import annotations

from collections.abc import AsyncIterable
from contextlib import aclosing
from typing import Final, Protocol

from shared.adapters.content.publishers.service import CALL_SECONDS, MIN_UPLOAD_BYTES_PER_SECOND
from shared.errors import PublishFailed, SourceFailed
from shared.interfaces import LocalContent, PublishState, Receipt
from shared.reasons import SourceFault
from shared.types import Cid, Ref

_FINAL: Final = (SourceFault.BAD_ANSWER, SourceFault.TOO_LARGE)  # of those, the token refused and another root


class Importer(Protocol):
    """Of Kubo's RPC API what this needs. Raises `SourceFailed`."""

    async def import_archive(self, root: Cid, archive: AsyncIterable[bytes], *, seconds: float) -> None:
        """All blocks of a file as a CAR whose one root is `root`; done once that is pinned. Raises what `archive`
        raises."""
        ...

    async def is_pinned(self, root: Cid) -> bool: ...


class FilebasePublisher:
    """Importing the same blocks again makes no second copy."""

    def __init__(self, importer: Importer, content: LocalContent) -> None:
        self._importer, self._content = importer, content

    @property
    def name(self) -> str:
        return "filebase"

    async def publish(self, ref: Ref) -> Receipt:
        """See `Publisher`."""
        seconds = CALL_SECONDS + ref.size / MIN_UPLOAD_BYTES_PER_SECOND
        try:
            async with aclosing(self._content.archive(ref.cid)) as archive:
                await self._importer.import_archive(ref.cid, archive, seconds=seconds)
        except SourceFailed as failure:
            raise self._failed(failure) from failure
        return Receipt(self.name, ref.cid, ref.cid, PublishState.PINNED)

    async def status(self, receipt: Receipt) -> Receipt:
        """See `Publisher`."""
        try:
            is_pinned = await self._importer.is_pinned(receipt.cid)
        except SourceFailed as failure:
            raise self._failed(failure) from failure
        state = PublishState.PINNED if is_pinned else PublishState.FAILED
        return Receipt(self.name, receipt.cid, receipt.id, state)

    def _failed(self, failure: SourceFailed) -> PublishFailed:
        return PublishFailed(f"{self.name}: {failure}", is_final=failure.fault in _FINAL)
