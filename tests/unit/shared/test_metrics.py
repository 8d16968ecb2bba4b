"""Metrics: names and labels are closed, the document is the list, and what is counted is what is exposed."""

from __future__ import annotations

import re
import sys
import threading
from pathlib import Path

import prometheus_client
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from shared.metrics import LABELS, OTHER, Declaration, Metrics
from shared.reasons import AbstainReason, InvalidReason
from shared.types import Verdict
from shared.workflow import Phase

DOCUMENT = (Path(__file__).resolve().parents[3] / "docs" / "metrics.md").read_text()
UNITS = "(seconds|bytes|gas|messages|votes|certificates|transactions|tasks|info|scores|tests|cards"
UNITS += "|reads|refusals|requests|publications)"


def samples(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """What a scraper reads: value by name and sorted labels."""
    body, _ = metrics.exposition()
    families = text_string_to_metric_families(body.decode())
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}


# --- the document --------------------------------------------------------------------------------
def test_the_document_is_the_list() -> None:
    rows = re.findall(r"^\| `(poi_\w+)` \| (\w+) \|(.*)\| (.+) \|$", DOCUMENT, re.MULTILINE)
    documented = [(name, kind, tuple(re.findall(r"`(\w+)`", labels)), meaning) for name, kind, labels, meaning in rows]
    assert documented == [(d.name, d.kind, d.labels, d.meaning) for d in Metrics("attester").declarations]


def test_the_document_has_every_label_value() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \|$", DOCUMENT, re.MULTILINE))
    assert list(rows) == list(LABELS)
    for label, values in LABELS.items():
        if label != "reason":
            assert rows[label] == ", ".join(f"`{value}`" for value in sorted(values))


def test_everything_exposed_is_documented() -> None:
    metrics = Metrics("attester")
    body, _ = metrics.exposition()
    for family in text_string_to_metric_families(body.decode()):
        assert f"`{family.name}`" in DOCUMENT or f"`{family.name}_total`" in DOCUMENT, family.name


@pytest.mark.parametrize("declaration", Metrics("attester").declarations, ids=lambda d: d.name)
def test_a_name_says_part_thing_and_unit(declaration: Declaration) -> None:
    assert re.fullmatch(rf"poi_[a-z]+(_[a-z]+)*_{UNITS}", declaration.name)
    assert not set(declaration.labels) & {"task", "cid", "peer", "tx", "operator"}
    assert set(declaration.labels) <= LABELS.keys() | {"version", "python"}


def test_the_label_sets_follow_the_code() -> None:
    assert LABELS["reason"] == {"none", *InvalidReason, *AbstainReason}
    assert LABELS["phase"] == {phase.value for phase in Phase}
    assert LABELS["verdict"] == {"abstain", "valid", "invalid"} == {verdict.name.lower() for verdict in Verdict}


# --- counting ------------------------------------------------------------------------------------
def test_what_is_counted_is_exposed() -> None:
    metrics = Metrics("attester")
    metrics.gossip_messages.add(topic="vote", ruling="reject")
    metrics.gossip_messages.add(2, topic="vote", ruling="reject")
    metrics.votes.add(verdict="invalid", reason=InvalidReason.LABEL_DIFFERS)
    metrics.votes.add(verdict="abstain", reason=AbstainReason.GUARDED)
    metrics.certificates.add(verdict="valid")
    metrics.certificate_seconds.observe(0.3)
    metrics.verification_seconds.observe(120, method="text")
    metrics.transactions.add(outcome="confirmed")
    metrics.gas.add(250_000)
    metrics.open_tasks.set(3, phase=Phase.PERFORMED)
    metrics.open_tasks.set(2, phase=Phase.PERFORMED)
    read = samples(metrics)
    expected = {
        ("poi_gossip_messages_total", (("ruling", "reject"), ("topic", "vote"))): 3,
        ("poi_attester_votes_total", (("reason", "label_differs"), ("verdict", "invalid"))): 1,
        ("poi_attester_votes_total", (("reason", "guarded"), ("verdict", "abstain"))): 1,
        ("poi_aggregator_certificates_total", (("verdict", "valid"),)): 1,
        ("poi_performer_certificate_seconds_bucket", (("le", "0.25"),)): 0,
        ("poi_performer_certificate_seconds_bucket", (("le", "0.5"),)): 1,
        ("poi_performer_certificate_seconds_sum", ()): 0.3,
        ("poi_attester_verification_seconds_bucket", (("le", "60.0"), ("method", "text"))): 0,
        ("poi_attester_verification_seconds_bucket", (("le", "+Inf"), ("method", "text"))): 1,
        ("poi_chain_transactions_total", (("outcome", "confirmed"),)): 1,
        ("poi_chain_used_gas_total", ()): 250_000,
        ("poi_workflow_open_tasks", (("phase", "performed"),)): 2,
    }
    assert {key: read.get(key) for key in expected} == expected


def test_the_process_says_what_it_is() -> None:
    (labels,) = (dict(labels) for name, labels in samples(Metrics("aggregator")) if name == "poi_process_info")
    assert labels["role"] == "aggregator"
    assert labels["python"] == ".".join(map(str, sys.version_info[:3]))
    assert labels["version"]


@pytest.mark.skipif(sys.platform != "linux", reason="read from /proc")
def test_the_operating_systems_numbers_are_there() -> None:
    read = samples(Metrics("attester"))
    assert read["poi_process_resident_memory_bytes", ()] > 1e6
    assert read["poi_process_open_fds", ()] > 0


def test_nodes_of_one_process_count_apart_and_outside_the_global_registry() -> None:
    one, two = Metrics("attester"), Metrics("attester")
    one.gas.add(5)
    assert samples(one)["poi_chain_used_gas_total", ()] == 5
    assert samples(two)["poi_chain_used_gas_total", ()] == 0
    assert b"poi_" not in prometheus_client.generate_latest()


def test_threads_lose_no_count() -> None:
    metrics = Metrics("attester")

    def count() -> None:
        for _ in range(1_000):
            metrics.certificates.add(verdict="valid")

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert samples(metrics)["poi_aggregator_certificates_total", (("verdict", "valid"),)] == 4_000


# --- closed sets ---------------------------------------------------------------------------------
@settings(deadline=None)
@given(st.lists(st.text(), max_size=20))
def test_a_stranger_makes_no_series(topics: list[str]) -> None:
    metrics = Metrics("attester")
    for topic in topics:
        metrics.gossip_messages.add(topic=topic, ruling="ignore")
    seen = {dict(labels)["topic"] for name, labels in samples(metrics) if name == "poi_gossip_messages_total"}
    assert seen <= LABELS["topic"] | {OTHER}


def test_an_unknown_role_is_other() -> None:
    (labels,) = (dict(labels) for name, labels in samples(Metrics("x" * 1000)) if name == "poi_process_info")
    assert labels["role"] == OTHER


@pytest.mark.parametrize("labels", [{}, {"topic": "vote"}, {"topic": "vote", "ruling": "accept", "peer": "x"}])
def test_a_wrong_set_of_labels_is_a_fault_of_the_code(labels: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="labels: expected topic, ruling, got "):
        Metrics("attester").gossip_messages.add(**labels)  # type: ignore[arg-type]


def test_a_metric_without_labels_takes_none() -> None:
    with pytest.raises(ValueError, match="labels: expected none, got topic"):
        Metrics("attester").gas.add(1, topic="vote")


def test_the_answer_is_prometheus_text() -> None:
    body, content_type = Metrics("attester").exposition()
    assert content_type.startswith("text/plain; version=")
    assert b"# HELP poi_chain_used_gas_total " in body
    assert b"_created" not in body
