"""The performer's duty with publishers: the proof reaches each service, and none of them holds up or fails a task."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from performer.publishing import CERTIFICATE_SECONDS
from performer.service import PARALLEL_RUNS
from shared import messages
from shared.adapters.content.publishers.open import open_publishers
from shared.config import Config, ContentConfig, NetworkConfig, PublishConfig
from shared.constants import MAX_PROOF_BYTES
from shared.errors import PublishFailed
from shared.interfaces import PublishState
from shared.messages import TaskMessage
from shared.types import Address
from shared.workflow import Phase
from tests.cast import peer_key_of
from tests.chain_support import PERFORMER
from tests.kubo_support import FakeKubo
from tests.listening import running, until, virtual
from tests.publisher_support import (
    TOKEN,
    FakeEigenDa,
    FakePinata,
    FakePinningService,
    FakeService,
    ScriptedPublisher,
    saying,
)
from tests.roles import World

NETWORK = NetworkConfig(
    chain_rpc="http://chain",
    chain_id=1,
    attestation_center=Address(bytes([1]) * 20),
    task_escrow=Address(bytes([2]) * 20),
)
PINNED = PublishState.PINNED
CERTIFICATE = "01c0ffee"


# --- each service, over HTTP ---------------------------------------------------------------------
@dataclass
class Services:
    """Their settings, and what each of them has."""

    config: Callable[[str], Config]
    kubo: FakeKubo
    filebase: FakeKubo
    pins: FakePinningService
    pinata: FakePinata
    eigenda: FakeEigenDa

    def holds(self, name: str, cid: str, proof: bytes) -> bool:
        match name:
            case "kubo":
                return self.kubo.pins == {cid}
            case "filebase":
                return self.filebase.pins == {cid}
            case "pinning-service":
                pins = [each for each in self.pins.requests.values() if each["course"] == ["pinned"]]
                return [each["pin"]["cid"] for each in pins] == [cid] and self.kubo.pins == {cid}
            case "pinata":
                return self.pinata.files == {cid: proof}
            case _:
                return list(self.eigenda.blobs.values()) == [proof]


@asynccontextmanager
async def services(token_file: Path) -> AsyncIterator[Services]:
    kubo, filebase = FakeKubo(), FakeKubo()
    filebase.token = f"Bearer {TOKEN}"
    pins, pinata, eigenda = FakePinningService(), FakePinata(), FakeEigenDa()
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(kubo.serving())
        await stack.enter_async_context(filebase.serving())
        pins_url, pinata_url, eigenda_url = [
            await stack.enter_async_context(fake.open()) for fake in (pins, pinata, eigenda)
        ]
        publish = {
            "pinning_service_url": f"{pins_url}/psa",
            "pinning_service_token_file": token_file,
            "pinata_url": pinata_url,
            "pinata_token_file": token_file,
            "filebase_url": filebase.url,
            "filebase_token_file": token_file,
        }

        def config(name: str) -> Config:
            content = ContentConfig(kubo_url=kubo.url, eigenda_url=eigenda_url)
            return Config(network=NETWORK, content=content, publish=PublishConfig(to=(name,), **publish))  # type: ignore[arg-type]

        yield Services(config, kubo, filebase, pins, pinata, eigenda)


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(TOKEN)
    path.chmod(0o600)
    return path


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Polling: the services here are quick, and their time is real."""
    monkeypatch.setattr("performer.publishing._pause", lambda entry: None)


async def proof_of(world: World, message: TaskMessage) -> bytes:
    shelf = world.content.join(PERFORMER.address)
    return await shelf.get(message.task_info.proof_of_task, max_bytes=MAX_PROOF_BYTES, timeout_seconds=1)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("name", ["kubo", "pinning-service", "pinata", "filebase", "eigenda"])
async def test_an_honest_proof_reaches_the_service(name: str, token_file: Path) -> None:
    async with services(token_file) as outside, World() as world:
        shelf = world.content.join(PERFORMER.address)
        async with (
            open_publishers(outside.config(name), shelf) as publishers,
            world.performer(publishers=publishers) as desk,
        ):
            bystander = await world.bystander()
            async with running(desk.performer.run()):
                await desk.request(world.form())
                message: TaskMessage = (await bystander.hears(TaskMessage))[0]
                proof = await proof_of(world, message)
                cid = message.task_info.proof_of_task
                await until(lambda: outside.holds(name, cid, proof), f"{name} has it")
        assert world.rules().check_task(peer_key_of(PERFORMER), messages.encode(message)) == message
        certificates = {f"0x{message.content.eigenda.hex()}"} if name == "eigenda" else set()
        assert set(outside.eigenda.blobs) == certificates
        assert bool(message.content.eigenda) == (name == "eigenda")


@pytest.mark.parametrize("name", ["pinning-service", "pinata", "eigenda"])
async def test_a_service_that_refuses_costs_the_task_nothing(name: str, token_file: Path) -> None:
    async with services(token_file) as outside, World() as world:
        refusing: FakeService
        for refusing in (outside.pins, outside.pinata, outside.eigenda):
            refusing.lie = saying(400, "no")
        shelf = world.content.join(PERFORMER.address)
        async with (
            open_publishers(outside.config(name), shelf) as publishers,
            world.performer(publishers=publishers) as desk,
        ):
            bystander = await world.bystander()
            async with running(desk.performer.run()):
                await desk.request(world.form())
                message: TaskMessage = (await bystander.hears(TaskMessage))[0]
        assert message.content.eigenda == b""


