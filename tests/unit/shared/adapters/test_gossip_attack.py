"""Members that break the rules against one hardened node: it survives each of them, and honest traffic flows on.

Most of these end a stock libp2p 0.8.1 host, fill its memory, or make it dial; `shared/adapters/gossip_libp2p` says
where and why under the D-numbers.
"""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import pytest_asyncio
from libp2p.pubsub.pb import rpc_pb2

from tests.gossip_attacker import Arena, Remote, attacking, control, message, open_arena, published
from tests.gossip_support import until

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def arena() -> AsyncIterator[Arena]:
    async with open_arena() as arena:
        yield arena


def field_of(number: int, content: bytes) -> bytes:
    """A protobuf field of bytes, for what the library would not write."""
    assert len(content) < 128
    return bytes([number << 3 | 2, len(content)]) + content


def many(entry: Callable[[int], Any], amount: int) -> list[Any]:
    return [entry(number) for number in range(amount)]


def an_id(number: int) -> bytes:
    return b"%032d" % number


SHA256_ID = b"\x12\x20" + b"a" * 32
NO_POINT = b"\x00\x24\x08\x01\x12\x20" + b"\xff" * 32
SECP256K1_ID = b"\x00\x25\x08\x02\x12\x21" + b"\x05" * 33


@dataclass
class Case:
    """Frames on a fresh stream, what becomes of the stream, and what is counted."""

    frames: list[bytes]
    is_ended: bool = False
    counts: dict[str, int] = field(default_factory=dict)
    is_raw: bool = False


def one(changes: dict[str, Any], data: bytes = b"forged") -> list[bytes]:
    return [published(message("mallory", data, **changes))]


