"""What keeps an attester from checking is an abstention with its reason, never a vote against the performer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest

from shared.adapters.memory.engine import FunctionEngine, FunctionModel
from shared.canonical import encode_canonical
from shared.constants import FETCH_TIMEOUT_SECONDS, MAX_INPUT_BYTES
from shared.content.cid import Codec, make_block
from shared.content.unixfs import cid_of
from shared.documents import (
    InputDocument,
    encode_input,
)
from shared.errors import InferenceFailed, ModelMismatch, PoiError, StoreFull
from shared.interfaces import Tensors
from shared.messages import TaskMessage, VoteMessage
from shared.model_library import ModelUnavailable
from shared.reasons import AbstainReason, InvalidReason
from shared.types import Digest, TaskDefinition, Verdict
from shared.verification.method import Judgement, invalid
from tests.cast import beacon_of
from tests.chain_support import PERFORMER, sha
from tests.listening import until, virtual
from tests.roles import World
from tests.toy_model import (
    CARD,
    CARD_BYTES,
    CARD_CID,
    DOCUMENT,
    MODEL,
    MODEL_HASH,
    X,
    engine_of,
    multiply,
)

Task = Callable[[World], Awaitable[TaskMessage]]


def abstain(reason: AbstainReason) -> Judgement:
    return Judgement(verdict=Verdict.ABSTAIN, reason=reason, score=0.0)


def performing(**changes: Any) -> Task:
    """See `Cast.performed`."""
    return lambda world: world.performed(**changes)


async def plant(world: World, data: bytes, codec: Codec = Codec.RAW) -> Any:
    """One block on the performer's shelf, whatever it is; its CID."""
    block = make_block(codec, data)
    world.content.join(PERFORMER.address)
    world.content.blocks[PERFORMER.address][block.cid] = block
    return block.cid


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
    plain = TaskDefinition(1, "toy", "tensor", MODEL_HASH, CARD_CID)
    definition = msgspec.structs.replace(plain, **changes)
    world.define(definition)
    request = {"task_definition_id": 1, "model_hash": definition.model_hash}
    bound = {"model_hash": definition.model_hash, "card_cid": definition.card_cid}
    return await world.performed(request=request, bound=bound)


async def with_unknown_definition(world: World) -> TaskMessage:
    return await world.performed(request={"task_definition_id": 9})


async def with_seed(world: World, seed: Digest, epoch: int = 3) -> TaskMessage:
    """Of a definition whose seed is the beacon, in epoch 3; the proof is of no text."""
    await world.define_text()
    for _ in range(2):
        world.roll()
    asked = {"task_definition_id": 1, "seed": seed}
    bound = {"card_cid": world.roster.definitions[1].card_cid}
    return await world.performed(request=asked, bound=bound, info={"epoch": epoch}, document=b'{"prompt":"hello"}')


async def with_unknown_method(world: World) -> TaskMessage:
    """And a proof that looks like nothing this attester can read."""
    world.define(TaskDefinition(1, "zk", "zero-knowledge", MODEL_HASH, CARD_CID))
    return await world.performed(request={"task_definition_id": 1}, proof=b"a proof of another age")


async def with_other_card(world: World, card: bytes) -> TaskMessage:
    return await defined(world, card_cid=(await world.content.join(PERFORMER.address).add(card)).cid)


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
    "seed of nobody": (lambda world: with_seed(world, Digest(sha("chosen"))), AbstainReason.SEED_UNKNOWN),
    "seed of an epoch too early": (lambda world: with_seed(world, beacon_of(1)), AbstainReason.SEED_UNKNOWN),
    "seed of a later epoch than the task's": (
        lambda world: with_seed(world, beacon_of(3), epoch=2),
        AbstainReason.SEED_UNKNOWN,
    ),
    "unknown method": (with_unknown_method, AbstainReason.METHOD_UNKNOWN),
    "card for another method": (lambda world: defined(world, method="exact"), AbstainReason.MODEL_MISMATCH),
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
    # A reorg gave the id to another definition, and either side has not seen it yet.
    "request of another branch": (
        performing(
            request={"model_hash": Digest(sha("other"))},
            bound={"model_hash": Digest(sha("other")), "card_cid": cid_of(b"another card")},
        ),
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
    "a tensor more": (lambda world: with_input(world, tensors(x=GOOD, y=GOOD)), AbstainReason.INPUT_UNUSABLE),
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


@pytest.mark.parametrize(("seed_epoch", "epoch"), [(3, 3), (2, 3), (2, 2), (1, 2)])
@virtual
async def test_a_seed_that_is_a_beacon_is_no_hindrance(seed_epoch: int, epoch: int) -> None:
    """What is wrong with such a task counts against the performer again."""
    async with World() as world:
        message = await with_seed(world, beacon_of(seed_epoch), epoch)
        assert await world.judge().judge(message) == invalid(InvalidReason.OUTPUT_MALFORMED)


@virtual
async def test_a_seed_is_known_once_the_chain_says_so() -> None:
    """A reorg gave the epoch another beacon, and this attester's node had not seen it."""
    async with World() as world, world.attester():
        performer = await world.bystander(PERFORMER)
        message = await with_seed(world, Digest(sha("beacon of the new branch")))
        await performer.say(message)
        await until(lambda: performer.abstentions == [AbstainReason.SEED_UNKNOWN], "it abstains")
        world.roster = replace(world.roster, beacons={3: message.request.seed})
        await performer.hears(VoteMessage)


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
    "another dtype": giving(np.zeros((1, 3), np.int64)),
    "no output": engine_of(lambda _: {}),
}


@pytest.mark.parametrize("name", ENGINES)
@virtual
async def test_an_engine_that_fails_is_the_attesters_own_trouble(name: str) -> None:
    async with World() as world:
        judge = world.judge(engine=ENGINES[name])
        assert await judge.judge(await world.performed()) == abstain(AbstainReason.ENGINE_FAILED)


async def pushed_out(world: World, trouble: PoiError | None) -> Judgement:
    """The judgement when another model takes this one's place before the run; `trouble` is what loading it again
    meets."""
    engine = engine_of()
    judge = world.judge(engine=engine)
    ready, load = judge._library.ready, engine.load

    async def then_push_out(*arguments: Any, **named: Any) -> Any:
        model = await ready(*arguments, **named)
        await engine.close()
        engine.load = load_again  # type: ignore[method-assign]
        return model

    async def load_again(model_hash: Digest, model: bytes) -> None:
        if trouble is not None:
            raise trouble
        await load(model_hash, model)

    judge._library.ready = then_push_out  # type: ignore[method-assign]
    return await judge.judge(await world.performed())


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [
        (None, None),
        (InferenceFailed("no memory left"), AbstainReason.ENGINE_FAILED),
        (ModelMismatch("damaged on disk"), AbstainReason.MODEL_MISMATCH),
        (ModelUnavailable(cid_of(MODEL)), AbstainReason.MODEL_UNAVAILABLE),
    ],
)
@virtual
async def test_a_model_that_another_one_pushed_out_is_loaded_again(
    trouble: PoiError | None, reason: AbstainReason | None
) -> None:
    async with World() as world:
        judgement = await pushed_out(world, trouble)
        verdict = Verdict.VALID if reason is None else Verdict.ABSTAIN
        assert (judgement.verdict, judgement.reason) == (verdict, reason)


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
