"""From a definition to a model that runs: fetched once, held to what the chain says, loaded again when pushed out."""

from __future__ import annotations

import asyncio
import dataclasses
import math
from collections.abc import AsyncGenerator, Callable, Collection
from itertools import pairwise
from typing import Any

import msgspec
import numpy as np
import pytest
from structlog.testing import capture_logs

from shared.adapters.memory.content import ContentHub, MemoryContentStore
from shared.adapters.memory.engine import FunctionEngine
from shared.canonical import encode_canonical
from shared.constants import FETCH_TIMEOUT_SECONDS, MAX_CARD_BYTES
from shared.content.cid import Codec, make_block
from shared.content.unixfs import cid_of
from shared.errors import InferenceFailed, ModelMismatch
from shared.keeping import CACHE
from shared.model_card import ModelCard
from shared.model_library import (
    MAX_READYING,
    READY_RETRY_MAX_SECONDS,
    TOUCH_SECONDS,
    CardUnavailable,
    ModelLibrary,
    ModelUnavailable,
)
from shared.profiles import Profile
from shared.types import Address, Cid, Digest, TaskDefinition
from tests.chain_support import PERFORMER
from tests.listening import running, until, virtual
from tests.roles import World, library_on
from tests.toy_model import CARD, CARD_BYTES, CARD_CID, DEFINITION, GOLDEN_BYTES, MODEL, MODEL_HASH, OUTPUT, engine_of

X = {"x": np.array([[1, 4, 1, 0]], np.float32)}


class Shelf(MemoryContentStore):
    """Notes what it is asked for: a model twice, since it comes to the disk and then to memory."""

    def __init__(self, hub: ContentHub, own: Address) -> None:
        hub.join(own)
        super().__init__(hub, own)
        self.asked: list[tuple[Cid, int, float, Address | None]] = []
        self.asked_at: list[float] = []

    async def get(self, cid: Cid, **limits: Any) -> bytes:
        self._note(cid, **limits)
        return await super().get(cid, **limits)

    def open(self, cid: Cid, **limits: Any) -> AsyncGenerator[bytes, None]:
        self._note(cid, **limits)
        return super().open(cid, **limits)

    def _note(
        self, cid: Cid, *, max_bytes: int, timeout_seconds: float, prefer: Address | None = None, keep_until: float
    ) -> None:
        assert keep_until == CACHE
        self.asked.append((cid, max_bytes, timeout_seconds, prefer))
        self.asked_at.append(asyncio.get_running_loop().time())

    def count(self, cid: Cid) -> int:
        return sum(asked == cid for asked, *_ in self.asked)

    def times(self, cid: Cid) -> list[float]:
        return [at for at, (asked, *_) in zip(self.asked_at, self.asked, strict=True) if asked == cid]


class Reading:
    """An attester's library in a world where the performer serves card and model."""

    def __init__(self, world: World, engine: FunctionEngine | None = None) -> None:
        self.world, self.engine = world, engine or engine_of()
        self.shelf = Shelf(world.content, world.people[0].address)
        self.library = library_on(self.shelf, self.engine)

    async def define(self, change: Callable[[ModelCard], ModelCard]) -> TaskDefinition:
        """A definition with another card."""
        card = encode_canonical(change(CARD))
        return self.of((await self.world.content.join(PERFORMER.address).add(card)).cid)

    @staticmethod
    def of(card_cid: Cid, **changes: Any) -> TaskDefinition:
        return msgspec.structs.replace(DEFINITION, id=1, card_cid=card_cid, **changes)


def with_model(**changes: Any) -> Callable[[ModelCard], ModelCard]:
    return lambda card: msgspec.structs.replace(card, model=msgspec.structs.replace(card.model, **changes))


# --- ready -------------------------------------------------------------------------------------------
@virtual
async def test_a_ready_model_runs() -> None:
    async with World() as world:
        model = await Reading(world).library.ready(DEFINITION)
        assert (model.card, model.card_cid, model.model_hash) == (CARD, CARD_CID, MODEL_HASH)
        scores = (await model.compute.run(X))["scores"]
        assert scores.tobytes() == OUTPUT.scores.data


@virtual
async def test_card_and_model_are_fetched_once_however_many_want_them() -> None:
    async with World() as world:
        reading = Reading(world)
        world.content.delay(PERFORMER.address, 1.0)
        await asyncio.gather(*(reading.library.ready(DEFINITION) for _ in range(5)))
        await reading.library.ready(DEFINITION)
        assert reading.shelf.count(cid_of(MODEL)) == 2
        # The card is small: those who come together may each ask for it, and the store asks the network once.
        assert reading.shelf.count(CARD_CID) <= 5


