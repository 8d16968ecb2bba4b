"""A service with the IPFS Pinning Service API 1.0.0: it is told a CID, and fetches the blocks from our IPFS node.

So it needs a node (Kubo) that others can dial: its addresses are the `origins`, the service's own are the `delegates`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final
from urllib.parse import quote

import msgspec
import structlog

from shared.adapters.content.publishers.service import Service, name_of
from shared.constants import MAX_SOURCE_CHARACTERS
from shared.errors import ContentError, PublishFailed
from shared.interfaces import PublishState, Receipt
from shared.types import Cid, Ref

log = structlog.get_logger(__name__)

MAX_ORIGINS: Final = 20  # the API's bound, for delegates too
MAX_REQUEST_ID_CHARACTERS: Final = 255  # it becomes part of a path, and of what is stored
CONNECT_SECONDS: Final = 10.0

Provide = Callable[[Ref], Awaitable[object]]  # the file into the node that the service fetches from
Connect = Callable[[str], Awaitable[object]]  # that node to a multiaddr


class _Pin(msgspec.Struct):
    cid: str


class _PinStatus(msgspec.Struct):
    requestid: str
    status: PublishState
    pin: _Pin
    delegates: list[str] = []


class _PinResults(msgspec.Struct):
    results: list[_PinStatus]


class PinningServicePublisher:
    """`origins`: multiaddrs of the own node, each with its `/p2p/`. `provide` and `connect` raise `ContentError`."""

    def __init__(
        self,
        service: Service,
        *,
        origins: Sequence[str] = (),
        provide: Provide | None = None,
        connect: Connect | None = None,
    ) -> None:
        self._service, self._provide, self._connect = service, provide, connect
        self._origins = list(filter(_is_dialable, origins))[:MAX_ORIGINS]

    @property
    def name(self) -> str:
        return self._service.name

    async def publish(self, ref: Ref) -> Receipt:
        """See `Publisher`. A repeated POST would make a second request, so the service is asked what it has first."""
        status = await self._find(ref.cid)
        if status is None or status.status is not PublishState.PINNED:
            if self._provide is not None:
                await self._provide(ref)
            status = status or await self._request(ref.cid)
            await self._connect_to(status.delegates)
        return self._receipt(status, ref.cid)

    async def status(self, receipt: Receipt) -> Receipt:
        """See `Publisher`."""
        answer = await self._service.call("GET", f"/pins/{quote(receipt.id, safe='')}")
        if answer.status == 404:
            raise PublishFailed(f"{self.name} knows nothing of request {receipt.id} (404)", is_final=True)
        return self._receipt(self._service.read(answer, _PinStatus), receipt.cid)

    async def _find(self, cid: Cid) -> _PinStatus | None:
        """Without `status` only what is pinned would be listed; what failed is asked for anew."""
        answer = await self._service.call("GET", "/pins", query={"cid": cid, "status": "queued,pinning,pinned"})
        found = [each for each in self._service.read(answer, _PinResults).results if each.pin.cid == cid]
        pinned = [each for each in found if each.status is PublishState.PINNED]
        return next(iter(pinned or found), None)

    async def _request(self, cid: Cid) -> _PinStatus:
        form = {"cid": cid, "name": name_of(cid), "origins": self._origins}
        answer = await self._service.call("POST", "/pins", form=form)
        return self._service.read(answer, _PinStatus, expected=202)

    def _receipt(self, status: _PinStatus, cid: Cid) -> Receipt:
        if status.pin.cid != cid:
            said = repr(status.pin.cid[:MAX_SOURCE_CHARACTERS])
            raise PublishFailed(f"{self.name} says that it pins {said} instead of {cid}", is_final=True)
        if not _is_request_id(status.requestid):
            raise PublishFailed(f"{self.name} gave no usable requestid: {status.requestid[:80]!r}", is_final=True)
        return Receipt(self.name, cid, status.requestid, status.status)

    async def _connect_to(self, delegates: Sequence[str]) -> None:
        """A help, no need: the service can dial the origins."""
        if self._connect is None:
            return
        chosen = list(filter(_is_dialable, delegates))[:MAX_ORIGINS]
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                said = await asyncio.gather(*map(self._connect, chosen), return_exceptions=True)
        except TimeoutError:
            said = [TimeoutError(f"not within {CONNECT_SECONDS:g} s")]
        for error in said:
            if isinstance(error, BaseException) and not isinstance(error, (ContentError, TimeoutError)):
                raise error
        if chosen and all(isinstance(each, BaseException) for each in said):
            log.info("no delegate of the pinning service was reached", publisher=self.name, reason=str(said[0]))


def _is_dialable(address: str) -> bool:
    return address.startswith("/") and "/p2p/" in address and len(address) <= MAX_SOURCE_CHARACTERS


def _is_request_id(text: str) -> bool:
    """Also not `.` or `..`, which would be another path."""
    is_text = text.isascii() and text.isprintable() and any(map(str.isalnum, text))
    return is_text and len(text) <= MAX_REQUEST_ID_CHARACTERS
