"""What a network is deployed with, and what an operator registers with: values that every chain, real or in memory,
takes."""

from __future__ import annotations

from dataclasses import dataclass

from shared.constants import WAD
from shared.crypto import bls
from shared.digests import Domain
from shared.types import Address, PeerKey, Role


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkTerms:
    """What a network's contracts hold its operators to, for ever. The contracts check the bounds."""

    vault: Address  # receives slashed stake
    minimum_stake_wei: int = 10**18
    unbonding_seconds: int = 7 * 24 * 3600
    epoch_seconds: int = 3600
    slash_wad: int = WAD // 10  # of the stake of a rejected performer; WAD is all of it
    dispute_window_seconds: int = 24 * 3600  # not longer than unbonding: the rejected could leave first
    owner: Address | None = None  # may create task definitions; None: who deploys


@dataclass(frozen=True, slots=True)
class Deployment:
    """Where a network's contracts are."""

    chain_id: int
    registry: Address
    center: Address
    block: int  # of the center's creation: no event is older

    @property
    def domain(self) -> Domain:
        """Of task ids, task infos, votes and batches."""
        return Domain(self.chain_id, self.center)

    @property
    def possession_domain(self) -> Domain:
        """Of proofs of possession."""
        return Domain(self.chain_id, self.registry)


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """What an operator registers with. `vote_key` and `possession` stay empty for who does not attest."""

    roles: Role
    stake_wei: int
    peer_key: PeerKey
    p2p_address: str
    gateway_url: str
    vote_key: bytes = b""
    possession: bytes = b""

    @classmethod
    def signed(
        cls,
        domain: Domain,
        operator: Address,
        vote_key: bls.SecretKey,
        *,
        roles: Role,
        stake_wei: int,
        peer_key: PeerKey,
        p2p_address: str,
        gateway_url: str,
    ) -> Registration:
        """With the proof that the operator holds the vote key, in the registry's domain."""
        possession = vote_key.prove_possession(domain.key_possession(operator, vote_key.public_key))
        return cls(
            roles=roles,
            stake_wei=stake_wei,
            peer_key=peer_key,
            p2p_address=p2p_address,
            gateway_url=gateway_url,
            vote_key=vote_key.public_key,
            possession=possession,
        )
