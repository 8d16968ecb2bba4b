"""Transactions of one key: what they pay, how they are signed, and what has become of each."""

from __future__ import annotations

from dataclasses import dataclass, field

from eth_account.typed_transactions.typed_transaction import TypedTransaction
from eth_utils.crypto import keccak

from shared.adapters.chain_evm.wire import Call, Fees, Receipt
from shared.interfaces import IdentitySigner
from shared.types import Digest


@dataclass(frozen=True, slots=True)
class Attempt:
    """One signed form of a transaction."""

    tx_hash: Digest
    raw: bytes


@dataclass(slots=True, eq=False)
class Slot:
    """One nonce and what was sent under it. At most one attempt is ever mined."""

    nonce: int
    call: Call
    gas: int
    fees: Fees
    attempts: list[Attempt] = field(default_factory=list)
    receipt: Receipt | None = None
    lost: str = ""  # why it will never be mined
    misses: int = 0  # looks at which the nonce was used and no attempt had a receipt
    is_fee_capped: bool = False  # said once that the cap keeps it from being replaced

    @property
    def newest(self) -> Attempt:
        return self.attempts[-1]


async def sign(slot: Slot, chain_id: int, signer: IdentitySigner) -> Attempt:
    """A type 2 transaction (EIP-1559), signed over its digest: a signer elsewhere need not know transactions."""
    fields = {
        "type": 2,
        "chainId": chain_id,
        "nonce": slot.nonce,
        "gas": slot.gas,
        "maxFeePerGas": slot.fees.max_wei,
        "maxPriorityFeePerGas": slot.fees.tip_wei,
        "to": slot.call.to or b"",
        "value": slot.call.value_wei,
        "data": slot.call.data,
    }
    signature = await signer.sign(Digest(bytes(TypedTransaction.from_dict(fields).hash())))
    r, s, v = signature[:32], signature[32:64], signature[64]
    signed = fields | {"r": int.from_bytes(r, "big"), "s": int.from_bytes(s, "big"), "v": v - 27}
    raw = TypedTransaction.from_dict(signed).encode()
    return Attempt(Digest(keccak(raw)), raw)
