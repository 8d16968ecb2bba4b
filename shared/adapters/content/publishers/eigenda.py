"""Proofs put into EigenDA, for the time in which they are attested: blobs expire there, so nothing is kept for good."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Final

from shared.adapters.content.eigenda import MAX_BLOB_BYTES, MAX_DOWNLOADS, EigenDaProxy
from shared.content.unixfs import PROFILES, cid_of
from shared.errors import PublishFailed, SourceFailed
from shared.interfaces import LocalContent, PublishState, Receipt
from shared.reasons import SourceFault
from shared.types import Cid, Ref

_FINAL: Final = (SourceFault.TOO_LARGE, SourceFault.REFUTED, SourceFault.BAD_ANSWER)


class EigenDaPublisher:
    """The receipt's id is the certificate in hex, for the `Ref`.

    It is PINNED only once the content came back by it: a certificate that leads nowhere would speak against whoever
    signs it. Content that is put again is a second blob, for EigenDA does not tell.
    """

    def __init__(self, proxy: EigenDaProxy, content: LocalContent) -> None:
        self._proxy, self._content = proxy, content
        self._slots = asyncio.Semaphore(MAX_DOWNLOADS)  # each holds a file in memory

    @property
    def name(self) -> str:
        return "eigenda"

    async def publish(self, ref: Ref) -> Receipt:
        """See `Publisher`."""
        if ref.size > MAX_BLOB_BYTES:
            raise PublishFailed(f"{self.name}: {ref.size} bytes, over the limit of {MAX_BLOB_BYTES}", is_final=True)
        async with self._slots:
            async with aclosing(self._content.read(ref.cid)) as stream:
                data = b"".join([chunk async for chunk in stream])
            try:
                certificate = await self._proxy.put(data)
            except SourceFailed as failure:
                raise self._failed(failure) from failure
        return Receipt(self.name, ref.cid, certificate.hex(), PublishState.PINNING)

    async def status(self, receipt: Receipt) -> Receipt:
        """See `Publisher`."""
        async with self._slots:
            try:
                data = await self._proxy.get(bytes.fromhex(receipt.id), max_bytes=MAX_BLOB_BYTES)
            except SourceFailed as failure:
                raise self._failed(failure) from failure
            if not await asyncio.to_thread(_has_cid, data, receipt.cid):
                raise PublishFailed(f"{self.name} gives other bytes back than {receipt.cid}", is_final=True)
        return Receipt(self.name, receipt.cid, receipt.id, PublishState.PINNED)

    def _failed(self, failure: SourceFailed) -> PublishFailed:
        is_final = failure.fault in _FINAL
        return PublishFailed(f"{self.name}: {failure}", is_final=is_final)


def _has_cid(data: bytes, cid: Cid) -> bool:
    return any(cid_of(data, profile) == cid for profile in PROFILES.values())