ENDED = {"is_ended": True, "counts": {"malformed": 1}}
MALFORMED: dict[str, Any] = {"counts": {"malformed": 1}}
FORGED: dict[str, Any] = {"counts": {"bad_signature": 1}}
STRANGE: dict[str, Any] = {"counts": {"ignored": 1}}
SUBSCRIBE = rpc_pb2.RPC.SubOpts
CASES = {
    # frames
    "no protobuf": Case([b"\xff" * 50], **ENDED),
    "half a protobuf": Case([b"\x12\x50abc"], **ENDED),
    "an empty rpc": Case([b""]),
    "random bytes": Case([bytes(range(1, 256))], **ENDED),
    "a huge length": Case([b"\xff\xff\xff\x7f" + b"x" * 100], is_raw=True, **ENDED),
    "one byte over the limit": Case([b"\x81\x80\x40"], is_raw=True, **ENDED),
    "a length without an end": Case([b"\xff" * 10], is_raw=True, **ENDED),
    "unknown fields": Case([field_of(15, b"what is this")]),
    # messages
    "a key that is none": Case(one({"from_id": SHA256_ID, "key": b"garbage-key"}), **MALFORMED),
    "a key of an unknown kind": Case(one({"from_id": SHA256_ID, "key": b"\x08\x63\x12\x04abcd"}), **MALFORMED),
    "no origin": Case(one({"from_id": b""}), **MALFORMED),
    "a short origin": Case(one({"from_id": b"\0"}), **MALFORMED),
    "a nonsense origin": Case(one({"from_id": b"\xff\xff\xff"}), **MALFORMED),
    "a secp256k1 origin": Case(one({"from_id": SECP256K1_ID}), **MALFORMED),
    "an origin off the curve": Case(one({"from_id": NO_POINT}), **STRANGE),
    "a stranger's message": Case([published(message("stranger", b"let me in"))], **STRANGE),
    "no sequence number": Case(one({"seqno": None}), **MALFORMED),
    "a long sequence number": Case(one({"seqno": b"\0" * 9}), **MALFORMED),
    "no signature": Case(one({"signature": None}), **MALFORMED),
    "a wrong signature": Case(one({"signature": b"s" * 64}), **FORGED),
    "other data than signed": Case(one({"data": b"other"}), **FORGED),
    "another sequence number": Case(one({"seqno": b"12345678"}), **FORGED),
    "another topic than signed": Case([published(message("mallory", b"x", "other", topicIDs=["t"]))], **FORGED),
    "in somebody's name": Case([published(message("mallory", b"x", from_id=message("honest", b"").from_id))], **FORGED),
    "no topic": Case(one({"topicIDs": []}), **MALFORMED),
    "two topics": Case(one({"topicIDs": ["t", "t"]}), **MALFORMED),
    "a topic nobody reads": Case([published(message("mallory", b"x", "nobody's"))]),
    "a topic that is no text": Case([field_of(2, field_of(4, b"\xff\xfe") + field_of(2, b"d"))], **MALFORMED),
    "too much data": Case([published(message("mallory", b"x" * 900_001))], **MALFORMED),
    "what the validator rejects": Case([published(message("mallory", b"bad"))], counts={"rejected": 1}),
    "the same twice": Case([published(*[message("mallory", b"bad")] * 5)], counts={"rejected": 1, "duplicate": 4}),
    # subscriptions
    "a subscription that is no text": Case([field_of(1, b"\x08\x01" + field_of(2, b"\xff\xfe"))], **ENDED),
    "too many subscriptions": Case(
        [rpc_pb2.RPC(subscriptions=many(lambda n: SUBSCRIBE(subscribe=True, topicid=f"t{n}"), 33)).SerializeToString()],
        **ENDED,
    ),
    "a topic like a novel": Case(
        [rpc_pb2.RPC(subscriptions=[SUBSCRIBE(subscribe=True, topicid="t" * 257)]).SerializeToString()], **ENDED
    ),
    "subscribing and leaving": Case(
        [
            rpc_pb2.RPC(subscriptions=[SUBSCRIBE(subscribe=bool(n % 2), topicid=f"t{n % 7}")]).SerializeToString()
            for n in range(300)
        ]
    ),
    "leaving what was never joined": Case(
        [rpc_pb2.RPC(subscriptions=[SUBSCRIBE(subscribe=False, topicid="never")]).SerializeToString()]
    ),
    # control
    "five thousand ids": Case(
        [control(ihave=[rpc_pb2.ControlIHave(topicID="t", messageIDs=many(an_id, 5000))])] * 20,
    ),
    "too many ids": Case([control(ihave=[rpc_pb2.ControlIHave(topicID="t", messageIDs=many(an_id, 5001))])], **ENDED),
    "ids that are odd hex": Case([control(ihave=[rpc_pb2.ControlIHave(topicID="t", messageIDs=[b"abc", b""])])]),
    "wanting five thousand": Case([control(iwant=[rpc_pb2.ControlIWant(messageIDs=many(an_id, 5000))])] * 20),
    "grafting anything": Case([control(graft=many(lambda n: rpc_pb2.ControlGraft(topicID=f"u{n}"), 100))]),
    "grafting everything": Case([control(graft=many(lambda n: rpc_pb2.ControlGraft(topicID=f"u{n}"), 129))], **ENDED),
    "grafting again and again": Case([control(graft=[rpc_pb2.ControlGraft(topicID="t")])] * 50),
    "a back-off for ever": Case([control(prune=[rpc_pb2.ControlPrune(topicID="t", backoff=2**63)])]),
    "pruning unknown topics": Case([control(prune=many(lambda n: rpc_pb2.ControlPrune(topicID=f"u{n}"), 100))]),
    "not wanting": Case([control(idontwant=[rpc_pb2.ControlIDontWant(messageIDs=many(an_id, 5000))])]),
    "extensions": Case([control(extensions=rpc_pb2.ControlExtensions())] * 3),
    "a record that is none": Case([rpc_pb2.RPC(senderRecord=b"\x01\x02garbage").SerializeToString()] * 50),
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def mallory(arena: Arena) -> AsyncIterator[Remote]:
    """One host for all cases; each opens a stream of its own."""
    async with attacking("mallory", arena.victim) as remote:
        await arena.let_in("mallory")
        await remote.do("connect")
        yield remote


@pytest.mark.parametrize("name", CASES)
async def test_hostile_frames(arena, mallory, name):
    case, before = CASES[name], dict(arena.victim.health().counters)
    marker = b"still reading: " + name.encode()
    await mallory.do("open_stream")
    if case.is_raw:
        await mallory.do("send_raw", b"".join(case.frames))
    else:
        await mallory.do("send", *case.frames)
    if case.is_ended:
        await mallory.do("wait_for_end")
    else:
        await mallory.do("send", published(message("mallory", marker)))
        await arena.heard_by_victim.gets(marker)
    watched = ("malformed", "bad_signature", "rejected", "ignored", "duplicate")
    expected = {key: case.counts.get(key, 0) for key in watched}
    await until(lambda: grown(arena, before, watched) == expected, f"{expected}", 3)
    arena.forgive()
    await arena.expect_alive()


async def test_a_stream_that_ends_within_a_frame(arena, mallory):
    await mallory.do("open_stream")
    await mallory.do("send_raw", b"\x80")
    await mallory.do("reset")
    await arena.expect_alive()


def grown(arena: Arena, before: dict[str, int], names: tuple[str, ...]) -> dict[str, int]:
    return {name: arena.count(name) - before[name] for name in names}
