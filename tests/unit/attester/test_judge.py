"""An attester's opinion: each trouble has one verdict and one reason, and only the performer's own lies are invalid."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import numpy as np
import pytest

from shared.adapters.memory.engine import FunctionEngine, FunctionModel
from shared.canonical import encode_canonical
from shared.constants import FETCH_TIMEOUT_SECONDS, MAX_INPUT_BYTES, MAX_PROOF_BYTES
from shared.content.cid import Codec, make_block
from shared.documents import (
    ClassifyOutput,
    InputDocument,
    ProofObject,
    TensorOutput,
    TextOutput,
    encode_input,
    encode_proof,
)
from shared.errors import StoreFull
from shared.interfaces import Tensors
from shared.messages import TaskMessage
from shared.reasons import AbstainReason, InvalidReason
from shared.tensors import encode_tensor
from shared.types import Digest, TaskDefinition, Verdict
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
    X,
    cid_of,
    document_of,
    engine_of,
    multiply,
)

Task = Callable[[World], Awaitable[TaskMessage]]


def abstain(reason: AbstainReason) -> Judgement:
    return Judgement(verdict=Verdict.ABSTAIN, reason=reason, score=0.0)


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
LIES: dict[str, tuple[Task, InvalidReason]] = {
    **{name: (performing(proof=data), InvalidReason.PROOF_MALFORMED) for name, data in GARBAGE.items()},
    "too large": (performing(proof=b" " * (MAX_PROOF_BYTES + 1)), InvalidReason.PROOF_TOO_LARGE),
    "another task": (performing(bound={"task_id": Digest(bytes(32))}), InvalidReason.PROOF_UNBOUND),
    "another card": (performing(bound={"card_cid": OTHER_CARD}), InvalidReason.PROOF_UNBOUND),
    "another model": (performing(bound={"model_hash": Digest(bytes(32))}), InvalidReason.PROOF_UNBOUND),
    "another input": (performing(bound={"input_cid": cid_of(document_of(9, 9, 9, 9))}), InvalidReason.PROOF_UNBOUND),
    "label": (
        performing(bound=with_output(label=2), info={"data": (2).to_bytes(32, "big")}),
        InvalidReason.LABEL_DIFFERS,
    ),
    "label and scores": (
        performing(bound=with_output(2, [[0.0, 0.0, 9.0]]), info={"data": (2).to_bytes(32, "big")}),
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
    "text": (
        performing(bound={"output": TextOutput(prompt=(1,), tokens=(2,), stop="eos")}),
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
@pytest.mark.parametrize("withheld", [DOCUMENT, CARD_BYTES, MODEL])
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


# --- what nobody can hold against the performer ----------------------------------------------------------
async def without(world: World, data: bytes) -> TaskMessage:
    message = await world.performed()
    del world.content.blocks[PERFORMER.address][cid_of(data)]
    return message


async def without_proof(world: World) -> TaskMessage:
    message = await world.performed()
    del world.content.blocks[PERFORMER.address][message.task_info.proof_of_task]
    return message


async def with_silent_performer(world: World) -> TaskMessage:
    message = await world.performed()
    world.content.delay(PERFORMER.address, float("inf"))
    return message


async def with_forging_performer(world: World) -> TaskMessage:
    """Its gateway answers with other bytes than the CID's: nothing that it signed."""
    message = await world.performed()
    world.content.forge(PERFORMER.address, message.task_info.proof_of_task, b"garbage")
    return message


async def defined(world: World, **changes: Any) -> TaskMessage:
    """A task of a definition that is like the honest one, but for the changes."""
    plain = TaskDefinition(1, "toy", "exact", MODEL_HASH, CARD_CID)
    definition = msgspec.structs.replace(plain, **changes)
    world.define(definition)
    request = {"task_definition_id": 1, "model_hash": definition.model_hash}
    bound = {"model_hash": definition.model_hash, "card_cid": definition.card_cid}
    return await world.performed(request=request, bound=bound)


async def with_unknown_definition(world: World) -> TaskMessage:
    return await world.performed(request={"task_definition_id": 9})


async def with_unknown_method(world: World) -> TaskMessage:
    """And a proof that looks like nothing this attester can read."""
    world.define(TaskDefinition(1, "zk", "zero-knowledge", MODEL_HASH, CARD_CID))
    return await world.performed(request={"task_definition_id": 1}, proof=b"a proof of another age")


async def with_other_card(world: World, card: bytes) -> TaskMessage:
    return await defined(world, card_cid=await world.content.join(PERFORMER.address).add(card))


async def with_swapped_model(world: World) -> TaskMessage:
    """The card's CID leads to other bytes than its hash, of the same size."""
    other = bytes(reversed(MODEL))
    card = msgspec.structs.replace(CARD, model=msgspec.structs.replace(CARD.model, cid=cid_of(other)))
    await world.content.join(PERFORMER.address).add(other)
    return await with_other_card(world, encode_canonical(card))


