"""Bytes into frames, frames into messages, ids that were seen."""

import asyncio
import itertools
import math

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st
from libp2p.pubsub.pb import rpc_pb2
from libp2p.utils import encode_varint_prefixed

from shared.adapters.gossip_libp2p import limits
from shared.adapters.gossip_libp2p.frames import Frames, next_frame
from shared.adapters.gossip_libp2p.seen import SeenIds
from shared.adapters.gossip_libp2p.wire import is_topic, parse
from shared.errors import CodecError
from tests.gossip_attacker import message
from tests.gossip_support import secret_of

LIMIT = 1000


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[a:b] for a, b in itertools.pairwise(edges)]


@given(st.lists(st.binary(max_size=LIMIT), max_size=8), st.lists(st.integers(0, 10_000), max_size=20))
def test_frames_come_out_whole_however_they_arrive(bodies, places):
    frames, found = Frames(LIMIT), []
    for chunk in cut(b"".join(encode_varint_prefixed(body) for body in bodies), places):
        frames.feed(chunk)
        while (frame := frames.take()) is not None:
            found.append(frame)
    assert found == bodies


@given(st.binary(max_size=3000))
def test_any_bytes_are_frames_or_refused(data):
    frames = Frames(LIMIT)
    frames.feed(data)
    try:
        while (frame := frames.take()) is not None:
            assert len(frame) <= LIMIT
    except CodecError:
        return
    assert len(frames._buffer) <= LIMIT + 3, "what is left waits for the rest of one frame"


@pytest.mark.parametrize("prefix", [b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\x80\x80\x80\x80\x01", b"\xe9\x07"])
def test_a_prefix_over_the_limit_is_refused_before_the_body(prefix):
    frames = Frames(LIMIT)
    frames.feed(prefix)
    with pytest.raises(CodecError):
        frames.take()


def test_half_a_prefix_is_waited_for():
    frames = Frames(LIMIT)
    for byte in b"\x80\x01":
        assert frames.take() is None
        frames.feed(bytes([byte]))
    assert frames.take() is None
    frames.feed(b"x" * 128)
    assert frames.take() == b"x" * 128


async def test_reading_ends_with_the_stream():
    chunks = [b"\x03ab", b"c\x01", b"d\x05ab", b""]

    class Stream:
        async def read(self, n: int | None = None, /) -> bytes:
            return chunks.pop(0)

    stream, frames = Stream(), Frames(LIMIT)
    assert [await next_frame(stream, frames) for _ in range(3)] == [b"abc", b"d", None]
    await asyncio.sleep(0)


# -- messages -------------------------------------------------------------------------------------------
def test_what_a_forwarder_adds_goes_no_further():
    original = message("ann", b"data", key=b"some key")
    padded = rpc_pb2.Message.FromString(original.SerializeToString() + b"\x7a\x03abc")
    signed = parse(padded, LIMIT)
    assert signed.is_authentic()
    assert signed.message.SerializeToString() == message_without_key(original)


def message_without_key(original: rpc_pb2.Message) -> bytes:
    clean = rpc_pb2.Message.FromString(original.SerializeToString())
    clean.ClearField("key")
    return clean.SerializeToString()


def test_a_message_says_who_and_what():
    original = message("ann", b"data", "topic")
    signed = parse(original, 4)
    assert (signed.topic, signed.data) == ("topic", b"data")
    assert signed.message_id == original.from_id + original.seqno
    assert original.from_id.endswith(signed.origin)
    assert len(secret_of("ann")) == len(signed.origin)


def test_the_limit_is_the_callers():
    parse(message("ann", b"1234"), 4)
    with pytest.raises(CodecError, match="limit is 4"):
        parse(message("ann", b"12345"), 4)


@pytest.mark.parametrize("name", ["", "a\nb", "ü", "\x1b[31m", "t" * (limits.MAX_TOPIC_CHARACTERS + 1), "\udcff"])
def test_what_is_no_topic(name):
    assert not is_topic(name)


@given(st.binary(max_size=300))
def test_any_message_is_parsed_or_refused(raw):
    try:
        parse(rpc_pb2.Message.FromString(raw), LIMIT)
    except (CodecError, DecodeError):
        return


# -- ids ------------------------------------------------------------------------------------------------
class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_an_id_is_remembered_from_the_first_time():
    clock = Clock()
    seen = SeenIds(seconds=10, clock=clock)
    assert [seen.add(b"x"), seen.add(b"x"), seen.has(b"x")] == [True, False, True]
    clock.now = 9
    assert seen.has(b"x")
    assert not seen.add(b"x"), "asking does not prolong it"
    clock.now = 10
    assert not seen.has(b"x")
    assert seen.add(b"x")


def test_the_oldest_id_makes_room():
    seen = SeenIds(seconds=math.inf, size=3, clock=Clock())
    for number in range(5):
        seen.add(b"%d" % number)
    assert [seen.has(b"%d" % number) for number in range(5)] == [False, False, True, True, True]
    assert seen.length() == 3