@virtual
async def test_what_is_asked_for_is_bounded_and_the_performer_is_asked_first() -> None:
    size = 50 << 20
    async with World() as world:
        reading = Reading(world)
        definition = await reading.define(with_model(size=size))
        await reading.library.ready(definition, prefer=PERFORMER.address)
        assert reading.shelf.asked == [
            (definition.card_cid, MAX_CARD_BYTES, FETCH_TIMEOUT_SECONDS, PERFORMER.address),
            *[(cid_of(MODEL), size, 50.0, PERFORMER.address)] * 2,
        ]


@virtual
async def test_two_definitions_of_one_model_load_it_once() -> None:
    async with World() as world:
        reading = Reading(world)
        again = await reading.define(lambda card: msgspec.structs.replace(card, name="another name"))
        await reading.library.ready(DEFINITION)
        await reading.library.ready(again)
        assert reading.shelf.count(cid_of(MODEL)) == 2


@virtual
async def test_a_model_that_was_pushed_out_is_loaded_again_by_its_next_run() -> None:
    async with World() as world:
        reading = Reading(world)
        model = await reading.library.ready(DEFINITION)
        await reading.engine.close()
        assert not reading.engine.is_loaded(MODEL_HASH)
        await asyncio.gather(*(model.compute.run(X) for _ in range(4)))
        assert reading.shelf.count(cid_of(MODEL)) == 3


@virtual
async def test_who_gives_up_waiting_does_not_keep_the_others_from_it() -> None:
    async with World() as world:
        reading = Reading(world)
        world.content.delay(PERFORMER.address, 3.0)
        leaving = asyncio.create_task(reading.library.ready(DEFINITION))
        staying = asyncio.create_task(reading.library.ready(DEFINITION))
        await asyncio.sleep(4)
        leaving.cancel()
        assert (await staying).card == CARD


# --- not ready ---------------------------------------------------------------------------------------
@pytest.mark.parametrize(("missing", "error"), [(CARD_BYTES, CardUnavailable), (MODEL, ModelUnavailable)])
@virtual
async def test_what_nobody_serves_is_not_remembered_as_missing(missing: bytes, error: type[Exception]) -> None:
    async with World() as world:
        reading = Reading(world)
        del world.content.blocks[PERFORMER.address][cid_of(missing)]
        with pytest.raises(error, match=cid_of(missing)):
            await reading.library.ready(DEFINITION)
        await world.content.join(PERFORMER.address).add(missing)
        assert (await reading.library.ready(DEFINITION)).card == CARD


BROKEN = make_block(Codec.DAG_PB, b"not dag-pb")


@pytest.mark.parametrize(
    "change",
    [
        with_model(sha256="00" * 32),
        with_model(cid=cid_of(CARD_BYTES), size=len(CARD_BYTES)),
        with_model(size=len(MODEL) - 1),
        with_model(cid=BROKEN.cid),
        with_model(cid="bafkrei"),
        with_model(cid=""),
        with_model(cid="QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWnPbdG"),
    ],
    ids=["another hash", "other bytes", "larger than it says", "no file", "cut CID", "no CID", "CIDv0"],
)
@virtual
async def test_a_card_that_leads_elsewhere_is_a_mismatch(change: Callable[[ModelCard], ModelCard]) -> None:
    async with World() as world:
        world.content.blocks[PERFORMER.address][BROKEN.cid] = BROKEN
        reading = Reading(world)
        definition = await reading.define(change)
        with pytest.raises(ModelMismatch):
            await reading.library.ready(definition)
        assert not reading.engine.is_loaded(MODEL_HASH)


@pytest.mark.parametrize("changes", [{"method": "exact"}, {"model_hash": Digest(bytes(32))}])
@virtual
async def test_a_card_for_another_definition_is_a_mismatch_each_time(changes: dict[str, Any]) -> None:
    """Also when the card is known already, from a definition that it is right for."""
    async with World() as world:
        reading = Reading(world)
        await reading.library.ready(DEFINITION)
        for _ in range(2):
            with pytest.raises(ModelMismatch, match="for another model or method than task definition 1"):
                await reading.library.ready(reading.of(CARD_CID, **changes))


