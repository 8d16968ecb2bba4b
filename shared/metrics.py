"""What a node counts, in a registry of its own: `poi_<part>_<thing>_<unit>`, labels from closed sets only.

A task, a peer, a CID or a transaction is never a label: strangers make those, and every new value is a series kept for
ever. A value out of its set is counted as "other". `docs/metrics.md` is checked against the list made here.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Final, Literal, TypeVar

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from shared.config import PUBLISHERS
from shared.model_card import METHODS_OF
from shared.reasons import AbstainReason, InvalidReason, SourceFault
from shared.types import SourceKind, Verdict
from shared.workflow import Phase

PREFIX = "poi_"
OTHER = "other"
NO_REASON = "none"  # of a valid vote

LABELS: Final[dict[str, frozenset[str]]] = {
    "topic": frozenset({"task", "vote", "certificate", "batch"}),
    "ruling": frozenset({"accept", "ignore", "reject"}),
    "verdict": frozenset(verdict.name.lower() for verdict in Verdict),
    "reason": frozenset({NO_REASON, *InvalidReason, *AbstainReason}),
    "method": frozenset(method for methods in METHODS_OF.values() for method in methods),
    "outcome": frozenset({"submitted", "confirmed", "reverted", "dropped", "unavailable"}),
    "phase": frozenset(Phase),
    "role": frozenset({"performer", "attester", "aggregator"}),
    "result": frozenset({"passed", "failed", "impossible"}),
    "source": frozenset(SourceKind),
    "fault": frozenset(SourceFault),
    "read": frozenset({"hit", "fetched", "wrong", "unavailable"}),
    "form": frozenset({"raw", "car", "none"}),
    "answer": frozenset({"served", "unchanged", "absent", "refused", "cut"}),
    "publisher": frozenset(PUBLISHERS),
    "state": frozenset({"queued", "pinning", "pinned", "failed"}),
}

# From a cached block to the longest fetch and the inference timeout.
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
# In tolerances: honest runs lie below a quarter, at most 1 is valid, more than 10 invalid (protocol §6).
TOLERANCES = (0.01, 0.03, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 100.0)
LARGEST = 1e6  # an infinite distance would make the sum of all of them infinite

Kind = Literal["counter", "gauge", "histogram"]
M = TypeVar("M", Counter, Gauge, Histogram)

# A second series for each counter and histogram, which nobody reads.
prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]


@dataclass(frozen=True, slots=True)
class Declaration:
    """One row of docs/metrics.md; counters are exposed with `_total` behind the name."""

    name: str
    kind: Kind
    labels: tuple[str, ...]
    meaning: str


class Count:
    """A number that only grows."""

    def __init__(self, counter: Counter, labels: tuple[str, ...]) -> None:
        self._counter, self._labels = counter, labels

    def add(self, amount: float = 1, **labels: str) -> None:
        """Every label of the metric must be given, by name."""
        _child(self._counter, self._labels, labels).inc(amount)


class Level:
    """A number of now."""

    def __init__(self, gauge: Gauge, labels: tuple[str, ...]) -> None:
        self._gauge, self._labels = gauge, labels

    def set(self, value: float, **labels: str) -> None:
        """Every label of the metric must be given, by name."""
        _child(self._gauge, self._labels, labels).set(value)


class Distribution:
    """How long things took, or how far they lay apart, in buckets."""

    def __init__(self, histogram: Histogram, labels: tuple[str, ...]) -> None:
        self._histogram, self._labels = histogram, labels

    def observe(self, value: float, **labels: str) -> None:
        """Every label of the metric must be given, by name."""
        _child(self._histogram, self._labels, labels).observe(min(value, LARGEST))  # NaN is not


class Metrics:
    """One node's metrics; nodes in one process each have their own. Safe from any thread."""

    def __init__(self, role: str) -> None:
        self._registry = CollectorRegistry(auto_describe=True)
        self.declarations: list[Declaration] = []

        self.gossip_messages = self._count(
            "gossip_messages", "Messages that arrived, by what the gossip checks decided.", "topic", "ruling"
        )
        self.votes = self._count(
            "attester_votes", "Verdicts of this attester, abstentions included.", "verdict", "reason"
        )
        self.verification_seconds = self._durations(
            "attester_verification_seconds", "From the task message to the verdict, fetching included.", "method"
        )
        self.vote_scores = self._scores(
            "attester_vote_scores",
            "How far off the outputs that were voted on are, in tolerances.",
            "method",
        )
        self.refereed_votes = self._count(
            "attester_refereed_votes", "Votes that the float64 reference decided.", "method"
        )
        self.self_tests = self._count("attester_self_tests", "Self-tests on the cards' golden vectors.", "result")
        self.unfit_cards = self._level(
            "attester_unfit_cards", "Cards whose self-test this attester fails; it abstains from their tasks."
        )
        self.certificates = self._count("aggregator_certificates", "Certificates made.", "verdict")
        self.certificate_seconds = self._durations(
            "performer_certificate_seconds", "From a request at the door to its certificate."
        )
        self.transactions = self._count("chain_transactions", "Transactions, by what became of them.", "outcome")
        self.gas = self._count("chain_used_gas", "Gas of this node's mined transactions.")
        self.open_tasks = self._level("workflow_open_tasks", "Tasks this node keeps that are not final.", "phase")
        self.content_reads = self._count(
            "content_reads",
            "Reads by CID: all of it here, fetched from others, provably wrong, or unavailable.",
            "read",
        )
        self.fetched_bytes = self._count("content_fetched_bytes", "Bytes of blocks that sources delivered.", "source")
        self.fetch_seconds = self._durations(
            "content_fetch_seconds", "From asking a source for a block to having it verified.", "source"
        )
        self.content_refusals = self._count(
            "content_refusals", "Blocks that a source was asked for and did not deliver, by why.", "source", "fault"
        )
        self.held_bytes = self._level("content_held_bytes", "Bytes of blocks on this disk.")
        self.quota_bytes = self._level("content_quota_bytes", "Bytes of blocks that this disk may hold.")
        self.swept_bytes = self._count("content_swept_bytes", "Bytes that garbage collection freed.")
        self.served_bytes = self._count("gateway_served_bytes", "Bytes of blocks that the gateway sent.", "form")
        self.gateway_requests = self._count(
            "gateway_requests", "Requests for content, by what was asked for and what became of them.", "form", "answer"
        )
        self.publications = self._count(
            "performer_publications", "States that proofs came to at services outside.", "publisher", "state"
        )
        self._describe_process(role)

    def exposition(self) -> tuple[bytes, str]:
        """Body and content type of a `/metrics` answer (Prometheus text format)."""
        return generate_latest(self._registry), CONTENT_TYPE_LATEST

    def _count(self, name: str, meaning: str, *labels: str) -> Count:
        full = self._declare(name, "counter", labels, meaning)
        return Count(Counter(full, meaning, labels, registry=self._registry), labels)

    def _level(self, name: str, meaning: str, *labels: str) -> Level:
        full = self._declare(name, "gauge", labels, meaning)
        return Level(Gauge(full, meaning, labels, registry=self._registry), labels)

    def _durations(self, name: str, meaning: str, *labels: str) -> Distribution:
        return self._distribution(name, meaning, labels, SECONDS)

    def _scores(self, name: str, meaning: str, *labels: str) -> Distribution:
        return self._distribution(name, meaning, labels, TOLERANCES)

    def _distribution(
        self, name: str, meaning: str, labels: tuple[str, ...], buckets: tuple[float, ...]
    ) -> Distribution:
        full = self._declare(name, "histogram", labels, meaning)
        return Distribution(Histogram(full, meaning, labels, registry=self._registry, buckets=buckets), labels)

    def _declare(self, name: str, kind: Kind, labels: tuple[str, ...], meaning: str) -> str:
        self.declarations.append(Declaration(f"{PREFIX}{name}", kind, labels, meaning))
        return f"{PREFIX}{name}"

    def _describe_process(self, role: str) -> None:
        meaning = "Always 1; the labels say what runs."
        labels = ("role", "version", "python")  # the last two are this installation's own
        name = self._declare("process_info", "gauge", labels, meaning)
        gauge = Gauge(name, meaning, labels, registry=self._registry)
        gauge.labels(role if role in LABELS["role"] else OTHER, _version(), platform.python_version()).set(1)
        # CPU, memory, start time and open files, as poi_process_…; the operating system's numbers, none on macOS.
        prometheus_client.ProcessCollector(namespace=PREFIX.rstrip("_"), registry=self._registry)


def _child(metric: M, names: tuple[str, ...], given: dict[str, str]) -> M:
    """Raises ValueError for a missing or unknown label name: a fault of the caller's code, which its tests meet."""
    if given.keys() != set(names):
        raise ValueError(f"labels: expected {', '.join(names) or 'none'}, got {', '.join(given) or 'none'}")
    closed = {name: str(value) if value in LABELS[name] else OTHER for name, value in given.items()}
    return metric.labels(**closed) if names else metric


def _version() -> str:
    try:
        return version("proof-of-inference")
    except PackageNotFoundError:
        return "checkout"
