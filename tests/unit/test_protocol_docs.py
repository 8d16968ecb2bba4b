"""The specification and the code say the same: constants, types, topics, suites, phases, and the rules of gossip."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest
from eth_utils.crypto import keccak

from shared import constants, digests, messages
from shared.crypto import bls, keystore
from shared.digests import Domain
from shared.messages import Topics
from shared.types import Role, Verdict
from shared.workflow import Phase
from tests.builders import DOMAIN
from tests.gossip_faults import FAULTS

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "protocol.md").read_text()
SECTIONS = dict(re.findall(r"^## (\d+)\. (.*?)(?=^## \d|\Z)", TEXT, re.MULTILINE | re.DOTALL))


# --- constants -----------------------------------------------------------------------------------
def test_constants_of_the_specification_exist() -> None:
    named = set(re.findall(r"`([A-Z]+(?:_[A-Z]+)+)`", TEXT))
    assert {"MAX_BATCH_SIZE", "MAX_DEADLINE_SECONDS", "REPEAT_SECONDS", "REPUBLISH_SECONDS"} <= named
    solidity = "".join(path.read_text() for path in (ROOT / "contracts" / "src").rglob("*.sol"))
    elsewhere = {name for name in named if not hasattr(constants, name)}
    assert elsewhere == {"ANSWER_SECONDS", "HOOK_GAS", "MAX_VETOES", "REPORT_SECONDS", "VETO_PERIOD"}
    assert {name for name in elsewhere if not re.search(rf"constant {name} = ", solidity)} == set()


def test_named_tests_exist() -> None:
    named = set(re.findall(r"`((?:test|testFuzz|invariant)_\w+)`", SECTIONS["11"]))
    assert len(named) > 100
    sources = [*(ROOT / "contracts" / "test").rglob("*.sol"), *(ROOT / "tests").rglob("test_*.py")]
    written = "".join(path.read_text() for path in sources)
    assert {name for name in named if not re.search(rf"(?:function|def) {name}\(", written)} == set()


def test_the_constants_hold_together() -> None:
    """What their comments promise of each other."""
    assert 0 < constants.REPEAT_SECONDS < constants.REPUBLISH_SECONDS
    limits = [getattr(constants, name) for name in dir(constants) if re.fullmatch(r"MAX_\w+MESSAGE_BYTES", name)]
    assert len(limits) == 4
    assert max(limits) <= constants.MAX_MESSAGE_BYTES < 1 << 20
    seats_a_page, record = 104, bls.G2_BYTES + 2 * 20
    assert 10 * seats_a_page == constants.MAX_SEATS
    assert seats_a_page * record <= 24_576 - 1
    assert constants.MAX_PARAMETERS_BYTES + constants.MAX_DATA_BYTES < constants.MAX_TASK_MESSAGE_BYTES
    assert constants.BATCH_VOTE_SECONDS < constants.MAX_DEADLINE_SECONDS


def test_the_quorum_is_the_specifications() -> None:
    assert "when `3·valid > 2·total`" in SECTIONS["3"]
    assert "when `3·invalid > total`" in SECTIONS["3"]
    fractions = constants.QUORUM_DENOMINATOR, constants.APPROVE_NUMERATOR, constants.REJECT_NUMERATOR
    assert fractions == (3, 2, 1)


# --- digests -------------------------------------------------------------------------------------
TYPE_HASHES = {
    "TaskRequest": digests._TASK_REQUEST,
    "TaskInfo": digests._TASK_INFO,
    "Vote": digests._VOTE,
    "Batch": digests._BATCH,
    "Promise": digests._PROMISE,
    "KeyPossession": digests._KEY_POSSESSION,
    "Consent": digests._CONSENT,
    "Allowance": digests._ALLOWANCE,
    "CancelSlash": digests._CANCEL_SLASH,
    "OverruleVeto": digests._OVERRULE_VETO,
}


def test_types_are_those_of_the_code() -> None:
    specified = dict(re.findall(r"^((\w+)\([\w ,]+\))$", SECTIONS["2"], re.MULTILINE))
    assert {name: keccak(text=text) for text, name in specified.items()} == TYPE_HASHES


def test_the_domain_is_that_of_the_code() -> None:
    (name, version) = re.findall(r'`name = "(\w+)"`, `version = "(\w+)"`, `chainId`', SECTIONS["2"])[0]
    assert (name, version) == (digests.NAME, digests.VERSION)


def test_verdicts_are_those_of_the_code() -> None:
    assert "`verdict` 1 = valid, 2 = invalid" in SECTIONS["2"]
    assert (Verdict.VALID, Verdict.INVALID) == (1, 2)


# --- keys and roles ------------------------------------------------------------------------------
def test_suites_and_labels_are_those_of_the_code() -> None:
    suites = re.findall(r"`(BLS_[\w:-]+_)`", SECTIONS["1"])
    assert suites == [bls.SUITE.decode(), bls.POP_SUITE.decode()]
    labels = re.findall(r"`(poi/\w+/\d)`", SECTIONS["1"])
    named = (keystore.ECDSA_LABEL, keystore.BLS_LABEL, keystore.PEER_LABEL, keystore.EVIDENCE_LABEL)
    assert labels == [label.decode() for label in named]
    assert f"`poi/bls/1`, {keystore.BLS_MATERIAL_BYTES} bytes" in SECTIONS["1"]
    sizes = re.findall(r"\((\d+) B\)", SECTIONS["1"])
    assert sizes == [str(bls.G1_BYTES), str(bls.G2_BYTES)]


def test_roles_are_those_of_the_code() -> None:
    bits = {name: int(bit) for bit, name in re.findall(r"bit (\d) (\w+)", SECTIONS["3"])}
    assert bits == {(role.name or "").lower(): role.value for role in Role}


# --- gossip --------------------------------------------------------------------------------------
def test_topics_are_those_of_the_code() -> None:
    rows = re.findall(r"^\| `N/(\w+)` \| (.*?) \|", SECTIONS["4"], re.MULTILINE)
    specified = {topic: set(re.findall(r"`(\w+)`", names)) for topic, names in rows}
    unions = {
        "task": messages.TaskTopic,
        "vote": messages.VoteTopic,
        "certificate": messages.CertificateTopic,
        "batch": messages.BatchTopic,
    }
    assert specified == {
        topic: {kind.__name__ for kind in get_args(union) or (union,)} for topic, union in unions.items()
    }
    assert "`N = poi/3/<chainId>/<center, lower hex>`" in SECTIONS["4"]
    for topic in unions:
        assert getattr(Topics(DOMAIN), topic) == f"poi/3/{DOMAIN.chain_id}/{DOMAIN.contract.hex()}/{topic}"
    assert set(vars(Topics(Domain(1, DOMAIN.contract)))) == set(unions)


# For each message the rules of its paragraph in order, each with the rule text of its ruling.
RULES: dict[str, list[tuple[str, str, tuple[str, ...]]]] = {
    "TaskMessage": [
        ("REJECT", "`taskInfo.taskPerformer` is not the origin's operator", ("performer",)),
        ("REJECT", "`taskInfo.taskId` is not the request's digest", ("task id",)),
        ("REJECT", "`proofOfTask` or `inputCid` is not a canonical CIDv1", ("CID",)),
        (
            "REJECT",
            "`content` names another CID than `proofOfTask`, an unknown profile, over `MAX_SOURCES` sources",
            ("content of another CID or profile", "content size", "content sources"),
        ),
        ("REJECT", "`data` or `parameters` over their limit", ("parameters size", "data size")),
        ("IGNORE", "deadline passed, or further away than", ("deadline",)),
        ("IGNORE", "`taskInfo.epoch` is neither the current nor the previous epoch", ("unknown epoch",)),
        ("IGNORE", "the same task info hash was accepted less than `REPEAT_SECONDS` ago", ("repeated",)),
        ("REJECT", "requester's signature", ("requester's signature",)),
        ("REJECT", "performer's signature", ("performer's signature",)),
    ],
    "VoteMessage": [
        ("REJECT", "verdict not 1 or 2; signature not 96 bytes", ("verdict or signature length",) * 2),
        ("IGNORE", "unknown epoch", ("unknown epoch",)),
        ("REJECT", "`attester` is not the origin's operator", ("attester",)),
        ("IGNORE", "the attester is not in the epoch's table", ("attester is not in the table",)),
        ("IGNORE", "repeated within `REPEAT_SECONDS`", ("repeated",)),
    ],
    "CertificateMessage": [
        ("REJECT", "verdict; signature length; signers not strictly", ("verdict", "signature length", "signers")),
        ("IGNORE", "unknown epoch", ("unknown epoch",)),
        ("IGNORE", "repeated within `REPEAT_SECONDS`", ("repeated",)),
        ("REJECT", "power below the quorum", ("quorum",)),
        ("REJECT", "performer's signature", ("performer's signature",)),
        ("REJECT", "aggregate signature", ("aggregate signature",)),
    ],
    "SubmittedMessage": [
        (
            "REJECT",
            "`aggregator` is not the origin's operator, or over `MAX_BATCH_SIZE` ids",
            ("aggregator or size",) * 2,
        ),
    ],
    "BatchProposal": [
        ("REJECT", "empty, over `MAX_BATCH_SIZE`, or the aggregator", ("batch size", "aggregator")),
        ("IGNORE", "unknown epoch", ("unknown epoch",)),
    ],
}
TAGS = {
    "TaskMessage": "task",
    "VoteMessage": "vote",
    "CertificateMessage": "certificate",
    "SubmittedMessage": "submitted",
    "BatchProposal": "batch_proposal",
}


@pytest.mark.parametrize("name", RULES)
def test_the_rules_are_quoted_whole_and_in_order(name: str) -> None:
    (paragraph,) = re.findall(rf"^`{name}`: (.*?)(?= `BatchVote`: |$)", SECTIONS["4"], re.MULTILINE)
    specified = re.findall(r"\*\*\[(\w+)\]\*\* (.*?)(?=\*\*\[|$)", paragraph)
    assert [kind for kind, _ in specified] == [kind for kind, _, _ in RULES[name]]
    for (_, said), (_, quoted, _) in zip(specified, RULES[name], strict=True):
        assert said.startswith(quoted)


@pytest.mark.parametrize("name", RULES)
def test_every_rule_has_its_fault_in_the_tests(name: str) -> None:
    """The faults of test_validation are ordered as the rules are; a rule without one would go untested."""
    tested = [(ruling.__name__.upper(), rule) for _, (ruling, rule), _ in FAULTS[TAGS[name]]]
    assert tested[0] == ("IGNORE", f"origin is not a registered {tested[0][1].split()[-1]}")
    expected = [(kind, rule) for kind, _, rules in RULES[name] for rule in rules]
    if name == "CertificateMessage":
        # Out of the table can be said once the epoch is known; a whole certificate repeats without any other fault.
        expected.remove(("IGNORE", "repeated"))
        expected = [*expected[:4], ("REJECT", "signers"), *expected[4:], ("IGNORE", "repeated")]
    assert tested[1:] == expected


def test_the_first_rules_are_for_all_topics() -> None:
    (paragraph,) = re.findall(r"^All topics: (.*)$", SECTIONS["4"], re.MULTILINE)
    specified = re.findall(r"\*\*\[(\w+)\]\*\* (\w+ \w+)", paragraph)
    assert specified == [("REJECT", "larger than"), ("REJECT", "not decodable"), ("IGNORE", "the origin")]


# --- phases and sections -------------------------------------------------------------------------
def test_phases_are_those_of_the_code() -> None:
    (drawing,) = re.findall(r"```\n(.*?)```", SECTIONS["7"], re.DOTALL)
    assert set(re.findall(r"\b[A-Z]{4,}\b", drawing)) == {phase.name for phase in Phase}


def test_sections_that_the_code_quotes_exist() -> None:
    folders = ("shared", "performer", "attester", "aggregator", "poi")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    quoted = {
        (path.name, number)
        for path in files
        for line in path.read_text().splitlines()
        if "protocol" in line
        for number in re.findall(r"§(\d+)", line)
    }
    assert len(quoted) > 20
    assert {place for place in quoted if place[1] not in SECTIONS} == set()
    assert list(SECTIONS) == [str(number) for number in range(1, 12)]
