"""THE wiring: settings in, opened adapters out. Read it from top to bottom; nothing else connects anything."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import structlog

from shared import constants
from shared.adapters.chain_evm import (
    EvmClient,
    EvmCourt,
    EvmEpochs,
    EvmEscrow,
    EvmOperatorReader,
    EvmSettlement,
    Sender,
    discover,
)
from shared.adapters.clock import SystemClock
from shared.adapters.content.counts import ContentCounts
from shared.adapters.content.embedded import EmbeddedBlocks
from shared.adapters.content.publishers.open import open_publishers
from shared.adapters.content.store import NodeContentStore
from shared.adapters.content.stores import open_content
from shared.adapters.counting import CountingGossip, CountingSettlement
from shared.adapters.engines import OpenEngine, engines_by_profile, open_engine, open_reference
from shared.adapters.gossip_libp2p import LibP2PGossip
from shared.adapters.http_json import open_caller
from shared.adapters.onnx_audit import split
from shared.adapters.signers import LocalIdentitySigner, LocalVoteSigner
from shared.adapters.store_sqlite import SqliteStore, SqliteVoteGuard
from shared.audit_library import AuditLibrary
from shared.config import Config
from shared.constants import GWEI
from shared.crypto import keystore
from shared.digests import Domain
from shared.interfaces import Publisher
from shared.messages import Topics
from shared.metrics import Metrics
from shared.model_library import ModelLibrary
from shared.peer_id import to_text
from shared.roster import RosterWatch
from shared.types import Address, PeerKey
from shared.validation import GossipRules
from shared.verification import METHODS
from shared.verification.external import External
from shared.verification.method import Method
from shared.verification.oracle import Oracle

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Node:
    """Everything that a role may need, open. Roles take what they need in `from_node`, and never the whole."""

    config: Config
    domain: Domain
    topics: Topics
    clock: SystemClock
    signer: LocalIdentitySigner
    vote_signer: LocalVoteSigner
    settlement: CountingSettlement
    court: EvmCourt
    escrow: EvmEscrow
    epochs: EvmEpochs
    reader: EvmOperatorReader
    roster: RosterWatch
    rules: GossipRules
    gossip: CountingGossip
    libp2p: LibP2PGossip
    content: NodeContentStore
    publishers: tuple[Publisher, ...]  # a performer's
    engine: OpenEngine
    reference: OpenEngine  # decides what is close; see `open_reference`
    library: ModelLibrary
    store: SqliteStore
    guard: SqliteVoteGuard
    methods: Mapping[str, Method]
    metrics: Metrics
    counts: ContentCounts
    evidence_secret: bytes = field(repr=False)

    def health(self) -> tuple[bool, Mapping[str, Any]]:
        """Fit to work: libp2p lives and the chain has told who is who. Details for people and for start-up scripts."""
        roster, gossip = self.roster.current, self.libp2p.health()
        is_alive = not self.libp2p.failed.done()
        return is_alive and roster.epoch > 0, {
            "operator": f"0x{self.signer.address.hex()}",
            "peerId": to_text(self.gossip.peer_key),
            "peers": len(gossip.peers),
            "epoch": roster.epoch,
            "operators": len(roster.operators),
            "readyDefinitions": sorted(self.library.ready_ids),
            "fetching": self.library.fetching(),
        }

    def count(self) -> None:
        """Sets the levels of what this disk holds; for whoever is about to expose the metrics. What is in a Kubo node,
        that node counts."""
        if isinstance(self.content.local, EmbeddedBlocks):
            self.counts.hold(self.content.local.files.held_bytes, self.config.content.max_bytes)


@asynccontextmanager
async def open_node(config: Config, role: str) -> AsyncIterator[Node]:
    """Opened in this order, closed in the reverse. Raises `ConfigError` for what the operator can mend."""
    keys = keystore.load(config.node.keystore, keystore.read_password(config.node.password_file))
    domain = Domain(config.network.chain_id, config.network.attestation_center)
    topics, clock, metrics = Topics(domain), SystemClock(), Metrics(role)
    signer = LocalIdentitySigner(keys.operator)
    config.node.data_dir.mkdir(parents=True, exist_ok=True)
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(SqliteStore(config.node.data_dir / "store.db"))
        if role == "attester" and not (config.node.data_dir / "votes.db").exists():
            log.warning("an empty vote guard: right for a new seed, a way to sign twice for an old one")
        # One guard file a vote key: a second process on the same key is refused here, before it could vote.
        guard = await stack.enter_async_context(SqliteVoteGuard(config.node.data_dir / "votes.db"))
        client = await stack.enter_async_context(EvmClient(config.network.chain_rpc))
        deployment = await discover(client, domain.chain_id, domain.contract, config.network.task_escrow)
        max_fee_wei = int(config.aggregator.max_fee_gwei * GWEI)
        sender = await stack.enter_async_context(Sender(client, signer, domain.chain_id, max_fee_wei=max_fee_wei))
        reader = EvmOperatorReader(client, deployment)
        roster = RosterWatch(reader)

        def gateways() -> dict[Address, str]:
            return {operator.address: operator.gateway_url for operator in roster.current.operators}

        def p2p_addresses() -> dict[Address, str]:
            return {operator.address: operator.p2p_address for operator in roster.current.operators}

        def members() -> dict[PeerKey, str]:
            return {operator.peer_key: operator.p2p_address for operator in roster.current.operators}

        counts = ContentCounts(metrics)
        content = await stack.enter_async_context(
            open_content(
                config.content,
                config.node.data_dir / "content",
                gateways=gateways,
                p2p_addresses=p2p_addresses,
                own=signer.address,
                watch=counts,
            )
        )
        publishers: tuple[Publisher, ...] = ()
        if role == "performer":
            publishers = await stack.enter_async_context(open_publishers(config, content))
        engine, reference = open_engine(config.inference), open_reference(config.inference)
        engines = engines_by_profile(config.inference, engine, reference)
        for each in {engine, reference, *engines.values()}:
            stack.push_async_callback(each.close)
        caller = await stack.enter_async_context(open_caller(None))
        feeds = await stack.enter_async_context(open_caller(frozenset(config.services.feed_hosts)))
        await roster.refresh()
        gossip = await stack.enter_async_context(
            LibP2PGossip(
                secret=keys.peer_seed, listen=config.p2p.listen, members=members, max_bytes=topic_limits(topics)
            )
        )
        yield Node(
            config=config,
            domain=domain,
            topics=topics,
            clock=clock,
            signer=signer,
            vote_signer=LocalVoteSigner(keys.vote),
            settlement=CountingSettlement(EvmSettlement(sender, reader, deployment), metrics),
            court=EvmCourt(sender, deployment),
            escrow=EvmEscrow(sender, deployment),
            epochs=EvmEpochs(sender, deployment),
            reader=reader,
            roster=roster,
            rules=GossipRules(domain=domain, roster=lambda: roster.current, clock=clock),
            gossip=CountingGossip(gossip, metrics),
            libp2p=gossip,
            content=content,
            publishers=publishers,
            engine=engine,
            reference=reference,
            library=ModelLibrary(
                content=content,
                engines=engines,
                reference=reference,
                audits=AuditLibrary(split, max_bytes=config.inference.max_loaded_bytes),
                max_bytes=config.inference.max_loaded_bytes,
                touch=content.touch,
                source_of=counts.source_of,
            ),
            store=store,
            guard=guard,
            methods={
                **METHODS,
                "external": External(
                    caller=caller,
                    clock=clock,
                    execution_url=config.services.execution_url,
                    validation_url=config.services.validation_url,
                ),
                "oracle": Oracle(caller=feeds, clock=clock),
            },
            metrics=metrics,
            counts=counts,
            evidence_secret=keys.evidence,
        )


def topic_limits(topics: Topics) -> dict[str, int]:
    """Bytes, checked before anything decodes."""
    return {
        topics.task: constants.MAX_TASK_MESSAGE_BYTES,
        topics.vote: constants.MAX_VOTE_MESSAGE_BYTES,
        topics.certificate: constants.MAX_CERTIFICATE_MESSAGE_BYTES,
        topics.batch: constants.MAX_BATCH_MESSAGE_BYTES,
    }
