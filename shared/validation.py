"""The gossip checks of protocol §4, in its order: cheap ones first, signatures late.

Each check ends in a message, in `Reject` (counts against the forwarder) or in `Ignore` (counts against nobody).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from hashlib import sha256
from itertools import pairwise
from typing import TypeVar

from shared import constants, messages, quorum
from shared.content.cid import parse_cid
from shared.content.unixfs import PROFILES
from shared.crypto import bls, ecdsa
from shared.digests import Domain
from shared.errors import CodecError, Ignore, Reject
from shared.interfaces import Clock
from shared.roster import Roster
from shared.types import Cid, OperatorTable, PeerKey, Ref, Role, TaskCertificate, TaskRequest, Verdict

T = TypeVar("T")
SIGNED_VERDICTS = (Verdict.VALID, Verdict.INVALID)


class SeenCache:
    """Remembers when a key was last accepted; bounded, the least recently accepted key goes first."""

    def __init__(self, size: int = constants.SEEN_CACHE_SIZE) -> None:
        self._size = size
        self._accepted: OrderedDict[Hashable, float] = OrderedDict()

    def is_repeated(self, key: Hashable, now: float) -> bool:
        """Whether the key was accepted less than REPEAT_SECONDS ago."""
        accepted = self._accepted.get(key)
        return accepted is not None and 0 <= now - accepted < constants.REPEAT_SECONDS

    def accept(self, key: Hashable, now: float) -> None:
        """Only after every check: else a forged copy would silence the real message."""
        self._accepted[key] = now
        self._accepted.move_to_end(key)
        if len(self._accepted) > self._size:
            self._accepted.popitem(last=False)


class CertificateChecker:
    """Verifies certificates; a certificate that passed once costs nothing the second time."""

    def __init__(self, domain: Domain) -> None:
        self._domain = domain
        self._passed: OrderedDict[TaskCertificate, None] = OrderedDict()

    def check(self, certificate: TaskCertificate, table: OperatorTable) -> None:
        """Raises `Reject`. `table` must be the one of the certificate's epoch."""
        if certificate in self._passed:
            return
        verify_certificate(self._domain, table, certificate)
        self._passed[certificate] = None
        if len(self._passed) > constants.MAX_POOLED_TASKS:
            self._passed.popitem(last=False)


def verify_certificate(domain: Domain, table: OperatorTable, certificate: TaskCertificate) -> None:
    """What the contract checks of a certificate by itself; that its performer is registered, the roster says.

    Raises `Reject`.
    """
    _check_form(certificate)
    signers = certificate.signers
    if signers[-1] >= len(table.entries):
        raise Reject("signers")
    if not all(table.entries[index].power for index in signers):
        raise Reject("signers")  # no vote: the contract refuses the index
    if not quorum.reached(certificate.verdict, quorum.power_of(table, signers), table.total_power):
        raise Reject("quorum")
    info_hash = domain.task_info_hash(certificate.task_info)
    if not ecdsa.is_signed_by(certificate.task_info.task_performer, info_hash, certificate.performer_signature):
        raise Reject("performer's signature")
    keys = [table.entries[index].vote_key for index in signers]
    if not bls.verify_aggregate(keys, domain.vote(info_hash, certificate.verdict), certificate.signature):
        raise Reject("aggregate signature")


def _check_form(certificate: TaskCertificate) -> None:
    """What can be said without a table."""
    signers = certificate.signers
    if certificate.verdict not in SIGNED_VERDICTS:
        raise Reject("verdict")
    if len(certificate.signature) != bls.G1_BYTES:
        raise Reject("signature length")
    is_increasing = all(before < after for before, after in pairwise(signers))
    if not signers or not is_increasing or signers[0] < 0 or signers[-1] >= constants.MAX_SEATS:
        raise Reject("signers")


