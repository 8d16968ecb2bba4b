"""Seeds at the door and in the performer's duty: the beacon where the card wants it, and told to whoever asks."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from poi.client import PoiClient
from shared.content.unixfs import cid_of
from shared.documents import InputDocument, Output, encode_input
from shared.errors import RequestRefused
from shared.json_forms import request_from_json, to_hex
from shared.messages import TaskMessage
from shared.types import Digest
from shared.verification.method import Compute, Work
from shared.verification.text import SeededText
from tests.cast import REQUESTER, beacon_of
from tests.chain_support import sha
from tests.doors import Door, asking, open_door
from tests.listening import running, until, virtual
from tests.roles import World
from tests.toy_model import OUTPUT

PROMPT = encode_input(InputDocument(prompt="hello"))
A_BEACON = "the seed of this task must be the beacon of the epoch or of the one before"


@pytest.fixture
async def door() -> AsyncIterator[Door]:
    """With definition 1, whose seed is the beacon, on the real clock."""
    async with open_door() as door:
        door.world.clock.now = time.time  # type: ignore[method-assign]
        await door.world.define_text()
        yield door


def prompting(door: Door, seed: Digest) -> dict[str, Any]:
    nonce = door.desk.ledger.count_open() + 1
    return asking(PROMPT, task_definition_id=1, seed=seed, nonce=nonce)(door.world)


async def is_taken(door: Door, seed: Digest) -> bool:
    before = door.desk.ledger.count_open()
    answer = await door.ask(prompting(door, seed))
    assert ("result" in answer) == (door.desk.ledger.count_open() == before + 1)
    return "result" in answer


# --- at the door -------------------------------------------------------------------------------------
async def test_the_beacon_is_taken_and_no_other_seed(door: Door) -> None:
    assert await is_taken(door, beacon_of(1))
    expected = f"{to_hex(beacon_of(1))} (`beacon` of poi_getNetwork)"
    for seed in (Digest(bytes(32)), beacon_of(2), beacon_of(0), Digest(sha("seed"))):
        assert await door.is_refused(prompting(door, seed), -32602, "request.seed", expected) == A_BEACON


async def test_the_beacon_of_the_epoch_before_is_still_good_and_no_older_one(door: Door) -> None:
    door.world.roll()
    door.world.roll()
    assert await is_taken(door, beacon_of(3))
    assert await is_taken(door, beacon_of(2))
    expected = f"{to_hex(beacon_of(3))} or {to_hex(beacon_of(2))} (`beacon` of poi_getNetwork)"
    await door.is_refused(prompting(door, beacon_of(1)), -32602, "request.seed", expected)


async def test_without_a_beacon_nothing_is_taken_that_needs_one(door: Door) -> None:
    door.world.roster = replace(door.world.roster, beacons={})
    expected = "the beacon, which is not known here yet (`beacon` of poi_getNetwork)"
    await door.is_refused(prompting(door, Digest(bytes(32))), -32602, "request.seed", expected)
    assert "result" in await door.ask(door.world.form())  # whose card is of no text


async def test_a_refused_seed_leaves_no_input_behind(door: Door) -> None:
    """Named by its CID alone, and fetched for nothing."""
    cid = (await door.world.content.join(door.world.people[0].address).add(PROMPT)).cid
    form = asking(None, input_cid=cid, task_definition_id=1)(door.world)
    await door.is_refused(form, -32602, "request.seed", f"{to_hex(beacon_of(1))} (`beacon` of poi_getNetwork)")


async def test_any_seed_is_taken_where_the_card_leaves_it_to_the_requester(door: Door) -> None:
    await door.world.define_text(seed="requester")
    assert await is_taken(door, Digest(sha("any")))


# --- telling -----------------------------------------------------------------------------------------
async def told(door: Door) -> tuple[Any, list[Any]]:
    """The beacon, and by definition whose the seed is."""
    network = (await door.call("poi_getNetwork"))["result"]
    return network["beacon"], [definition["seed"] for definition in network["taskDefinitions"]]


async def test_the_network_tells_the_beacon_and_who_needs_it(door: Door) -> None:
    # The card of definition 1 was not read by anybody yet.
    assert await told(door) == (to_hex(beacon_of(1)), ["requester", None])
    await door.desk.library.card(door.world.roster.definitions[1])
    door.world.roll()
    assert await told(door) == (to_hex(beacon_of(2)), ["requester", "beacon"])
    door.world.roster = replace(door.world.roster, beacons={})
    assert await told(door) == (None, ["requester", "beacon"])


# --- asking ------------------------------------------------------------------------------------------
async def seed_of(client: PoiClient, definition: int) -> Digest:
    _, call = await client.prepare(definition, {"prompt": "hello"})
    return request_from_json(call["request"]).seed


async def test_a_client_takes_the_beacon_of_now(door: Door) -> None:
    async with PoiClient(door.url, REQUESTER.identity) as client:
        assert await seed_of(client, 1) == beacon_of(1)  # before the card is read: no definition refuses a beacon
        await client.request(1, {"prompt": "hello"})
        for epoch in (2, 3, 4):
            door.world.roll()
            assert await seed_of(client, 1) == beacon_of(epoch)
            await client.request(1, {"prompt": "hello"})
        assert door.desk.ledger.count_open() == 4


async def test_a_client_draws_a_seed_where_it_may(door: Door) -> None:
    async with PoiClient(door.url, REQUESTER.identity) as client:
        seeds = {await seed_of(client, 0) for _ in range(10)}
    assert len(seeds) == 10
    assert beacon_of(1) not in seeds


async def test_a_client_says_that_the_beacon_is_not_known(door: Door) -> None:
    await door.desk.library.card(door.world.roster.definitions[1])
    door.world.roster = replace(door.world.roster, beacons={})
    async with PoiClient(door.url, REQUESTER.identity) as client:
        with pytest.raises(RequestRefused, match="the performer does not know the beacon") as refused:
            await client.prepare(1, {"prompt": "hello"})
    assert (refused.value.code, refused.value.expected) == (-32006, "try again in a moment")


# --- performing --------------------------------------------------------------------------------------
class Writer(SeededText):
    """Stands for the text method where nothing can run the model."""

    async def prove(self, work: Work, compute: Compute) -> Output:
        return OUTPUT


@pytest.mark.parametrize(("rolls", "epoch"), [(0, 2), (1, 3), (2, 3)])
@virtual
async def test_a_task_that_waits_while_epochs_roll_is_performed_in_one_that_knows_its_seed(
    rolls: int, epoch: int
) -> None:
    async with World() as world, world.performer(methods={"text": Writer()}) as desk:
        bystander = await world.bystander()
        await world.define_text()
        world.roll()
        request = world.request(task_definition_id=1, input_cid=cid_of(PROMPT), seed=beacon_of(2))
        task_id = await desk.request(world.form(request, PROMPT))
        for _ in range(rolls):
            world.roll()
        async with running(desk.performer.run()):
            message: TaskMessage = (await bystander.hears(TaskMessage))[0]
    assert (message.task_info.task_id, message.task_info.epoch) == (task_id, epoch)


@virtual
async def test_a_task_whose_seed_no_epoch_knows_any_more_is_a_failure() -> None:
    async with World() as world, world.performer(methods={"text": Writer()}) as desk:
        await world.define_text()
        request = world.request(task_definition_id=1, input_cid=cid_of(PROMPT), seed=beacon_of(1))
        task_id = await desk.request(world.form(request, PROMPT))
        for _ in range(3):
            world.roll()
        async with running(desk.performer.run()):
            await until(lambda: getattr(desk.ledger.get(task_id), "failure", None), "it failed")
        task = desk.ledger.get(task_id)
        assert task is not None
        assert str(task.failure).startswith("the request's seed is the beacon of no epoch whose votes still settle")
