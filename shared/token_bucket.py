"""A token bucket. Pure, with the time as an argument."""

from __future__ import annotations


class Bucket:
    """`rate` tokens a second, at most `burst` saved."""

    __slots__ = ("_burst", "_rate", "_stamp", "_tokens")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate, self._burst, self._stamp, self._tokens = rate, burst, now, burst

    def _refill(self, now: float) -> None:
        self._tokens = min(self._burst, self._tokens + max(0.0, now - self._stamp) * self._rate)
        self._stamp = now

    def can_take(self, cost: float, now: float) -> bool:
        self._refill(now)
        return self._tokens >= cost

    def owe(self, cost: float, now: float) -> float:
        """Takes the tokens even into debt; returns the seconds until the debt is paid."""
        self._refill(now)
        self._tokens -= cost
        return max(0.0, -self._tokens / self._rate)

    def take(self, cost: float, now: float) -> bool:
        """Takes the tokens or, when there are too few, none."""
        if not self.can_take(cost, now):
            return False
        self._tokens -= cost
        return True

    def is_full(self, now: float) -> bool:
        self._refill(now)
        return self._tokens >= self._burst
