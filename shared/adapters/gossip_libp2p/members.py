"""The members as the transport sees them: who may connect and speak, and where they listen."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from libp2p.peer.id import ID

from shared import peer_id
from shared.adapters.gossip_libp2p.budgets import Conduct
from shared.errors import CodecError
from shared.types import PeerKey


def id_of(key: PeerKey) -> ID:
    return ID(peer_id.to_bytes(key))


def key_of(peer: ID) -> PeerKey | None:
    """None for an identity that is not an ed25519 key: no member has such a one."""
    try:
        return peer_id.from_bytes(peer.to_bytes())
    except CodecError:
        return None


class Members:
    """Replaced as a whole by the asyncio side and read by the trio side: a view is never half new."""

    def __init__(self, own: PeerKey, clock: Callable[[], float] = time.monotonic) -> None:
        self.own = own
        self.conduct: Conduct[PeerKey] = Conduct()
        self._addresses: Mapping[PeerKey, str] = {}
        self._clock = clock

    @property
    def addresses(self) -> Mapping[PeerKey, str]:
        """Where the other members listen."""
        return self._addresses

    def replace(self, addresses: Mapping[PeerKey, str]) -> None:
        """A key of another size is nobody's: it must not stop the keeper."""
        self._addresses = {
            k: address for k, address in addresses.items() if k != self.own and len(k) == peer_id.KEY_BYTES
        }

    def is_member(self, key: PeerKey) -> bool:
        return key in self._addresses

    def is_welcome(self, peer: ID) -> bool:
        """A member that is not banned."""
        key = key_of(peer)
        return key is not None and key in self._addresses and not self.conduct.is_banned(key, self._clock())
