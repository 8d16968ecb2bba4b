"""What engines that compute in threads of this process share: slots, time limits, and the models that are kept."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, Generic, Protocol, TypeVar

from shared.errors import InferenceFailed
from shared.types import Digest, Fingerprint

MAX_FINGERPRINTS: Final = 1024  # models whose fingerprint is kept after they have gone; a few hundred bytes each

T = TypeVar("T")


class Kept(Protocol):
    """A loaded model."""

    @property
    def size(self) -> int:
        """Bytes of its file."""
        ...

    @property
    def fingerprint(self) -> Fingerprint: ...


K = TypeVar("K", bound=Kept)


class Threads:
    """`count` threads. `errors` are what the library raises; they become `InferenceFailed`, prefixed with `library`."""

    def __init__(self, count: int, library: str, errors: tuple[type[Exception], ...]) -> None:
        self._slots = asyncio.Semaphore(count)
        self._running: set[Callable[[], None]] = set()  # what stops each run
        self._is_closed = False
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="inference")
        self._library, self._errors = library, errors

    async def run(self, work: Callable[[], T], stop: Callable[[], None], seconds: float) -> T:
        """`work` in the pool. On cancellation or after `seconds`, `stop` is called; the slot stays taken until the
        thread has really ended, so that runs that cannot be stopped never pile up."""
        await self._slots.acquire()
        if self._is_closed:
            self._slots.release()  # whoever else waits is told the same
            raise InferenceFailed("the engine is closed")
        future = asyncio.get_running_loop().run_in_executor(self._pool, work)
        future.add_done_callback(self._release)
        self._running.add(stop)
        try:
            async with asyncio.timeout(seconds):
                return await asyncio.shield(future)
        except TimeoutError:
            raise InferenceFailed(f"the model ran for more than {seconds:g} seconds") from None
        except self._errors as error:
            raise InferenceFailed(f"{self._library}: {error}") from None
        finally:
            self._running.discard(stop)
            if not future.done():
                stop()

    async def close(self) -> None:
        """Stops what runs and waits for its threads; nothing can be run afterwards."""
        self._is_closed = True
        for stop in self._running:
            stop()
        await asyncio.to_thread(self._pool.shutdown, cancel_futures=True)

    def _release(self, future: asyncio.Future[Any]) -> None:
        self._slots.release()
        if not future.cancelled():
            future.exception()  # seen, also when whoever waited for it has gone


class Shelf(Generic[K]):
    """Loaded models, up to `max_bytes` of files: the least recently used go."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._kept: OrderedDict[Digest, K] = OrderedDict()  # the least recently used first
        self._fingerprints: OrderedDict[Digest, Fingerprint] = OrderedDict()

    def __contains__(self, model_hash: object) -> bool:
        return model_hash in self._kept

    def check_size(self, model: bytes) -> None:
        """Raises `InferenceFailed` for one that would push out everything else and itself."""
        if len(model) > self._max_bytes:
            raise InferenceFailed(f"a model of {len(model)} bytes, at most {self._max_bytes} may be loaded")

    def find(self, model_hash: Digest) -> K | None:
        return self._kept.get(model_hash)

    def use(self, model_hash: Digest) -> K:
        """Raises `InferenceFailed` for one that is not here."""
        model = self._kept.get(model_hash)
        if model is None:
            raise InferenceFailed(f"model {model_hash.hex()} is not loaded")
        self._kept.move_to_end(model_hash)
        return model

    def keep(self, model_hash: Digest, model: K) -> list[K]:
        """The newest goes in; the least recently used go out and are returned. A run that has one of those finishes."""
        self._kept[model_hash] = model
        self._kept.move_to_end(model_hash)
        self._fingerprints[model_hash] = model.fingerprint
        self._fingerprints.move_to_end(model_hash)
        gone = []
        while sum(kept.size for kept in self._kept.values()) > self._max_bytes:
            gone.append(self._kept.popitem(last=False)[1])
        while len(self._fingerprints) > MAX_FINGERPRINTS:
            self._fingerprints.popitem(last=False)
        return gone

    def fingerprint(self, model_hash: Digest) -> Fingerprint:
        """Of the latest session of this model, even when it has gone. Raises `InferenceFailed` when there was none."""
        try:
            return self._fingerprints[model_hash]
        except KeyError:
            raise InferenceFailed(f"model {model_hash.hex()} was never loaded") from None

    def clear(self) -> list[K]:
        """What was kept."""
        kept = list(self._kept.values())
        self._kept.clear()
        return kept
