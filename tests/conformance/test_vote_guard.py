"""One suite for every `VoteGuard`: an honest attester never signs twice, whatever happens in between."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.adapters.memory.store import MemoryFile, MemoryVoteGuard
from shared.adapters.store_sqlite import SqliteStore, SqliteVoteGuard
from shared.errors import ConflictingVote, SigningError, StoreBusy, StoreCorrupt, StoreError
from shared.interfaces import VoteGuard
from shared.types import Digest, Verdict

ROOT = Path(__file__).resolve().parents[2]


class OpenedGuard(VoteGuard, AbstractAsyncContextManager["OpenedGuard"], Protocol):
    """A guard that opens and closes."""


Make = Callable[[], OpenedGuard]


def digest(number: int) -> Digest:
    return Digest(number.to_bytes(32, "big"))


TASK, OTHER_TASK, INFO, OTHER_INFO = digest(1), digest(2), digest(3), digest(4)


@pytest.fixture(params=["sqlite", "memory"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    """Makes guards on one and the same place; each must be opened."""
    if request.param == "sqlite":
        return lambda: SqliteVoteGuard(tmp_path / "data" / "votes.sqlite")
    file = MemoryFile()
    return lambda: MemoryVoteGuard(file)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "votes.sqlite"


# --- the promise ---------------------------------------------------------------------------------
async def test_a_vote_is_remembered(make: Make) -> None:
    async with make() as guard:
        assert await guard.vote_of(TASK) is None
        await guard.check_and_insert(TASK, INFO, Verdict.VALID)
        assert await guard.vote_of(TASK) == (INFO, Verdict.VALID)
        assert await guard.vote_of(OTHER_TASK) is None


async def test_the_same_vote_may_be_repeated(make: Make) -> None:
    async with make() as guard:
        for _ in range(3):
            await guard.check_and_insert(TASK, INFO, Verdict.INVALID)
        assert await guard.vote_of(TASK) == (INFO, Verdict.INVALID)


@pytest.mark.parametrize(
    ("info", "verdict"), [(INFO, Verdict.INVALID), (OTHER_INFO, Verdict.VALID), (OTHER_INFO, Verdict.INVALID)]
)
async def test_another_vote_is_refused_for_ever(make: Make, info: Digest, verdict: Verdict) -> None:
    async with make() as guard:
        await guard.check_and_insert(TASK, INFO, Verdict.VALID)
        with pytest.raises(ConflictingVote, match="task 00000000: this key voted valid before"):
            await guard.check_and_insert(TASK, info, verdict)
    async with make() as guard:
        with pytest.raises(ConflictingVote):
            await guard.check_and_insert(TASK, info, verdict)
        assert await guard.vote_of(TASK) == (INFO, Verdict.VALID)
        await guard.check_and_insert(TASK, INFO, Verdict.VALID)


async def test_tasks_are_guarded_apart(make: Make) -> None:
    async with make() as guard:
        await guard.check_and_insert(TASK, INFO, Verdict.VALID)
        await guard.check_and_insert(OTHER_TASK, INFO, Verdict.INVALID)
        assert await guard.vote_of(OTHER_TASK) == (INFO, Verdict.INVALID)


async def test_of_contradicting_calls_at_once_one_wins(make: Make) -> None:
    async with make() as guard:
        votes = [(digest(100 + i % 5), Verdict.VALID if i % 2 else Verdict.INVALID) for i in range(50)]
        results = await asyncio.gather(
            *(guard.check_and_insert(TASK, info, verdict) for info, verdict in votes), return_exceptions=True
        )
        kept = await guard.vote_of(TASK)
        assert kept == votes[0]
        for vote, result in zip(votes, results, strict=True):
            assert isinstance(result, ConflictingVote) == (vote != kept)


async def test_an_abstention_is_no_vote(make: Make) -> None:
    async with make() as guard:
        with pytest.raises(SigningError, match="never signed"):
            await guard.check_and_insert(TASK, INFO, Verdict.ABSTAIN)
        assert await guard.vote_of(TASK) is None


@pytest.mark.parametrize("wrong", [b"", bytes(31), bytes(33)])
async def test_only_digests_are_guarded(make: Make, wrong: bytes) -> None:
    async with make() as guard:
        with pytest.raises(StoreError, match="task id: expected 32 bytes"):
            await guard.check_and_insert(Digest(wrong), INFO, Verdict.VALID)
        with pytest.raises(StoreError, match="task info hash: expected 32 bytes"):
            await guard.check_and_insert(TASK, Digest(wrong), Verdict.VALID)
        with pytest.raises(StoreError, match="task id: expected 32 bytes"):
            await guard.vote_of(Digest(wrong))


async def test_a_second_attester_on_the_same_guard_is_refused(make: Make) -> None:
    async with make():
        with pytest.raises(StoreBusy, match="in use; stop the other process first, two must never share it"):
            await make().__aenter__()


async def test_a_guard_that_is_not_open_lets_nobody_vote(make: Make) -> None:
    guard = make()
    async with guard:
        pass
    with pytest.raises(StoreError, match="not open"):
        await guard.check_and_insert(TASK, INFO, Verdict.VALID)
    with pytest.raises(StoreError, match="not open"):
        await guard.vote_of(TASK)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 2), st.integers(0, 2), st.sampled_from([Verdict.VALID, Verdict.INVALID]), st.booleans()
        ),
        max_size=20,
    )
)
def test_the_first_vote_of_a_task_is_its_only_one(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, int, Verdict, bool]]
) -> None:
    async def check(make: Make) -> None:
        first: dict[Digest, tuple[Digest, Verdict]] = {}
        guard = await make().__aenter__()
        for task, info, verdict, is_restart in steps:
            vote = (digest(info), verdict)
            try:
                await guard.check_and_insert(digest(task), *vote)
                was_taken = True
            except ConflictingVote:
                was_taken = False
            assert was_taken == (first.setdefault(digest(task), vote) == vote)
            if is_restart:
                await guard.__aexit__(None, None, None)
                guard = await make().__aenter__()
        await guard.__aexit__(None, None, None)

    path, file = tmp_path_factory.mktemp("model") / "votes.sqlite", MemoryFile()
    asyncio.run(check(lambda: SqliteVoteGuard(path)))
    asyncio.run(check(lambda: MemoryVoteGuard(file)))


# --- a killed process ----------------------------------------------------------------------------
async def test_a_killed_user_of_memory_votes_no_more() -> None:
    file = MemoryFile()
    guard = MemoryVoteGuard(file)
    await guard.__aenter__()
    await guard.check_and_insert(TASK, INFO, Verdict.VALID)
    file.kill()
    with pytest.raises(StoreError, match="not open"):
        await guard.check_and_insert(OTHER_TASK, INFO, Verdict.VALID)
    async with MemoryVoteGuard(file) as restarted:
        await guard.__aexit__(None, None, None)  # the dead one's late end takes nothing from the living
        with pytest.raises(ConflictingVote):
            await restarted.check_and_insert(TASK, INFO, Verdict.INVALID)


VOTER = """
import asyncio, sys
from pathlib import Path
from shared.adapters.store_sqlite import SqliteVoteGuard
from shared.types import Verdict

