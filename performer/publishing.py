"""Proofs on their way to services outside: what EigenDA certifies before the task is told, the rest behind its back.

The own store serves every proof; a service is a second place, so whatever it does, no task fails of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial

import msgspec
import structlog

from shared import wire
from shared.errors import ContentUnavailable, PublishFailed
from shared.interfaces import Clock, Publisher, PublishState, Receipt, TaskStore
from shared.types import Cid, Ref

log = structlog.get_logger(__name__)

PUBLICATION = "publication"  # publisher and CID → how far it is
CERTIFYING = "eigenda"  # the publisher whose receipt goes into the task message
# An attester without a certificate asks the other sources; a requester that waits longer for one gains nothing.
CERTIFICATE_SECONDS = 10.0
CERTIFICATE_SHARE = 0.25  # of the time until the deadline: the rest is for votes and the chain
CERTIFICATE_RETRY_SECONDS = 1.0
# A service that is out for a day at a proof every twenty seconds; half a kilobyte each, here and on the disk.
MAX_PUBLICATIONS = 4096
MAX_AGE_SECONDS = 24 * 3600.0  # as long as a task may be open, or disputed where nobody chose longer
REMEMBERED_SECONDS = 3600.0  # what is done: a task that is performed again after a crash is not published again
PARALLEL = 4  # questions to one service at once
ASK_SECONDS = 600.0  # publishers end by themselves; this one is for those that do not
RETRY_SECONDS = 2.0  # doubles, for polling too, up to the next constant
RETRY_MAX_SECONDS = 300.0


class Publication(msgspec.Struct, frozen=True):
    """One proof at one service, as it is stored."""

    publisher: str
    ref: Ref
    begun_at: float  # unix seconds
    receipt: Receipt | None = None

    @property
    def is_done(self) -> bool:
        return self.receipt is not None and self.receipt.state is PublishState.PINNED


_decode = wire.decoder(Publication).decode
Count = Callable[[str, PublishState], None]


@dataclass(slots=True, eq=False)
class _Entry:
    publication: Publication
    next_at: float = 0.0  # in the loop's time: the next question, or the end of remembering
    pause_seconds: float = RETRY_SECONDS


class Publications:
    """`count` hears a publisher's name and the state that a proof came to there."""

    def __init__(
        self, *, publishers: Sequence[Publisher], store: TaskStore, clock: Clock, count: Count = lambda *_: None
    ) -> None:
        self._publishers = {publisher.name: publisher for publisher in publishers}
        self._store, self._clock, self._count = store, clock, count
        self._entries: dict[tuple[str, Cid], _Entry] = {}  # in the order in which they began
        self._more = {name: asyncio.Event() for name in self._publishers}

    async def load(self) -> None:
        """What a former run left. Of services that the settings no longer name, it is dropped."""
        async for key, stored in self._store.scan(PUBLICATION):
            publication: Publication = _decode(stored)
            if publication.publisher in self._publishers:
                entry = _Entry(publication)
                if publication.is_done:
                    entry.next_at = asyncio.get_running_loop().time() + REMEMBERED_SECONDS
                self._entries.setdefault((publication.publisher, publication.ref.cid), entry)
            else:
                await self._store.delete(PUBLICATION, key)
        for more in self._more.values():
            more.set()

    async def publish(self, ref: Ref, deadline: float) -> Ref:
        """For a proof that is in the own store, before its task message goes out; `deadline` is the task's.

        What is queued is durable before this returns, with EigenDA's certificate in the `Ref` if it came in time.
        """
        await asyncio.gather(*(self._queue(name, ref) for name in self._publishers if name != CERTIFYING))
        publisher = self._publishers.get(CERTIFYING)
        if publisher is None:
            return ref
        return msgspec.structs.replace(ref, eigenda=await self._certificate(publisher, ref, deadline))

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            for publisher in self._publishers.values():
                group.create_task(self._serve(publisher))

    # --- the certificate -----------------------------------------------------------------------------
    async def _certificate(self, publisher: Publisher, ref: Ref, deadline: float) -> bytes:
        """Empty when there is none in time: the task goes on without."""
        known = self._entries.get((publisher.name, ref.cid))
        if known is not None and known.publication.receipt is not None:
            return bytes.fromhex(known.publication.receipt.id)
        patience = max(0.0, min(CERTIFICATE_SECONDS, CERTIFICATE_SHARE * (deadline - self._clock.now())))
        begun_at = self._clock.now()
        try:
            async with asyncio.timeout(patience):
                receipt = await _certified(publisher, ref)
            certificate = bytes.fromhex(receipt.id)
        except TimeoutError:
            reason = f"not within {patience:.1f} s"
        except (PublishFailed, ContentUnavailable) as error:
            reason = str(error)
        except Exception:
            log.exception("fault while publishing", publisher=publisher.name, cid=ref.cid)
            reason = "internal fault"
        else:
            entry = _Entry(Publication(publisher.name, ref, begun_at, receipt))
            self._finish(entry)
            await self._keep(entry)
            return certificate
        log.warning("a task goes out without a certificate", publisher=publisher.name, cid=ref.cid, reason=reason)
        self._count(publisher.name, PublishState.FAILED)
        return b""

    # --- the queue -----------------------------------------------------------------------------------
    async def _queue(self, name: str, ref: Ref) -> None:
        if (name, ref.cid) not in self._entries:
            await self._keep(_Entry(Publication(name, ref, self._clock.now())))

    async def _keep(self, entry: _Entry) -> None:
        """Durable before it returns."""
        publication = entry.publication
        await self._store.put(PUBLICATION, _key_of(publication), wire.encode(publication))
        self._entries[publication.publisher, publication.ref.cid] = entry
        self._more[publication.publisher].set()
        while len(self._entries) > MAX_PUBLICATIONS:
            await self._make_room()

    async def _make_room(self) -> None:
        """What is done goes first; then the oldest, which has been tried the longest."""
        entries = list(self._entries.values())
        done = next((entry for entry in entries if entry.publication.is_done), None)
        if done is not None:
            await self._forget(done)
        else:
            await self._fail(entries[0], f"more than {MAX_PUBLICATIONS} are waiting")

    async def _serve(self, publisher: Publisher) -> None:
        more = self._more[publisher.name]
        while True:
            more.clear()  # before the look: what is queued after it sets it again
            due, wait_seconds = self._due(publisher.name)
            if due:
                await asyncio.gather(*(self._go_on(publisher, entry) for entry in due))
                continue
            try:
                # Not `wait_for`: in Python 3.11 it swallows a cancellation that comes with the result.
                async with asyncio.timeout(wait_seconds):
                    await more.wait()
            except TimeoutError:
                pass

    def _due(self, name: str) -> tuple[list[_Entry], float | None]:
        """The next few, or the seconds until there is one; None when nothing is waiting."""
        now = asyncio.get_running_loop().time()
        entries = [entry for (publisher, _), entry in self._entries.items() if publisher == name]
        due = [entry for entry in entries if entry.next_at <= now]
        return due[:PARALLEL], min((entry.next_at - now for entry in entries), default=None)

    async def _go_on(self, publisher: Publisher, entry: _Entry) -> None:
        """One question to the service, or the end."""
        publication = entry.publication
        if publication.is_done:
            await self._forget(entry)
            return
        if self._clock.now() - publication.begun_at > MAX_AGE_SECONDS:
            await self._fail(entry, f"not there after {MAX_AGE_SECONDS / 3600:g} hours")
            return
        try:
            async with asyncio.timeout(ASK_SECONDS):
                receipt = await _ask(publisher, publication)
        except ContentUnavailable as error:
            await self._fail(entry, str(error))
        except PublishFailed as failure:
            if failure.is_final:
                await self._fail(entry, str(failure))
            else:
                self._try_later(entry, str(failure))
        except TimeoutError:
            self._try_later(entry, f"no answer within {ASK_SECONDS:g} s")
        except Exception:
            log.exception("fault while publishing", publisher=publication.publisher, cid=publication.ref.cid)
            self._try_later(entry, "internal fault")
        else:
            await self._note(entry, receipt)

    async def _note(self, entry: _Entry, receipt: Receipt) -> None:
        """What the service says now; durable before anybody hears of it."""
        former, cid = entry.publication, entry.publication.ref.cid
        if not self._is_current(entry):
            return  # given up meanwhile
        if receipt.cid != cid:
            await self._fail(entry, f"it has {receipt.cid} instead")
            return
        if receipt.state is PublishState.FAILED:
            await self._fail(entry, "the service says that it failed")
            return
        if receipt != former.receipt:
            entry.publication = msgspec.structs.replace(former, receipt=receipt)
            await self._store.put(PUBLICATION, _key_of(former), wire.encode(entry.publication))
        if entry.publication.is_done:
            self._finish(entry)
            return
        if former.receipt is None or receipt.state is not former.receipt.state:
            self._count(former.publisher, receipt.state)
        _pause(entry)

    def _finish(self, entry: _Entry) -> None:
        """It is there; what is left is to remember it for a while."""
        publication = entry.publication
        entry.next_at = asyncio.get_running_loop().time() + REMEMBERED_SECONDS
        seconds = round(self._clock.now() - publication.begun_at, 3)
        log.info("proof published", publisher=publication.publisher, cid=publication.ref.cid, seconds=seconds)
        self._count(publication.publisher, PublishState.PINNED)

    def _try_later(self, entry: _Entry, reason: str) -> None:
        publication = entry.publication
        if entry.pause_seconds == RETRY_SECONDS:  # once; the rest is the same again
            log.warning(
                "proof not published yet", publisher=publication.publisher, cid=publication.ref.cid, reason=reason
            )
        _pause(entry)

    async def _fail(self, entry: _Entry, reason: str) -> None:
        if not self._is_current(entry):
            return  # said before
        publication = entry.publication
        log.warning("proof not published", publisher=publication.publisher, cid=publication.ref.cid, reason=reason)
        self._count(publication.publisher, PublishState.FAILED)
        await self._forget(entry)

    async def _forget(self, entry: _Entry) -> None:
        if self._is_current(entry):
            publication = entry.publication
            del self._entries[publication.publisher, publication.ref.cid]
            await self._store.delete(PUBLICATION, _key_of(publication))

    def _is_current(self, entry: _Entry) -> bool:
        return self._entries.get((entry.publication.publisher, entry.publication.ref.cid)) is entry


