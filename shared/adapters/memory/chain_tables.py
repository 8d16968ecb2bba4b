"""A model of the EpochTables: the contract's state and rules, its checks in its order, its errors by its names.

Values are frozen and copies shallow, so that a refused transaction and a reorg cost little to take back. Left out:
attester sets other than everybody (nobody can make one here, so each is unknown), rotating a vote key, and rolls that
take several transactions, which the contract needs above 104 new seats.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from eth_utils.crypto import keccak
from py_arkworks_bls12381 import GT, G1Point, G2Point

from shared import quorum
from shared.adapters.memory.chain_coins import hex_of, require_within
from shared.constants import MAX_SEATS
from shared.crypto import bls
from shared.digests import Domain
from shared.errors import CodecError, Reverted
from shared.indices import ONE_BYTE_SEATS
from shared.types import Address, Digest, OperatorTable, TableEntry, Verdict

MAX_SECONDS = 30 * 24 * 3600
NO_BLOCK = Digest(bytes(32))


@dataclass(slots=True)
class TablesModel:
    """`now` is the block's time in unix seconds. Methods raise `Reverted`, and change nothing then."""

    domain: Domain  # of proofs of possession
    epoch_seconds: int
    grace_seconds: int
    seats: list[TableEntry] = field(default_factory=list)  # the last to sit there, without power once unseated
    seat_of: dict[Address, int] = field(default_factory=dict)
    free: list[int] = field(default_factory=list)
    taken_keys: set[bytes] = field(default_factory=set)
    tables: dict[int, OperatorTable] = field(default_factory=dict)  # of every epoch there ever was
    superseded: dict[int, int] = field(default_factory=dict)  # epoch → unix seconds
    beacons: dict[int, Digest] = field(default_factory=dict)  # by epoch: the prevRandao of the block that rolled it
    prev_randao: Digest = NO_BLOCK  # of the block that is being made
    rolled_at: int = 0
    is_due: bool = False  # somebody was slashed or left since the last roll

    def __post_init__(self) -> None:
        require_within("epochSeconds", self.epoch_seconds, 1, MAX_SECONDS)
        require_within("graceSeconds", self.grace_seconds, 1, MAX_SECONDS)

    def copy(self) -> TablesModel:
        """Other tables in the same state."""
        return replace(
            self,
            seats=list(self.seats),
            seat_of=dict(self.seat_of),
            free=list(self.free),
            taken_keys=set(self.taken_keys),
            tables=dict(self.tables),
            superseded=dict(self.superseded),
            beacons=dict(self.beacons),
        )

    # --- the source ----------------------------------------------------------------------------------
    def seat(self, operator: Address, vote_key: bytes, possession: bytes, power: int) -> int:
        """The seat's number; the operator votes from the next roll on."""
        if operator in self.seat_of:
            raise Reverted("AlreadySeated", (hex_of(operator),))
        self._require_vote_key(operator, vote_key, possession)
        self.taken_keys.add(vote_key)
        if not self.free and len(self.seats) == MAX_SEATS:
            raise Reverted("TooManySeats", (MAX_SEATS,))
        entry = TableEntry(operator, vote_key, power)
        if self.free:
            number = self.free.pop()
            self.seats[number] = entry
        else:
            number = len(self.seats)
            self.seats.append(entry)
        self.seat_of[operator] = number
        return number

    def set_power(self, operator: Address, power: int, *, may_roll_now: bool) -> None:
        number = self._number_of(operator)
        entry = self.seats[number]
        self.seats[number] = TableEntry(entry.address, entry.vote_key, power)
        self.is_due = self.is_due or may_roll_now

    def unseat(self, operator: Address) -> None:
        """The seat is the next newcomer's."""
        number = self._number_of(operator)
        entry = self.seats[number]
        self.seats[number] = TableEntry(entry.address, entry.vote_key, 0)
        del self.seat_of[operator]
        self.free.append(number)
        self.is_due = True

    def vote_key_of(self, operator: Address) -> bytes:
        """The present one; empty for who has no seat."""
        number = self.seat_of.get(operator)
        return b"" if number is None else self.seats[number].vote_key

    def _number_of(self, operator: Address) -> int:
        if operator not in self.seat_of:
            raise Reverted("NotSeated", (hex_of(operator),))
        return self.seat_of[operator]

    def _require_vote_key(self, operator: Address, key: bytes, possession: bytes) -> None:
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
        if not bls.verify_possession(key, self.domain.key_possession(operator, key), possession):
            raise Reverted("PossessionMismatch", (hex_of(operator), key_hash))

    # --- epochs --------------------------------------------------------------------------------------
    @property
    def epoch(self) -> int:
        return len(self.tables)

    @property
    def rollable_at(self) -> int:
        if self.epoch == 0:
            return 0
        return self.rolled_at if self.is_due else self.rolled_at + self.epoch_seconds

    def roll_epoch(self, now: int) -> int:
        """The new epoch. Changes nothing of the tables before it."""
        if now < self.rollable_at:
            raise Reverted("EpochNotOver", (self.rollable_at,))
        if self.epoch:
            self.superseded[self.epoch] = now
        epoch = self.epoch + 1
        self.tables[epoch] = OperatorTable(epoch, tuple(self.seats))
        self.beacons[epoch] = self.prev_randao
        self.rolled_at, self.is_due = now, False
        return epoch

    def is_expired(self, epoch: int, now: int) -> bool:
        """Whether no vote of it can settle any more."""
        return epoch in self.superseded and now > self.superseded[epoch] + self.grace_seconds

    # --- who signed ----------------------------------------------------------------------------------
    def verify_quorum(
        self,
        digest: Digest,
        epoch: int,
        attester_set: int,
        *,
        is_approval: bool,
        signature: bytes,
        indices: bytes,
        now: int,
    ) -> int:
        """The signers' power."""
        table = self._table(epoch, attester_set)
        if self.is_expired(epoch, now):
            raise Reverted("EpochExpired", (epoch, self.superseded[epoch] + self.grace_seconds))
        signers = _signers(table, indices, is_approval=is_approval)
        power = quorum.power_of(table, signers)
        if not quorum.reached(Verdict.VALID if is_approval else Verdict.INVALID, power, table.total_power):
            raise Reverted("QuorumNotReached", (power, table.total_power, is_approval))
        _require_signed([table.entries[i].vote_key for i in signers], digest, signature)
        return power

    def verify_vote(self, digest: Digest, epoch: int, seat: int, signature: bytes) -> Address:
        """Who sat there and signed, however long ago."""
        return self._verify_one([digest], epoch, seat, signature)

    def verify_both_votes(self, digests: Sequence[Digest], epoch: int, seat: int, signature_sum: bytes) -> Address:
        """Who sat there and signed both: only they know the sum of the two signatures."""
        return self._verify_one(digests, epoch, seat, signature_sum)

    def share_of(
        self, epoch: int, attester_set: int, *, is_approval: bool, indices: bytes, seat: int
    ) -> tuple[Address, int, int]:
        """Who sits there, the seat's power (0 if it did not sign), and the power of all signers."""
        table = self._table(epoch, attester_set)
        entry = _entry(table, seat)
        signers = _signers(table, indices, is_approval=is_approval)
        return entry.address, entry.power if seat in signers else 0, quorum.power_of(table, signers)

    def _verify_one(self, digests: Sequence[Digest], epoch: int, seat: int, signature: bytes) -> Address:
        entry = _entry(self._table(epoch, 0), seat)
        _require_sound(signature, [entry.vote_key])
        if not _signed_all(entry.vote_key, digests, signature):
            raise Reverted("SignatureMismatch", (digests[0],))
        return entry.address

    def _table(self, epoch: int, attester_set: int) -> OperatorTable:
        if epoch not in self.tables:
            raise Reverted("UnknownEpoch", (epoch, self.epoch))
        if attester_set:
            raise Reverted("SetTableMissing", (epoch, attester_set))
        return self.tables[epoch]


