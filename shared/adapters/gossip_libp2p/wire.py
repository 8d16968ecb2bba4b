"""What a published message must look like before anything else is asked of it. Pure, but for libp2p's own types."""

from __future__ import annotations

from dataclasses import dataclass

from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.validators import signature_validator

from shared import peer_id
from shared.adapters.gossip_libp2p import limits
from shared.errors import CodecError
from shared.types import PeerKey

SEQNO_BYTES = 8
SIGNATURE_BYTES = 64


@dataclass(frozen=True, slots=True)
class Signed:
    """A well-formed message; its signature is not verified yet."""

    origin: PeerKey
    topic: str
    message_id: bytes
    message: rpc_pb2.Message

    @property
    def data(self) -> bytes:
        return self.message.data

    def is_authentic(self) -> bool:
        """The origin signed topic, sequence number and data."""
        return signature_validator(self.message)


def is_topic(name: str) -> bool:
    """Printable ASCII of a reasonable length: names of peers' choice end in tables, in `/health` and in logs. (protobuf
    2 gives text that is no Unicode, too.)"""
    return 0 < len(name) <= limits.MAX_TOPIC_CHARACTERS and name.isascii() and name.isprintable()


def parse(message: rpc_pb2.Message, max_bytes: int) -> Signed:
    """Raises `CodecError`. The result carries nothing but the signed fields: what a forwarder adds goes no further."""
    if len(message.topicIDs) != 1 or not is_topic(message.topicIDs[0]):
        raise CodecError("not one topic")
    if len(message.seqno) != SEQNO_BYTES or len(message.signature) != SIGNATURE_BYTES:
        raise CodecError("sequence number or signature")
    if len(message.data) > max_bytes:
        raise CodecError(f"{len(message.data)} bytes, the topic's limit is {max_bytes}")
    origin = peer_id.from_bytes(message.from_id)  # D2: a key that is not in the id itself kills a stock host
    clean = rpc_pb2.Message(
        from_id=message.from_id,
        data=message.data,
        seqno=message.seqno,
        topicIDs=message.topicIDs,
        signature=message.signature,
    )
    return Signed(origin, message.topicIDs[0], message.from_id + message.seqno, clean)
