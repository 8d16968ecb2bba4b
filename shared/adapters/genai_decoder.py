"""One model of `GenaiEngine`: its child process, and what the cache in there holds."""

from __future__ import annotations

import asyncio
import platform
import sys
from dataclasses import dataclass, field
from typing import Any, Final, cast

import msgspec
import numpy as np
import numpy.typing as npt

from shared.adapters.genai_worker import ANSWER, LENGTH, Extend, Failed, Open, Opened, Rows, encode
from shared.errors import InferenceFailed
from shared.types import Fingerprint

PACKAGE: Final = "onnxruntime-genai"
NOTHING_RAN: Final = Fingerprint("", "", "", "")
_ROOM_BYTES: Final = 1 << 12  # of an answer, beside its logits

Logits = npt.NDArray[np.float32]


@dataclass(slots=True)
class GenaiDecoder:
    """A model, its child process, and what the child's cache holds."""

    opening: Open
    size: int  # bytes of what was loaded
    seconds: float  # that opening may take
    fingerprint: Fingerprint = NOTHING_RAN
    context: int = 0
    vocabulary: int = 0
    is_retired: bool = False
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    _child: asyncio.subprocess.Process | None = None
    _killed: list[asyncio.subprocess.Process] = field(default_factory=list)  # and not seen to end yet
    _ids: npt.NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    _rows: Logits = field(default_factory=lambda: np.empty((0, 0), np.float32))  # at least one for each id

    async def open(self) -> None:
        """Raises `InferenceFailed`. A child that is there stays."""
        if self._child is not None and self._child.returncode is None:
            return
        await self._bury()
        self._forget()
        self._child = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "shared.adapters.genai_worker",
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the parent
        )  # fmt: skip
        try:
            async with asyncio.timeout(self.seconds):
                answer = await self._ask(self.opening, _ROOM_BYTES)
        except TimeoutError:
            raise InferenceFailed(f"the model did not load within {self.seconds:g} seconds") from None
        except InferenceFailed:
            self.kill()  # a child without a model
            raise
        if not isinstance(answer, Opened):
            raise InferenceFailed(f"{PACKAGE}: an answer out of turn")
        self.context, self.vocabulary = answer.context, answer.vocabulary
        self.fingerprint = Fingerprint(PACKAGE, answer.version, answer.provider, platform.machine() or "cpu")

    async def logits(self, ids: npt.NDArray[np.int64]) -> Logits:
        """(T, vocabulary), read-only."""
        await self.open()
        shared = min(len(ids), len(self._ids))
        kept = int(np.argmin(np.append(ids[:shared] == self._ids[:shared], False)))
        if kept < len(ids):
            new = ids[kept:]
            most = new.size * self.vocabulary * 4 + _ROOM_BYTES
            answer = await self._ask(Extend(kept, new.astype(np.int32).tobytes()), most)
            if not isinstance(answer, Rows) or len(answer.data) != new.size * self.vocabulary * 4:
                raise InferenceFailed(f"{PACKAGE}: an answer out of turn")
            self._append(kept, ids, np.frombuffer(answer.data, np.float32).reshape(new.size, -1))
        found = self._rows[: len(ids)]
        found.flags.writeable = False
        return found

    def kill(self) -> None:
        """In the middle of whatever it does; the next run starts another."""
        self._forget()
        child, self._child = self._child, None
        if child is None:
            return
        if child.returncode is None:
            child.kill()
        cast(Any, child)._transport.close()  # its pipes, which nobody reads to the end
        self._killed.append(child)

    async def close(self) -> None:
        self.kill()
        await self._bury()

    async def _bury(self) -> None:
        while self._killed:
            await self._killed[-1].wait()
            self._killed.pop()

    async def _ask(self, request: Open | Extend, most: int) -> Opened | Rows:
        """Kills the child when the answer does not come whole: the next one would be answered by the rest of it."""
        child = cast(asyncio.subprocess.Process, self._child)
        requests, answers = cast(asyncio.StreamWriter, child.stdin), cast(asyncio.StreamReader, child.stdout)
        is_whole = False
        try:
            data = encode(request)
            requests.write(LENGTH.pack(len(data)) + data)
            await requests.drain()
            size = LENGTH.unpack(await answers.readexactly(LENGTH.size))[0]
            if size > most:
                raise InferenceFailed(f"{PACKAGE}: an answer of {size} bytes, where {most} are the most there can be")
            answer: Opened | Rows | Failed = ANSWER.decode(await answers.readexactly(size))
            is_whole = True
        except (asyncio.IncompleteReadError, ConnectionError, msgspec.DecodeError) as error:
            raise InferenceFailed(f"{PACKAGE} ended in the middle of a run ({type(error).__name__})") from None
        finally:
            if not is_whole:
                self.kill()
        if isinstance(answer, Failed):
            self._forget()
            raise InferenceFailed(f"{PACKAGE}: {answer.error[:1000]}")
        return answer

    def _append(self, kept: int, ids: npt.NDArray[np.int64], rows: Logits) -> None:
        """Into the room behind what is kept; rows that somebody was given are never written again."""
        if kept < len(self._ids) or len(ids) > len(self._rows):
            grown = np.empty((min(max(2 * len(ids), 64), self.context), self.vocabulary), np.float32)
            if kept:
                grown[:kept] = self._rows[:kept]
            self._rows = grown
        self._rows[kept : len(ids)] = rows
        self._ids = ids.copy()

    def _forget(self) -> None:
        self._ids = np.empty(0, np.int64)
        self._rows = np.empty((0, self.vocabulary), np.float32)
