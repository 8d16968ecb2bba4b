"""The real parts together: anvil, libp2p, IPFS blocks, BLS on chain, ONNX models, every role a process of its own."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from poi.amounts import ether
from poi.testnet.drive import Run, drive
from poi.testnet.network import FEES, LIAR, LocalNetwork, open_network
from poi.testnet.plan import MODEL_NAMES, plan
from shared.adapters.chain_evm import EvmRewards
from shared.adapters.chain_evm.wire import quantity, tohex
from shared.constants import WAD
from shared.types import Address

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

ROOT = Path(__file__).resolve().parents[2]
STAKE_WEI = 32 * 10**18
SLASH_WAD = WAD // 10
POI = [sys.executable, "-m", "poi"]


def slashed(stake_wei: int, times: int) -> int:
    for _ in range(times):
        stake_wei -= stake_wei * SLASH_WAD // WAD
    return stake_wei


def wait_until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"{what}: not after {seconds} s"
        time.sleep(0.05)


def test_honest_tasks_are_approved_and_every_lie_is_slashed(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    command = [*POI, "testnet", "--operators", "4", "--tasks", "4", "--cheats", "3", "--json", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 of 4 honest tasks approved, 3 of 3 lies rejected and slashed" in done.stdout
    figures = json.loads(out.read_text())
    assert set(figures) == {"tasks", "operators", "money", "chain_id", "wall_s"}
    assert [task["verdict"] for task in figures["tasks"]] == ["approved"] * 4 + ["rejected"] * 3
    for task in figures["tasks"]:
        power = task["valid_power"] if task["honest"] else task["invalid_power"]
        assert task["total_power"] == 4 * 32 * 1000
        assert 3 * power > (2 if task["honest"] else 1) * task["total_power"]
        assert 0 < task["certificate_ms"] < task["settle_ms"]
        assert task["gas"] > 0
    stakes = [(one["role"], one["stake_before_wei"], one["stake_after_wei"]) for one in figures["operators"]]
    assert [role for role, _, _ in stakes].count("attester") == 4
    assert {before for _, before, _ in stakes} == {STAKE_WEI}
    # Three lies cost the one liar 10 % each of what it had left; nobody else lost a wei.
    assert sorted(after for _, _, after in stakes) == sorted([STAKE_WEI] * 6 + [slashed(STAKE_WEI, 3)])
    check_money(figures["money"], approved=4, rejected=3)
    assert "went where they belong, to the wei" in done.stdout


def check_money(money: dict[str, Any], approved: int, rejected: int) -> None:
    """Against what was agreed on, not against what the command itself added up."""
    assert money["problems"] == []
    assert money["earned"] == {
        "performer": str(approved * FEES.performer),
        "aggregator": str((approved + rejected) * FEES.aggregator),
    }
    assert int(money["pools"]) == (approved + rejected) * FEES.attesters
    spent = int(money["deposits_before"]) - int(money["deposits_after"])
    assert spent == approved * FEES.total + rejected * (FEES.attesters + FEES.aggregator)
    assert sum(map(int, money["claimable"].values())) + int(money["rounding"]) == int(money["pools"])
    assert int(money["compensation"]) == rejected * FEES.total
    assert int(money["slashed"]) == STAKE_WEI - slashed(STAKE_WEI, rejected)
    assert int(money["vault"]) == int(money["slashed"]) - int(money["compensation"])


async def test_operators_see_and_claim_what_they_earned(tmp_path: Path) -> None:
    async with open_network(tmp_path / "net", 4, print) as network:
        books = await drive(network, [Run(errand) for errand in plan(3, 1)], lambda _: None)
        assert books.problems() == []
        client, claimed = network.client, 0
        for number, member in enumerate(network.members):
            expected = books.claimable_by(member.address) + books.earned_by(member.address)
            settings = ("--config", str(member.folder / "config.toml"))
            status = await poi("operator", "status", *settings)
            assert f"\nclaimable   {ether(expected)} ether\n" in status
            if not expected:
                assert (await poi("operator", "claim", *settings)).startswith("nothing to claim")
                continue
            receiver = Address(bytes([0xEE, number]) + bytes(18))
            await poi("operator", "set-rewards-receiver", *settings, tohex(receiver))
            said = await poi("operator", "claim", *settings)
            assert said.startswith(f"claimed {ether(expected)} ether: ")
            assert quantity(await client.request("eth_getBalance", tohex(receiver), "latest")) == expected
            assert (await poi("operator", "claim", *settings)).startswith("nothing to claim")
            claimed += expected
        # What is left are the deposits, and what no share of a pool rounds up to.
        left = await EvmRewards(client, network.deployment).held()
        assert books.after.held - claimed == left
        assert left == sum(books.after.deposits.values()) + books.dust
        assert sum(books.after.earned.values()) + sum(books.after.pools.values()) == claimed + books.dust


async def poi(*arguments: str) -> str:
    """What the command printed; it must not fail."""
    process = await asyncio.create_subprocess_exec(
        *POI, *arguments, cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert (process.returncode, err.decode()) == (0, "")
    return out.decode()


async def test_a_killed_attester_changes_no_verdict_and_votes_again_when_it_is_back(tmp_path: Path) -> None:
    async with open_network(tmp_path / "net", 4, print) as network:
        runs = [Run(errand) for errand in plan(6, 2)]
        victim = network.process("attester-2")

        def kill_at_first_certificate(run: Run) -> None:
            if run.stage == "certified" and victim.process.is_alive():
                os.kill(victim.process.pid or 0, signal.SIGKILL)

        books = await drive(network, runs, kill_at_first_certificate)
        assert books.problems() == []
        assert not victim.process.is_alive()
        assert [run.stage for run in runs] == ["approved"] * 6 + ["slashed"] * 2, [run.failure for run in runs]
        await check_stakes(network, lies=2, compensated=books.compensated)

        await check_content(network, stopped="attester-2", folder=tmp_path)
        # It runs alone as well, on its own files: with it back, another one may be missing.
        home = network.member("attester-2")
        with role_alone("attester", home.folder / "config.toml") as attester:
            await asyncio.to_thread(wait_until, lambda: is_healthy(home.url), 30, "the restarted attester's health")
            other = network.process("attester-3")
            os.kill(other.process.pid or 0, signal.SIGKILL)
            more = [Run(errand) for errand in plan(2, 0)]
            later = await drive(network, more, lambda _: None)
            assert [run.stage for run in more] == ["approved"] * 2, [run.failure for run in more]
            assert later.problems() == []
            attester.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(attester.wait, 10) == 0


async def check_content(network: LocalNetwork, *, stopped: str, folder: Path) -> None:
    """People reach the content of a node that runs, and of one that does not: what that lacks, the others serve."""

    def settings(name: str) -> tuple[str, str]:
        return "--config", str(network.member(name).folder / "config.toml")

    file = folder / "file"
    file.write_bytes(os.urandom(3 << 20))
    cid = (await poi("content", "add", str(file), *settings("attester-1"))).strip()
    pins = json.loads(await poi("content", "ls", "--json", *settings("attester-1")))
    assert pins[0]["cid"] == cid
    assert len(pins) > 8  # the proofs of eight tasks, and models
    await poi("content", "get", cid, "-o", str(folder / "got"), *settings(stopped))
    assert (folder / "got").read_bytes() == file.read_bytes()


async def test_two_of_four_attesters_certify_no_approval_and_slash_nobody(tmp_path: Path) -> None:
    async with open_network(tmp_path / "net", 4, print) as network:
        for name in ("attester-1", "attester-4"):
            os.kill(network.process(name).process.pid or 0, signal.SIGKILL)
        honest, lie = (Run(errand) for errand in (plan(1, 0)[0], plan(1, 1)[1]))
        driving = asyncio.create_task(drive(network, [honest, lie], lambda _: None))
        # 2 of 4 is more than a third: a lie is caught even so. It is not more than two thirds.
        async with asyncio.timeout(60):
            while lie.stage != "slashed":  # noqa: ASYNC110 - no event to wait for: the drive is a person's view
                await asyncio.sleep(0.1)
        assert honest.stage == "performing"
        assert honest.on_chain is None
        driving.cancel()
        await check_stakes(network, lies=1, compensated=FEES.total)


async def check_stakes(network: LocalNetwork, lies: int, compensated: int) -> None:
    stakes = {operator.address: operator.stake_wei for operator in await network.reader.operators()}
    liar = network.member(LIAR).address
    assert stakes.pop(liar) == slashed(STAKE_WEI, lies)
    assert set(stakes.values()) == {STAKE_WEI}
    assert await network.reader.vault_balance() == STAKE_WEI - slashed(STAKE_WEI, lies) - compensated


def test_keep_running_prints_a_curl_line_that_works_and_ctrl_c_leaves_nothing_behind() -> None:
    with running_testnet("--tasks", "1", "--cheats", "1", "--keep-running") as (process, output):
        wait_until(lambda: output().count("curl -s") == 2, 120, "the curl lines")
        request, ask = (json.loads(body) for body in curl_bodies(output()))
        url = re.findall(r"curl -s (\S+)", output())[0]
        task_id = post(url, request)["result"]["taskId"]
        assert post(url, request)["result"]["taskId"] == task_id  # again is the same task
        task = post(url, ask)["result"]
        assert (task["taskId"], task["phase"]) == (task_id, "approved")
        assert task["result"]["label"] in range(10)
        children = psutil.Process(process.pid).children(recursive=True)
        assert len(children) >= 7
        ports = [c.laddr.port for child in children for c in child.net_connections() if c.status == "LISTEN"]
        assert len(ports) >= 14
        started = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.wait(5) == 130
        assert output().rstrip().endswith("Everything it started has ended.")
        assert "Traceback" not in output()
        gone, alive = psutil.wait_procs(children, timeout=max(0.0, 5 - (time.monotonic() - started)))
        assert not alive, [child.cmdline() for child in alive]
        assert len(gone) == len(children)
        assert not [port for port in ports if is_open(port)]


def test_kill_9_of_the_command_leaves_nothing_behind() -> None:
    with running_testnet("--tasks", "1", "--cheats", "0", "--keep-running") as (process, output):
        wait_until(lambda: "nodes up" in output(), 120, "the network")
        children = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        process.wait(5)
        _, alive = psutil.wait_procs(children, timeout=10)
        assert not alive, [child.cmdline() for child in alive]


def test_a_wrong_setting_ends_a_role_with_one_clear_line(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text("[network]\nchain_rpc = 'http://127.0.0.1:1'\nchain_idd = 1\n")
    done = subprocess.run([*POI, "attester", "--config", config], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "chain_idd" in done.stderr
    assert "chain_id" in done.stderr
    assert "Traceback" not in done.stderr


@contextmanager
def role_alone(role: str, config: Path) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([*POI, role, "--config", str(config)], cwd=ROOT, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@contextmanager
def running_testnet(*options: str) -> Iterator[tuple[subprocess.Popen[str], Callable[[], str]]]:
    """The running command, and what it has printed so far."""
    with tempfile.TemporaryFile("w+") as sink:
        process = subprocess.Popen([*POI, "testnet", *options], cwd=ROOT, stdout=sink, stderr=sink, text=True)

        def output() -> str:
            sink.seek(0)
            return sink.read()

        try:
            yield process, output
        finally:
            children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
            for one in [process, *children]:
                try:
                    one.kill()
                except psutil.NoSuchProcess:
                    continue
            process.wait()


def curl_bodies(text: str) -> list[str]:
    lines = [line for line in text.splitlines() if line.startswith("curl -s")]
    return [shlex.split(line)[-1] for line in lines]


def post(url: str, body: Any) -> Any:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=40) as answer:
        return json.load(answer)


def is_healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=2) as answer:
            health = json.load(answer)
    except (urllib.error.URLError, OSError):
        return False
    return len(health["readyDefinitions"]) == len(MODEL_NAMES) and health["peers"] >= 5


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0
