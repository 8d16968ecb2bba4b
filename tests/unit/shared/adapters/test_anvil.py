"""anvil as a child: it starts on any port, cannot grow or outlive without bound, and says why it failed."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from shared.adapters.anvil import KEPT_STATES, TAIL_BYTES, Anvil, AnvilSettings, find_anvil
from shared.adapters.chain_evm import EvmClient
from shared.adapters.chain_evm.wire import Block
from shared.errors import ChainUnavailable, ConfigError

ROOT = Path(__file__).resolve().parents[4]
LIMIT_SECONDS = 20.0

PARENT = """
import asyncio
from shared.adapters.anvil import Anvil

async def main():
    async with Anvil() as anvil:
        print(anvil.pid, flush=True)
        await asyncio.sleep(1000)

asyncio.run(main())
"""


def script(folder: Path, body: str) -> Path:
    """A program that stands in for anvil."""
    path = folder / "program"
    path.write_text(f"#!{sys.executable}\n{body}")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def wait_for_end(pid: int) -> None:
    end = time.monotonic() + LIMIT_SECONDS
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < end, f"{pid} is still there"
        time.sleep(0.01)


def is_there(folder: Path) -> bool:
    return folder.is_dir()


async def block_above(client: EvmClient, number: int) -> Block:
    """The first head that is higher."""
    async with asyncio.timeout(LIMIT_SECONDS):
        while True:
            head = await client.head()
            if head.number > number:
                return head
            await asyncio.sleep(0.02)


async def test_several_start_at_once_on_ports_of_their_own() -> None:
    chains = [Anvil(AnvilSettings(chain_id=number)) for number in (31337, 5, 77)]
    await asyncio.gather(*(chain.start() for chain in chains))
    try:
        assert len({chain.url for chain in chains}) == 3
        for chain in chains:
            async with EvmClient(chain.url) as client:
                assert int(await client.request("eth_chainId"), 16) == chain.settings.chain_id
    finally:
        await asyncio.gather(*(chain.stop() for chain in chains))


async def test_it_mines_by_the_clock_and_the_clock_is_honest() -> None:
    async with Anvil(AnvilSettings(block_seconds=0.1)) as anvil, EvmClient(anvil.url) as client:
        head = await block_above(client, 15)
        assert head.timestamp == pytest.approx(time.time(), abs=2)  # 15 s ahead if each block took a second


async def test_it_is_osaka_with_the_pairing_precompile() -> None:
    async with Anvil() as anvil, EvmClient(anvil.url) as client:
        answer = await client.request("eth_call", {"to": f"0x{0x0F:040x}", "data": "0x" + bytes(384).hex()}, "latest")
        assert int(answer, 16) == 1  # e(infinity, infinity)
        assert (await client.request("anvil_nodeInfo"))["hardFork"].lower() == "osaka"


async def test_nobody_has_money_unless_accounts_are_asked_for() -> None:
    async with Anvil() as anvil, EvmClient(anvil.url) as client:
        assert await client.request("eth_accounts") == []
        assert "Private Keys" in anvil.tail()
        assert "0xac0974" not in anvil.tail()
    async with Anvil(AnvilSettings(accounts=2)) as anvil, EvmClient(anvil.url) as client:
        assert len(await client.request("eth_accounts")) == 2


@pytest.mark.skipif(sys.platform != "linux", reason="limits of a running process are read from Linux")
async def test_its_memory_is_capped() -> None:
    async with Anvil(AnvilSettings(memory_bytes=3 << 30)) as anvil:
        assert psutil.Process(anvil.pid).rlimit(resource.RLIMIT_AS) == (3 << 30, 3 << 30)


async def test_a_cap_that_is_too_small_is_an_error_with_a_reason() -> None:
    with pytest.raises(ChainUnavailable, match="anvil ended with"):
        async with Anvil(AnvilSettings(memory_bytes=20 << 20)):
            pass


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux")
def test_it_dies_with_its_parent() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert psutil.Process(pid).name().startswith("anvil")
        parent.send_signal(signal.SIGKILL)
        parent.wait(LIMIT_SECONDS)
        wait_for_end(pid)
    finally:
        parent.kill()
        parent.communicate()


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux")
def test_a_parent_that_died_during_the_start_leaves_nobody_behind(tmp_path: Path) -> None:
    """The guard is started with the id of a parent that is not its own."""
    from shared.adapters import anvil

    mark = tmp_path / "mark"
    program = script(tmp_path, f"open({str(mark)!r}, 'w')")
    command = [sys.executable, "-I", "-S", "-c", anvil._GUARD, "1", str(1 << 32), str(program)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_SECONDS)
    assert "the parent is gone" in done.stderr
    assert not mark.exists()


async def test_ctrl_c_in_the_terminal_is_not_for_it() -> None:
    async with Anvil() as anvil:
        assert os.getpgid(anvil.pid) == anvil.pid != os.getpgid(0)


async def test_the_state_survives_a_restart(tmp_path: Path) -> None:
    settings = AnvilSettings(block_seconds=0.05, state_file=tmp_path / "state.json")
    rich = "0x" + "11" * 20
    async with Anvil(settings) as anvil, EvmClient(anvil.url) as client:
        await client.request("anvil_setBalance", rich, "0x5")
        await block_above(client, KEPT_STATES)
        old = await client.block(3)
    async with Anvil(settings) as anvil, EvmClient(anvil.url) as client:
        assert await client.request("eth_getBalance", rich, "latest") == "0x5"
        assert await client.block(3) == old


async def test_stopping_ends_it_and_stopping_again_does_nothing() -> None:
    anvil = Anvil()
    await anvil.stop()
    await anvil.start()
    pid = anvil.pid
    assert anvil._scratch is not None
    scratch = Path(anvil._scratch.name)
    assert is_there(scratch)
    await anvil.stop()
    await anvil.stop()
    wait_for_end(pid)
    assert not is_there(scratch)
    with pytest.raises(ChainUnavailable, match="does not run"):
        _ = anvil.pid


async def test_its_own_end_is_seen() -> None:
    async with Anvil() as anvil:
        os.kill(anvil.pid, signal.SIGKILL)
        assert await asyncio.wait_for(anvil.wait(), LIMIT_SECONDS) == -signal.SIGKILL
        with pytest.raises(ChainUnavailable, match="does not run"):
            _ = anvil.pid


async def test_a_program_that_ends_is_an_error_with_its_last_words(tmp_path: Path) -> None:
    program = script(tmp_path, "import sys; print('x' * 100_000); sys.exit('no room')")
    with pytest.raises(ChainUnavailable, match=r"(?s)anvil ended with 1: x+.*no room$") as caught:
        await Anvil(program=program).start()
    assert len(str(caught.value)) < TAIL_BYTES + 100


async def test_a_program_that_never_listens_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.adapters.anvil.START_SECONDS", 0.5)
    monkeypatch.setattr("shared.adapters.anvil.STOP_SECONDS", 0.2)
    body = (
        "import os, signal, time; signal.signal(15, signal.SIG_IGN); print(os.getpid(), flush=True); time.sleep(1000)"
    )
    anvil = Anvil(program=script(tmp_path, body))
    with pytest.raises(ChainUnavailable, match="did not listen") as caught:
        await anvil.start()
    wait_for_end(int(str(caught.value).split()[-1]))


def test_finding_the_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = script(tmp_path, "")
    monkeypatch.setenv("ANVIL", str(mine))
    assert find_anvil() == mine
    monkeypatch.setenv("ANVIL", str(tmp_path / "nothing"))
    with pytest.raises(ConfigError, match="not a program"):
        find_anvil()
    monkeypatch.delenv("ANVIL")
    monkeypatch.setattr("shared.adapters.anvil.platform.machine", lambda: "vax")
    (tmp_path / "anvil").symlink_to(mine)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_anvil() == tmp_path / "anvil"
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match="not installed"):
        find_anvil()