def _signers(table: OperatorTable, indices: bytes, *, is_approval: bool) -> list[int]:
    """Whom `indices` name, or, for an approval, all others who have power."""
    named = _decode(indices, len(table.entries))
    for position, index in enumerate(named):
        if index >= len(table.entries):
            raise Reverted("IndexOutOfRange", (position, index, len(table.entries)))
        if position and index == named[position - 1]:
            raise Reverted("IndexDuplicate", (position, index))
        if position and index < named[position - 1]:
            raise Reverted("IndicesUnsorted", (position, index))
        if not table.entries[index].power:
            raise Reverted("IndexWithoutPower", (position, index))
    if not is_approval:
        return named
    missing = set(named)
    return [i for i, entry in enumerate(table.entries) if entry.power and i not in missing]


def _decode(indices: bytes, seats: int) -> list[int]:
    if seats <= ONE_BYTE_SEATS:
        return list(indices)
    if len(indices) % 2:
        raise Reverted("IndicesLength", (len(indices),))
    return [int.from_bytes(indices[i : i + 2], "big") for i in range(0, len(indices), 2)]


def _entry(table: OperatorTable, seat: int) -> TableEntry:
    if seat >= len(table.entries):
        raise Reverted("IndexOutOfRange", (0, seat, len(table.entries)))
    return table.entries[seat]


def _require_signed(keys: list[bytes], digest: Digest, signature: bytes) -> None:
    _require_sound(signature, keys)
    if not bls.verify_aggregate(keys, digest, signature):
        raise Reverted("SignatureMismatch", (digest,))


def _require_sound(signature: bytes, keys: list[bytes]) -> None:
    if len(signature) != bls.G1_BYTES:
        raise Reverted("SignatureLength", (len(signature),))
    if not any(signature):
        raise Reverted("InfinitySignature")
    if sum((G2Point.from_xy_bytes_unchecked_be(key) for key in keys), G2Point.identity()) == G2Point.identity():
        raise Reverted("InfinityAggregate")
    if not _is_g1(signature):
        raise Reverted("MalformedSignature", (signature,))


def _signed_all(key: bytes, digests: Sequence[Digest], signature_sum: bytes) -> bool:
    """One pairing over the sum of the signatures, as on chain."""
    hashed = sum((G1Point.hash_to_curve(digest, bls.SUITE) for digest in digests), G1Point.identity())
    points = [G1Point.from_xy_bytes_unchecked_be(signature_sum), hashed]
    return bool(GT.pairing_check(points, [-G2Point(), G2Point.from_xy_bytes_unchecked_be(key)]))


def _is_g1(packed: bytes) -> bool:
    try:
        bls.aggregate([packed])
    except CodecError:
        return False
    return True