class GossipRules:
    """The checks of one node, for all topics. `check_*` are the validators that `Gossip.subscribe` takes."""

    def __init__(self, *, domain: Domain, roster: Callable[[], Roster], clock: Clock) -> None:
        self._domain, self._roster, self._clock = domain, roster, clock
        self._tasks, self._votes, self._certificates, self._batches = (SeenCache() for _ in range(4))
        self.certificate_checker = CertificateChecker(domain)

    def check_task(self, origin: PeerKey, data: bytes) -> messages.TaskMessage:
        """`N/task`."""
        message = _decoded(messages.decode_task, data)
        roster, request, info, now = self._roster(), message.request, message.task_info, self._clock.now()
        author = roster.author(origin, Role.PERFORMER)
        if not info.task_performer == request.performer == author.address:
            raise Reject("performer")
        if info.task_id != self._domain.task_id(request) or info.task_definition_id != request.task_definition_id:
            raise Reject("task id")
        if not (is_canonical_cid(info.proof_of_task) and is_canonical_cid(request.input_cid)):
            raise Reject("CID")
        check_content(message.content, info.proof_of_task)
        check_bounds(request, info.data)
        if not now < request.deadline <= now + constants.MAX_DEADLINE_SECONDS:
            raise Ignore("deadline")
        roster.table_of(info)
        info_hash = self._domain.task_info_hash(info)
        if self._tasks.is_repeated(info_hash, now):
            raise Ignore("repeated")
        if not ecdsa.is_signed_by(request.requester, info.task_id, message.requester_signature):
            raise Reject("requester's signature")
        if not ecdsa.is_signed_by(author.address, info_hash, message.performer_signature):
            raise Reject("performer's signature")
        self._tasks.accept(info_hash, now)
        return message

    def check_vote(self, origin: PeerKey, data: bytes) -> messages.VoteMessage | messages.AbstainMessage:
        """`N/vote`. The vote's signature is the aggregator's to verify, before it counts."""
        message = _decoded(messages.decode_vote, data)
        roster, now = self._roster(), self._clock.now()
        author = roster.author(origin, Role.ATTESTER)
        if isinstance(message, messages.VoteMessage):
            if message.verdict not in SIGNED_VERDICTS or len(message.signature) != bls.G1_BYTES:
                raise Reject("verdict or signature length")
            key: Hashable = (message.attester, message.task_info_hash, message.verdict)
        else:
            key = (message.attester, message.task_info_hash, message.reason)
        table = roster.table(message.epoch)
        if author.address != message.attester:
            raise Reject("attester")
        if table.index_of(message.attester) is None:
            raise Ignore("attester is not in the table")
        self._pass_once(self._votes, key, now)
        return message

    def check_certificate(
        self, origin: PeerKey, data: bytes
    ) -> messages.CertificateMessage | messages.SubmittedMessage:
        """`N/certificate`."""
        message = _decoded(messages.decode_certificate, data)
        roster, now = self._roster(), self._clock.now()
        author = roster.author(origin, Role.AGGREGATOR)
        if isinstance(message, messages.SubmittedMessage):
            if author.address != message.aggregator or len(message.task_ids) > constants.MAX_BATCH_SIZE:
                raise Reject("aggregator or size")
            return message
        _check_form(message.certificate)
        table = roster.table_of(message.certificate.task_info)
        key = self._certificate_key(message.certificate)
        if self._certificates.is_repeated(key, now):
            raise Ignore("repeated")
        self.certificate_checker.check(message.certificate, table)
        self._certificates.accept(key, now)
        return message

    def check_batch(self, origin: PeerKey, data: bytes) -> messages.BatchProposal | messages.BatchVote:
        """`N/batch`. The certificates inside are checked by who signs them, off this path: there may be 128."""
        message = _decoded(messages.decode_batch, data)
        roster, now = self._roster(), self._clock.now()
        if isinstance(message, messages.BatchVote):
            author = roster.author(origin, Role.ATTESTER)
            if len(message.signature) != bls.G1_BYTES:
                raise Reject("signature length")
            table = roster.table(message.batch.epoch)
            if author.address != message.attester:
                raise Reject("attester")
            if table.index_of(message.attester) is None:
                raise Ignore("attester is not in the table")
            self._pass_once(self._batches, (message.attester, message.batch), now)
            return message
        author = roster.author(origin, Role.AGGREGATOR)
        if not 0 < len(message.certificates) <= constants.MAX_BATCH_SIZE:
            raise Reject("batch size")
        if author.address != message.aggregator:
            raise Reject("aggregator")
        roster.table(message.epoch)
        return message

    def _certificate_key(self, certificate: TaskCertificate) -> bytes:
        """32 bytes of a certificate of good form: whole ones, up to 32 KiB each, would make the cache 2 GiB."""
        info_hash = self._domain.task_info_hash(certificate.task_info)
        seats = b"".join(index.to_bytes(2, "big") for index in certificate.signers)
        head = bytes((certificate.verdict,)) + len(certificate.signers).to_bytes(2, "big") + seats
        return sha256(head + info_hash + certificate.signature + certificate.performer_signature).digest()

    @staticmethod
    def _pass_once(seen: SeenCache, key: Hashable, now: float) -> None:
        if seen.is_repeated(key, now):
            raise Ignore("repeated")
        seen.accept(key, now)


def is_canonical_cid(text: str) -> bool:
    """CIDv1, raw or dag-pb, SHA-256, base32 lower case."""
    try:
        parse_cid(text)
    except CodecError:
        return False
    return True


def check_content(content: Ref, proof_of_task: Cid) -> None:
    """Raises `Reject` for another file, a form that nobody builds, or more than a message may carry."""
    if content.cid != proof_of_task or content.profile not in PROFILES:
        raise Reject("content of another CID or profile")
    if not 0 <= content.size < 2**63 or len(content.eigenda) > constants.MAX_EIGENDA_CERTIFICATE_BYTES:
        raise Reject("content size")  # a proof that is too large is for attesters to refuse, by name
    if len(content.sources) > constants.MAX_SOURCES or any(
        len(source) > constants.MAX_SOURCE_CHARACTERS for source in content.sources
    ):
        raise Reject("content sources")


def check_bounds(request: TaskRequest, data: bytes = b"") -> None:
    """Raises `Reject` for parameters or data over their limit."""
    if len(request.parameters.encode()) > constants.MAX_PARAMETERS_BYTES:
        raise Reject("parameters size")
    if len(data) > constants.MAX_DATA_BYTES:
        raise Reject("data size")


def _decoded(decode: Callable[[bytes], T], data: bytes) -> T:
    try:
        return decode(data)
    except CodecError as error:
        raise Reject(f"not decodable: {error}") from None
