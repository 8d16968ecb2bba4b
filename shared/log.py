"""Structured logs on standard error: JSON lines for machines, colours for people, one shape for our lines and others'.

Fields: role operator task phase reason topic peer cid method model block tx ms attempt. Warn when someone may act,
error when someone must. Never keys, inputs or outputs: fields with such names are withheld, and bytes are shown as
their length unless they are a public identifier. A stranger chooses neither how much is written nor where a line ends.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from enum import Enum
from itertools import islice
from pathlib import PurePath
from typing import Any, TextIO

import msgspec
import structlog
from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

from shared.config import LogConfig
from shared.types import Address

OURS = frozenset({"poi", "performer", "attester", "aggregator", "shared"})

# Lines a second and at once, for each library (or part of ours) and level: libp2p alone writes 20,000 warnings for one
# flood of subscriptions. Levels have buckets of their own, so that chatter cannot silence an error.
OUR_RATE, OUR_BURST = 200.0, 1000.0
FOREIGN_RATE, FOREIGN_BURST = 5.0, 50.0
MAX_BUCKETS = 256

MAX_TEXT_CHARACTERS = 512
MAX_EXCEPTION_CHARACTERS = 8192
MAX_ITEMS = 16
MAX_DEPTH = 3
TASK_DIGITS = 8

PUBLIC_BYTES = frozenset({"attester", "operator", "origin", "peer", "performer", "requester", "root", "task", "tx"})
WITHHELD = frozenset(
    {"body", "data", "input", "inputs", "key", "keys", "output", "outputs", "parameters", "password", "private_key"}
    | {"prompt", "proof", "secret", "secret_key", "seed", "peer_seed", "tensors", "text", "value", "values"}
)
# Structlog's own, and the two that come first.
META = frozenset({"_record", "_from_structlog", "role", "operator"})


def get(name: str) -> FilteringBoundLogger:
    """A logger for one part of ours, for example "attester"."""
    logger: FilteringBoundLogger = structlog.get_logger(name)
    return logger


def bound(**fields: object) -> AbstractContextManager[object]:
    """Fields for every line of this asyncio task, and of what it starts, while the context is open."""
    return structlog.contextvars.bound_contextvars(**fields)


def configure(config: LogConfig, role: str, operator: Address | str, stream: TextIO | None = None) -> None:
    """Send every line of this process, ours and others', to `stream` (standard error unless given).

    `role` and `operator` stand in every line that is not bound to others. May be called again; the last call counts.
    """
    handler = _Handler(stream or sys.stderr)
    handler.addFilter(Gate(is_debug=config.level == "debug"))
    chain = [structlog.contextvars.merge_contextvars, _with_defaults(role=role, operator=operator)]
    handler.setFormatter(_formatter(config, chain, is_terminal=handler.stream.isatty()))
    _route(handler, config.level.upper())
    structlog.configure(
        processors=[*chain, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[config.level.upper()]),
        logger_factory=_logger,
        cache_logger_on_first_use=False,  # module-level loggers follow a later call
    )


def _logger(*names: str) -> logging.Logger:
    """The standard logger under a logger of ours; without a name, this project's."""
    name = names[0] if names else "poi"
    # One that passes a library's lines on, under the library's name, would otherwise feed its own source for ever.
    return logging.getLogger(name if name.partition(".")[0] in OURS else f"poi.{name}")


class _Handler(logging.StreamHandler[TextIO]):
    """A type of its own, so that a second `configure` finds the first one's."""


def _route(handler: _Handler, level: str) -> None:
    root = logging.getLogger()
    for old in [old for old in root.handlers if isinstance(old, _Handler)]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level)
    # libp2p cuts its logger off from the root when it is imported, early or late; its lines then come out here.
    logging.lastResort = handler
    logging.captureWarnings(capture=True)


# --- how much ------------------------------------------------------------------------------------
class _Bucket:
    """Tokens for lines. `admit` gives how many were suppressed since the last line, or None to suppress this one."""

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate, self._burst = rate, burst
        self._tokens, self._filled_at, self._suppressed = burst, now, 0

    def admit(self, now: float) -> int | None:
        self._tokens = min(self._burst, self._tokens + (now - self._filled_at) * self._rate)
        self._filled_at = now
        if self._tokens < 1:
            self._suppressed += 1
            return None
        self._tokens -= 1
        suppressed, self._suppressed = self._suppressed, 0
        return suppressed


