"""Who may do how much: token buckets and strikes. Pure, with the time as an argument."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

from shared.adapters.gossip_libp2p import limits
from shared.constants import ORIGIN_BURST, ORIGIN_RATE_PER_SECOND
from shared.token_bucket import Bucket

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Allowance:
    """Messages and bytes a second, with their bursts."""

    messages: float
    messages_burst: float
    size: float
    size_burst: float

    def scaled(self, factor: float) -> Allowance:
        return Allowance(
            self.messages * factor, self.messages_burst * factor, self.size * factor, self.size_burst * factor
        )


ORIGIN = Allowance(ORIGIN_RATE_PER_SECOND, ORIGIN_BURST, limits.ORIGIN_BYTES_PER_SECOND, limits.ORIGIN_BURST_BYTES)
FORWARDER = Allowance(
    limits.FORWARDER_RATE_PER_SECOND,
    limits.FORWARDER_BURST,
    limits.FORWARDER_BYTES_PER_SECOND,
    limits.FORWARDER_BURST_BYTES,
)


class Meter(Generic[K]):
    """An allowance for each key. Keys are members, so their number is the registry's; idle ones are forgotten."""

    def __init__(self, allowance: Allowance, max_keys: int = limits.MAX_CONNECTIONS) -> None:
        self._allowance, self._max_keys = allowance, max_keys
        self._buckets: dict[K, tuple[Bucket, Bucket]] = {}

    def _of(self, key: K, now: float) -> tuple[Bucket, Bucket]:
        if key not in self._buckets:
            if len(self._buckets) >= self._max_keys:
                self._forget_idle(now)
            a = self._allowance
            self._buckets[key] = Bucket(a.messages, a.messages_burst, now), Bucket(a.size, a.size_burst, now)
        return self._buckets[key]

    def _forget_idle(self, now: float) -> None:
        """A full bucket says the same as a new one."""
        self._buckets = {k: b for k, b in self._buckets.items() if not (b[0].is_full(now) and b[1].is_full(now))}

    def take(self, key: K, size: int, now: float) -> bool:
        """One message of `size` bytes; False, and nothing taken, when it is over the allowance."""
        messages, volume = self._of(key, now)
        return volume.can_take(size, now) and messages.take(1.0, now) and volume.take(size, now)

    def owe(self, key: K, messages: int, size: int, now: float) -> float:
        """Seconds to wait so that the allowance holds."""
        count, volume = self._of(key, now)
        return max(count.owe(messages, now), volume.owe(size, now))


class Conduct(Generic[K]):
    """Strikes against forwarders. At the limit a peer is banned for a while; strikes are forgiven slowly."""

    def __init__(self) -> None:
        self._strikes: dict[K, tuple[float, float]] = {}
        self._banned_until: dict[K, float] = {}

    def strike(self, key: K, points: float, now: float) -> bool:
        """True when this strike banned the peer."""
        self._forget(now)
        before, stamp = self._strikes.get(key, (0.0, now))
        total = max(0.0, before - (now - stamp) * limits.STRIKES_FORGIVEN_PER_SECOND) + points
        if total < limits.STRIKE_LIMIT:
            self._strikes[key] = total, now
            return False
        self._strikes.pop(key, None)
        self._banned_until[key] = now + limits.BAN_SECONDS
        return True

    def is_banned(self, key: K, now: float) -> bool:
        return now < self._banned_until.get(key, 0.0)

    def banned(self, now: float) -> int:
        """How many peers are banned now."""
        return sum(now < until for until in self._banned_until.values())

    def _forget(self, now: float) -> None:
        if len(self._strikes) + len(self._banned_until) < limits.MAX_CONNECTIONS:
            return
        horizon = limits.STRIKE_LIMIT / limits.STRIKES_FORGIVEN_PER_SECOND
        self._strikes = {k: v for k, v in self._strikes.items() if now - v[1] < horizon}
        self._banned_until = {k: until for k, until in self._banned_until.items() if now < until}


class HandshakeQuota:
    """What hosts that have not proved a key yet may cost: open handshakes and handshakes a second."""

    def __init__(self) -> None:
        self._pending: dict[str, int] = {}
        self._buckets: dict[str, Bucket] = {}

    @property
    def pending(self) -> int:
        return sum(self._pending.values())

    def enter(self, host: str, now: float) -> bool:
        """True when the host may try; then `leave` must follow."""
        mine = self._pending.get(host, 0)
        if self.pending >= limits.MAX_PENDING_HANDSHAKES or mine >= limits.MAX_PENDING_HANDSHAKES_PER_HOST:
            return False
        if not self._bucket(host, now).take(1.0, now):
            return False
        self._pending[host] = mine + 1
        return True

    def leave(self, host: str) -> None:
        left = self._pending.pop(host) - 1
        if left:
            self._pending[host] = left

    def _bucket(self, host: str, now: float) -> Bucket:
        if host not in self._buckets:
            if len(self._buckets) >= limits.MAX_REMEMBERED_HOSTS:
                self._buckets.pop(next(iter(self._buckets)))  # the one seen first: memory before fairness
            rate, burst = limits.HANDSHAKES_PER_SECOND_PER_HOST, limits.HANDSHAKE_BURST_PER_HOST
            self._buckets[host] = Bucket(rate, burst, now)
        return self._buckets[host]
