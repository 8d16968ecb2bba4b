"""Pinata, or a service like it: the file is uploaded, and the service makes a DAG of it by its own profile.

Up to 256 KiB that is one raw block, whatever the profile. Beyond, a service that cuts into 256 KiB makes another CID
than `unixfs-v1-2025`, and there is no way to hand it our blocks.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Final

import aiohttp
import msgspec

from shared.adapters.content.publishers.service import Service, Upload, name_of
from shared.content.unixfs import UNIXFS_V1_CLASSIC, cid_of
from shared.errors import PublishFailed
from shared.interfaces import LocalContent, PublishState, Receipt
from shared.types import Cid, Ref

_SHOWN_CHARACTERS: Final = 128  # of a CID that is not ours
# What is read into memory to explain a CID: a proof has at most as much.
_EXPLAINED_BYTES: Final = 16 << 20


class _Uploaded(msgspec.Struct):
    cid: str = msgspec.field(name="IpfsHash")


class _Row(msgspec.Struct):
    cid: str = msgspec.field(name="ipfs_pin_hash")


class _PinList(msgspec.Struct):
    rows: list[_Row]


class PinataPublisher:
    """Uploading the same file again makes no second copy: the service knows it by its CID."""

    def __init__(self, service: Service, content: LocalContent) -> None:
        self._service, self._content = service, content
        self._cuts_smaller = False  # seen of a file; the next one would be paid for and of no use, too

    @property
    def name(self) -> str:
        return self._service.name

    async def publish(self, ref: Ref) -> Receipt:
        """See `Publisher`."""
        if self._cuts_smaller and not _is_classic(ref):
            raise self._other_profile(ref)
        upload = Upload(self._content.read(ref.cid), ref.size)
        form = aiohttp.FormData()
        form.add_field("pinataOptions", '{"cidVersion":1}', content_type="application/json")
        metadata = msgspec.json.encode({"name": name_of(ref.cid)}).decode()
        form.add_field("pinataMetadata", metadata, content_type="application/json")
        form.add_field("file", upload.chunks(), filename=ref.cid, content_type="application/octet-stream")
        answer = await self._service.upload("/pinning/pinFileToIPFS", upload, form)
        returned = self._service.read(answer, _Uploaded).cid
        if returned != ref.cid:
            raise await self._explain(ref, returned)
        return Receipt(self.name, ref.cid, returned, PublishState.PINNED)

    async def status(self, receipt: Receipt) -> Receipt:
        """See `Publisher`."""
        query = {"status": "pinned", "hashContains": receipt.cid}
        answer = await self._service.call("GET", "/data/pinList", query=query)
        rows = self._service.read(answer, _PinList).rows
        is_pinned = any(row.cid == receipt.cid for row in rows)
        state = PublishState.PINNED if is_pinned else PublishState.FAILED
        return Receipt(self.name, receipt.cid, receipt.id, state)

    async def _explain(self, ref: Ref, returned: str) -> PublishFailed:
        if not _is_classic(ref) and returned == await self._classic_cid(ref):
            self._cuts_smaller = True
            return self._other_profile(ref)
        said = repr(returned[:_SHOWN_CHARACTERS])
        return PublishFailed(f"{self.name} returned the CID {said} instead of {ref.cid}", is_final=True)

    async def _classic_cid(self, ref: Ref) -> Cid | None:
        if ref.size > _EXPLAINED_BYTES:
            return None
        async with aclosing(self._content.read(ref.cid)) as stream:
            data = b"".join([chunk async for chunk in stream])
        return await asyncio.to_thread(cid_of, data, UNIXFS_V1_CLASSIC)

    def _other_profile(self, ref: Ref) -> PublishFailed:
        return PublishFailed(
            f"{self.name} cuts files into {UNIXFS_V1_CLASSIC.chunk_bytes} bytes, which gives {ref.cid} of {ref.size} "
            f"bytes another CID there ({ref.profile} here): nobody would find it. Larger files need a service that "
            "takes a CAR or fetches by CID: filebase, kubo or pinning-service",
            is_final=True,
        )


def _is_classic(ref: Ref) -> bool:
    """Whether chunks of 256 KiB give the file the same CID."""
    return ref.size <= UNIXFS_V1_CLASSIC.chunk_bytes or ref.profile == UNIXFS_V1_CLASSIC.name