class Gate(logging.Filter):
    """Bounds what is written. Other people's libraries are heard from WARNING up, unless everything is wanted."""

    def __init__(self, *, is_debug: bool = False, monotonic: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._least_foreign = logging.DEBUG if is_debug else logging.WARNING
        self._monotonic = monotonic
        self._buckets: dict[tuple[str, int], _Bucket] = {}
        self._lock = threading.Lock()  # handlers filter before they take their own

    def filter(self, record: logging.LogRecord) -> bool:
        part = record.name.partition(".")[0]
        if part not in OURS and record.levelno < self._least_foreign:
            return False
        with self._lock:
            suppressed = self._bucket(part, record.levelno).admit(self._monotonic())
        record.suppressed = suppressed
        return suppressed is not None

    def _bucket(self, part: str, level: int) -> _Bucket:
        bucket = self._buckets.get((part, level))
        if bucket is None:
            key = (part, level) if len(self._buckets) < MAX_BUCKETS else ("", 0)
            limits = (OUR_RATE, OUR_BURST) if part in OURS else (FOREIGN_RATE, FOREIGN_BURST)
            bucket = self._buckets.setdefault(key, _Bucket(*limits, self._monotonic()))
        return bucket


# --- what ----------------------------------------------------------------------------------------
def _with_defaults(**fields: object) -> Processor:
    # Not context variables: the threads that libraries start have none of ours.
    def add(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        for name, value in fields.items():
            event.setdefault(name, value)
        return event

    return add


def _formatter(config: LogConfig, chain: list[Processor], *, is_terminal: bool) -> logging.Formatter:
    render: Processor = structlog.processors.JSONRenderer(serializer=_json)
    if config.format == "console":
        render = structlog.dev.ConsoleRenderer(
            colors=is_terminal, exception_formatter=structlog.dev.plain_traceback, timestamp_key="at"
        )
    processors: list[Processor] = [structlog.processors.format_exc_info, _present, render]
    return structlog.stdlib.ProcessorFormatter(foreign_pre_chain=chain, processors=processors)


def _present(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """The line as it is written: stamp, level, logger and event first, then who, then the other fields as they came."""
    record: logging.LogRecord = event["_record"]
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    line: dict[str, Any] = {
        "at": f"{stamp}.{int(record.msecs):03d}Z",
        "level": record.levelname.lower(),
        "logger": _bounded(record.name),
        "event": _bounded(str(event.pop("event", ""))),
    }
    exception = event.pop("exception", None)
    names = ["role", "operator", *(name for name in event if name not in META)]
    line |= {_clean(name): _shown(name, event[name]) for name in names}
    if suppressed := getattr(record, "suppressed", 0):
        line["suppressed"] = suppressed
    if exception is not None:
        text = str(exception)[-MAX_EXCEPTION_CHARACTERS:]  # the end names the error
        line["exception"] = "\n".join(_clean(part) for part in text.split("\n"))
    return line


def _shown(name: str, value: object, depth: int = 0) -> object:
    if name in WITHHELD and value is not None:
        return "[withheld]"
    match value:
        case Enum():
            return _bounded(value if isinstance(value, str) else str(value.name).lower())
        case bytes() | bytearray() | memoryview():
            return _hex(name, bytes(value)) if name in PUBLIC_BYTES else f"<{len(value)} bytes>"
        case str():
            return _bounded(value.removeprefix("0x")[:TASK_DIGITS] if name == "task" else value)
        case None | bool() | int() | float():
            # Larger integers, NaN and infinities are no JSON numbers.
            return value if abs(value or 0) < 2**63 else _bounded(str(value))
        case Sequence() | Mapping() if depth == MAX_DEPTH:
            return "…"
        case Sequence():
            shown = [_shown(name, item, depth + 1) for item in islice(value, MAX_ITEMS)]
            return [*shown, "…"] if len(value) > MAX_ITEMS else shown
        case Mapping():
            pairs = islice(value.items(), MAX_ITEMS)
            return {_bounded(str(key)): _shown(str(key), item, depth + 1) for key, item in pairs}
        case BaseException() | PurePath():
            return _bounded(str(value) or type(value).__name__)
        case _:
            # An array, a message or a key of ours would spell out what must not be written.
            return f"<{type(value).__name__}>"


def _hex(name: str, value: bytes) -> str:
    return _bounded(value.hex()[: TASK_DIGITS if name == "task" else None])


def _bounded(text: str) -> str:
    text = _clean(text[: MAX_TEXT_CHARACTERS + 1])
    return text if len(text) <= MAX_TEXT_CHARACTERS else f"{text[:MAX_TEXT_CHARACTERS]}…"


def _clean(text: str) -> str:
    """Line ends, terminal escapes and half surrogates could forge lines, or break whoever reads them."""
    return text if text.isprintable() else "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in text)


def _json(event: EventDict, **_: object) -> str:
    return msgspec.json.encode(event).decode()
