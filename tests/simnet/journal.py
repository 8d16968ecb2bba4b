"""What happened in a simulation, in order: every log line, every message put on the wire, every life and death."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import structlog
from structlog.testing import capture_logs
from structlog.typing import EventDict, WrappedLogger

from shared import messages
from shared.errors import CodecError
from shared.messages import (
    AbstainMessage,
    BatchProposal,
    BatchVote,
    CertificateMessage,
    SubmittedMessage,
    TaskMessage,
    VoteMessage,
)

Message = TaskMessage | VoteMessage | AbstainMessage | CertificateMessage | SubmittedMessage | BatchProposal | BatchVote

NODE = "node"  # the context variable, and the field, that says whose line it is
DECODERS = {
    "task": messages.decode_task,
    "vote": messages.decode_vote,
    "certificate": messages.decode_certificate,
    "batch": messages.decode_batch,
}
# Measured on the machine's own clock, so never the same twice.
REAL_TIME = frozenset({"ms"})


@dataclass(frozen=True)
class Sent:
    """One message as its origin put it on the wire, whoever received it. `message` is None for garbage."""

    at: float
    origin: str
    topic: str
    data: bytes
    message: Message | None


@dataclass
class Journal:
    """Seconds count from the beginning of the simulation."""

    lines: list[EventDict] = field(default_factory=list)
    wire: list[Sent] = field(default_factory=list)
    _order: list[str] = field(default_factory=list)

    # --- writing ---------------------------------------------------------------------------------
    def note(self, event: str, **fields: Any) -> None:
        """Something that the simulation itself did."""
        self._order.append(f"{_now():.6f} · {event} {fields}")

    def sent(self, origin: str, topic: str, data: bytes) -> None:
        kind = topic.rsplit("/", 1)[-1]
        try:
            message: Message | None = DECODERS[kind](data)
        except CodecError:
            message = None
        self.wire.append(Sent(_now(), origin, kind, data, message))
        self._order.append(f"{_now():.6f} {origin} sent {kind} {hashlib.sha256(data).hexdigest()[:16]}")

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Takes every log line of this process."""
        with capture_logs(processors=[structlog.contextvars.merge_contextvars, self._stamp]) as lines:
            self.lines = lines
            yield

    def _stamp(self, _: WrappedLogger, __: str, line: EventDict) -> EventDict:
        line["at"] = _now()
        shown = {name: value for name, value in line.items() if name not in REAL_TIME}
        self._order.append(f"{line['at']:.6f} {line.get(NODE)} {shown}")
        return line

    # --- reading ---------------------------------------------------------------------------------
    def replay(self) -> list[str]:
        """Everything in order; the same for the same seed."""
        return list(self._order)

    def said(self, event: str, **fields: Any) -> list[EventDict]:
        """Log lines with this event and these fields."""
        return [
            line
            for line in self.lines
            if line["event"] == event and all(line.get(name) == value for name, value in fields.items())
        ]

    def of(self, kind: type[Any], origin: str | None = None) -> list[Any]:
        """Messages of one kind as they were sent, by one node or by all."""
        return [
            sent.message
            for sent in self.wire
            if isinstance(sent.message, kind) and (origin is None or sent.origin == origin)
        ]

    def faults(self) -> list[EventDict]:
        """Lines with a traceback: always a bug."""
        return [line for line in self.lines if line.get("exc_info")]


def _now() -> float:
    return asyncio.get_running_loop().time()
