"""Nodes that break the rules. Each is the honest role with one thing bent, so that all else about it is in order."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable

import msgspec

from attester.judge import Judge
from attester.self_test import SelfTest
from attester.service import Attester
from performer.service import Performer
from poi.testnet.lies import LyingMethod
from shared import messages
from shared.adapters.signers import LocalVoteSigner
from shared.content.unixfs import UNIXFS_V1_2025
from shared.documents import ProofObject, decode_proof, encode_proof
from shared.duty import attend
from shared.errors import CodecError
from shared.interfaces import Received
from shared.messages import TaskMessage, VoteMessage
from shared.node import Node
from shared.reasons import InvalidReason
from shared.types import Cid, Digest, Ref, TaskInfo, Verdict
from shared.verification import METHODS
from shared.verification.method import Judgement, invalid
from shared.workflow import Task
from tests.simnet.models import others_of
from tests.simnet.plan import person

OTHER_LABEL = (9).to_bytes(32, "big")


# --- attesters -----------------------------------------------------------------------------------
class AgainstAll(Judge):
    """Finds everything invalid without a look."""

    async def judge(self, message: TaskMessage) -> Judgement:
        return invalid(InvalidReason.LABEL_DIFFERS)


def naysayer(node: Node) -> Attester:
    """An attester that votes invalid on everything."""
    attester = Attester.from_node(node)
    attester._judge = AgainstAll(
        address=node.signer.address,
        roster=lambda: node.roster.current,
        content=node.content,
        library=node.library,
        self_test=SelfTest(content=node.content),
        clock=node.clock,
    )
    return attester


class TwoVotes(Attester):
    """Signs both verdicts, the false one first, and asks no guard."""

    async def _sign_and_publish(self, message: TaskMessage, info_hash: Digest, verdict: Verdict) -> None:
        for signed in (Verdict.INVALID, Verdict.VALID):
            await super()._sign_and_publish(message, info_hash, signed)


class Copier(Attester):
    """Computes nothing: votes as the first whom it hears on a task, and quotes that vote's commitment."""

    async def run(self) -> None:
        self._heard: dict[Digest, asyncio.Future[VoteMessage]] = defaultdict(asyncio.Future)
        async with asyncio.TaskGroup() as group:
            group.create_task(super().run())
            group.create_task(attend(self._gossip, self._topics.vote, self._rules.check_vote, self._listen))

    async def _listen(self, received: Received) -> None:
        vote = messages.decode_vote(received.data)
        if isinstance(vote, VoteMessage) and not self._heard[vote.task_info_hash].done():
            self._heard[vote.task_info_hash].set_result(vote)

    async def _decide(self, message: TaskMessage, info_hash: Digest) -> None:
        heard = await self._heard[info_hash]
        copied = msgspec.structs.replace(
            heard,
            attester=self._address,
            signature=await self._signer.sign(self._domain.vote(info_hash, heard.verdict)),
        )
        await self._gossip.publish(self._topics.vote, messages.encode(copied))


def forger(node: Node) -> Attester:
    """An attester whose votes are signed by another key than its registered one."""
    attester = Attester.from_node(node)
    attester._signer = LocalVoteSigner(person("nobody").vote)
    return attester


# --- performers ----------------------------------------------------------------------------------
def liar(node: Node) -> Performer:
    """A performer of `poi.testnet.lies`: which cheat it plays, the task id says."""
    return Performer.from_node(node, methods={name: LyingMethod(method, others_of) for name, method in METHODS.items()})


class Swindler(Performer):
    """A performer whose signed `data` is not what its proof says: the task info's is changed before it is signed."""

    def _task_info(self, task: Task, proof_of_task: Cid, data: bytes, epoch: int) -> TaskInfo:
        return super()._task_info(task, proof_of_task, OTHER_LABEL if data != OTHER_LABEL else bytes(32), epoch)


class TwoTaskInfos(Performer):
    """Signs a second task info for every task, and publishes both."""

    async def _publish(self, task: Task) -> None:
        await super()._publish(task)
        if task.task_info is None:
            return
        second = msgspec.structs.replace(task.task_info, data=OTHER_LABEL)
        message = TaskMessage(
            request=task.request,
            requester_signature=task.requester_signature,
            task_info=second,
            performer_signature=await self._signer.sign(self._domain.task_info_hash(second)),
            content=Ref(second.proof_of_task, 0, UNIXFS_V1_2025.name),
        )
        await self._gossip.publish(self._topics.task, messages.encode(message))


# --- content -------------------------------------------------------------------------------------
def is_proof(data: bytes) -> bool:
    try:
        decode_proof(data)
    except CodecError:
        return False
    return True


def bent_proof(change: Callable[[ProofObject], ProofObject | bytes]) -> Callable[[bytes], bytes]:
    """For `Shelf.bend`: every proof is replaced by what `change` makes of it; other content stays."""

    def bend(data: bytes) -> bytes:
        if not is_proof(data):
            return data
        changed = change(decode_proof(data))
        return changed if isinstance(changed, bytes) else encode_proof(changed)

    return bend
