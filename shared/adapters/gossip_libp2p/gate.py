"""Noise, and only for members (defect D3: a stock host also takes /plaintext, where identity is a mere claim)."""

from __future__ import annotations

from collections.abc import Callable

from libp2p.abc import IRawConnection, ISecureConn
from libp2p.crypto.keys import KeyPair
from libp2p.crypto.x25519 import create_new_key_pair
from libp2p.custom_types import TProtocol
from libp2p.peer.id import ID
from libp2p.security.exceptions import HandshakeFailure
from libp2p.security.noise.transport import PROTOCOL_ID, Transport


class NotWelcome(HandshakeFailure):
    """The other side proved a key that may not connect."""


class GatedNoise(Transport):
    """Decides once the handshake has proved the other side's key, before anything else of it is read."""

    def __init__(self, key_pair: KeyPair, is_welcome: Callable[[ID], bool]) -> None:
        super().__init__(key_pair, noise_privkey=create_new_key_pair().private_key)
        self._is_welcome = is_welcome

    async def secure_inbound(self, conn: IRawConnection) -> ISecureConn:
        return await self._admit(await super().secure_inbound(conn))

    async def secure_outbound(self, conn: IRawConnection, peer_id: ID) -> ISecureConn:
        return await self._admit(await super().secure_outbound(conn, peer_id))

    async def _admit(self, secured: ISecureConn) -> ISecureConn:
        peer = secured.get_remote_peer()
        if not self._is_welcome(peer):
            await secured.close()
            raise NotWelcome(f"peer {peer} is not welcome")
        return secured


def noise_only(key_pair: KeyPair, is_welcome: Callable[[ID], bool]) -> dict[TProtocol, GatedNoise]:
    """The whole list of security protocols."""
    return {PROTOCOL_ID: GatedNoise(key_pair, is_welcome)}
