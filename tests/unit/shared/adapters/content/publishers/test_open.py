"""From settings to publishers: off until named, tokens from files that only their owner can read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web

from shared.adapters.content.publishers.open import open_publishers
from shared.config import Config, ContentConfig, NetworkConfig, PublishConfig
from shared.content.unixfs import UNIXFS_V1_2025
from shared.errors import ConfigError, PublishFailed
from shared.interfaces import PublishState, Receipt
from shared.types import Address
from tests.content_support import content_of
from tests.kubo_support import FakeKubo
from tests.publisher_support import TOKEN, FakeEigenDa, FakePinata, FakePinningService, Shelf

NETWORK = NetworkConfig(
    chain_rpc="http://chain",
    chain_id=1,
    attestation_center=Address(bytes([1]) * 20),
    task_escrow=Address(bytes([2]) * 20),
)
ORIGIN = "/dns4/node.example/tcp/4001/p2p/12D3KooWOwn"


def config(to: Sequence[str], content: Mapping[str, Any] | None = None, **publish: Any) -> Config:
    return Config(
        network=NETWORK, content=ContentConfig(**(content or {})), publish=PublishConfig(to=tuple(to), **publish)
    )


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n")
    path.chmod(0o600)
    return path


async def test_without_a_name_there_is_none() -> None:
    async with open_publishers(config([], {"eigenda_url": "http://127.0.0.1:1"}), Shelf()) as publishers:
        assert publishers == ()


async def test_they_come_in_the_order_of_the_settings(token_file: Path) -> None:
    named = ("eigenda", "filebase", "pinata", "pinning-service", "kubo")
    url, files = "http://127.0.0.1:1", dict.fromkeys(("pinata", "filebase", "pinning_service"), token_file)
    publish = {f"{name}_url": url for name in files} | {f"{name}_token_file": path for name, path in files.items()}
    async with open_publishers(config(named, {"kubo_url": url, "eigenda_url": url}, **publish), Shelf()) as publishers:
        assert tuple(publisher.name for publisher in publishers) == named


async def test_each_reaches_its_service(token_file: Path) -> None:
    pins, pinata, eigenda = FakePinningService(["pinned"]), FakePinata(), FakeEigenDa()
    kubo, filebase, shelf = FakeKubo(), FakeKubo(), Shelf()
    filebase.token = f"Bearer {TOKEN}"
    ref = shelf.add(b"proof")
    async with (
        kubo.serving(),
        filebase.serving(),
        pins.open() as pins_url,
        pinata.open() as pinata_url,
        eigenda.open() as eigenda_url,
        open_publishers(
            config(
                ["kubo", "pinning-service", "pinata", "filebase", "eigenda"],
                {"kubo_url": kubo.url, "eigenda_url": eigenda_url, "sources": (ORIGIN, "https://gateway.example")},
                pinning_service_url=f"{pins_url}/psa",
                pinning_service_token_file=token_file,
                pinata_url=pinata_url,
                pinata_token_file=token_file,
                filebase_url=filebase.url,
                filebase_token_file=token_file,
            ),
            shelf,
        ) as publishers,
    ):
        receipts = [await publisher.publish(ref) for publisher in publishers]
    pinned = PublishState.PINNED
    assert receipts == [
        Receipt("kubo", ref.cid, ref.cid, pinned),
        Receipt("pinning-service", ref.cid, "request/0", pinned),
        Receipt("pinata", ref.cid, ref.cid, pinned),
        Receipt("filebase", ref.cid, ref.cid, pinned),
        Receipt("eigenda", ref.cid, next(iter(eigenda.blobs))[2:], PublishState.PINNING),
    ]
    assert kubo.pins == filebase.pins == {ref.cid}
    assert pins.requests["request/0"]["pin"]["origins"] == [ORIGIN]


async def test_a_pinning_service_finds_the_file_in_the_own_node_which_meets_its_delegates(token_file: Path) -> None:
    pins, kubo, shelf = FakePinningService(), FakeKubo(), Shelf()
    ref = shelf.add(b"proof")
    async with kubo.serving(), pins.open() as url:
        settings = config(
            ["pinning-service"],
            {"kubo_url": kubo.url},
            pinning_service_url=f"{url}/psa",
            pinning_service_token_file=token_file,
        )
        async with open_publishers(settings, shelf) as (publisher,):
            assert (await publisher.publish(ref)).state is PublishState.QUEUED
    assert kubo.pins == {ref.cid}
    assert kubo.connected == list(pins.delegates)


# --- Filebase: Kubo's API behind a token ----------------------------------------------------------
async def test_a_large_file_has_our_cid_at_filebase(token_file: Path) -> None:
    filebase, shelf = FakeKubo(), Shelf()
    filebase.token = f"Bearer {TOKEN}"
    ref = shelf.add(content_of(3 << 20), UNIXFS_V1_2025)
    async with filebase.serving():
        settings = config(["filebase"], filebase_url=filebase.url, filebase_token_file=token_file)
        async with open_publishers(settings, shelf) as (publisher,):
            published = await publisher.publish(ref)
            assert published == await publisher.publish(ref) == await publisher.status(published)
            filebase.pins.clear()
            lost = await publisher.status(published)
    assert (published.cid, published.state) == (ref.cid, PublishState.PINNED)
    assert lost.state is PublishState.FAILED
    (imported,) = filebase.called("dag/import")
    assert imported["pin-roots"] == "true"
    assert imported["timeout"] == "78s"  # a slow line's pace, where a node of one's own has half a minute


async def test_a_token_that_filebase_refuses_is_final_and_not_shown(token_file: Path) -> None:
    filebase, shelf = FakeKubo(), Shelf()
    filebase.token = "Bearer another"
    async with filebase.serving():
        settings = config(["filebase"], filebase_url=filebase.url, filebase_token_file=token_file)
        async with open_publishers(settings, shelf) as (publisher,):
            with pytest.raises(PublishFailed, match=r"403.*check publish\.filebase_token_file$") as caught:
                await publisher.publish(shelf.add(b"proof"))
    assert caught.value.is_final
    assert TOKEN not in str(caught.value)


async def test_filebase_s_own_settings_are_named(token_file: Path) -> None:
    filebase, shelf = FakeKubo(), Shelf()
    ref = shelf.add(b"proof")
    filebase.answers["pin/ls"] = lambda: web.Response(status=404)
    async with filebase.serving():
        settings = config(["filebase"], filebase_url=filebase.url, filebase_token_file=token_file)
        async with open_publishers(settings, shelf) as (publisher,):
            with pytest.raises(PublishFailed, match=r"404.*check publish\.filebase_url$"):
                await publisher.publish(ref)
    async with open_publishers(settings, shelf) as (publisher,):  # it has gone
        with pytest.raises(PublishFailed, match=r"filebase at .* \(publish\.filebase_url\) does not answer") as caught:
            await publisher.publish(ref)
    assert not caught.value.is_final
    assert "Kubo" not in str(caught.value)


# --- tokens --------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("content", "mode", "said"),
    [
        ("two\nlines\n", 0o600, "one line"),
        ("", 0o600, "empty"),
        ("tökén\n", 0o600, "publish.pinata_token_file: .* does not hold a token of ASCII characters"),
        ("tok\x07en\n", 0o600, "does not hold a token"),
        (f"{TOKEN}\n", 0o644, "chmod 600"),
        (None, 0, "token"),
    ],
)
async def test_a_token_file_that_cannot_be_used(tmp_path: Path, content: str | None, mode: int, said: str) -> None:
    path = tmp_path / "token"
    if content is not None:
        path.write_text(content)
        path.chmod(mode)
    settings = config(["pinata"], pinata_url="http://127.0.0.1:1", pinata_token_file=path)
    with pytest.raises(ConfigError, match=said) as caught:
        async with open_publishers(settings, Shelf()):
            pass
    assert TOKEN not in str(caught.value)


async def test_settings_hold_no_token(token_file: Path) -> None:
    settings = config(["pinata"], pinata_url="http://127.0.0.1:1", pinata_token_file=token_file)
    assert TOKEN.encode() not in msgspec.json.encode(settings, enc_hook=str)
    assert TOKEN not in repr(settings)
