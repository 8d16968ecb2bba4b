"""An attester's opinion: each trouble has one verdict and one reason, and only the performer's own lies are invalid."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest

from shared.constants import MAX_PROOF_BYTES
from shared.content.cid import Codec, make_block
from shared.content.unixfs import cid_of
from shared.documents import (
    ClassifyOutput,
    ProofObject,
    TensorOutput,
    TextOutput,
    encode_proof,
)
from shared.messages import TaskMessage
from shared.reasons import InvalidReason
from shared.tensors import Tensor, encode_tensor
from shared.types import Digest, Verdict
from shared.verification.method import Judgement
from tests.chain_support import PERFORMER, Person, sha
from tests.listening import virtual
from tests.roles import World
from tests.toy_model import (
    CARD,
    CARD_BYTES,
    CARD_CID,
    DOCUMENT,
    MODEL,
    MODEL_HASH,
    OUTPUT,
    document_of,
)

Task = Callable[[World], Awaitable[TaskMessage]]


def invalid(reason: InvalidReason) -> Judgement:
    return Judgement(verdict=Verdict.INVALID, reason=reason, score=0.0)


def performing(**changes: Any) -> Task:
    """See `Cast.performed`."""
    return lambda world: world.performed(**changes)


def with_output(label: int = OUTPUT.label, scores: Any = None) -> dict[str, Any]:
    tensor = OUTPUT.scores if scores is None else encode_tensor(np.array(scores))
    return {"output": ClassifyOutput(scores=tensor, label=label)}


async def plant(world: World, data: bytes, codec: Codec = Codec.RAW) -> Any:
    """One block on the performer's shelf, whatever it is; its CID."""
    block = make_block(codec, data)
    world.content.join(PERFORMER.address)
    world.content.blocks[PERFORMER.address][block.cid] = block
    return block.cid


# --- honest ------------------------------------------------------------------------------------------
@virtual
async def test_an_honest_task_is_valid() -> None:
    async with World() as world:
        judgement = await world.judge().judge(await world.performed())
        assert (judgement.verdict, judgement.reason) == (Verdict.VALID, None)
        assert 0 <= judgement.score <= 1


@virtual
async def test_a_result_within_the_tolerance_is_valid_and_measured() -> None:
    tolerance = CARD.tolerances["scores"].absolute
    near = np.frombuffer(OUTPUT.scores.data, np.float32).reshape(1, 3) + np.float32(tolerance / 2)
    async with World() as world:
        judgement = await world.judge().judge(await world.performed(bound=with_output(scores=near)))
        assert judgement.verdict is Verdict.VALID
        assert judgement.score == pytest.approx(0.5, abs=0.02)


# --- the performer's own lies ------------------------------------------------------------------------
SCORES = np.frombuffer(OUTPUT.scores.data, np.float32).reshape(1, 3)
OTHER_CARD = cid_of(b"another card")
GARBAGE = {
    "empty": b" ",
    "text": b"this is no proof",
    "JSON of something else": b"{}",
    "deep": b"[" * 100_000,
    "not UTF-8": b"\xff" * 50,
    "an input": DOCUMENT,
    "the card": CARD_BYTES,
}
NO_ARRAY = Tensor("float32", (0, *(1 << 22,) * 3), b"")  # empty, and of a shape that numpy refuses
LIES: dict[str, tuple[Task, InvalidReason]] = {
    **{name: (performing(proof=data), InvalidReason.PROOF_MALFORMED) for name, data in GARBAGE.items()},
    "a shape of no array": (
        performing(bound={"output": ClassifyOutput(scores=NO_ARRAY, label=0)}),
        InvalidReason.PROOF_MALFORMED,
    ),
    "too large": (performing(proof=b" " * (MAX_PROOF_BYTES + 1)), InvalidReason.PROOF_TOO_LARGE),
    "another task": (performing(bound={"task_id": Digest(bytes(32))}), InvalidReason.TASK_DIFFERS),
    "another card": (performing(bound={"card_cid": OTHER_CARD}), InvalidReason.CARD_DIFFERS),
    "another model": (performing(bound={"model_hash": Digest(bytes(32))}), InvalidReason.MODEL_DIFFERS),
    "another input": (performing(bound={"input_cid": cid_of(document_of(9, 9, 9, 9))}), InvalidReason.INPUT_DIFFERS),
    "other parameters": (performing(bound={"parameters": '{"top_k":1}'}), InvalidReason.PARAMETERS_DIFFER),
    "another seed": (performing(bound={"seed": Digest(sha("other"))}), InvalidReason.SEED_DIFFERS),
    "label": (
        performing(bound=with_output(label=2), info={"data": (2).to_bytes(32, "big")}),
        InvalidReason.LABEL_DIFFERS,
    ),
    "label and scores": (
        performing(bound=with_output(2, np.array([[0, 0, 9]], np.float32)), info={"data": (2).to_bytes(32, "big")}),
        InvalidReason.SCORES_DIFFER,
    ),
    "data of another label": (performing(info={"data": (2).to_bytes(32, "big")}), InvalidReason.DATA_MISMATCH),
    "no data": (performing(info={"data": b""}), InvalidReason.DATA_MISMATCH),
    "long data": (performing(info={"data": bytes(31) + b"\x01\x00"}), InvalidReason.DATA_MISMATCH),
    "scores of another shape": (
        performing(bound=with_output(0, np.zeros((1, 4), np.float32))),
        InvalidReason.OUTPUT_MALFORMED,
    ),
    "scores of another dtype": (
        performing(bound=with_output(0, np.zeros((1, 3), np.float64))),
        InvalidReason.OUTPUT_MALFORMED,
    ),
    "another kind of output": (
        performing(bound={"output": TensorOutput(tensors={"scores": OUTPUT.scores})}),
        InvalidReason.OUTPUT_MALFORMED,
    ),
    "text of a classifier": (
        performing(bound={"output": TextOutput(encoding="bytes", prompt=(1,), tokens=(2,), stop="eos", tops=b"")}),
        InvalidReason.OUTPUT_MALFORMED,
    ),
}


