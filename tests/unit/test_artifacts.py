"""The committed contract artifacts, vectors and branch trees are what the sources say."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from eth_utils.abi import event_abi_to_log_topic, function_abi_to_4byte_selector
from eth_utils.crypto import keccak

REPOSITORY = Path(__file__).resolve().parents[2]
CONTRACTS = REPOSITORY / "contracts"
SCRIPTS = CONTRACTS / "script"
TREES = sorted((CONTRACTS / "test" / "tree").glob("*.tree"))
BRANCH = re.compile(r"[├└]")
CODE_LIMIT = 24_576  # EIP-170
CREATION_LIMIT = 49_152  # EIP-3860


@cache
def exporter() -> ModuleType:
    spec = importlib.util.spec_from_file_location("export_artifacts", SCRIPTS / "export_artifacts.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def artifact(name: str) -> dict[str, object]:
    loaded: dict[str, object] = json.loads((REPOSITORY / "shared" / "abi" / f"{name}.json").read_text())
    return loaded


NAMES = ("EpochTables", "OperatorRegistry", "AttestationCenter", "TaskEscrow", "SlashingCourt", "EigenLayerSource")


def test_every_exported_contract_has_an_artifact() -> None:
    assert tuple(Path(name).name for name in exporter().EXPORTED) == NAMES
    assert sorted(path.stem for path in (REPOSITORY / "shared" / "abi").glob("*.json")) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_artifact_is_of_these_sources_and_settings(name: str) -> None:
    """Fails when a contract changed and `contracts/script/export_artifacts.py` was not run."""
    found = artifact(name)
    assert found["sourceSha256"] == exporter().source_sha256()
    assert found["settings"] == exporter().settings() | {"openzeppelin": exporter().openzeppelin_version()}


@pytest.mark.parametrize("name", NAMES)
def test_artifact_can_be_deployed(name: str) -> None:
    found = artifact(name)
    creation, deployed = (bytes.fromhex(str(found[key])[2:]) for key in ("bytecode", "deployedBytecode"))
    assert 0 < len(deployed) <= CODE_LIMIT
    assert len(deployed) < len(creation) <= CREATION_LIMIT


def test_selectors_are_those_that_others_call() -> None:
    """A change of a signature is a change of protocol for everybody who talks to the contracts."""
    details = "(bool,bytes,bytes,bytes)"
    info = "(bytes32,string,bytes,address,uint16,uint32)"
    request = "(address,uint256,address,uint16,bytes32,string,string,bytes32,uint256,uint64)"
    proof = "(bytes32,address,bytes32[])"
    terms = "((uint80,uint80,uint80),uint32,uint32,uint32,bool,bool,bool,bool,address,address)"
    vote = f"({info},uint8,uint16)"
    allowance = "(uint256,uint64,bytes)"
    registration = f"(address,address,uint8,uint256,bytes,bytes,bytes32,string,string,bytes,{allowance})"
    collection = f"({request},bytes,bytes32,bool,uint32,bytes,{proof})"
    _require_selectors(
        "AttestationCenter",
        f"submitTask({info},{details})",
        f"submitTaskAfterDeadline({info},{details},{request})",
        "submitBatch(bytes32,bytes32,uint32,uint32,address,bytes,bytes)",
        f"createTaskDefinition(string,string,bytes32,string,{terms})",
        f"requireSettled(bytes32,bytes32,bool,bytes32,{proof})",
    )
    _require_selectors("OperatorRegistry", f"register({registration})", "leave(address)", "withdraw(address)")
    _require_selectors("EpochTables", "rollEpoch()", "rollSet(uint32,uint32)", "tableOf(uint32,uint32)")
    _require_selectors("TaskEscrow", "deposit(address,address,uint256)", f"collect({collection}[])")
    _require_selectors(
        "SlashingCourt",
        f"reportEquivocation({vote},{vote},bytes)",
        f"nameHarmed(bytes32,{request})",
        "executeSlash(bytes32)",
    )


def test_events_are_those_that_others_read() -> None:
    settled = "(address,bytes32,string,bytes,uint16,bytes32,address,bytes)"
    _require_topics(
        "AttestationCenter",
        f"TaskSubmitted{settled}",
        f"TaskRejected{settled}",
        "BatchSettled(bytes32,bytes32,uint32,uint32,address)",
    )
    _require_topics(
        "SlashingCourt",
        "SlashQueued(bytes32,bytes32,address,uint8,uint64)",
        "SlashExecuted(bytes32,bytes32,address,uint256,address,uint256)",
        "SlashCancelled(bytes32,address)",
    )
    _require_topics("EpochTables", "EpochRolled(uint32,uint256,uint64,address)")


def _require_selectors(contract: str, *signatures: str) -> None:
    for signature in signatures:
        selector = function_abi_to_4byte_selector(_entry(contract, signature))
        assert selector == keccak(text=signature)[:4], signature


def _require_topics(contract: str, *signatures: str) -> None:
    for signature in signatures:
        assert event_abi_to_log_topic(_entry(contract, signature)) == keccak(text=signature), signature


def _entry(contract: str, signature: str) -> Any:
    entries: Any = artifact(contract)["abi"]
    return next(entry for entry in entries if entry.get("name") == signature.partition("(")[0])


@pytest.mark.timeout(300)  # 12 s on one quiet core, and never quiet
def test_recompiling_gives_the_committed_bytes() -> None:
    if not (REPOSITORY / "tools" / "node_modules" / "solc").is_dir():
        pytest.skip("tools/node_modules is not installed")
    _check_script("export_artifacts.py", timeout=280)


def test_vectors_are_what_their_script_makes() -> None:
    _check_script("make_vectors.py", timeout=60)


def _check_script(name: str, *, timeout: float) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPTS / name), "--check"], capture_output=True, text=True, timeout=timeout
    )
    if "no Node found" in done.stderr:
        pytest.skip("no Node to run the compiler with")
    assert done.returncode == 0, done.stdout + done.stderr


# --- branch trees --------------------------------------------------------------------------------


def leaves(tree: Path) -> list[str]:
    """The branches of a file of trees that no deeper one follows, each in one line; titles stand at the margin."""
    branches: list[tuple[int, str]] = []
    for line in tree.read_text().splitlines():
        if match := BRANCH.search(line):
            branches.append((match.start(), line))
        elif line.startswith(("│", " ")):  # the branch goes on
            depth, text = branches.pop()
            branches.append((depth, f"{text} {line.strip('│ ')}"))
    following = [depth for depth, _ in branches[1:]] + [0]
    return [line for (depth, line), after in zip(branches, following, strict=True) if after <= depth]


@cache
def names_of_tests() -> set[str]:
    text = "".join(path.read_text() for path in (CONTRACTS / "test").glob("*.t.sol"))
    return set(re.findall(r"function ((?:test|testFuzz|invariant)_\w+)", text))


@cache
def vector_names() -> set[str]:
    vectors = json.loads((REPOSITORY / "tests" / "vectors" / "certificate.json").read_text())
    return {case["name"] for case in vectors["certificates"] + vectors["batches"]}


@pytest.mark.parametrize("tree", TREES, ids=lambda tree: tree.stem)
def test_every_branch_names_what_tests_it(tree: Path) -> None:
    for leaf in leaves(tree):
        if other := re.search(r"(\w+)\.tree$", leaf):
            assert (tree.parent / f"{other[1]}.tree").exists(), leaf
            continue
        _, separator, targets = leaf.rpartition("· ")
        assert separator, f"no test named: {leaf}"
        for target in re.findall(r'vector "[^"]+"|[^,]+', targets):
            vector = re.fullmatch(r'vector "(.+)"', target.strip())
            assert (vector[1] in vector_names()) if vector else (target.strip() in names_of_tests()), leaf


def test_there_are_trees() -> None:
    assert {tree.stem for tree in TREES} >= {"register", "withdraw", "rollEpoch", "verifyQuorum", "submitTask"}