# --- on virtual time -----------------------------------------------------------------------------
def now() -> float:
    return asyncio.get_running_loop().time()


def eigenda(*steps: Any) -> ScriptedPublisher:
    return ScriptedPublisher("eigenda", list(steps), receipt_id=CERTIFICATE)


@virtual
async def test_the_certificate_comes_before_the_message_and_is_in_it() -> None:
    async with World() as world, world.performer(publishers=[eigenda(5.0, PINNED)]) as desk:
        bystander = await world.bystander()
        async with running(desk.performer.run()):
            start = now()
            task_id = await desk.request(world.form())
            message: TaskMessage = (await bystander.hears(TaskMessage))[0]
            assert 5.0 <= now() - start < 6.0
        assert message.content.eigenda == bytes.fromhex(CERTIFICATE)
        task = desk.ledger.get(task_id)
        assert task is not None
        assert task.content == message.content


@pytest.mark.parametrize("step", [1e9, PublishFailed("answered 503")])
@virtual
async def test_eigenda_that_is_out_delays_a_task_by_a_bounded_time(step: Any) -> None:
    async with World() as world, world.performer(publishers=[eigenda(step)]) as desk:
        bystander = await world.bystander()
        async with running(desk.performer.run()):
            start = now()
            await desk.request(world.form())
            message: TaskMessage = (await bystander.hears(TaskMessage))[0]
            assert CERTIFICATE_SECONDS <= now() - start < CERTIFICATE_SECONDS + 1
        assert message.content.eigenda == b""


@virtual
async def test_a_task_that_is_urgent_goes_out_in_time() -> None:
    async with World() as world, world.performer(publishers=[eigenda(1e9)]) as desk:
        bystander = await world.bystander()
        async with running(desk.performer.run()):
            start = now()
            await desk.request(world.form(world.request(deadline=int(world.clock.now()) + 9)))
            await bystander.hears(TaskMessage)
            assert now() - start < 3.0


@virtual
async def test_the_engine_does_not_wait_for_certificates() -> None:
    count = 3 * PARALLEL_RUNS
    async with World() as world, world.performer(publishers=[eigenda(1e9)]) as desk:
        bystander = await world.bystander()
        async with running(desk.performer.run()):
            start = now()
            for nonce in range(count):
                await desk.request(world.form(world.request(nonce=nonce + 1)))
            await until(lambda: len(bystander.of(TaskMessage)) >= count, "all are told")
            assert now() - start < CERTIFICATE_SECONDS + 1


@virtual
async def test_a_crash_while_the_certificate_is_awaited_forgets_no_task() -> None:
    async with World() as world:
        async with world.performer(publishers=[eigenda(1e9)]) as desk, running(desk.performer.run()):
            task_id = await desk.request(world.form())
            await asyncio.sleep(1)
            task = desk.ledger.get(task_id)
            assert task is not None
            assert task.phase is Phase.REQUESTED
        publisher = eigenda(PINNED)
        async with world.performer(publishers=[publisher]) as desk:
            bystander = await world.bystander()
            async with running(desk.performer.run()):
                message: TaskMessage = (await bystander.hears(TaskMessage))[0]
        assert (message.task_info.task_id, message.content.eigenda) == (task_id, bytes.fromhex(CERTIFICATE))


@virtual
async def test_a_crash_forgets_no_publication() -> None:
    async with World() as world:
        down = ScriptedPublisher(steps=[PublishFailed("answered 503")])
        async with world.performer(publishers=[down]) as desk:
            bystander = await world.bystander()
            async with running(desk.performer.run()):
                await desk.request(world.form())
                message: TaskMessage = (await bystander.hears(TaskMessage))[0]
        up = ScriptedPublisher()
        async with world.performer(publishers=[up]) as desk, running(desk.performer.run()):
            await until(lambda: up.asked, "it is tried again")
        assert up.asked[0][:2] == ("publish", message.task_info.proof_of_task)


@virtual
async def test_a_task_message_names_the_further_sources_of_the_settings() -> None:
    sources = ("https://gateway.example", "/dns4/node.example/tcp/4001/p2p/12D3KooWOwn")
    async with World() as world, world.performer(sources=sources) as desk:
        bystander = await world.bystander()
        async with running(desk.performer.run()):
            await desk.request(world.form())
            message: TaskMessage = (await bystander.hears(TaskMessage))[0]
        assert message.content.sources == sources
        assert world.rules().check_task(peer_key_of(PERFORMER), messages.encode(message)) == message


@virtual
async def test_a_bug_in_a_publisher_fails_no_task() -> None:
    async with World() as world:
        broken = [ScriptedPublisher("eigenda", [KeyError("bug")]), ScriptedPublisher("pinata", [KeyError("bug")])]
        async with world.performer(publishers=broken) as desk:
            bystander = await world.bystander()
            with capture_logs():
                async with running(desk.performer.run()):
                    await desk.request(world.form())
                    await bystander.hears(TaskMessage)