@pytest.mark.parametrize("name", LIES)
@virtual
async def test_a_lie_is_invalid(name: str) -> None:
    task, reason = LIES[name]
    async with World() as world:
        judgement = await world.judge().judge(await task(world))
        assert (judgement.verdict, judgement.reason) == (Verdict.INVALID, reason)


@virtual
async def test_scores_beyond_the_tolerance_are_invalid_by_how_much() -> None:
    far = SCORES + np.float32(3 * CARD.tolerances["scores"].absolute)
    async with World() as world:
        judgement = await world.judge().judge(await world.performed(bound=with_output(scores=far)))
        assert (judgement.verdict, judgement.reason) == (Verdict.INVALID, InvalidReason.SCORES_DIFFER)
        assert judgement.score == pytest.approx(3, abs=0.1)


@virtual
async def test_the_output_of_another_model_is_invalid() -> None:
    """The definition's model is what counts, whatever the performer ran."""
    async with World() as world:
        other = ClassifyOutput(scores=encode_tensor(-SCORES), label=int(np.argmax(-SCORES)))
        task = await world.performed(bound={"output": other}, info={"data": other.label.to_bytes(32, "big")})
        assert (await world.judge().judge(task)).reason is InvalidReason.SCORES_DIFFER


@virtual
async def test_a_proof_that_is_not_canonical_is_malformed() -> None:
    """Or one proof would have many CIDs."""
    async with World() as world:
        honest = await world.performed()
        proof = await world.content.join(PERFORMER.address).get(
            honest.task_info.proof_of_task, max_bytes=1 << 20, timeout_seconds=1
        )
        task = await world.performed(proof=proof.replace(b'{"cardCid"', b'{ "cardCid"'))
        assert await world.judge().judge(task) == invalid(InvalidReason.PROOF_MALFORMED)


@pytest.mark.parametrize("data", [b"", b"\x0a\x02\x08\x01", b"not dag-pb at all"])
@virtual
async def test_a_dag_that_is_no_file_is_a_malformed_proof(data: bytes) -> None:
    """It hashes to its CID, so it is what the performer signed."""
    async with World() as world:
        cid = await plant(world, data, Codec.DAG_PB)
        task = await world.performed(info={"proof_of_task": cid})
        assert await world.judge().judge(task) == invalid(InvalidReason.PROOF_MALFORMED)


# --- what an invalid proof does not need -----------------------------------------------------------------
@pytest.mark.parametrize("withheld", [DOCUMENT, CARD_BYTES, MODEL], ids=["input", "card", "model"])
@pytest.mark.parametrize("lie", ["text", "too large", "another task", "another input"])
@virtual
async def test_a_provable_lie_stays_one_whatever_is_withheld(lie: str, withheld: bytes) -> None:
    """Or a performer whose lie is found out would withhold the input, and nobody could vote. The proof is slower here
    than the news that the rest is missing."""
    task, reason = LIES[lie]
    async with World() as world:
        message = await task(world)
        del world.content.blocks[PERFORMER.address][cid_of(withheld)]
        world.content.delay(PERFORMER.address, 0.5)
        assert await world.judge().judge(message) == invalid(reason)


@virtual
async def test_a_provable_lie_does_not_wait_for_the_model() -> None:
    loop = asyncio.get_running_loop()
    async with World() as world:
        message = await world.performed(proof=b"garbage")
        judge = world.judge()
        slow = Person("slow shelf").address
        for data in (MODEL, CARD_BYTES):
            world.content.withhold(PERFORMER.address, cid_of(data))
            await world.content.join(slow).add(data)
        world.content.delay(slow, float("inf"))
        start = loop.time()
        assert await judge.judge(message) == invalid(InvalidReason.PROOF_MALFORMED)
        assert loop.time() - start < 1


@virtual
async def test_nothing_goes_on_in_the_background_after_the_judgement() -> None:
    async with World() as world:
        before = asyncio.all_tasks()
        message = await world.performed(proof=b"garbage")
        world.content.delay(PERFORMER.address, 3.0)
        await world.judge().judge(message)
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == before


@virtual
async def test_a_proof_object_is_what_the_performers_own_code_makes() -> None:
    """The honest proof of these tests is the performer's: else they would test nothing."""
    async with World() as world, world.performer() as desk:
        message = await world.performed()
        bound = {"task_id": message.task_info.task_id, "card_cid": CARD_CID, "model_hash": MODEL_HASH}
        model = await desk.library.ready(world.roster.definitions[0])
        assert model.card == CARD
        asked = {"parameters": message.request.parameters, "seed": message.request.seed}
        proof = ProofObject(**bound, **asked, input_cid=cid_of(DOCUMENT), output=OUTPUT, engine=model.fingerprint())  # type: ignore[arg-type]
        assert cid_of(encode_proof(proof)) == message.task_info.proof_of_task
