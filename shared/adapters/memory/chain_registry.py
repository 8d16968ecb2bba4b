"""A model of the OperatorRegistry: as chain_tables.py, for stake. Left out: the allow-list, pauses, and changing
endpoints, vote key and rewards receiver, which nothing behind `shared.interfaces` does."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from shared.adapters.memory.chain_coins import Coins, hex_of, require_within
from shared.adapters.memory.chain_tables import TablesModel
from shared.adapters.terms import NetworkTerms, Registration
from shared.constants import WAD
from shared.crypto import ecdsa
from shared.digests import Domain
from shared.errors import Reverted
from shared.types import Address, Operator, PeerKey, Role

MAX_STAKE_WEI = 2**96 - 1
MAX_POWER = 2**32 - 1
MAX_UNBONDING_SECONDS = 365 * 24 * 3600
MAX_ENDPOINT_BYTES = 320
ALL_ROLES = 7
NOBODY = Address(bytes(20))


@dataclass(frozen=True, slots=True)
class Account:
    """What the registry knows of one operator."""

    owner: Address
    receiver: Address
    registration: Registration
    stake_wei: int
    withdrawable_at: int = 0
    left_epoch: int = 0  # whose table may still count who left; 0: none
    pending_slashes: int = 0
    is_withdrawn: bool = False


@dataclass(slots=True)
class RegistryModel:
    """Senders are arguments; `now` is the block's time in unix seconds. Methods raise `Reverted`, and change nothing
    then, but for what the caller throws away with the state."""

    domain: Domain  # of consents
    terms: NetworkTerms
    coins: Coins
    tables: TablesModel
    accounts: dict[Address, Account] = field(default_factory=dict)
    listed: list[Address] = field(default_factory=list)
    peer_keys: set[PeerKey] = field(default_factory=set)

    def __post_init__(self) -> None:
        terms = self.terms
        require_within("powerUnit", terms.power_unit_wei, 1, MAX_STAKE_WEI)
        require_within("minimumStake", terms.minimum_stake_wei, terms.power_unit_wei, MAX_STAKE_WEI)
        require_within("unbondingSeconds", terms.unbonding_seconds, 1, MAX_UNBONDING_SECONDS)

    def copy(self, coins: Coins) -> RegistryModel:
        """Another registry in the same state, with tables of its own."""
        return replace(
            self,
            coins=coins,
            tables=self.tables.copy(),
            accounts=dict(self.accounts),
            listed=list(self.listed),
            peer_keys=set(self.peer_keys),
        )

    # --- joining -------------------------------------------------------------------------------------
    def register(self, sender: Address, registration: Registration) -> None:
        """With the sender as the owner."""
        operator = registration.operator or sender
        if operator in self.accounts:
            raise Reverted("AlreadyRegistered", (hex_of(operator),))
        consent = self.domain.consent(operator, sender)
        if operator != sender and not ecdsa.is_signed_by(operator, consent, registration.consent):
            raise Reverted("InvalidConsent", (hex_of(operator), hex_of(sender)))
        self._require_roles(registration)
        self._take_peer_key(registration.peer_key)
        stake = registration.stake_wei
        if stake < self.terms.minimum_stake_wei:
            raise Reverted("StakeTooSmall", (stake, self.terms.minimum_stake_wei))
        _require_at_most(stake)
        _require_endpoints(registration)
        receiver = registration.rewards_receiver or sender
        self.accounts[operator] = Account(sender, receiver, registration, stake)
        self.listed.append(operator)
        self.coins.take(self.domain.contract, stake)
        if Role.ATTESTER in registration.roles:
            self.tables.seat(operator, registration.vote_key, registration.possession, self._power_of(stake))

    def add_stake(self, operator: Address, amount: int) -> None:
        """Anyone's, for the owner."""
        account = self._staying(operator)
        _require_at_most(account.stake_wei + amount)
        self.coins.take(self.domain.contract, amount)
        self._set_stake(operator, account.stake_wei + amount, may_roll_now=False)

    @staticmethod
    def _require_roles(registration: Registration) -> None:
        roles = int(registration.roles)
        if not 0 < roles <= ALL_ROLES:
            raise Reverted("InvalidRoles", (roles,))
        if (registration.vote_key or registration.possession) and Role.ATTESTER not in registration.roles:
            raise Reverted("UnexpectedVoteKey")

    def _take_peer_key(self, peer_key: PeerKey) -> None:
        if peer_key == bytes(32):
            raise Reverted("InvalidPeerKey")
        if peer_key in self.peer_keys:
            raise Reverted("PeerKeyTaken", (peer_key,))
        self.peer_keys.add(peer_key)

    # --- leaving -------------------------------------------------------------------------------------
    def leave(self, sender: Address, operator: Address, now: int) -> None:
        account = self._staying(operator)
        self._require_owner(sender, operator)
        withdrawable_at, left_epoch = now + self.terms.unbonding_seconds, 0
        if Role.ATTESTER in account.registration.roles:
            left_epoch = self.tables.epoch
            self.tables.unseat(operator)
        self.accounts[operator] = replace(account, withdrawable_at=withdrawable_at, left_epoch=left_epoch)

    def withdraw(self, sender: Address, operator: Address, now: int) -> int:
        """The wei that go to the owner."""
        account = self._require_owner(sender, operator)
        if account.withdrawable_at == 0:
            raise Reverted("NotLeft", (hex_of(operator),))
        if account.is_withdrawn:
            raise Reverted("AlreadyWithdrawn", (hex_of(operator),))
        if now < account.withdrawable_at:
            raise Reverted("StillBonded", (hex_of(operator), account.withdrawable_at))
        if account.left_epoch and not self.tables.is_expired(account.left_epoch, now):
            raise Reverted("StillInTable", (hex_of(operator), account.left_epoch))
        if account.pending_slashes:
            raise Reverted("SlashPending", (hex_of(operator), account.pending_slashes))
        self.accounts[operator] = replace(account, stake_wei=0, is_withdrawn=True)
        _swap_out(self.listed, operator)
        self.coins.pay(self.domain.contract, account.owner, account.stake_wei)
        return account.stake_wei

    # --- slashing: the court's -----------------------------------------------------------------------
    def hold_exit(self, operator: Address) -> None:
        account = self.registered(operator)
        self.accounts[operator] = replace(account, pending_slashes=account.pending_slashes + 1)

    def release_exit(self, operator: Address) -> None:
        account = self.registered(operator)
        self.accounts[operator] = replace(account, pending_slashes=account.pending_slashes - 1)

    def slash(self, court: Address, operator: Address, wad: int) -> int:
        """The wei that moved to the court."""
        self.release_exit(operator)
        stake = self.accounts[operator].stake_wei
        amount = stake * wad // WAD
        self._set_stake(operator, stake - amount, may_roll_now=True)
        self.coins.pay(self.domain.contract, court, amount)
        return amount

    def _set_stake(self, operator: Address, stake: int, *, may_roll_now: bool) -> None:
        account = self.accounts[operator]
        self.accounts[operator] = replace(account, stake_wei=stake)
        if Role.ATTESTER not in account.registration.roles or account.withdrawable_at:
            return
        power = self._power_of(stake)
        if power != self._power_of(account.stake_wei):
            self.tables.set_power(operator, power, may_roll_now=may_roll_now)

    def _power_of(self, stake: int) -> int:
        return 0 if stake < self.terms.minimum_stake_wei else min(stake // self.terms.power_unit_wei, MAX_POWER)

    # --- reading -------------------------------------------------------------------------------------
    @property
    def total_stake_wei(self) -> int:
        return sum(account.stake_wei for account in self.accounts.values())

    def roles_of(self, operator: Address) -> Role:
        """Those that it registered with, for ever; none for a stranger."""
        account = self.accounts.get(operator)
        return account.registration.roles if account else Role(0)

    def rewards_receiver_of(self, operator: Address) -> Address:
        """Nobody for a stranger."""
        account = self.accounts.get(operator)
        return account.receiver if account else NOBODY

    def operators(self) -> tuple[Operator, ...]:
        return tuple(self._describe(address) for address in self.listed)

    def registered(self, operator: Address) -> Account:
        """Raises `Reverted("NotRegistered")`."""
        if operator not in self.accounts:
            raise Reverted("NotRegistered", (hex_of(operator),))
        return self.accounts[operator]

    def _describe(self, address: Address) -> Operator:
        account = self.accounts[address]
        given = account.registration
        return Operator(
            address=address,
            owner=account.owner,
            rewards_receiver=account.receiver,
            roles=given.roles,
            stake_wei=account.stake_wei,
            vote_key=self.tables.vote_key_of(address),
            peer_key=given.peer_key,
            p2p_address=given.p2p_address,
            gateway_url=given.gateway_url,
            is_active=account.withdrawable_at == 0 and account.stake_wei >= self.terms.minimum_stake_wei,
            withdrawable_at=account.withdrawable_at,
        )

    def _staying(self, operator: Address) -> Account:
        account = self.registered(operator)
        if account.withdrawable_at:
            raise Reverted("AlreadyLeft", (hex_of(operator),))
        return account

    def _require_owner(self, sender: Address, operator: Address) -> Account:
        account = self.registered(operator)
        if sender != account.owner:
            raise Reverted("OnlyOwner", (hex_of(sender), hex_of(account.owner)))
        return account


def _require_at_most(stake: int) -> None:
    if stake > MAX_STAKE_WEI:
        raise Reverted("StakeTooLarge", (stake, MAX_STAKE_WEI))


def _require_endpoints(registration: Registration) -> None:
    longest = max(len(registration.p2p_address.encode()), len(registration.gateway_url.encode()))
    if longest > MAX_ENDPOINT_BYTES:
        raise Reverted("EndpointTooLong", (longest, MAX_ENDPOINT_BYTES))


def _swap_out(members: list[Address], leaver: Address) -> None:
    """The last takes the leaver's place, as in the contract: a page of operators is in that order."""
    members[members.index(leaver)] = members[-1]
    members.pop()
