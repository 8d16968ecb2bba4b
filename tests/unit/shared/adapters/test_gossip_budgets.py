"""Rates, strikes and handshake quotas: pure arithmetic on a given time."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.adapters.gossip_libp2p import limits
from shared.adapters.gossip_libp2p.budgets import FORWARDER, ORIGIN, Allowance, Conduct, HandshakeQuota, Meter
from shared.token_bucket import Bucket

STEPS = st.lists(st.tuples(st.floats(0, 10), st.floats(0, 5)), max_size=60)
SMALL = Allowance(messages=1, messages_burst=3, size=10, size_burst=100)


@given(STEPS)
def test_a_bucket_never_gives_more_than_burst_and_rate(steps):
    bucket, now, given_out = Bucket(2.0, 10.0, 0.0), 0.0, 0.0
    for cost, pause in steps:
        now += pause
        given_out += cost if bucket.take(cost, now) else 0.0
        assert given_out <= 10.0 + 2.0 * now + 1e-6


@given(STEPS)
def test_who_waits_out_its_debt_keeps_the_rate(steps):
    bucket, now, taken = Bucket(2.0, 10.0, 0.0), 0.0, 0.0
    for cost, pause in steps:
        now += pause
        now += bucket.owe(cost, now)
        taken += cost
        assert taken <= 10.0 + 2.0 * now + 1e-6


def test_a_bucket_refills():
    bucket = Bucket(rate=2, burst=4, now=0)
    assert [bucket.take(1, 0) for _ in range(5)] == [True] * 4 + [False]
    assert [bucket.take(1, 1) for _ in range(3)] == [True, True, False]
    assert not bucket.is_full(2)
    assert bucket.is_full(100)


def test_a_clock_that_goes_back_gives_nothing():
    bucket = Bucket(rate=1, burst=1, now=100)
    assert bucket.take(1, 100)
    assert not bucket.take(1, 50)


def test_a_meter_counts_messages_and_bytes_of_each_key():
    meter: Meter[str] = Meter(SMALL)
    assert [meter.take("a", 1, 0) for _ in range(4)] == [True, True, True, False]
    assert [meter.take("b", 60, 0) for _ in range(2)] == [True, False]
    assert meter.take("b", 40, 0), "what was refused took nothing"


def test_a_meter_says_how_long_to_wait():
    meter: Meter[str] = Meter(SMALL)
    assert meter.owe("a", 1, 100, 0) == 0
    assert meter.owe("a", 1, 10, 0) == 1, "ten bytes over, at ten a second"
    assert meter.owe("a", 5, 0, 0) == 4, "four messages over, at one a second"


def test_a_meter_forgets_who_is_idle_and_only_them():
    meter: Meter[int] = Meter(SMALL, max_keys=3)
    for key in range(3):
        meter.take(key, 1, 0)
    for _ in range(3):
        meter.take(0, 1, 99)
    meter.take(3, 1, 99)
    assert set(meter._buckets) == {0, 3}
    assert not meter.take(0, 1, 99)


def test_a_forwarder_may_relay_for_ten():
    assert ORIGIN.scaled(10) == FORWARDER


def test_strikes_add_up_to_a_ban_that_ends():
    conduct: Conduct[str] = Conduct()
    assert [conduct.strike("x", 7, 0) for _ in range(3)] == [False, False, True]
    assert conduct.is_banned("x", limits.BAN_SECONDS - 1)
    assert not conduct.is_banned("x", limits.BAN_SECONDS)
    assert not conduct.is_banned("y", 0)
    assert (conduct.banned(0), conduct.banned(limits.BAN_SECONDS)) == (1, 0)


def test_strikes_are_forgiven():
    conduct: Conduct[str] = Conduct()
    for hour in range(100):
        assert not conduct.strike("x", 10, hour * 3600.0)


def test_after_a_ban_the_count_starts_anew():
    conduct: Conduct[str] = Conduct()
    assert conduct.strike("x", limits.STRIKE_LIMIT, 0)
    assert not conduct.strike("x", 1, limits.BAN_SECONDS)


def test_conduct_is_bounded(monkeypatch):
    monkeypatch.setattr(limits, "MAX_CONNECTIONS", 10)
    conduct: Conduct[int] = Conduct()
    for number in range(1000):
        conduct.strike(number, 1, number * 100.0)
    assert len(conduct._strikes) <= 10


def test_a_host_has_so_many_handshakes_at_once():
    quota = HandshakeQuota()
    tries = [quota.enter("host", 0) for _ in range(limits.MAX_PENDING_HANDSHAKES_PER_HOST + 1)]
    assert tries == [True] * limits.MAX_PENDING_HANDSHAKES_PER_HOST + [False]
    assert quota.enter("other", 0)
    quota.leave("host")
    assert quota.enter("host", 0)


def test_all_hosts_together_have_so_many():
    quota = HandshakeQuota()
    assert all(quota.enter(f"host {number}", 0) for number in range(limits.MAX_PENDING_HANDSHAKES))
    assert not quota.enter("one more", 0)
    quota.leave("host 0")
    assert quota.pending == limits.MAX_PENDING_HANDSHAKES - 1
    assert quota.enter("one more", 0)


def test_a_host_has_so_many_a_second():
    quota, admitted = HandshakeQuota(), 0
    for _ in range(500):
        if quota.enter("host", 0):
            admitted += 1
            quota.leave("host")
    assert admitted == limits.HANDSHAKE_BURST_PER_HOST
    assert quota.enter("host", 1)


def test_remembered_hosts_are_bounded(monkeypatch):
    monkeypatch.setattr(limits, "MAX_REMEMBERED_HOSTS", 10)
    quota = HandshakeQuota()
    for number in range(100):
        quota.enter(f"host {number}", 0)
        quota.leave(f"host {number}")
    assert len(quota._buckets) == 10
    assert quota.pending == 0


@pytest.mark.parametrize("size", [limits.ORIGIN_BURST_BYTES + 1])
def test_a_message_larger_than_any_allowance_is_never_taken(size):
    meter: Meter[str] = Meter(ORIGIN)
    assert not meter.take("a", int(size), 0)
    assert not meter.take("a", int(size), 1e9)