async def _certified(publisher: Publisher, ref: Ref) -> Receipt:
    """Until it is PINNED, for a certificate that leads nowhere speaks against whoever signs it. One put alone, if it is
    answered: each is paid for."""
    receipt = await _insist(lambda: publisher.publish(ref))
    while receipt.state is not PublishState.FAILED:
        receipt = await _insist(partial(publisher.status, receipt))
        if receipt.state is PublishState.PINNED:
            return receipt
        await asyncio.sleep(CERTIFICATE_RETRY_SECONDS)
    raise PublishFailed(f"{publisher.name} says that it failed", is_final=True)


async def _insist(ask: Callable[[], Awaitable[Receipt]]) -> Receipt:
    """Raises `PublishFailed` when it is final, and what else `ask` raises."""
    while True:
        try:
            return await ask()
        except PublishFailed as failure:
            if failure.is_final:
                raise
        await asyncio.sleep(CERTIFICATE_RETRY_SECONDS)


async def _ask(publisher: Publisher, publication: Publication) -> Receipt:
    if publication.receipt is None:
        return await publisher.publish(publication.ref)
    return await publisher.status(publication.receipt)


def _pause(entry: _Entry) -> None:
    entry.next_at = asyncio.get_running_loop().time() + entry.pause_seconds
    entry.pause_seconds = min(2 * entry.pause_seconds, RETRY_MAX_SECONDS)


def _key_of(publication: Publication) -> bytes:
    return f"{publication.publisher}/{publication.ref.cid}".encode()
