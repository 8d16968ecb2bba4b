"""Yamux with flow control that holds."""

from __future__ import annotations

from collections.abc import Callable
from struct import pack
from typing import Any

import structlog
import trio
from libp2p.stream_muxer.yamux.yamux import (
    FLAG_SYN,
    TYPE_PING,
    YAMUX_HEADER_FORMAT,
    Yamux,
    YamuxStream,
)

from shared.adapters.gossip_libp2p import limits

log = structlog.get_logger(__name__)


class CreditedStream(YamuxStream):
    """Gives back exactly the credit that was read."""

    _uncredited = 0

    async def _auto_tune_and_send_window_update(self, *, bytes_read: int = 0) -> None:
        # D13: stock sends a window update for each read, and grows the window to 16 MiB, which is memory of ours.
        self._uncredited += bytes_read
        if self._uncredited < limits.WINDOW_CREDIT_BYTES:
            return
        credit, self._uncredited = self._uncredited, 0
        async with self.window_lock:
            self.recv_window += credit
        await self.send_window_update(credit)


class _Window(bytearray):
    """What arrived on a stream and was not read yet."""

    def __init__(self, overrun: Callable[[], None]) -> None:
        super().__init__()
        self._overrun = overrun

    def extend(self, data: Any) -> None:
        if len(self) + len(data) > limits.STREAM_WINDOW_BYTES:
            self._overrun()  # the bytes are dropped: the connection is over
            return
        super().extend(data)


class _Windows(dict[int, bytearray]):
    """The buffers of a connection; libp2p puts plain ones in, this keeps bounded ones."""

    def __init__(self, overrun: Callable[[], None]) -> None:
        super().__init__()
        self._overrun = overrun

    def __setitem__(self, stream_id: int, buffer: bytearray) -> None:
        super().__setitem__(stream_id, _Window(self._overrun))


class BoundedYamux(Yamux):
    """A connection that a peer can neither fill up nor leave hanging."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # D19: stock logs that a peer ignores its window and keeps the bytes, without a bound.
        self.stream_buffers = _Windows(self._on_overrun)

    def _on_overrun(self) -> None:
        log.warning("a peer sends more than its window allows", peer=str(self.peer_id))
        self.event_shutting_down.set()

    async def handle_incoming(self) -> None:
        await super().handle_incoming()
        if not self.event_closed.is_set():  # stock leaves readers waiting when only the flag was set
            await self._cleanup_on_error()

    async def _measure_rtt_loop(self) -> None:
        # D20: stock ignores a missing pong, so a host that vanished stays connected until TCP gives up.
        while not self.event_shutting_down.is_set():
            if not await self._ping():
                log.info("a peer does not answer pings", peer=str(self.peer_id))
                await self.secured_conn.close()  # the reading task notices and cleans up
                return
            with trio.move_on_after(limits.PING_SECONDS):
                await self.event_shutting_down.wait()

    async def _ping(self) -> bool:
        self._ping_id = (self._ping_id + 1) % 2**32
        self._ping_event = trio.Event()
        self._ping_sent_time = trio.current_time()
        try:
            with trio.move_on_after(limits.PONG_SECONDS):
                await self._write_frame(pack(YAMUX_HEADER_FORMAT, 0, TYPE_PING, FLAG_SYN, 0, self._ping_id))
                await self._ping_event.wait()
        except Exception as error:  # noqa: BLE001  the transport has many ways to say that it is closed
            log.debug("cannot ping", peer=str(self.peer_id), error=repr(error))
        return self._ping_event.is_set()
