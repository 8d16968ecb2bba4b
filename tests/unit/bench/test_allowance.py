from __future__ import annotations

from bench import allowance
from bench.allowance import while_allowed


def test_work_ends_with_its_time(monkeypatch):
    clock = iter([0.0, 5.0, 10.0, 10.5])  # begun, then before the second, third and fourth
    monkeypatch.setattr(allowance.time, "monotonic", lambda: next(clock))
    assert list(while_allowed("abcdef", 10.0)) == ["a", "b", "c"]


def test_the_first_is_always_done(monkeypatch):
    clock = iter([0.0, 1.0, 2.0])
    monkeypatch.setattr(allowance.time, "monotonic", lambda: next(clock))
    assert list(while_allowed("ab", 0.0)) == ["a"]
    assert list(while_allowed("", 10.0)) == []
