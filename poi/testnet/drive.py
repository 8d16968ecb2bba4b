"""Sends the errands through the doors, as a dApp does, and follows each to the chain."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from poi.client import PoiClient
from poi.testnet.lies import lie_of
from poi.testnet.money import Books
from poi.testnet.network import LIAR, PERFORMER, LocalNetwork
from poi.testnet.plan import Errand
from poi.testnet.readback import ChainReader, OnChain
from poi.testnet.reasons import reasons_of
from poi.testnet.requester import Requester, open_requester
from shared.errors import PoiError
from shared.json_forms import certificate_from_json
from shared.types import Digest, SlashExecuted, Verdict

PARALLEL = 4  # a few dApps at once, so that approvals meet in batches
TASK_SECONDS = 60.0
SLASH_SECONDS = 30.0
SPARE_TASKS = 2  # more than are sent, so that something of the deposit is left


@dataclass
class Run:
    """One errand and what became of it."""

    errand: Errand
    stage: str = "waiting"
    task_id: Digest | None = None
    view: dict[str, Any] = field(default_factory=dict)
    on_chain: OnChain | None = None
    slash: SlashExecuted | None = None
    reasons: frozenset[str] = frozenset()  # of the attesters that voted against it
    failure: str | None = None

    @property
    def is_as_expected(self) -> bool:
        """Honest: approved on chain. A lie: rejected on chain, by its own name, and stake of the liar gone for it."""
        if self.on_chain is None:
            return False
        if self.errand.cheat is None:
            return self.on_chain.verdict is Verdict.VALID
        is_slashed = self.slash is not None and self.slash.amount_wei > 0
        is_named = bool(self.reasons) and self.reasons <= self.errand.cheat.expected
        return self.on_chain.verdict is Verdict.INVALID and is_slashed and is_named


async def drive(network: LocalNetwork, runs: list[Run], changed: Callable[[Run], None]) -> Books:
    """Until every errand has ended one way or the other, and what it cost is paid: where the money went. `changed` is
    called at every new stage."""
    async with open_requester(network) as requester:
        lies = sum(run.errand.cheat is not None for run in runs)
        tasks_of = {PERFORMER: len(runs) - lies, LIAR: lies}
        await requester.deposit(
            {network.member(name).address: count + SPARE_TASKS for name, count in tasks_of.items() if count}
        )
        before = await requester.look()
        await _drive(network, requester, runs, changed)
        settled = [(run.task_id, run.on_chain.verdict) for run in runs if run.task_id and run.on_chain]
        return await requester.books(
            before,
            approved=[task_id for task_id, verdict in settled if verdict is Verdict.VALID],
            rejected=[task_id for task_id, verdict in settled if verdict is Verdict.INVALID],
            slashes=[run.slash for run in runs if run.slash is not None],
        )


async def _drive(network: LocalNetwork, requester: Requester, runs: list[Run], changed: Callable[[Run], None]) -> None:
    chain, key = ChainReader(network), requester.key
    slots = asyncio.Semaphore(PARALLEL)
    async with (
        PoiClient(network.member(PERFORMER).url, key) as honest,
        PoiClient(network.member(LIAR).url, key) as liar,
    ):

        async def one(run: Run) -> None:
            async with slots:
                try:
                    await _send(network, honest if run.errand.cheat is None else liar, chain, run, changed)
                except PoiError as error:
                    run.failure = str(error)
                    _stage(run, "failed", changed)

        reading = asyncio.create_task(chain.run())
        try:
            await asyncio.gather(*map(one, runs))
            if reading.done():
                reading.result()
        finally:
            reading.cancel()


async def _send(
    network: LocalNetwork, client: PoiClient, chain: ChainReader, run: Run, changed: Callable[[Run], None]
) -> None:
    call = await _prepare(network, client, run)
    run.task_id = await client.send(call)
    _stage(run, "performing", changed)
    run.view = await client.wait(run.task_id, until="certified", timeout_seconds=TASK_SECONDS)
    _stage(run, "certified" if run.view["certificate"] else "no certificate", changed)
    run.view = await client.wait(run.task_id, timeout_seconds=TASK_SECONDS)
    run.on_chain = await chain.wait_settled(run.task_id, TASK_SECONDS)
    _stage(run, _settled_stage(run), changed)
    if run.errand.cheat is not None and run.on_chain is not None and run.on_chain.verdict is Verdict.INVALID:
        info = certificate_from_json(run.view["certificate"]).task_info
        attesters = [member.url for member in network.members if member.role == "attester"]
        run.reasons = await reasons_of(attesters, network.deployment.domain.task_info_hash(info))
        run.slash = await chain.wait_slashed(run.task_id, SLASH_SECONDS)
        _stage(run, "slashed" if run.slash else "rejected", changed)


async def _prepare(network: LocalNetwork, client: PoiClient, run: Run) -> dict[str, Any]:
    """A signed call; for a lie, one whose task id makes the liar tell the planned one."""
    while True:
        errand = run.errand
        definition = network.definitions[errand.model]
        task_id, call = await client.prepare(definition, errand.document, errand.parameters, fee=network.fees.total)
        if errand.cheat is None or lie_of(task_id, errand.kind) is errand.cheat:
            return call


def _settled_stage(run: Run) -> str:
    if run.on_chain is None:
        return "not settled"
    return "approved" if run.on_chain.verdict is Verdict.VALID else "rejected"


def _stage(run: Run, stage: str, changed: Callable[[Run], None]) -> None:
    run.stage = stage
    changed(run)
