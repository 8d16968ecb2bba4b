"""An asyncio face for a trio program that runs in a thread of its own.

libp2p is trio inside, everything else here is asyncio. In a thread, a slow HTTP handler cannot stall gossip for
everybody behind this node, and tests can run many nodes in one process. Only plain values cross.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar

import outcome
import structlog
import trio

from shared.errors import TransportError

log = structlog.get_logger(__name__)
N = TypeVar("N")
R = TypeVar("R")
POLITE_SECONDS = 2.0
Main = Callable[["TrioThread[N]"], Awaitable[None]]


def leaves(error: BaseException) -> list[BaseException]:
    """What really happened: libp2p's exception groups are ten deep."""
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in leaves(inner)]
    return [error]


def describe(error: BaseException) -> str:
    return "; ".join(dict.fromkeys(f"{type(leaf).__name__}: {leaf}" for leaf in leaves(error)))


class TrioThread(Generic[N]):
    """Runs `main`, which announces one object (`N`) that lives on the trio side, and serves calls to it."""

    def __init__(self, main: Main[N], name: str) -> None:
        self._main, self._name = main, name
        self._is_stopping = False
        self._token: trio.lowlevel.TrioToken | None = None

    # -- on the asyncio side --------------------------------------------------------------------------
    async def start(self) -> N:
        """Raises what `main` raised before it announced, as `TransportError`."""
        self._loop = asyncio.get_running_loop()
        self._ready: asyncio.Future[N] = self._loop.create_future()
        self.ended: asyncio.Future[BaseException | None] = self._loop.create_future()
        self._thread = threading.Thread(target=self._run_thread, name=self._name, daemon=True)
        self._thread.start()
        try:
            await asyncio.wait(_any_of(self._ready, self.ended), return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            self._ask_to_stop()
            raise
        if self._ready.done():
            return self._ready.result()
        error = self.ended.result()
        raise TransportError(describe(error) if error else "stopped while starting") from error

    async def call(self, function: Callable[..., Awaitable[R]], *args: Any) -> R:
        """Awaits a trio function. Raises what it raises, or `TransportError` once the thread has ended."""
        result: asyncio.Future[R] = self._loop.create_future()
        assert self._token is not None  # noqa: S101  set before the announcement that `start` waited for

        async def run() -> None:
            try:
                value: outcome.Outcome[R] = outcome.Value(await function(*args))
            except Exception as error:  # noqa: BLE001  goes to the caller; not `Cancelled`, which is trio's
                value = outcome.Error(error)
            self.post(lambda: _settle(result, value))

        try:
            self._token.run_sync_soon(self._nursery.start_soon, run)
        except trio.RunFinishedError as error:
            raise TransportError("gossip has stopped") from error
        await asyncio.wait(_any_of(result, self.ended), return_when=asyncio.FIRST_COMPLETED)
        if not result.done():
            raise TransportError("gossip has stopped")
        return result.result()

    async def stop(self, timeout_seconds: float) -> None:
        """Ends the thread; a thread that does not end in time is left to the process's exit (it is a daemon)."""
        self._ask_to_stop()
        await asyncio.wait({self.ended}, timeout=timeout_seconds)
        if not self.ended.done():
            log.error("the gossip thread does not stop")
            return
        await asyncio.to_thread(self._thread.join, timeout_seconds)

    def _ask_to_stop(self) -> None:
        self._is_stopping = True
        token = self._token  # the thread may not have come so far: then it looks at the flag
        if token is None:
            return
        try:
            token.run_sync_soon(self._on_stop)
        except trio.RunFinishedError:
            log.debug("the gossip thread has ended already")

    # -- on the trio side -----------------------------------------------------------------------------
    def announce(self, value: N) -> None:
        self.post(lambda: None if self._ready.done() else self._ready.set_result(value))

    def post(self, function: Callable[[], object]) -> None:
        """Runs it on the asyncio loop soon; does nothing when the loop is closed, for nobody is left to tell."""
        try:
            self._loop.call_soon_threadsafe(function)
        except RuntimeError:
            log.debug("the event loop is closed")

    def _run_thread(self) -> None:
        ended = outcome.capture(trio.run, self._run)
        error = ended.error if isinstance(ended, outcome.Error) else None
        self.post(lambda: None if self.ended.done() else self.ended.set_result(error))

    async def _run(self) -> None:
        self.stopping = trio.Event()
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            self._token = trio.lowlevel.current_trio_token()
            if not self._is_stopping:
                await self._main(self)
            nursery.cancel_scope.cancel()

    def _on_stop(self) -> None:
        """Politely first: `main` returns when it sees the event."""
        self.stopping.set()
        self._nursery.cancel_scope.deadline = trio.current_time() + POLITE_SECONDS


def _any_of(*futures: asyncio.Future[Any]) -> set[asyncio.Future[Any]]:
    return set(futures)


def _settle(future: asyncio.Future[R], result: outcome.Outcome[R]) -> None:
    if future.done():  # the caller was cancelled
        return
    if isinstance(result, outcome.Error):
        future.set_exception(result.error)
    else:
        future.set_result(result.unwrap())
