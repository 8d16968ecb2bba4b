"""libp2p's log lines, through ours: warnings only, few, short, and without control characters (defect D16)."""

from __future__ import annotations

import logging
import time

import structlog

from shared.adapters.gossip_libp2p import limits
from shared.token_bucket import Bucket

log = structlog.get_logger("libp2p")
# Failed dials and handshakes: the keeper says once what these say at every attempt.
QUIET = ("libp2p.transport.tcp.tcp", "libp2p.protocol_muxer.multiselect_client")


def printable(text: str) -> str:
    """What a peer chose must not forge log lines or terminal commands."""
    return "".join(c if c.isprintable() else "?" for c in text[: limits.MAX_LOG_CHARACTERS])


class Forwarder(logging.Handler):
    """Passes records on at WARNING, at a bounded rate; says how many it kept back."""

    def __init__(self) -> None:
        super().__init__(level=logging.WARNING)
        self._bucket = Bucket(limits.LOG_LINES_PER_SECOND, limits.LOG_BURST, time.monotonic())
        self._suppressed = 0

    def emit(self, record: logging.LogRecord) -> None:
        if not self._bucket.take(1.0, time.monotonic()):
            self._suppressed += 1
            return
        try:
            text = record.getMessage()
        except (TypeError, ValueError):  # a format string that does not fit its arguments
            text = str(record.msg)
        suppressed, self._suppressed = self._suppressed, 0
        log.warning(printable(text), source=record.name, suppressed=suppressed)


def install() -> None:
    """Idempotent. libp2p's own default is no handler and no propagation: raw lines on stderr."""
    logger = logging.getLogger("libp2p")
    if any(isinstance(handler, Forwarder) for handler in logger.handlers):
        return
    logger.handlers[:] = [Forwarder()]
    logger.setLevel(logging.WARNING)
    logger.propagate = False
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.CRITICAL)
