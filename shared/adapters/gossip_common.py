"""What every `Gossip` here shares: counters, the state that `/health` shows, and how a validator is run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import structlog

from shared.errors import Ignore, Reject
from shared.interfaces import Validator
from shared.types import PeerKey

log = structlog.get_logger(__name__)


class Count(StrEnum):
    """Names of the counters, as `/health` and the metrics show them."""

    PUBLISHED = "published"
    RECEIVED = "received"  # valid messages of others
    DELIVERED = "delivered"  # handed to a subscriber here, own ones included
    FORWARDED = "forwarded"  # copies put into peers' queues
    DUPLICATE = "duplicate"
    IGNORED = "ignored"  # by a validator, or the origin is no member
    REJECTED = "rejected"  # by a validator
    MALFORMED = "malformed"  # streams and messages that break the wire format
    BAD_SIGNATURE = "bad_signature"
    OVER_RATE = "over_rate"  # dropped: the origin is over its allowance
    PACED = "paced"  # waits imposed on a forwarder over its allowance
    VALIDATOR_FAILED = "validator_failed"  # our own fault
    INBOX_FULL = "inbox_full"  # lost by a slow subscriber
    QUEUE_FULL = "queue_full"  # lost on the way to a slow peer
    BANNED = "banned"
    HANDSHAKES_REFUSED = "handshakes_refused"
    HANDSHAKES_FAILED = "handshakes_failed"
    STREAMS_REFUSED = "streams_refused"
    STREAMS_FAILED = "streams_failed"
    DIALS_FAILED = "dials_failed"


class Counters:
    """Monotonic counts by name."""

    def __init__(self) -> None:
        self._values = dict.fromkeys(Count, 0)

    def add(self, name: Count, amount: int = 1) -> None:
        self._values[name] += amount

    def __getitem__(self, name: Count) -> int:
        return self._values[name]

    def snapshot(self) -> dict[str, int]:
        return {name.value: value for name, value in self._values.items()}


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state of a gossip node a moment ago."""

    peers: tuple[PeerKey, ...]
    mesh: Mapping[str, int]  # peers we exchange each message with, by topic
    subscribers: Mapping[str, int]  # connected peers that want a topic
    counters: Mapping[str, int]
    banned: int
    lag_seconds: float  # how late the transport's own loop ran

    def is_like(self, other: Snapshot) -> bool:
        """The same to somebody who waits for peers."""
        return self.peers == other.peers and self.subscribers == other.subscribers


EMPTY = Snapshot(peers=(), mesh={}, subscribers={}, counters={}, banned=0, lag_seconds=0.0)


def run_validator(validate: Validator, topic: str, origin: PeerKey, data: bytes, counters: Counters) -> None:
    """Raises `Ignore` or `Reject`. A validator that fails otherwise is our own fault, nobody else's: `Ignore`."""
    try:
        validate(origin, data)
    except (Ignore, Reject):
        raise
    except Exception as error:
        counters.add(Count.VALIDATOR_FAILED)
        log.exception("a gossip validator failed", topic=topic)
        raise Ignore("the validator failed") from error
