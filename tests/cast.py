"""Who is who in the tests of the roles, and what they say: requests, tasks, votes and certificates, honest or not."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import msgspec

from shared.adapters.memory.content import ContentHub
from shared.content.unixfs import cid_of
from shared.crypto import bls
from shared.digests import Domain
from shared.documents import ProofObject, encode_proof
from shared.evidence import NO_EVIDENCE
from shared.json_forms import request_to_json, to_hex
from shared.messages import (
    AbstainMessage,
    TaskMessage,
    Topics,
    VoteMessage,
)
from shared.reasons import AbstainReason
from shared.roster import Roster
from shared.types import (
    Address,
    Digest,
    Fingerprint,
    Operator,
    OperatorTable,
    PeerKey,
    Role,
    TableEntry,
    TaskCertificate,
    TaskDefinition,
    TaskInfo,
    TaskRequest,
    Verdict,
)
from shared.validation import GossipRules
from tests.chain_support import AGGREGATOR, ETHER, PERFORMER, POWER_UNIT, Person, attesters, sha
from tests.simnet.virtual_time import VirtualClock
from tests.toy_model import CARD_CID, DATA, DEFINITION, DOCUMENT, MODEL_HASH, OUTPUT

REQUESTER = Person("requester")


class Cast:
    """One performer, attesters with these stakes in ether, one aggregator; epoch 1, one task definition. Nothing
    changes unless a test changes it. Keys and signatures are real."""

    def __init__(self, weights: Sequence[int] = (1, 1, 1, 1)) -> None:
        self.weights, self._deadline = weights, 0
        self.people = attesters(len(weights))
        self.clock = VirtualClock()
        self.domain = Domain(31337, Address(hashlib.sha256(b"center").digest()[:20]))  # as MemoryChain's
        self.topics = Topics(self.domain)
        self.content = ContentHub()
        self.roster = Roster(
            epoch=1,
            operators=self._operators(),
            tables={1: self.table_of(1)},
            definitions={0: DEFINITION},
            beacons={1: beacon_of(1)},
        )

    # --- who is who ------------------------------------------------------------------------------
    def table_of(self, epoch: int) -> OperatorTable:
        entries = (
            TableEntry(person.address, person.vote.public_key, weight * ETHER // POWER_UNIT)
            for person, weight in zip(self.people, self.weights, strict=True)
        )
        return OperatorTable(epoch, tuple(entries))

    def _operators(self) -> tuple[Operator, ...]:
        roles = [(PERFORMER, Role.PERFORMER, 10), (AGGREGATOR, Role.AGGREGATOR, 1)]
        roles += [(person, Role.ATTESTER, weight) for person, weight in zip(self.people, self.weights, strict=True)]
        return tuple(_operator(person, role, weight * ETHER) for person, role, weight in roles)

    def enlist(self, person: Person, role: Role) -> None:
        """One operator more; the tables stay."""
        operators = (*self.roster.operators, _operator(person, role, ETHER))
        self.roster = replace(self.roster, operators=operators)

    def define(self, definition: TaskDefinition) -> None:
        """Adds or replaces a task definition."""
        definitions = {**self.roster.definitions, definition.id: definition}
        self.roster = replace(self.roster, definitions=definitions)

    def roll(self) -> None:
        """The next epoch, with the same attesters."""
        epoch = self.roster.epoch + 1
        tables = {number: self.table_of(number) for number in (epoch - 1, epoch)}
        beacons = {number: beacon_of(number) for number in range(max(1, epoch - 2), epoch + 1)}
        self.roster = replace(self.roster, epoch=epoch, tables=tables, beacons=beacons)

    def rules(self) -> GossipRules:
        return GossipRules(domain=self.domain, roster=lambda: self.roster, clock=self.clock)

    # --- what people say -------------------------------------------------------------------------
    def request(self, **changes: Any) -> TaskRequest:
        """An honest request, but for the changes."""
        honest = TaskRequest(
            requester=REQUESTER.address,
            nonce=1,  # type: ignore[arg-type]  # the request makes a Uint256 of it
            performer=PERFORMER.address,
            task_definition_id=0,
            model_hash=MODEL_HASH,
            input_cid=cid_of(DOCUMENT),
            parameters="{}",
            seed=Digest(sha("seed")),
            fee=0,  # type: ignore[arg-type]
            deadline=changes.pop("deadline", None) or self._usual_deadline(),
        )
        return msgspec.structs.replace(honest, **changes)

    def _usual_deadline(self) -> int:
        """The same for minutes, so that the same request is the same task."""
        now = int(self.clock.now())
        if now + 300 > self._deadline:
            self._deadline = now + 600
        return self._deadline

    def form(
        self, request: TaskRequest | None = None, document: bytes | None = DOCUMENT, signer: Person = REQUESTER
    ) -> dict[str, Any]:
        """The parameters of `poi_requestInference`."""
        request = request or self.request()
        signature = signer.identity.sign(self.domain.task_id(request))
        form: dict[str, Any] = {"request": request_to_json(request), "signature": to_hex(signature)}
        return form if document is None else {**form, "input": document.decode()}

    async def performed(
        self,
        *,
        request: Mapping[str, Any] | None = None,
        bound: Mapping[str, Any] | None = None,
        proof: bytes | None = None,
        info: Mapping[str, Any] | None = None,
        document: bytes = DOCUMENT,
        performer: Person = PERFORMER,
    ) -> TaskMessage:
        """An honest task message, proof and input on the performer's shelf, but for the changes: of the request, of
        what the proof object names, of the proof's whole bytes, of the task info."""
        asked = self.request(**{"input_cid": cid_of(document), "performer": performer.address, **(request or {})})
        task_id = self.domain.task_id(asked)
        named: dict[str, Any] = {
            "task_id": task_id,
            "card_cid": CARD_CID,
            "model_hash": MODEL_HASH,
            "input_cid": asked.input_cid,
            "parameters": asked.parameters,
            "seed": asked.seed,
            "output": OUTPUT,
            "engine": Fingerprint("memory", "1", "FunctionProvider", "python"),
        }
        shelf = self.content.join(performer.address)
        await shelf.add(document)
        ref = await shelf.add(proof or encode_proof(ProofObject(**{**named, **(bound or {})})))
        honest = TaskInfo(task_id, ref.cid, DATA, performer.address, asked.task_definition_id, self.roster.epoch)
        said = msgspec.structs.replace(honest, **(info or {}))
        return TaskMessage(
            request=asked,
            requester_signature=REQUESTER.identity.sign(task_id),
            task_info=said,
            performer_signature=performer.identity.sign(self.domain.task_info_hash(said)),
            content=msgspec.structs.replace(ref, cid=said.proof_of_task),
        )

    def vote(
        self,
        index: int,
        info: TaskInfo,
        verdict: Verdict = Verdict.VALID,
        *,
        key: bls.SecretKey | None = None,
        **changes: Any,
    ) -> VoteMessage:
        info_hash = self.domain.task_info_hash(info)
        signature = (key or self.people[index].vote).sign(self.domain.vote(info_hash, verdict))
        attester = self.people[index].address
        vote = VoteMessage(info.task_id, info_hash, info.epoch, attester, verdict, signature, NO_EVIDENCE)
        return msgspec.structs.replace(vote, **changes)

    def abstention(self, index: int, info: TaskInfo, reason: AbstainReason) -> AbstainMessage:
        info_hash = self.domain.task_info_hash(info)
        return AbstainMessage(info.task_id, info_hash, info.epoch, self.people[index].address, reason)

    def info(self, name: str, **changes: Any) -> TaskInfo:
        """A task info of no request; enough for what happens after the votes."""
        info = TaskInfo(Digest(sha("task", name)), cid_of(name.encode()), DATA, PERFORMER.address, 0, self.roster.epoch)
        return msgspec.structs.replace(info, **changes)

    def certificate(
        self, info: TaskInfo, verdict: Verdict = Verdict.VALID, signers: Sequence[int] | None = None
    ) -> TaskCertificate:
        """Signed by all unless said."""
        chosen = tuple(range(len(self.people)) if signers is None else signers)
        votes = [self.vote(index, info, verdict).signature for index in chosen]
        signature = PERFORMER.identity.sign(self.domain.task_info_hash(info))
        return TaskCertificate(info, verdict, chosen, bls.aggregate(votes), signature)


def beacon_of(epoch: int) -> Digest:
    return Digest(sha("beacon", epoch))


def peer_key_of(person: Person) -> PeerKey:
    return PeerKey(sha("peer", person.name))  # as Person.registration's


def _operator(person: Person, role: Role, stake_wei: int) -> Operator:
    key = person.vote.public_key if role is Role.ATTESTER else b""
    return Operator(
        address=person.address,
        owner=person.address,
        rewards_receiver=person.address,
        roles=role,
        stake_wei=stake_wei,
        vote_key=key,
        peer_key=peer_key_of(person),
        p2p_address="memory",
        gateway_url="memory",
        is_active=True,
    )
