"""Time to certificate beyond the model's own run time, and peak memory of each service, on a real local network.

One task at a time, digits and text in turn, through the door as a dApp sends them, each with a fee. The baseline is
the same door's `GET /health`: one HTTP round trip on the same machine in the same run.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path

import aiohttp

from bench.table import Row, arguments, percentile, report
from poi.client import PoiClient
from poi.testnet.network import PERFORMER, LocalNetwork, open_network
from poi.testnet.plan import plan
from poi.testnet.requester import open_requester
from shared import log as logging
from shared.config import LogConfig

ATTESTERS = 4
WARM_UP = 4
P50_GOAL_MS, P95_GOAL_MS, MEMORY_GOAL_MB = 150.0, 500.0, 250.0


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--tasks", type=int, default=60, help="measured tasks, after a few unmeasured ones")
    options = parser.parse_args()
    logging.configure(LogConfig(level="warning", format="console"), "bench", "nobody")
    with tempfile.TemporaryDirectory(prefix="poi-bench-") as folder:
        rows = asyncio.run(_measure(Path(folder), options.tasks))
    report(f"latency: {ATTESTERS} attesters, {options.tasks} tasks one at a time", rows, options.json)


async def _measure(folder: Path, tasks: int) -> list[Row]:
    async with open_network(folder, ATTESTERS, print) as network:
        round_trips = await _round_trips(network)
        beyond = await _certificates(network, tasks)
        memory = [(node.name, _peak_memory_mb(node.process.pid or 0)) for node in network.supervisor.nodes]
    name = "Time to certificate beyond the model's own run time, 4 attesters"
    baseline = percentile(round_trips, 0.5)
    return [
        Row(f"{name}: p50", percentile(beyond, 0.5), "ms", P50_GOAL_MS),
        Row(f"{name}: p95", percentile(beyond, 0.95), "ms", P95_GOAL_MS),
        Row("baseline: one HTTP round trip to the door, p50", baseline, "ms"),
        Row("p50 as a multiple of the baseline", percentile(beyond, 0.5) / baseline, "×"),
        *(Row(f"Peak memory of each service: {name}", value, "MB", MEMORY_GOAL_MB) for name, value in memory),
    ]


async def _round_trips(network: LocalNetwork) -> list[float]:
    url = f"{network.member(PERFORMER).url}/health"
    times = []
    async with aiohttp.ClientSession() as session:
        for _ in range(50):
            started = time.perf_counter()
            async with session.get(url) as response:
                await response.read()
            times.append((time.perf_counter() - started) * 1000)
    return times


async def _certificates(network: LocalNetwork, tasks: int) -> list[float]:
    """Milliseconds from sending the request to holding the certificate, less the performer's run."""
    beyond = []
    performer = network.member(PERFORMER)
    async with open_requester(network) as requester, PoiClient(performer.url, requester.key) as client:
        await requester.deposit({performer.address: WARM_UP + tasks})
        for i, errand in enumerate(plan(WARM_UP + tasks, 0)):
            _, call = await client.prepare(
                network.definitions[errand.model], errand.document, errand.parameters, fee=network.fees.total
            )
            started = time.perf_counter()
            task_id = await client.send(call)
            view = await client.wait(task_id, until="certified")
            elapsed = (time.perf_counter() - started) * 1000
            if view["certificate"] is None:
                raise SystemExit(f"task {task_id.hex()} got no certificate: phase {view['phase']}")
            if i >= WARM_UP:
                beyond.append(elapsed - view["timings"]["inferenceMs"])
    return beyond


def _peak_memory_mb(pid: int) -> float:
    """VmHWM of proc(5): the largest resident set there was."""
    status = Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024 / 1e6


if __name__ == "__main__":
    main()