@pytest.mark.parametrize(
    "card",
    [
        b"",
        b"{}",
        b"\xff",
        CARD_BYTES + b" ",
        CARD_BYTES.replace(b'"method":"tensor"', b'"method":"text"'),
        b" " * (MAX_CARD_BYTES + 1),
    ],
    ids=["empty", "no field", "not UTF-8", "not canonical", "method of another kind", "too large"],
)
@virtual
async def test_a_card_that_is_none_is_a_mismatch(card: bytes) -> None:
    async with World() as world:
        reading = Reading(world)
        cid = (await world.content.join(PERFORMER.address).add(card)).cid
        with pytest.raises(ModelMismatch, match=f"card {cid}"):
            await reading.library.card(reading.of(cid))


@virtual
async def test_a_card_cid_on_chain_that_is_none_is_a_mismatch() -> None:
    async with World() as world:
        with pytest.raises(ModelMismatch):
            await Reading(world).library.card(Reading.of(Cid("ipfs://card")))


@virtual
async def test_an_engine_that_cannot_load_says_so() -> None:
    async with World() as world:
        with pytest.raises(InferenceFailed):
            await Reading(world, FunctionEngine({})).library.ready(DEFINITION)


# --- keeping ready -----------------------------------------------------------------------------------
@virtual
async def test_every_definition_becomes_ready_as_soon_as_it_can_whatever_the_others_do() -> None:
    async with World() as world:
        reading = Reading(world)
        world.define(reading.of(cid_of(b"absent")))
        with capture_logs() as logs:
            async with running(reading.library.keep_ready(lambda: world.roster)):
                await until(lambda: reading.library.ready_ids == {0}, "the first is ready")
                await asyncio.sleep(100)
                late = await reading.define(lambda card: msgspec.structs.replace(card, name="late"))
                world.define(msgspec.structs.replace(late, id=2))
                await until(lambda: reading.library.ready_ids == {0, 2}, "the late one is ready")
                await asyncio.sleep(100)
        assert [(entry["event"], entry["definition"]) for entry in logs] == [
            ("model not ready", 1),  # said once, and not every time
            ("model ready", 0),
            ("model ready", 2),
        ]
        waits = [round(after - before) for before, after in pairwise(reading.shelf.times(cid_of(b"absent")))]
        assert waits[:8] == [1, 2, 4, 8, 16, 32, 60, 60]


@virtual
async def test_what_was_not_ready_becomes_so() -> None:
    async with World() as world:
        reading = Reading(world)
        del world.content.blocks[PERFORMER.address][cid_of(MODEL)]
        async with running(reading.library.keep_ready(lambda: world.roster)):
            await asyncio.sleep(50)
            assert reading.library.ready_ids == set()
            await world.content.join(PERFORMER.address).add(MODEL)
            await until(lambda: reading.library.ready_ids == {0}, "it is ready", READY_RETRY_MAX_SECONDS + 1)


@virtual
async def test_no_definition_ends_the_duty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a stranger's card or model makes a library raise."""
    async with World() as world:
        reading = Reading(world)
        hostile = await reading.define(lambda card: msgspec.structs.replace(card, name="hostile"))
        world.define(hostile)
        fetch = reading.library._fetch_card

        async def failing(cid: Cid, prefer: Address | None) -> ModelCard:
            if cid == hostile.card_cid:
                raise ValueError("a library's own")
            return await fetch(cid, prefer)

        monkeypatch.setattr(reading.library, "_fetch_card", failing)
        async with running(reading.library.keep_ready(lambda: world.roster)):
            await asyncio.sleep(10)
            assert reading.library.ready_ids == {0}
            late = await reading.define(lambda card: msgspec.structs.replace(card, name="late"))
            world.define(msgspec.structs.replace(late, id=2))
            await until(lambda: reading.library.ready_ids == {0, 2}, "the late one is ready")


@virtual
async def test_a_model_that_no_engine_would_load_is_not_fetched() -> None:
    async with World() as world:
        reading = Reading(world)
        library = ModelLibrary(
            content=reading.shelf,
            engines={Profile.FP32: reading.engine},
            reference=reading.engine,
            max_bytes=len(MODEL) - 1,
        )
        with pytest.raises(InferenceFailed, match="max_loaded_bytes"):
            await library.ready(DEFINITION)
        assert reading.shelf.count(cid_of(MODEL)) == 0


# --- side by side --------------------------------------------------------------------------------------
def silent(world: World, count: int) -> None:
    """Definitions 1 to `count`, whose cards are with an operator that never answers."""
    shelf = Address(bytes(19) + b"\1")
    world.content.delay(shelf, math.inf)
    for number in range(1, count + 1):
        world.content.join(shelf)
        block = make_block(Codec.RAW, b"card %d" % number)
        world.content.blocks[shelf][block.cid] = block
        world.define(msgspec.structs.replace(DEFINITION, id=number, card_cid=block.cid))


