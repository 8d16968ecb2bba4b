"""A `Court` on the SlashingCourt."""

from __future__ import annotations

from typing import Any

from shared.adapters.chain_evm.abi import court_abi
from shared.adapters.chain_evm.forms import info_form, request_form
from shared.adapters.chain_evm.sender import Sender
from shared.adapters.terms import Deployment
from shared.crypto import bls
from shared.interfaces import SignedVote
from shared.types import Address, Digest, TaskRequest


class EvmCourt:
    """Sends with the sender's key. Anyone may show an offence, so no call here depends on who that is."""

    def __init__(self, sender: Sender, deployment: Deployment) -> None:
        self._sender, self._court = sender, deployment.court

    async def report_equivocation(self, first: SignedVote, second: SignedVote) -> Digest:
        """Raises `CodecError` too, for a signature that is no point of its group: those two votes prove nothing."""
        return await self._send("reportEquivocation", _vote(first), _vote(second), _signatures(first, second))

    async def name_harmed(self, slash_id: Digest, request: TaskRequest) -> Digest:
        return await self._send("nameHarmed", slash_id, request_form(request))

    async def execute_slash(self, slash_id: Digest) -> Digest:
        return await self._send("executeSlash", slash_id)

    async def pay(self, account: Address) -> Digest:
        """What the court owes a harmed requester, or the vault. Anyone may."""
        return await self._send("pay", account)

    async def _send(self, function: str, *arguments: Any) -> Digest:
        return await self._sender.send(self._court, court_abi().call_data(function, *arguments))


def _vote(vote: SignedVote) -> tuple[Any, ...]:
    return info_form(vote.info), int(vote.verdict), vote.seat


def _signatures(first: SignedVote, second: SignedVote) -> bytes:
    """One key signed both where seat and epoch are the same, and then one pairing over the sum proves both."""
    is_one_key = (first.seat, first.info.epoch) == (second.seat, second.info.epoch)
    signatures = (first.signature, second.signature)
    return bls.aggregate(signatures) if is_one_key else b"".join(signatures)
