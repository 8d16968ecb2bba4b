"""From a definition to a model that runs: fetched once, held to what the chain says, loaded again when pushed out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
from structlog.testing import capture_logs

from shared.adapters.memory.engine import FunctionEngine
from shared.canonical import encode_canonical
from shared.constants import FETCH_TIMEOUT_SECONDS, MAX_CARD_BYTES
from shared.content.cid import Codec, make_block
from shared.content.unixfs import cid_of
from shared.errors import InferenceFailed, ModelMismatch
from shared.model_card import ModelCard
from shared.model_library import CardUnavailable, ModelLibrary, ModelUnavailable
from shared.profiles import Profile
from shared.types import Address, Cid, Digest, TaskDefinition
from tests.chain_support import PERFORMER
from tests.listening import running, until, virtual
from tests.roles import World, library_on
from tests.toy_model import CARD, CARD_BYTES, CARD_CID, DEFINITION, MODEL, MODEL_HASH, OUTPUT, engine_of

X = {"x": np.array([[1, 4, 1, 0]], np.float32)}


class Shelf:
    """A `ContentStore`'s `get` that notes what it was asked for."""

    def __init__(self, world: World, own: Address) -> None:
        self._store = world.content.join(own)
        self.asked: list[tuple[Cid, int, float, Address | None]] = []

    async def get(self, cid: Cid, *, max_bytes: int, timeout_seconds: float, prefer: Address | None = None) -> bytes:
        self.asked.append((cid, max_bytes, timeout_seconds, prefer))
        return await self._store.get(cid, max_bytes=max_bytes, timeout_seconds=timeout_seconds, prefer=prefer)

    def count(self, cid: Cid) -> int:
        return sum(asked == cid for asked, *_ in self.asked)


class Reading:
    """An attester's library in a world where the performer serves card and model."""

    def __init__(self, world: World, engine: FunctionEngine | None = None) -> None:
        self.world, self.engine = world, engine or engine_of()
        self.shelf = Shelf(world, world.people[0].address)
        self.library = library_on(self.shelf, self.engine)  # type: ignore[arg-type]  # `get` is all

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
        assert reading.shelf.count(cid_of(MODEL)) == 1
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
            (cid_of(MODEL), size, 50.0, PERFORMER.address),
        ]


@virtual
async def test_two_definitions_of_one_model_load_it_once() -> None:
    async with World() as world:
        reading = Reading(world)
        again = await reading.define(lambda card: msgspec.structs.replace(card, name="another name"))
        await reading.library.ready(DEFINITION)
        await reading.library.ready(again)
        assert reading.shelf.count(cid_of(MODEL)) == 1


@virtual
async def test_a_model_that_was_pushed_out_is_loaded_again_by_its_next_run() -> None:
    async with World() as world:
        reading = Reading(world)
        model = await reading.library.ready(DEFINITION)
        await reading.engine.close()
        assert not reading.engine.is_loaded(MODEL_HASH)
        await asyncio.gather(*(model.compute.run(X) for _ in range(4)))
        assert reading.shelf.count(cid_of(MODEL)) == 2


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
            ("model ready", 0),
            ("model not ready", 1),  # said once, and not every second
            ("model ready", 2),
        ]
        assert reading.shelf.count(cid_of(b"absent")) > 100


@virtual
async def test_what_was_not_ready_becomes_so() -> None:
    async with World() as world:
        reading = Reading(world)
        del world.content.blocks[PERFORMER.address][cid_of(MODEL)]
        async with running(reading.library.keep_ready(lambda: world.roster)):
            await asyncio.sleep(50)
            assert reading.library.ready_ids == set()
            await world.content.join(PERFORMER.address).add(MODEL)
            await until(lambda: reading.library.ready_ids == {0}, "it is ready")


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
            content=reading.shelf,  # type: ignore[arg-type]  # `get` is all
            engines={Profile.FP32: reading.engine},
            reference=reading.engine,
            max_bytes=len(MODEL) - 1,
        )
        with pytest.raises(InferenceFailed, match="max_loaded_bytes"):
            await library.ready(DEFINITION)
        assert reading.shelf.count(cid_of(MODEL)) == 0
