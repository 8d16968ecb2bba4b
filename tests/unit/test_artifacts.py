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

import pytest
from eth_utils.abi import event_abi_to_log_topic, function_abi_to_4byte_selector
from eth_utils.crypto import keccak

REPOSITORY = Path(__file__).resolve().parents[2]
CONTRACTS = REPOSITORY / "contracts"
SCRIPTS = CONTRACTS / "script"
TREES = sorted((CONTRACTS / "test" / "tree").glob("*.tree"))
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


NAMES = ("OperatorRegistry", "AttestationCenter")


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
    entries = {entry["name"]: entry for entry in artifact("AttestationCenter")["abi"] if "name" in entry}  # type: ignore[attr-defined]
    details = "(bool,bytes,bytes,bytes)"
    info = "(bytes32,string,bytes,address,uint16,uint32)"
    assert function_abi_to_4byte_selector(entries["submitTask"]) == _selector(f"submitTask({info},{details})")
    batch = "submitBatch(bytes32,bytes32,uint32,uint32,address,bytes,bytes)"
    assert function_abi_to_4byte_selector(entries["submitBatch"]) == _selector(batch)
    settled = "BatchSettled(bytes32,bytes32,uint32,uint32,address)"
    assert event_abi_to_log_topic(entries["BatchSettled"])[:4] == _selector(settled)


def _selector(signature: str) -> bytes:
    return keccak(text=signature)[:4]


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
    """The lines of a tree that no deeper line follows."""
    lines = tree.read_text().splitlines()[1:]
    depths = [re.search(r"[├└]", line).start() for line in lines]  # type: ignore[union-attr]
    return [line for line, depth, following in zip(lines, depths, [*depths[1:], 0], strict=True) if following <= depth]


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
        _, separator, target = leaf.rpartition(" · ")
        assert separator, f"no test named: {leaf}"
        vector = re.fullmatch(r'vector "(.+)"', target)
        assert (vector[1] in vector_names()) if vector else (target in names_of_tests()), leaf


def test_there_are_trees() -> None:
    assert {tree.stem for tree in TREES} >= {"register", "withdraw", "rollEpoch", "verifyQuorum", "submitTask"}