async def with_larger_model(world: World) -> TaskMessage:
    card = msgspec.structs.replace(CARD, model=msgspec.structs.replace(CARD.model, size=len(MODEL) - 1))
    return await with_other_card(world, encode_canonical(card))


async def with_broken_model(world: World) -> TaskMessage:
    """A DAG that is no file, where the model should be."""
    cid = await plant(world, b"not dag-pb", Codec.DAG_PB)
    card = msgspec.structs.replace(CARD, model=msgspec.structs.replace(CARD.model, cid=cid))
    return await with_other_card(world, encode_canonical(card))


async def with_input(world: World, document: bytes) -> TaskMessage:
    return await world.performed(document=document)


def tensors(**arrays: Any) -> bytes:
    return encode_input(InputDocument(tensors={name: np.array(value) for name, value in arrays.items()}))


GOOD = np.array([[1, 2, 3, 4]], np.float32)
TROUBLES: dict[str, tuple[Task, AbstainReason]] = {
    "proof withheld": (without_proof, AbstainReason.PROOF_UNAVAILABLE),
    "input withheld": (lambda world: without(world, DOCUMENT), AbstainReason.INPUT_UNAVAILABLE),
    "card withheld": (lambda world: without(world, CARD_BYTES), AbstainReason.CARD_UNAVAILABLE),
    "model withheld": (lambda world: without(world, MODEL), AbstainReason.MODEL_UNAVAILABLE),
    "silent performer": (with_silent_performer, AbstainReason.PROOF_UNAVAILABLE),
    "forging performer": (with_forging_performer, AbstainReason.PROOF_UNAVAILABLE),
    "definition that is not known yet": (with_unknown_definition, AbstainReason.CARD_UNAVAILABLE),
    "unknown method": (with_unknown_method, AbstainReason.METHOD_UNKNOWN),
    "card for another method": (lambda world: defined(world, method="tensor"), AbstainReason.MODEL_MISMATCH),
    "card for another model": (
        lambda world: defined(world, model_hash=Digest(sha("other model"))),
        AbstainReason.MODEL_MISMATCH,
    ),
    "card that is none": (lambda world: with_other_card(world, b"{}"), AbstainReason.MODEL_MISMATCH),
    "card too large": (lambda world: with_other_card(world, bytes(2 << 20)), AbstainReason.MODEL_MISMATCH),
    "model of other bytes": (with_swapped_model, AbstainReason.MODEL_MISMATCH),
    "model larger than its card says": (with_larger_model, AbstainReason.MODEL_MISMATCH),
    "model that is no file": (with_broken_model, AbstainReason.MODEL_MISMATCH),
    "request for another model": (
        performing(request={"model_hash": Digest(bytes(32))}, bound={"model_hash": Digest(bytes(32))}),
        AbstainReason.INPUT_UNUSABLE,
    ),
    "input of another shape": (
        lambda world: with_input(world, tensors(x=np.zeros((1, 5), np.float32))),
        AbstainReason.INPUT_UNUSABLE,
    ),
    "input of another dtype": (
        lambda world: with_input(world, tensors(x=GOOD.astype(np.float64))),
        AbstainReason.INPUT_UNUSABLE,
    ),
    "input with a tensor more": (lambda world: with_input(world, tensors(x=GOOD, y=GOOD)), AbstainReason.INPUT_UNUSABLE),
    "prompt": (lambda world: with_input(world, b'{"prompt":"hello"}'), AbstainReason.INPUT_UNUSABLE),
    "input that is none": (lambda world: with_input(world, b"hello"), AbstainReason.INPUT_UNUSABLE),
    "input too large": (lambda world: with_input(world, b" " * (MAX_INPUT_BYTES + 1)), AbstainReason.INPUT_UNUSABLE),
    "parameters of another kind": (performing(request={"parameters": '{"top_k":1}'}), AbstainReason.INPUT_UNUSABLE),
    "parameters not canonical": (performing(request={"parameters": "{ }"}), AbstainReason.INPUT_UNUSABLE),
    "parameters with a lone surrogate": (
        performing(request={"parameters": '{"a":"\\ud800"}'}),
        AbstainReason.INPUT_UNUSABLE,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TROUBLES)
@virtual
async def test_what_kept_it_from_checking_is_an_abstention(name: str) -> None:
    task, reason = TROUBLES[name]
    loop = asyncio.get_running_loop()
    async with World() as world:
        message = await task(world)
        start = loop.time()
        assert await world.judge().judge(message) == abstain(reason)
        assert loop.time() - start <= FETCH_TIMEOUT_SECONDS + 1


@virtual
async def test_a_dag_that_is_no_file_is_an_unusable_input() -> None:
    async with World() as world:
        cid = await plant(world, b"not dag-pb", Codec.DAG_PB)
        task = await world.performed(request={"input_cid": cid})
        assert await world.judge().judge(task) == abstain(AbstainReason.INPUT_UNUSABLE)


@virtual
async def test_nobody_attests_its_own_task() -> None:
    async with World() as world:
        task = await world.performed(performer=world.people[0])
        assert await world.judge(0).judge(task) == abstain(AbstainReason.OWN_TASK)
        assert (await world.judge(1).judge(task)).verdict is not Verdict.ABSTAIN


@virtual
async def test_content_that_comes_later_changes_the_opinion() -> None:
    async with World() as world:
        message = await world.performed()
        judge = world.judge()
        world.content.withhold(PERFORMER.address, cid_of(DOCUMENT))
        assert await judge.judge(message) == abstain(AbstainReason.INPUT_UNAVAILABLE)
        world.content.release(PERFORMER.address, cid_of(DOCUMENT))
        assert (await judge.judge(message)).verdict is Verdict.VALID


# --- the engine ----------------------------------------------------------------------------------------
def failing(error: Exception) -> FunctionEngine:
    def fail(_: Tensors) -> Tensors:
        raise error

    return engine_of(fail)


def giving(value: Any) -> FunctionEngine:
    return engine_of(lambda _: {"scores": value})


ENGINES: dict[str, FunctionEngine] = {
    "device lost": failing(RuntimeError("device lost")),
    "cannot load": FunctionEngine({}),
    "too slow": FunctionEngine({MODEL_HASH: FunctionModel((X,), multiply)}, seconds=100, timeout_seconds=60),
    "NaN": giving(np.array([[np.nan, 0, 0]], np.float32)),
    "another shape": giving(np.zeros((1, 4), np.float32)),
    "another dtype": giving(np.zeros((1, 3), np.float64)),
    "no output": engine_of(lambda _: {}),
}


@pytest.mark.parametrize("name", ENGINES)
@virtual
async def test_an_engine_that_fails_is_the_attesters_own_trouble(name: str) -> None:
    async with World() as world:
        judge = world.judge(engine=ENGINES[name])
        assert await judge.judge(await world.performed()) == abstain(AbstainReason.ENGINE_FAILED)


@pytest.mark.parametrize("gone", [True, False])
@virtual
async def test_a_model_that_another_one_pushed_out_is_loaded_again(gone: bool) -> None:
    """Between fetching and running; if it is no longer served by then, that is nobody's lie."""
    engine = engine_of()
    async with World() as world:
        judge = world.judge(engine=engine)
        ready = judge._library.ready

        async def push_out(*arguments: Any, **named: Any) -> Any:
            model = await ready(*arguments, **named)
            await engine.close()
            if gone:
                for blocks in world.content.blocks.values():
                    blocks.pop(cid_of(MODEL), None)
            return model

        judge._library.ready = push_out  # type: ignore[method-assign]
        judgement = await judge.judge(await world.performed())
        if gone:
            assert judgement == abstain(AbstainReason.MODEL_UNAVAILABLE)
        else:
            assert judgement.verdict is Verdict.VALID


@virtual
async def test_a_model_that_cannot_be_loaded_again_is_a_mismatch() -> None:
    async with World() as world:
        engine = engine_of()
        judge = world.judge(engine=engine)
        message = await world.performed()
        await judge.judge(message)
        await engine.close()
        engine.is_loaded = lambda _: True  # type: ignore[method-assign]
        ready = judge._library.ready

        async def tamper(*arguments: Any, **named: Any) -> Any:
            model = await ready(*arguments, **named)
            del engine.is_loaded  # type: ignore[method-assign]
            own = world.content.blocks[world.people[0].address]
            own[cid_of(MODEL)] = (
                msgspec.structs.replace(own[cid_of(MODEL)], data=b"tampered") if False else own[cid_of(MODEL)]
            )
            return model

        judge._library.ready = tamper  # type: ignore[method-assign]
        assert (await judge.judge(message)).verdict is Verdict.VALID


@virtual
async def test_the_attesters_full_disk_is_no_opinion() -> None:
    """It is not a verdict, and not hidden behind one: the service logs it and waits for the next repetition."""
    async with World() as world:
        judge = world.judge()

        async def fail(*_: object, **__: object) -> bytes:
            raise StoreFull("no room on the disk")

        judge._content.get = fail  # type: ignore[method-assign]
        with pytest.raises(StoreFull):
            await judge.judge(await world.performed())


@virtual
async def test_a_proof_object_is_what_the_performers_own_code_makes() -> None:
    """The honest proof of these tests is the performer's: else they would test nothing."""
    async with World() as world, world.performer() as desk:
        message = await world.performed()
        bound = {"task_id": message.task_info.task_id, "card_cid": CARD_CID, "model_hash": MODEL_HASH}
        model = await desk.library.ready(world.roster.definitions[0])
        assert model.card == CARD
        engine = desk.library.engine.fingerprint(MODEL_HASH)
        proof = ProofObject(**bound, input_cid=cid_of(DOCUMENT), output=OUTPUT, engine=engine)  # type: ignore[arg-type]
        assert cid_of(encode_proof(proof)) == message.task_info.proof_of_task
