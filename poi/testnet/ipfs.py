"""A real IPFS node for each node of the local network."""

from __future__ import annotations

import asyncio
from itertools import combinations
from typing import Any

import aiohttp

from poi.deployment import Member
from poi.testnet.kubo.daemon import Ready
from poi.testnet.kubo.libkubo import KuboFailed
from poi.testnet.kubo.process import KuboProcess

CONNECT_SECONDS = 20.0  # milliseconds on a quiet machine


class IpfsNodes:
    """A Kubo node for each member, in its folder."""

    def __init__(self) -> None:
        self._processes: dict[str, KuboProcess] = {}
        self._starting: asyncio.Task[None] | None = None

    def start(self, members: list[Member]) -> None:
        """Returns at once."""
        # In a thread: the first process waits until the server that forks it has imported.
        self._starting = asyncio.create_task(asyncio.to_thread(self._start, members))

    def _start(self, members: list[Member]) -> None:
        for member in members:
            self._processes[member.name] = KuboProcess(member.folder / "kubo")

    async def wait(self) -> dict[str, Ready]:
        """Where each is, by its member's name; all are connected. Raises `KuboFailed`."""
        if self._starting is not None:
            await asyncio.shield(self._starting)
        nodes = {name: await asyncio.to_thread(process.wait) for name, process in self._processes.items()}
        await _connect(list(nodes.values()))
        return nodes

    def check_alive(self) -> None:
        """Raises `KuboFailed`."""
        for name, one in self._processes.items():
            if not one.process.is_alive():
                raise KuboFailed(f"the IPFS node of {name} ended by itself; see {one.repo / 'kubo.log'}")

    async def stop(self) -> None:
        if self._starting is not None:
            await asyncio.wait([self._starting])
        await asyncio.gather(*(asyncio.to_thread(process.stop) for process in self._processes.values()))


async def _connect(nodes: list[Ready]) -> None:
    """Each with each, as nodes of the public network would find one another; these have nobody to ask."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=CONNECT_SECONDS)) as session:

        async def dial(node: Ready, other: Ready) -> None:
            try:
                async with session.post(f"{node.url}/api/v0/swarm/connect", params={"arg": other.address}) as response:
                    said = await response.text()
            except (aiohttp.ClientError, TimeoutError) as error:
                raise KuboFailed(f"the IPFS node at {node.url} does not answer: {type(error).__name__}") from None
            if response.status != 200:
                raise KuboFailed(f"the IPFS node at {node.url} cannot reach another: {said}")

        await asyncio.gather(*(dial(node, other) for node, other in combinations(nodes, 2)))


def content_settings(kubo: Ready | None) -> dict[str, Any]:
    """The member's settings: its own IPFS node, which others may fetch its proofs from as well."""
    return {} if kubo is None else {"store": "kubo", "kubo_url": kubo.url, "sources": [kubo.address]}
