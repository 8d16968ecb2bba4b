"""What a network is deployed with, and what an operator registers with: values that every chain, real or in memory,
takes."""

from __future__ import annotations

from dataclasses import dataclass

from shared.crypto import bls
from shared.digests import Domain
from shared.types import Address, PeerKey, Role


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkTerms:
    """What a network's contracts hold its operators to, for ever. The contracts check the bounds."""

    vault: Address  # receives slashed stake that compensates nobody
    minimum_stake_wei: int = 10**18
    power_unit_wei: int = 10**15  # stake that makes one unit of voting power
    unbonding_seconds: int = 7 * 24 * 3600
    epoch_seconds: int = 3600
    grace_seconds: int = 3600  # a table stays valid after it was superseded
    longest_dispute_seconds: int = 24 * 3600  # not longer than unbonding: the accused could leave first
    veto_delay_seconds: int = 6 * 3600
    refund_delay_seconds: int = 24 * 3600  # in which a performer can still collect
    change_delay_seconds: int = 2 * 24 * 3600  # between a setting's announcement and its change
    owner: Address | None = None  # of the contracts; None: who deploys


@dataclass(frozen=True, slots=True)
class Deployment:
    """Where a network's contracts are."""

    chain_id: int
    tables: Address
    registry: Address
    center: Address
    escrow: Address
    court: Address
    block: int  # of the center's creation: no event is older

    @property
    def domain(self) -> Domain:
        """Of task ids, task infos, votes, batches and promises."""
        return Domain(self.chain_id, self.center)

    @property
    def possession_domain(self) -> Domain:
        """Of proofs of possession."""
        return Domain(self.chain_id, self.tables)

    @property
    def registry_domain(self) -> Domain:
        """Of consents and allowances."""
        return Domain(self.chain_id, self.registry)

    @property
    def court_domain(self) -> Domain:
        """Of certificates that cancel a slash or overrule a veto."""
        return Domain(self.chain_id, self.court)


@dataclass(frozen=True, slots=True)
class Allowance:
    """A ticket of the allow-list's signer; empty where registration is open."""

    nonce: int = 0
    expiry: int = 0  # unix seconds
    signature: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """What an operator registers with. `vote_key` and `possession` stay empty for who does not attest. `operator` and
    `rewards_receiver` are the sender where they are None; another operator has to sign `consent`."""

    roles: Role
    stake_wei: int
    peer_key: PeerKey
    p2p_address: str
    gateway_url: str
    vote_key: bytes = b""
    possession: bytes = b""
    operator: Address | None = None
    rewards_receiver: Address | None = None
    consent: bytes = b""
    allowance: Allowance = Allowance()

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
        """With the proof that the operator holds the vote key, in the tables' domain."""
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