@virtual
async def test_those_that_nobody_serves_do_not_delay_the_rest() -> None:
    async with World() as world:
        reading = Reading(world)
        silent(world, MAX_READYING - 1)
        world.define(msgspec.structs.replace(DEFINITION, id=9))
        async with running(reading.library.keep_ready(lambda: world.roster)):
            await until(lambda: reading.library.ready_ids == {0, 9}, "the others are ready", 2.0)


@virtual
async def test_no_more_than_a_few_are_tried_at_once_and_each_gets_its_turn() -> None:
    async with World() as world:
        reading = Reading(world)
        silent(world, 3 * MAX_READYING)
        world.define(msgspec.structs.replace(DEFINITION, id=99))
        async with running(reading.library.keep_ready(lambda: world.roster)):
            await asyncio.sleep(FETCH_TIMEOUT_SECONDS - 1)
            assert len(reading.shelf.asked) <= MAX_READYING + 3  # the one that is ready asked for its model, too
            await until(lambda: reading.library.ready_ids == {0, 99}, "the last is ready", 4 * FETCH_TIMEOUT_SECONDS)


@virtual
async def test_a_definition_that_is_gone_is_tried_no_more_and_its_successor_anew() -> None:
    async with World() as world:
        reading = Reading(world)
        silent(world, 1)
        gone = world.roster.definitions[1]
        async with running(reading.library.keep_ready(lambda: world.roster)):
            await until(lambda: reading.shelf.count(gone.card_cid) == 1, "it is tried")
            world.roster = dataclasses.replace(world.roster, definitions={0: DEFINITION})
            await asyncio.sleep(200)
            assert reading.shelf.count(gone.card_cid) == 1
            world.define(msgspec.structs.replace(DEFINITION, id=1))
            await until(lambda: reading.library.ready_ids == {0, 1}, "another under its id is ready")
            world.define(gone)
            await until(lambda: reading.library.ready_ids == {0}, "what is not ready is not called so")


@virtual
async def test_a_card_that_lies_is_reported_once_and_its_model_fetched_once() -> None:
    async with World() as world:
        reading = Reading(world)
        other = b"another model"
        await world.content.join(PERFORMER.address).add(other)
        lying = await reading.define(with_model(cid=cid_of(other), size=len(other)))
        world.roster = dataclasses.replace(world.roster, definitions={1: lying})
        with capture_logs() as logs:
            async with running(reading.library.keep_ready(lambda: world.roster)):
                await asyncio.sleep(300)
            for _ in range(3):  # tasks on it
                with pytest.raises(ModelMismatch, match="has the SHA-256"):
                    await reading.library.ready(lying)
        assert [entry["event"] for entry in logs if entry.get("definition") == 1] == ["model not ready"]
        assert [entry["log_level"] for entry in logs if "not what its card" in entry["event"]] == ["warning"]
        assert reading.shelf.count(cid_of(other)) == 1
        assert {pin.keep_until for pin in await reading.shelf.pins()} == {CACHE}  # it goes when there is need of room


@virtual
async def test_the_files_of_ready_models_are_stamped_as_used_every_hour() -> None:
    async with World() as world:
        reading, touched = Reading(world), []

        async def touch(roots: Collection[Cid]) -> None:
            touched.append((asyncio.get_running_loop().time(), set(roots)))

        silent(world, 1)
        library = ModelLibrary(
            content=reading.shelf, engines={Profile.FP32: reading.engine}, reference=reading.engine, touch=touch
        )
        async with running(library.keep_ready(lambda: world.roster)):
            await asyncio.sleep(2.5 * TOUCH_SECONDS)
        files = {CARD_CID, cid_of(MODEL), cid_of(GOLDEN_BYTES)}
        assert [roots for _, roots in touched] == [set(), files, files]
        assert [round(at / TOUCH_SECONDS, 2) for at, _ in touched] == [0.0, 1.0, 2.0]


@virtual
async def test_models_on_their_way_are_told_to_whoever_asks_after_the_nodes_health() -> None:
    async with World() as world:
        reading = Reading(world)
        await reading.library.card(DEFINITION)
        world.content.delay(PERFORMER.address, 1.0)
        assert reading.library.fetching() == []
        async with running(reading.library.keep_ready(lambda: world.roster)):
            await until(reading.library.fetching, "it is on its way")
            assert reading.library.fetching() == [{"cid": cid_of(MODEL), "bytes": 0, "size": len(MODEL)}]
            await until(lambda: reading.library.ready_ids == {0}, "it is here")
        assert reading.library.fetching() == []
