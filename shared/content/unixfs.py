"""Files as DAGs: `build_file` makes the one that `ipfs add` makes under the profile, `Walk` reads anybody's, verified.

A file's DAG is a tree of dag-pb nodes over leaves; a file of one chunk is its leaf. Each node's data is UnixFS:
Data { Type = 1; bytes Data = 2; uint64 filesize = 3; repeated uint64 blocksizes = 4; ... mode = 7; mtime = 8; }
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import BinaryIO

from shared.constants import CHUNK_BYTES, MAX_BLOCK_BYTES, MAX_DAG_DEPTH, MAX_LINKS
from shared.content.cid import Block, Codec, codec_of, make_block
from shared.content.dagpb import Link, decode_node, encode_node, fields, varint_field
from shared.errors import CodecError, ContentCorrupt, ContentTooLarge
from shared.types import Cid

_RAW_DATA, _FILE = 0, 2  # UnixFS types; directories, symbolic links and shards are no files
# A block of nothing but links to one-byte leaves would cost a fetch and a hash for each byte. Real chunks are 256 KiB
# and more; 4 KiB leaves room for anybody's small ones.
MIN_BYTES_PER_NODE = 4096
FREE_NODES = 64
_CID_SHOWN = 64  # characters of a stranger's text that an error repeats


@dataclass(frozen=True, slots=True)
class Profile:
    """What decides a file's CID, beside its bytes. Leaves are raw, CIDs version 1."""

    name: str
    chunk_bytes: int
    max_links: int


UNIXFS_V1_2025 = Profile("unixfs-v1-2025", CHUNK_BYTES, MAX_LINKS)  # IPIP-499
# What `ipfs add --cid-version=1` makes where nobody configured a profile.
UNIXFS_V1_CLASSIC = Profile("unixfs-v1-classic", 256 << 10, 174)
PROFILES = {profile.name: profile for profile in (UNIXFS_V1_2025, UNIXFS_V1_CLASSIC)}


# --- writing -------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class _Subtree:
    cid: Cid
    file_bytes: int
    total_bytes: int  # of all its blocks


class _Builder:
    """The balanced layout, leaf by leaf: one open node a level is all that is held."""

    def __init__(self, put: Callable[[Block], None], max_links: int) -> None:
        self._put, self._max_links = put, max_links
        self._levels: list[list[_Subtree]] = [[]]

    def add_leaf(self, chunk: bytes) -> None:
        block = make_block(Codec.RAW, chunk)
        self._put(block)
        self._push(0, _Subtree(block.cid, len(chunk), len(chunk)))

    def _push(self, level: int, subtree: _Subtree) -> None:
        if level == len(self._levels):
            self._levels.append([])
        if len(self._levels[level]) == self._max_links:
            self._close(level)
        self._levels[level].append(subtree)

    def _close(self, level: int) -> None:
        """Everything open at `level` becomes one node of the level above."""
        subtrees, self._levels[level] = self._levels[level], []
        file_bytes = sum(subtree.file_bytes for subtree in subtrees)
        sizes = b"".join(varint_field(4, subtree.file_bytes) for subtree in subtrees)
        data = varint_field(1, _FILE) + varint_field(3, file_bytes) + sizes
        block = make_block(
            Codec.DAG_PB, encode_node(data, [Link(subtree.cid, subtree.total_bytes) for subtree in subtrees])
        )
        self._put(block)
        total_bytes = len(block.data) + sum(subtree.total_bytes for subtree in subtrees)
        self._push(level + 1, _Subtree(block.cid, file_bytes, total_bytes))

    def finish(self) -> _Subtree:
        level = 0
        while level < len(self._levels) - 1 or len(self._levels[level]) > 1:
            self._close(level)
            level += 1
        return self._levels[level][0]


def build_file(stream: BinaryIO, put: Callable[[Block], None], profile: Profile = UNIXFS_V1_2025) -> tuple[Cid, int]:
    """(root, file size in bytes). Blocks go to `put` leaves first, the root last; one chunk at a time is held."""
    builder = _Builder(put, profile.max_links)
    for chunk in _chunks(stream, profile.chunk_bytes):
        builder.add_leaf(chunk)
    root = builder.finish()
    return root.cid, root.file_bytes


def file_blocks(stream: BinaryIO, profile: Profile = UNIXFS_V1_2025) -> Iterator[Block]:
    """The blocks that `build_file` makes, in its order, for who takes them one by one."""
    made: list[Block] = []
    builder = _Builder(made.append, profile.max_links)
    for chunk in _chunks(stream, profile.chunk_bytes):
        builder.add_leaf(chunk)
        yield from made
        made.clear()
    builder.finish()
    yield from made


def cid_of(data: bytes, profile: Profile = UNIXFS_V1_2025) -> Cid:
    """What `build_file` makes of these bytes, without keeping a block."""
    cid, _ = build_file(BytesIO(data), lambda _: None, profile)
    return cid


def _chunks(stream: BinaryIO, size: int) -> Iterator[bytes]:
    """At least one chunk: the empty file is one empty leaf."""
    chunk = _read_full(stream, size)
    yield chunk
    while len(chunk) == size and (chunk := _read_full(stream, size)):
        yield chunk


def _read_full(stream: BinaryIO, size: int) -> bytes:
    """`size` bytes, fewer only at the end; a pipe may give less at a time."""
    data = stream.read(size)
    while len(data) < size and (more := stream.read(size - len(data))):
        data += more
    return data


# --- reading -------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class FileNode:
    """One verified block as a part of a file: its own bytes, then those of its children, `size` in all."""

    content: bytes
    children: tuple[tuple[Cid, int], ...]  # (CID, the file bytes it must have)
    size: int