async def vote(guard, number):
    digest = number.to_bytes(32, "big")
    await guard.check_and_insert(digest, digest, Verdict.VALID)
    print(number, flush=True)

async def main():
    async with SqliteVoteGuard(Path(sys.argv[1])) as guard:
        for start in range(0, 100_000, 4):
            await asyncio.gather(*(vote(guard, start + i) for i in range(4)))

asyncio.run(main())
"""


@pytest.fixture
def voter(path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that votes without end, and prints each number once the guard let it sign."""
    command = [sys.executable, "-c", VOTER, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        yield process
        process.kill()


@pytest.mark.parametrize("signed", [1, 40, 200])
async def test_kill_9_forgets_no_vote_that_may_have_been_signed(
    path: Path, voter: subprocess.Popen[str], signed: int
) -> None:
    assert voter.stdout is not None
    numbers = [int(voter.stdout.readline()) for _ in range(signed)]
    voter.send_signal(signal.SIGKILL)
    numbers += [int(line) for line in voter.stdout.read().splitlines()]
    assert voter.wait(timeout=30) == -signal.SIGKILL
    async with SqliteVoteGuard(path) as guard:
        for number in numbers:
            assert await guard.vote_of(digest(number)) == (digest(number), Verdict.VALID)
            with pytest.raises(ConflictingVote):
                await guard.check_and_insert(digest(number), digest(number), Verdict.INVALID)


async def test_a_second_process_is_refused_until_the_first_dies(path: Path, voter: subprocess.Popen[str]) -> None:
    assert voter.stdout is not None
    voter.stdout.readline()
    with pytest.raises(StoreBusy, match=r"vote guard .*votes\.sqlite is in use"):
        await SqliteVoteGuard(path).__aenter__()
    voter.kill()
    voter.wait(timeout=30)
    async with SqliteVoteGuard(path) as guard:
        assert await guard.vote_of(digest(0)) == (digest(0), Verdict.VALID)


# --- the file ------------------------------------------------------------------------------------
async def test_not_even_our_own_fault_changes_a_vote(path: Path) -> None:
    async with SqliteVoteGuard(path) as guard:
        await guard.check_and_insert(TASK, INFO, Verdict.VALID)
        for statement in ("UPDATE votes SET verdict = 2", "DELETE FROM votes"):
            with pytest.raises(StoreError, match="a vote is final"):
                await guard._database.run(lambda connection, statement=statement: connection.execute(statement))  # type: ignore[misc]
        assert await guard.vote_of(TASK) == (INFO, Verdict.VALID)


async def test_a_task_store_is_no_guard(path: Path) -> None:
    async with SqliteStore(path):
        pass
    with pytest.raises(StoreCorrupt, match="is not a vote guard but another file"):
        await SqliteVoteGuard(path).__aenter__()


async def test_an_emptied_guard_of_ours_is_not_begun_anew(path: Path) -> None:
    # A guard that lost its table says so; starting over would let the key vote again.
    async with SqliteVoteGuard(path):
        pass
    with sqlite3.connect(path) as connection:
        connection.execute("DROP TABLE votes")
    connection.close()
    async with SqliteVoteGuard(path) as guard:
        with pytest.raises(StoreError, match="no such table"):
            await guard.check_and_insert(TASK, INFO, Verdict.VALID)
