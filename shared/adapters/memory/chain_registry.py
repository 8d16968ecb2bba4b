"""A model of the OperatorRegistry: the contract's state and rules, its checks in its order, its errors by its names.

Values are frozen and `copy` is shallow, so that a refused transaction and a reorg cost little to take back.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from eth_utils.crypto import keccak
from py_arkworks_bls12381 import G2Point

from shared import quorum
from shared.adapters.terms import NetworkTerms, Registration
from shared.constants import GWEI, MAX_ATTESTERS, WAD
from shared.crypto import bls
from shared.digests import Domain
from shared.errors import CodecError, Reverted
from shared.indices import signers_of
from shared.types import Address, Digest, Operator, OperatorTable, Role, TableEntry, Verdict

MAX_STAKE_WEI = (2**64 - 1) // 128 * GWEI
MAX_UNBONDING_SECONDS = 365 * 24 * 3600
MAX_EPOCH_SECONDS = 30 * 24 * 3600
MAX_ENDPOINT_BYTES = 320
ALL_ROLES = 7


@dataclass(frozen=True, slots=True)
class Account:
    """What the registry knows of one operator."""

    registration: Registration
    stake_wei: int
    withdrawable_at: int = 0
    first_free_epoch: int = 0
    pending_slashes: int = 0
    is_withdrawn: bool = False


@dataclass(slots=True)
class RegistryModel:
    """Senders are arguments; `now` is the block's time in unix seconds. All methods but `copy` raise `Reverted`, and
    change nothing then."""

    domain: Domain  # of proofs of possession
    terms: NetworkTerms
    accounts: dict[Address, Account] = field(default_factory=dict)
    listed: list[Address] = field(default_factory=list)
    attesters: list[Address] = field(default_factory=list)
    taken_keys: set[bytes] = field(default_factory=set)  # of votes and of peers
    tables: dict[int, OperatorTable] = field(default_factory=dict)  # the two valid ones
    epoch: int = 0
    rolled_at: int = 0
    total_stake_wei: int = 0
    vault_wei: int = 0

    def __post_init__(self) -> None:
        terms = self.terms
        _require_within("minimumStake", terms.minimum_stake_wei, GWEI, MAX_STAKE_WEI)
        _require_within("unbondingSeconds", terms.unbonding_seconds, 1, MAX_UNBONDING_SECONDS)
        _require_within("epochSeconds", terms.epoch_seconds, 1, MAX_EPOCH_SECONDS)
        _require_within("vault", int.from_bytes(terms.vault, "big"), 1, 2**160 - 1)

    def copy(self) -> RegistryModel:
        """Another registry in the same state."""
        return replace(
            self,
            accounts=dict(self.accounts),
            listed=list(self.listed),
            attesters=list(self.attesters),
            taken_keys=set(self.taken_keys),
            tables=dict(self.tables),
        )

    # --- joining and leaving -------------------------------------------------------------------------
    def register(self, sender: Address, registration: Registration) -> None:
        roles, stake = int(registration.roles), registration.stake_wei
        if sender in self.accounts:
            raise Reverted("AlreadyRegistered", (_hex(sender),))
        if not 0 < roles <= ALL_ROLES:
            raise Reverted("InvalidRoles", (roles,))
        if stake < self.terms.minimum_stake_wei:
            raise Reverted("StakeTooSmall", (stake, self.terms.minimum_stake_wei))
        if registration.peer_key == bytes(32):
            raise Reverted("InvalidPeerKey")
        if registration.peer_key in self.taken_keys:
            raise Reverted("PeerKeyTaken", (registration.peer_key,))
        if stake > MAX_STAKE_WEI:
            raise Reverted("StakeTooLarge", (stake, MAX_STAKE_WEI))
        is_attester = Role.ATTESTER in registration.roles
        if is_attester and len(self.attesters) == MAX_ATTESTERS:
            raise Reverted("TooManyAttesters", (MAX_ATTESTERS,))
        _require_endpoints(registration)
        if is_attester or registration.vote_key or registration.possession:
            self._require_vote_key(sender, registration)
            self.taken_keys.add(registration.vote_key)
        self.taken_keys.add(registration.peer_key)
        self.accounts[sender] = Account(registration, stake)
        self.total_stake_wei += stake
        self.listed.append(sender)
        if is_attester:
            self.attesters.append(sender)

    def _require_vote_key(self, sender: Address, registration: Registration) -> None:
        key, possession = registration.vote_key, registration.possession
        if len(key) != bls.G2_BYTES:
            raise Reverted("VoteKeyLength", (len(key),))
        if len(possession) != bls.G1_BYTES:
            raise Reverted("PossessionLength", (len(possession),))
        key_hash = keccak(key)
        if key in self.taken_keys:
            raise Reverted("VoteKeyTaken", (key_hash,))
        if not any(key):
            raise Reverted("InfinityVoteKey")
        try:
            bls.check_public_key(key)
        except CodecError:
            raise Reverted("MalformedVoteKey", (key, possession)) from None
        if any(possession) and not _is_g1(possession):
            raise Reverted("MalformedVoteKey", (key, possession))
        if not bls.verify_possession(key, self.domain.key_possession(sender, key), possession):
            raise Reverted("PossessionMismatch", (_hex(sender), key_hash))

    def leave(self, sender: Address, now: int) -> None:
        account = self._staying(sender)
        withdrawable_at, first_free = now + self.terms.unbonding_seconds, 0
        if sender in self.attesters:
            _swap_out(self.attesters, sender)
            first_free = self.epoch + 2 if self.epoch else 0
        self.accounts[sender] = replace(account, withdrawable_at=withdrawable_at, first_free_epoch=first_free)

    def withdraw(self, sender: Address, now: int) -> int:
        """The wei that are paid out."""
        account = self._registered(sender)
        if account.withdrawable_at == 0:
            raise Reverted("NotLeft", (_hex(sender),))
        if account.is_withdrawn:
            raise Reverted("AlreadyWithdrawn", (_hex(sender),))
        if now < account.withdrawable_at:
            raise Reverted("StillBonded", (_hex(sender), account.withdrawable_at))
        if self.epoch < account.first_free_epoch:
            raise Reverted("StillInTable", (_hex(sender), account.first_free_epoch))
        if account.pending_slashes:
            raise Reverted("SlashPending", (_hex(sender), account.pending_slashes))
        self.accounts[sender] = replace(account, stake_wei=0, is_withdrawn=True)
        self.total_stake_wei -= account.stake_wei
        _swap_out(self.listed, sender)
        return account.stake_wei

    # --- epochs --------------------------------------------------------------------------------------
    @property
    def rollable_at(self) -> int:
        return self.rolled_at + self.terms.epoch_seconds if self.epoch else 0

    def roll_epoch(self, now: int) -> int:
        if now < self.rollable_at:
            raise Reverted("EpochNotOver", (self.rollable_at,))
        active = [(address, self.accounts[address]) for address in self.attesters if self._is_active(address)]
        entries = [
            TableEntry(address, account.registration.vote_key, account.stake_wei // GWEI) for address, account in active
        ]
        self.epoch, self.rolled_at = self.epoch + 1, now
        former = {n: table for n, table in self.tables.items() if n == self.epoch - 1}
        self.tables = former | {self.epoch: OperatorTable(self.epoch, tuple(entries))}
        return self.epoch

    def table_at(self, epoch: int) -> OperatorTable:
        if epoch not in self.tables:
            raise Reverted("UnknownEpoch", (epoch, self.epoch))
        return self.tables[epoch]

    def verify_quorum(self, digest: Digest, epoch: int, *, is_approval: bool, signature: bytes, indices: bytes) -> int:
        """The signers' power."""
        if len(signature) != bls.G1_BYTES:
            raise Reverted("SignatureLength", (len(signature),))
        table = self.table_at(epoch)
        named = signers_of(tuple(indices), len(table.entries))
        signers = [i for i in range(len(table.entries)) if (i in named) is not is_approval]
        power = quorum.power_of(table, signers)
        if not quorum.reached(Verdict.VALID if is_approval else Verdict.INVALID, power, table.total_power):
            raise Reverted("QuorumNotReached", (power, table.total_power, is_approval))
        _require_signed([table.entries[i].vote_key for i in signers], digest, signature)
        return power

    # --- slashing ------------------------------------------------------------------------------------
    def queue_slash(self, operator: Address) -> None:
        account = self.accounts[operator]
        self.accounts[operator] = replace(account, pending_slashes=account.pending_slashes + 1)

    def slash(self, operator: Address, wad: int) -> int:
        """The wei that moved to the vault."""
        account = self.accounts[operator]
        amount = account.stake_wei * wad // WAD
        self.accounts[operator] = replace(
            account, stake_wei=account.stake_wei - amount, pending_slashes=account.pending_slashes - 1
        )
        self.total_stake_wei -= amount
        self.vault_wei += amount
        return amount

    # --- reading -------------------------------------------------------------------------------------
    def roles_of(self, operator: Address) -> Role:
        """Those that it registered with, for ever; none for a stranger."""
        account = self.accounts.get(operator)
        return account.registration.roles if account else Role(0)

    def operators(self) -> tuple[Operator, ...]:
        return tuple(self._describe(address) for address in self.listed)

    def stake_of(self, operator: Address) -> int:
        return self._registered(operator).stake_wei

    def _describe(self, address: Address) -> Operator:
        account = self.accounts[address]
        given = account.registration
        return Operator(
            address=address,
            roles=given.roles,
            stake_wei=account.stake_wei,
            vote_key=given.vote_key,
            peer_key=given.peer_key,
            p2p_address=given.p2p_address,
            gateway_url=given.gateway_url,
            is_active=self._is_active(address),
        )

    def _is_active(self, operator: Address) -> bool:
        account = self.accounts[operator]
        return account.withdrawable_at == 0 and account.stake_wei >= self.terms.minimum_stake_wei

    def _registered(self, operator: Address) -> Account:
        if operator not in self.accounts:
            raise Reverted("NotRegistered", (_hex(operator),))
        return self.accounts[operator]

    def _staying(self, operator: Address) -> Account:
        account = self._registered(operator)
        if account.withdrawable_at:
            raise Reverted("AlreadyLeft", (_hex(operator),))
        return account


