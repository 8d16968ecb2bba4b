"""Opens a simulated network, and makes tests of scenarios: one line of plan, then what happens."""

from __future__ import annotations

import asyncio
import inspect
import random
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import lru_cache
from typing import Any, Concatenate, ParamSpec
from unittest.mock import patch

from shared.content.unixfs import cid_of
from shared.crypto import bls
from shared.types import Role, TaskTerms
from tests.cast import peer_key_of
from tests.simnet import invariants
from tests.simnet.journal import Journal
from tests.simnet.models import shipped
from tests.simnet.network import Network
from tests.simnet.node import SimNode
from tests.simnet.plan import HONEST, Plan, person
from tests.simnet.virtual_time import run_virtual

P = ParamSpec("P")
Scenario = Callable[Concatenate[Network, P], Coroutine[Any, Any, None]]
MAX_SIMULATED_SECONDS = 3600.0  # a scenario that takes longer waits for what never comes


@contextmanager
def remembered_pairings() -> Iterator[None]:
    """A pairing is a pure function of its bytes, and simulations that differ in one step ask for the same ones again:
    each is computed once a process. It is most of what a simulation costs."""
    with patch.object(bls, "_verify", _verify), patch.object(bls, "verify_aggregate", _verify_aggregate):
        yield


_verify = lru_cache(maxsize=1 << 14)(bls._verify)
_verify_all = lru_cache(maxsize=1 << 14)(bls.verify_aggregate)


def _verify_aggregate(public_keys: Iterable[bytes], digest: bytes, signature: bytes) -> bool:
    return _verify_all(tuple(public_keys), digest, signature)


@asynccontextmanager
async def open_network(plan: Plan) -> AsyncIterator[Network]:
    """Registered, rolled and ready; killed at the end."""
    random.seed(plan.seed)  # the content reader shuffles its sources with the global generator
    journal = Journal()
    with journal.recording(), remembered_pairings():
        network = Network(plan, journal)
        await _register(network)
        for node in network.nodes.values():
            node.start()
        try:
            await network.until(lambda: all(node.is_ready for node in network.nodes.values()), "all nodes are ready")
            yield network
        finally:
            for node in network.nodes.values():
                await node.killed()


async def _register(network: Network) -> None:
    plan, chain = network.plan, network.chain
    models = [shipped(name) for name in plan.models]
    files = tuple(data for model in models for data in (model.card_bytes, model.golden_bytes, model.model_bytes))
    for name, (role, stake) in plan.members().items():
        member = person(name)
        await chain.register(member.address, member.registration(chain.deployment, role, stake))
        make = plan.roles.get(name, HONEST[role])
        brought = files if role is Role.PERFORMER else ()
        network.nodes[name] = SimNode(network.world, member, (role.name or "").lower(), make, brought)
        network.hub.names[peer_key_of(member)] = name
    for model in models:
        await chain.create_task_definition(
            name=model.name,
            method=model.card.method,
            model_hash=model.hash,
            card_cid=cid_of(model.card_bytes),
            terms=TaskTerms(dispute_window=plan.dispute_seconds, waits_for_all=plan.waits_for_all),
        )
    await chain.roll_epoch()


def simulate(scenario: Callable[[Network], Coroutine[Any, Any, None]], plan: Plan) -> Network:
    """Plays the scenario to its end, and checks the invariants."""

    async def main() -> Network:
        async with asyncio.timeout(MAX_SIMULATED_SECONDS), open_network(plan) as network:
            await scenario(network)
            await invariants.check(network)
        return network

    return run_virtual(main())


def simulated(**plan: Any) -> Callable[[Scenario[P]], Callable[P, None]]:
    """A test on a network of this plan. The test's own parameters follow the network."""

    def decorate(scenario: Scenario[P]) -> Callable[P, None]:
        def test(*arguments: P.args, **named: P.kwargs) -> None:
            simulate(lambda network: scenario(network, *arguments, **named), Plan(**plan))

        signature = inspect.signature(scenario)
        own = list(signature.parameters.values())[1:]
        test.__signature__ = signature.replace(parameters=own)  # type: ignore[attr-defined]
        test.__name__, test.__doc__, test.__module__ = scenario.__name__, scenario.__doc__, scenario.__module__
        return test

    return decorate
