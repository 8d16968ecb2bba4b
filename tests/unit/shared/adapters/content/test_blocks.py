"""Blocks and pins on the disk: whole or not at all, whatever the disk, a crash or a stranger does."""

from __future__ import annotations

import errno
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from shared.adapters.content.blocks import BlockFiles
from shared.content.cid import Codec, make_block
from shared.errors import CodecError
from shared.types import Cid
from tests.content_support import SMALL, Blocks, content_of

LEAF = make_block(Codec.RAW, b"content")


@pytest.fixture
def files(tmp_path: Path) -> BlockFiles:
    return BlockFiles(tmp_path)


def on_disk(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


# --- the layout ----------------------------------------------------------------------------------
def test_the_layout_is_that_of_flatfs(files, tmp_path):
    """The empty UnixFS directory, under the name that every Kubo repository has it under."""
    files.put(make_block(Codec.DAG_PB, b"\x0a\x02\x08\x01"), is_durable=True)
    assert on_disk(tmp_path) == {"blocks/X3/CIQFTFEEHEDF6KLBT32BFAGLXEZL4UWFNWM4LFTLMXQBCERZ6CMLX3Y.data"}


def test_a_block_is_kept_under_its_hash_whatever_its_codec(files, tmp_path):
    node = make_block(Codec.DAG_PB, LEAF.data)
    files.put(LEAF, is_durable=True)
    assert files.get(node.cid) == node
    assert len(on_disk(tmp_path)) == 1


@pytest.mark.parametrize("is_durable", [True, False])
def test_what_is_written_is_read_also_by_the_next_process(tmp_path, is_durable):
    blocks = [make_block(Codec.RAW, content_of(size)) for size in (0, 1, 1000, 1 << 20)]
    files = BlockFiles(tmp_path)
    for block in blocks * 2:
        files.put(block, is_durable=is_durable)
    for reader in (files, BlockFiles(tmp_path)):
        assert [reader.get(block.cid) for block in blocks] == blocks
        assert [reader.size_of(block.cid) for block in blocks] == [0, 1, 1000, 1 << 20]


def test_what_is_not_here_is_none(files):
    assert files.get(LEAF.cid) is None
    assert files.size_of(LEAF.cid) is None


def test_a_name_that_is_no_cid_never_becomes_a_path(files):
    for name in ("../../etc/passwd", "bafkrei", ""):
        with pytest.raises(CodecError):
            files.get(Cid(name))
        assert not files.is_complete(Cid(name))


def test_a_file_is_complete_only_with_every_block_whole(files, tmp_path):
    blocks = Blocks()
    root = blocks.file(content_of(200), SMALL)
    for block in blocks.values():
        assert not files.is_complete(root)
        files.put(block, is_durable=False)
    assert files.is_complete(root)
    for path in (tmp_path / "blocks").rglob("*.data"):
        whole = path.read_bytes()
        path.write_bytes(whole[:-1])
        assert not files.is_complete(root)
        path.write_bytes(whole)


# --- a disk that fails ---------------------------------------------------------------------------
@pytest.mark.parametrize("is_durable", [True, False])
def test_a_damaged_block_is_an_error_until_it_is_written_again(files, tmp_path, is_durable):
    files.put(LEAF, is_durable=True)
    (path,) = (tmp_path / "blocks").rglob("*.data")
    for damage in (b"", b"conten", b"Content"):
        path.write_bytes(damage)
        with pytest.raises(CodecError):
            files.get(LEAF.cid)
        files.put(LEAF, is_durable=is_durable)
        assert files.get(LEAF.cid) == LEAF


class Disk:
    """Stands before the system calls that write: notes them in order, and fails when told to."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.calls: list[str] = []
        self.fail_at: tuple[str, int] | None = None
        self.bytes_a_write: int | None = None
        for name in ("open", "write", "fsync", "replace"):
            patch.setattr(os, name, self._standing_before(name, getattr(os, name)))
        self._names: dict[int, str] = {}

    def _standing_before(self, name: str, real: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            if name == "open":
                descriptor = real(*args, **kwargs)
                path = Path(args[0])
                self._names[descriptor] = "folder" if path.is_dir() else "block"
                return descriptor
            self.calls.append(f"{name} {self._names[args[0]]}" if name != "replace" else name)
            if self.fail_at == (name, sum(called.startswith(name) for called in self.calls)):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if name == "write" and self.bytes_a_write is not None:
                return real(args[0], args[1][: self.bytes_a_write])
            return real(*args, **kwargs)

        return call


@pytest.fixture
def disk(files: BlockFiles, monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


def test_a_durable_write_syncs_the_file_before_its_name_and_the_folder_after(files, disk):
    files.put(LEAF, is_durable=True)
    assert disk.calls == ["fsync folder", "write block", "fsync block", "replace", "fsync folder"]
    disk.calls.clear()
    files.put(LEAF, is_durable=True)  # nobody knows whether the first one was durable
    assert disk.calls == ["write block", "fsync block", "replace", "fsync folder"]


def test_a_fetched_block_is_written_without_waiting_for_the_disk(files, disk):
    files.put(LEAF, is_durable=False)
    assert disk.calls == ["write block", "replace"]


def test_a_fetched_block_takes_the_place_of_one_that_was_acknowledged_only_durably(files, disk):
    files.put(LEAF, is_durable=True)
    disk.calls.clear()
    files.put(LEAF, is_durable=False)
    assert disk.calls == ["write block", "fsync block", "replace", "fsync folder"]


def test_a_folder_made_by_a_fetch_is_synced_by_the_next_durable_write(files, disk):
    files.put(LEAF, is_durable=False)
    disk.calls.clear()
    files.put(LEAF, is_durable=True)
    assert disk.calls[0] == "fsync folder"


def test_short_writes_go_on_to_the_end(files, disk):
    disk.bytes_a_write = 3
    files.put(LEAF, is_durable=True)
    assert files.get(LEAF.cid) == LEAF
    assert disk.calls.count("write block") == 3


@pytest.mark.parametrize(("call", "nth"), [("write", 1), ("write", 2), ("fsync", 1), ("fsync", 2), ("replace", 1)])
def test_a_full_disk_leaves_nothing_half_stored(files, disk, tmp_path, call, nth):
    disk.bytes_a_write, disk.fail_at = 4, (call, nth)
    with pytest.raises(OSError, match="No space left on device"):
        files.put(LEAF, is_durable=True)
    assert on_disk(tmp_path) == set()
    assert files.get(LEAF.cid) is None
    disk.fail_at = None
    files.put(LEAF, is_durable=True)
    assert files.get(LEAF.cid) == LEAF


def test_a_block_whose_name_may_not_be_durable_is_not_acknowledged_but_whole(files, disk):
    disk.fail_at = ("fsync", 3)
    with pytest.raises(OSError, match="No space left on device"):
        files.put(LEAF, is_durable=True)
    assert files.get(LEAF.cid) == LEAF
    assert files._held_bytes == 7


def test_a_full_disk_takes_nothing_away(files, disk):
    files.put(LEAF, is_durable=False)
    disk.calls.clear()
    disk.fail_at = ("write", 1)
    with pytest.raises(OSError, match="No space left on device"):
        files.put(LEAF, is_durable=True)
    assert files.get(LEAF.cid) == LEAF


def test_what_a_crash_left_half_written_goes_at_the_next_start(tmp_path):
    BlockFiles(tmp_path)
    (tmp_path / "tmp" / "7").write_bytes(b"half")
    files = BlockFiles(tmp_path)
    assert on_disk(tmp_path) == set()
    files.put(LEAF, is_durable=True)
    assert files.get(LEAF.cid) == LEAF


# --- the bound -----------------------------------------------------------------------------------
def test_the_folder_takes_its_bound_and_no_byte_more(tmp_path):
    files = BlockFiles(tmp_path, max_bytes=1000)
    blocks = [make_block(Codec.RAW, bytes([number]) * 250) for number in range(5)]
    for block in blocks[:4]:
        files.put(block, is_durable=True)
    for is_durable in (True, False):
        with pytest.raises(OSError, match="content would take over 1000 bytes"):
            files.put(blocks[4], is_durable=is_durable)
    files.put(blocks[0], is_durable=True)  # again, which adds nothing
    assert files.get(blocks[4].cid) is None


def test_the_bound_counts_what_was_there_before(tmp_path):
    BlockFiles(tmp_path).put(LEAF, is_durable=True)
    files = BlockFiles(tmp_path, max_bytes=10)
    with pytest.raises(OSError, match="over 10 bytes"):
        files.put(make_block(Codec.RAW, b"more"), is_durable=True)
    files.put(make_block(Codec.RAW, b"mor"), is_durable=True)


def test_a_write_that_failed_counts_for_nothing(tmp_path, monkeypatch):
    files = BlockFiles(tmp_path, max_bytes=7)
    with monkeypatch.context() as patch:
        Disk(patch).fail_at = ("write", 1)
        with pytest.raises(OSError, match="No space left on device"):
            files.put(LEAF, is_durable=True)
    files.put(LEAF, is_durable=True)
    assert files.get(LEAF.cid) == LEAF


def test_many_threads_write_the_same_and_different_blocks(tmp_path):
    blocks = [make_block(Codec.RAW, bytes([number]) * 1000) for number in range(20)]
    files = BlockFiles(tmp_path, max_bytes=20_000)
    barrier = threading.Barrier(8)

    def write_all(offset: int) -> None:
        barrier.wait(10)
        for block in blocks[offset:] + blocks[:offset]:
            files.put(block, is_durable=bool(offset % 2))
            assert files.get(block.cid) == block

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(write_all, range(8)))
    assert len(on_disk(tmp_path)) == 20
