"""Publishing to a Kubo node, the operator's own or a service that speaks its RPC API."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import replace

from shared.adapters.content.kubo.api import seconds_for
from shared.adapters.content.kubo.rpc import KuboRpc
from shared.content.unixfs import PROFILES
from shared.errors import PublishFailed, SourceFailed
from shared.interfaces import LocalContent, PublishState, Receipt
from shared.reasons import SourceFault
from shared.types import Cid, Ref


class KuboPublisher:
    """Sends the blocks as an archive, so that the CID cannot depend on the service's settings. One that takes none gets
    the bytes, and its CID is compared. Where the content store is in the same node, there is nothing to send: it is
    pinned there already. `api` is opened and closed by whoever made it; `seconds_for` says how
    long it may take, by the file's size."""

    def __init__(
        self,
        api: KuboRpc,
        content: LocalContent,
        *,
        name: str = "kubo",
        seconds_for: Callable[[int], float] = seconds_for,
    ) -> None:
        self._api, self._content, self._name, self._seconds_for = api, content, name, seconds_for

    @property
    def name(self) -> str:
        return self._name

    async def publish(self, ref: Ref) -> Receipt:
        with _published():
            if not await self._api.is_pinned(ref.cid):
                await self._send(ref)
        receipt = await self.status(Receipt(self._name, ref.cid, ref.cid, PublishState.QUEUED))
        if receipt.state is not PublishState.PINNED:
            raise PublishFailed(f"it took {ref.cid} and does not list it as pinned")
        return receipt

    async def status(self, receipt: Receipt) -> Receipt:
        with _published():
            is_pinned = await self._api.is_pinned(receipt.cid)
        return replace(receipt, state=PublishState.PINNED if is_pinned else PublishState.FAILED)

    async def _send(self, ref: Ref) -> None:
        try:
            async with aclosing(self._content.archive(ref.cid)) as archive:
                await self._api.import_archive(ref.cid, archive, seconds=self._seconds_for(ref.size))
        except SourceFailed as failed:
            if failed.fault is not SourceFault.BAD_ANSWER or ref.profile not in PROFILES:
                raise
            if (cid := await self._add(ref)) != ref.cid:
                raise PublishFailed(f"{failed}; and add made {cid[:64]!r} of {ref.cid}", is_final=True) from failed

    async def _add(self, ref: Ref) -> Cid:
        async with aclosing(self._content.read(ref.cid)) as data:
            return await self._api.add(data, PROFILES[ref.profile], seconds=self._seconds_for(ref.size))


@contextmanager
def _published() -> Iterator[None]:
    """What is refused today is refused tomorrow; what is busy, slow or away may come back."""
    try:
        yield
    except SourceFailed as failed:
        final = (SourceFault.BAD_ANSWER, SourceFault.TOO_LARGE, SourceFault.WRONG_BYTES)
        raise PublishFailed(str(failed), is_final=failed.fault in final) from failed
