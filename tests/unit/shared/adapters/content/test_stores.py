"""The settings of content as objects."""

from __future__ import annotations

import io
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from aiohttp import web

from shared.adapters.content.embedded import EmbeddedBlocks
from shared.adapters.content.kubo.blocks import KuboBlocks
from shared.adapters.content.stores import kubo_rpc, local_store, open_content
from shared.config import ContentConfig
from shared.content.cid import Codec, make_block, parse_cid
from shared.content.unixfs import UNIXFS_V1_2025
from shared.errors import ConfigError, ContentUnavailable, SourceFailed
from shared.types import FOREVER, Address, Ref
from tests.content_support import serving
from tests.kubo_support import FakeKubo


@pytest.fixture
def auth_file(tmp_path: Path) -> Path:
    path = tmp_path / "auth"
    path.write_text("Bearer a-very-long-token\n")
    path.chmod(0o600)
    return path


async def test_the_embedded_store_is_on_this_disk(tmp_path):
    store = local_store(ContentConfig(), tmp_path)
    assert isinstance(store, EmbeddedBlocks)
    async with store:
        ref = await store.build(lambda: io.BytesIO(b"content"), UNIXFS_V1_2025, FOREVER)
        assert await store.is_complete(ref.cid)


@pytest.mark.parametrize("name", ["kubo", "ipfshttpclient"])
async def test_the_others_are_in_the_node_behind_its_door(tmp_path, auth_file, name):
    async with FakeKubo().serving() as kubo:
        kubo.token = "Bearer a-very-long-token"
        settings = ContentConfig(store=name, kubo_url=kubo.url, kubo_auth_file=auth_file)
        store = local_store(settings, tmp_path / "content")
        assert isinstance(store, KuboBlocks)
        async with store:
            ref = await store.build(lambda: io.BytesIO(b"content"), UNIXFS_V1_2025, FOREVER)
        assert kubo.pins == {ref.cid}


OPERATOR = Address(b"o" * 20)
OTHER = Address(b"p" * 20)
AT_OPERATOR = "/dns/gateway.example/tcp/4001/p2p/12D3Koo"
PUBLIC, PRIVATE = "/ip4/8.8.8.8/tcp/4001/p2p/12D3Koo", "/ip4/10.0.0.8/tcp/4001/p2p/12D3Koo"
ELSEWHERE = "/dns/metadata.internal/tcp/80/p2p/12D3Koo"


@pytest.mark.parametrize("name", ["embedded", "kubo"])
async def test_a_node_with_kubo_fetches_what_the_ipfs_network_has(tmp_path, name):
    block = make_block(Codec.RAW, b"of the network")
    async with AsyncExitStack() as stack:
        kubo = await stack.enter_async_context(FakeKubo().serving())
        kubo.network[parse_cid(block.cid)[1]] = block.data
        settings = ContentConfig(store=name, kubo_url=kubo.url)
        content = await stack.enter_async_context(open_content(settings, tmp_path, gateways=dict, own=None))
        assert await content.get(block.cid, max_bytes=100, timeout_seconds=20) == block.data
        assert await content.has(block.cid)


@pytest.mark.parametrize(
    ("networks", "dialled"), [((), {AT_OPERATOR, PUBLIC}), (("10.0.0.0/8",), {AT_OPERATOR, PUBLIC, PRIVATE})]
)
async def test_kubo_dials_nobody_but_nodes_at_operators_hosts(tmp_path, networks, dialled):
    block = make_block(Codec.RAW, b"of the network")
    ref = Ref(block.cid, len(block.data), UNIXFS_V1_2025.name, (AT_OPERATOR, ELSEWHERE, PUBLIC, PRIVATE))
    async with AsyncExitStack() as stack:
        kubo = await stack.enter_async_context(FakeKubo().serving())
        content = await stack.enter_async_context(
            open_content(
                ContentConfig(kubo_url=kubo.url, private_networks=networks),
                tmp_path,
                gateways=lambda: {OPERATOR: "https://gateway.example", OTHER: "http://8.8.8.8:8700"},
                p2p_addresses=lambda: {OPERATOR: "/ip4/10.0.0.8/tcp/9700"},
                own=OPERATOR,
            )
        )
        source = content._reader._sources(None, ref)[-1]
        assert set(source._peers(ref)) == dialled
        assert source._peers(None) == []


async def test_without_kubo_nothing_but_the_operators_is_asked(tmp_path):
    cid = make_block(Codec.RAW, b"nowhere").cid
    async with open_content(ContentConfig(), tmp_path, gateways=dict, own=None) as content:
        with pytest.raises(ContentUnavailable, match="no source is known"):
            await content.get(cid, max_bytes=100, timeout_seconds=20)


@pytest.mark.parametrize("networks", [(), ("127.0.0.0/8",)])
async def test_operators_in_private_networks_are_asked_only_where_the_settings_say_so(tmp_path, networks):
    asked, block = [], make_block(Codec.RAW, b"inside")

    async def serve(request: web.Request) -> web.Response:
        asked.append(request.path)
        return web.Response(body=block.data, content_type="application/vnd.ipld.raw")

    async with serving([web.get("/ipfs/{cid}", serve)]) as url:
        settings = ContentConfig(private_networks=networks)
        async with open_content(settings, tmp_path, gateways=lambda: {OTHER: url}, own=OPERATOR) as content:
            if networks:
                assert await content.get(block.cid, max_bytes=100, timeout_seconds=20, prefer=OTHER) == block.data
            else:
                with pytest.raises(ContentUnavailable, match=r"127\.0\.0\.1 is no public address"):
                    await content.get(block.cid, max_bytes=100, timeout_seconds=20, prefer=OTHER)
    assert asked == ([f"/ipfs/{block.cid}"] if networks else [])


async def test_another_address_than_the_apis_is_told(tmp_path):
    async with FakeKubo().serving() as kubo, kubo_rpc(ContentConfig(kubo_url=f"{kubo.url}/ipfs/")) as rpc:
        with pytest.raises(SourceFailed, match=r"HTTP status 404.*check content\.kubo_url"):
            await rpc.node()


def test_a_header_that_others_can_read_is_refused(auth_file):
    auth_file.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        kubo_rpc(ContentConfig(kubo_url="http://127.0.0.1:5001", kubo_auth_file=auth_file))


def test_a_header_that_no_http_carries_is_refused(auth_file):
    auth_file.write_text("Bearer tökens-are-ascii\n")
    with pytest.raises(ConfigError, match="does not hold a header of ASCII characters"):
        kubo_rpc(ContentConfig(kubo_url="http://127.0.0.1:5001", kubo_auth_file=auth_file))