def read_node(block: Block) -> FileNode:
    """Raises `ContentCorrupt` when the block is no part of a UnixFS file, or its sizes do not add up."""
    if codec_of(block.cid) is Codec.RAW:
        return FileNode(block.data, (), len(block.data))
    try:
        data, links = decode_node(block.data)
        content, size, sizes = _decode_unixfs(data)
    except CodecError as error:
        raise ContentCorrupt(f"block {block.cid}: {error}") from error
    if len(sizes) != len(links):
        raise ContentCorrupt(f"block {block.cid}: {len(sizes)} sizes for {len(links)} links")
    if size != len(content) + sum(sizes):
        raise ContentCorrupt(f"block {block.cid}: its sizes do not add up to {size}")
    if 0 in sizes:  # no builder makes one, and a tree of them is endless work for no byte
        raise ContentCorrupt(f"block {block.cid}: a child of no bytes")
    children = tuple(zip(links, sizes, strict=True))
    if any(child_size > MAX_BLOCK_BYTES and codec_of(cid) is Codec.RAW for cid, child_size in children):
        raise ContentCorrupt(f"block {block.cid}: a leaf over {MAX_BLOCK_BYTES} bytes")
    return FileNode(content, children, size)


def _decode_unixfs(data: bytes) -> tuple[bytes, int, list[int]]:
    """(own bytes, file size, sizes of the children). Raises `CodecError`."""
    kind, content, size = -1, b"", 0
    sizes: list[int] = []
    seen: set[int] = set()
    for number, value in fields(data):
        match number, value:
            case _ if number in seen:
                raise CodecError(f"UnixFS: field {number} is repeated")
            case 4, int(child) if len(sizes) < MAX_LINKS:
                sizes.append(child)
                continue
            case 1, int(kind):
                pass
            case 2, bytes(content):
                pass
            case 3, int(size):
                pass
            case (7, int()) | (8, bytes()):  # mode and mtime, which some builders keep
                pass
            case _:  # hash type and fan-out belong to sharded directories
                raise CodecError(f"UnixFS: field {number} is not a file's, or one size too many")
        seen.add(number)
    if kind not in (_RAW_DATA, _FILE):
        raise CodecError("UnixFS: not a file")
    return content, size, sizes


class Walk:
    """The verifying walk over a file's DAG, in the file's order, whoever delivers the blocks.

    The caller asks `ahead` what is needed, and gives `feed` the block of `ahead(1)`. What it decides depends on the
    blocks alone, never on who served them or when: every honest reader comes to the same end.
    """

    def __init__(
        self, root: Cid, *, max_bytes: int, max_depth: int = MAX_DAG_DEPTH, min_bytes_per_node: int = MIN_BYTES_PER_NODE
    ) -> None:
        """Raises `ContentCorrupt` when `root` is not a canonical CID of ours."""
        try:
            codec_of(root)
        except CodecError as error:
            raise ContentCorrupt(f"content {root[:_CID_SHOWN]!r}: {error}") from error
        self._max_bytes, self._max_depth, self._min_bytes_per_node = max_bytes, max_depth, min_bytes_per_node
        self._nodes_left = FREE_NODES
        self._todo: list[tuple[Cid, int | None, int]] = [(root, None, 0)]  # CID, declared size, depth; next one last

    def ahead(self, count: int) -> list[Cid]:
        """The next blocks needed, at most `count`, in order; those below a node not yet read are unknown.

        Empty at the end of the file.
        """
        return [cid for cid, _, _ in self._todo[: -count - 1 : -1]]

    def feed(self, block: Block) -> bytes:
        """The file's next bytes (none for a mere node). Raises `ContentCorrupt`, `ContentTooLarge`."""
        cid, declared, depth = self._todo.pop()
        if block.cid != cid:
            raise ValueError(f"fed {block.cid}, but the walk is at {cid}")
        node = read_node(block)
        if declared is None:
            self._admit(node, cid)
        elif node.size != declared:
            raise ContentCorrupt(f"block {cid} has {node.size} bytes of the file, its parent says {declared}")
        if node.children:
            self._descend(node, cid, depth + 1)
        return node.content

    def _admit(self, root: FileNode, cid: Cid) -> None:
        """Sizes are checked at every node, so no walk yields more than its root declares."""
        if root.size > self._max_bytes:
            raise ContentTooLarge(f"content {cid} has {root.size} bytes, over the limit of {self._max_bytes}")
        self._nodes_left += root.size // self._min_bytes_per_node

    def _descend(self, node: FileNode, cid: Cid, depth: int) -> None:
        self._nodes_left -= len(node.children)
        if self._nodes_left < 0:
            raise ContentCorrupt(f"block {cid}: too many nodes for the file's size")
        if depth > self._max_depth:
            raise ContentCorrupt(f"block {cid}: deeper than {self._max_depth}")
        self._todo.extend((child, size, depth) for child, size in reversed(node.children))


def is_complete(root: Cid, read: Callable[[Cid], Block | None], size_of: Callable[[Cid], int | None]) -> bool:
    """Whether every block of the file is held. `size_of` answers for a leaf without reading it; None: not held.

    Each block counts once, however often links name it.
    """
    todo: list[tuple[Cid, int | None]] = [(root, None)]
    seen = {root}
    while todo:
        cid, declared = todo.pop()
        if declared is not None and codec_of(cid) is Codec.RAW:
            if size_of(cid) != declared:
                return False
            continue
        block = read(cid)
        if block is None:
            return False
        new = {child: size for child, size in read_node(block).children if child not in seen}
        todo.extend(new.items())
        seen.update(new)
    return True