def _require_signed(keys: list[bytes], digest: Digest, signature: bytes) -> None:
    if not any(signature):
        raise Reverted("InfinitySignature")
    if sum((G2Point.from_xy_bytes_unchecked_be(key) for key in keys), G2Point.identity()) == G2Point.identity():
        raise Reverted("InfinityAggregate")
    if not _is_g1(signature):
        raise Reverted("MalformedSignature", (signature,))
    if not bls.verify_aggregate(keys, digest, signature):
        raise Reverted("SignatureMismatch", (digest,))


def _is_g1(packed: bytes) -> bool:
    try:
        bls.aggregate([packed])
    except CodecError:
        return False
    return True


def _require_endpoints(registration: Registration) -> None:
    longest = max(len(registration.p2p_address.encode()), len(registration.gateway_url.encode()))
    if longest > MAX_ENDPOINT_BYTES:
        raise Reverted("EndpointTooLong", (longest, MAX_ENDPOINT_BYTES))


def _require_within(name: str, value: int, smallest: int, largest: int) -> None:
    if not smallest <= value <= largest:
        raise Reverted("InvalidSetting", (name, value))


def _swap_out(members: list[Address], leaver: Address) -> None:
    """The last takes the leaver's place, as in the contract: indices of the next table depend on it."""
    members[members.index(leaver)] = members[-1]
    members.pop()


def _hex(address: Address) -> str:
    return "0x" + address.hex()
