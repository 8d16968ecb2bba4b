"""Calls to Kubo nodes' RPC APIs, and how Kubo builds files under CIDv0, for comparison."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from poi.testnet.kubo.daemon import Ready
from shared import base58
from shared.adapters.content.blocks import BlockFiles
from shared.content.car import car_header, car_section
from shared.content.cid import Block
from shared.content.dagpb import bytes_field, varint_field
from shared.content.unixfs import Profile, Walk, build_file
from shared.types import Cid
from tests.content_support import LIMIT_SECONDS

BOUNDARY = "a-boundary-between-parts"
V0_CHUNK_BYTES, V0_MAX_LINKS = 256 << 10, 174
SHOWN_BYTES = 300
ABSENT = "block was not found locally (offline): ipld: could not find "


@dataclass(frozen=True)
class Pair:
    """`b` dialled `a`."""

    a: Ready
    b: Ready


def rpc(node: Ready, command: str, *, upload: bytes | None = None, **options: str | int) -> tuple[int, bytes]:
    """(status, body); an underscore in an option's name is a hyphen."""
    query = urllib.parse.urlencode({name.replace("_", "-"): value for name, value in options.items()})
    request = urllib.request.Request(f"{node.url}/api/v0/{command}?{query}", method="POST", data=b"")
    if upload is not None:
        head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="file"\r\n\r\n'
        request.data = head.encode() + upload + f"\r\n--{BOUNDARY}--\r\n".encode()
        request.add_header("Content-Type", f"multipart/form-data; boundary={BOUNDARY}")
    try:
        with urllib.request.urlopen(request, timeout=LIMIT_SECONDS * 3) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code, refused.read()


def ask(node: Ready, command: str, *, upload: bytes | None = None, **options: str | int) -> Any:
    """The one JSON object that it answers."""
    status, body = rpc(node, command, upload=upload, **options)
    assert status == 200, body[:SHOWN_BYTES]
    return json.loads(body)


def refusal(node: Ready, command: str, *, upload: bytes | None = None, **options: str | int) -> str:
    status, body = rpc(node, command, upload=upload, **options)
    assert status == 500, body[:SHOWN_BYTES]
    document = json.loads(body)
    assert (document["Code"], document["Type"]) == (0, "error")
    return str(document["Message"])


def connect(node: Ready, other: Ready) -> None:
    assert ask(node, "swarm/connect", arg=other.address)["Strings"][0].endswith(" success")


def import_file(node: Ready, data: bytes, profile: Profile) -> tuple[Cid, set[Cid]]:
    """(root, all CIDs) of a file that is built here, and laid into the node as it is."""
    blocks: dict[Cid, Block] = {}
    root, _ = build_file(io.BytesIO(data), lambda block: blocks.__setitem__(block.cid, block), profile)
    answer = ask(node, "dag/import", upload=car(root, blocks.values()))
    assert answer == {"Root": {"Cid": {"/": root}, "PinErrorMsg": ""}}
    return root, set(blocks)


def car(root: Cid, blocks: Iterable[Block]) -> bytes:
    return car_header(root) + b"".join(map(car_section, blocks))


def read_repo(node: Ready, root: Cid) -> tuple[bytes, set[Cid]]:
    """(content, all CIDs) of a file, by our walk over the files that Kubo itself wrote."""
    files, walk = BlockFiles(node.repo), Walk(root, max_bytes=1 << 30)
    pieces, cids = [], set()
    while ahead := walk.ahead(1):
        block = files.get(ahead[0])
        assert block is not None, ahead[0]
        cids.add(block.cid)
        pieces.append(walk.feed(block))
    return b"".join(pieces), cids


def cid_version_0(data: bytes) -> str:
    """What `ipfs add` says by default: leaves in dag-pb, links without codec. Written from the specification, as an
    oracle: the builder of the network has neither."""
    level = []  # (multihash, bytes of the file, bytes of all blocks)
    for start in range(0, max(len(data), 1), V0_CHUNK_BYTES):
        chunk = data[start : start + V0_CHUNK_BYTES]
        content = bytes_field(2, chunk) if chunk else b""
        level.append(_node(b"", varint_field(1, 2) + content + varint_field(3, len(chunk)), len(chunk), 0))
    while len(level) > 1:
        level = [_parent(level[start : start + V0_MAX_LINKS]) for start in range(0, len(level), V0_MAX_LINKS)]
    return base58.encode(level[0][0])


def cid_version_1(data: bytes, profile: Profile) -> str:
    """Of the network's profiles, by the same oracle: leaves are raw, and each link says which its block is."""
    chunks = [data[start : start + profile.chunk_bytes] for start in range(0, max(len(data), 1), profile.chunk_bytes)]
    level = [(b"\x01\x55\x12\x20" + hashlib.sha256(chunk).digest(), len(chunk), len(chunk)) for chunk in chunks]
    while len(level) > 1:
        groups = [level[start : start + profile.max_links] for start in range(0, len(level), profile.max_links)]
        level = [(b"\x01\x70" + multihash, size, total) for multihash, size, total in map(_parent, groups)]
    return "b" + base64.b32encode(level[0][0]).decode().rstrip("=").lower()


def _parent(children: list[tuple[bytes, int, int]]) -> tuple[bytes, int, int]:
    links = b"".join(
        bytes_field(2, bytes_field(1, multihash) + bytes_field(2, b"") + varint_field(3, total))
        for multihash, _, total in children
    )
    size = sum(size for _, size, _ in children)
    sizes = b"".join(varint_field(4, size) for _, size, _ in children)
    return _node(links, varint_field(1, 2) + varint_field(3, size) + sizes, size, sum(one[2] for one in children))


def _node(links: bytes, unixfs: bytes, size: int, below: int) -> tuple[bytes, int, int]:
    block = links + bytes_field(1, unixfs)
    return b"\x12\x20" + hashlib.sha256(block).digest(), size, len(block) + below
