"""Imports go one way. The contracts stand in pyproject.toml; here they are run, and shown to bite and not to overreach.

`poi → performer | attester | aggregator → shared`; inside shared `node → adapters → interfaces → pure files`;
I/O libraries in adapters only, trio in the gossip adapter only.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LINT_IMPORTS = Path(sys.executable).parent / "lint-imports"
EMPTY = [
    *(f"{name}/__init__.py" for name in ("performer", "attester", "aggregator", "shared", "poi")),
    *(f"{name}/service.py" for name in ("performer", "attester", "aggregator")),
    *(f"{name}/api.py" for name in ("performer", "aggregator")),
    *(f"poi/{name}.py" for name in ("cli", "client", "testnet")),
    *(f"poi/dashboard/{name}.py" for name in ("__init__", "server")),
    *(f"shared/{name}.py" for name in ("types", "quorum", "interfaces", "node")),
    *(f"shared/{name}/__init__.py" for name in ("adapters", "crypto", "verification")),
    *(f"shared/adapters/{name}.py" for name in ("gossip_libp2p", "chain_evm", "engine_onnx", "store_sqlite")),
    *(f"shared/verification/{name}.py" for name in ("logits",)),
    *(f"shared/crypto/{name}.py" for name in ("bls",)),
]
# file, what it must not import, the contract that says so
FORBIDDEN = [
    ("shared/types.py", "performer.service", "Roles build on shared"),
    ("performer/service.py", "attester.service", "Roles build on shared"),
    ("attester/service.py", "poi.client", "Roles build on shared"),
    ("shared/interfaces.py", "shared.adapters.chain_evm", "Inside shared"),
    ("shared/adapters/chain_evm.py", "shared.node", "Inside shared"),
    ("shared/quorum.py", "shared.adapters.store_sqlite", "Only shared.node picks adapters"),
    ("shared/verification/logits.py", "shared.adapters.engine_onnx", "Only shared.node picks adapters"),
    ("shared/quorum.py", "shared.interfaces", "Pure files know no interface"),
    ("shared/crypto/bls.py", "shared.interfaces", "Pure files know no interface"),
    ("shared/quorum.py", "web3", "I/O libraries"),
    ("aggregator/service.py", "sqlite3", "I/O libraries"),
    ("shared/verification/logits.py", "onnxruntime", "I/O libraries"),
    ("poi/testnet.py", "libp2p.host", "I/O libraries"),
    ("shared/adapters/chain_evm.py", "trio", "trio stays"),
    ("shared/node.py", "trio", "trio stays"),
    ("performer/service.py", "aiohttp", "aiohttp is for"),
    ("shared/node.py", "aiohttp.web", "aiohttp is for"),
]
ALLOWED = [
    ("poi/testnet.py", "performer.service"),
    ("poi/testnet.py", "shared.node"),
    ("poi/testnet.py", "aiohttp"),
    ("poi/client.py", "aiohttp"),
    ("poi/dashboard/__init__.py", "aiohttp"),
    ("poi/dashboard/server.py", "aiohttp.web"),
    ("performer/api.py", "aiohttp.web"),
    ("performer/service.py", "shared.interfaces"),
    ("performer/service.py", "shared.node"),
    ("aggregator/service.py", "shared.quorum"),
    ("shared/node.py", "shared.adapters.chain_evm"),
    ("shared/node.py", "shared.interfaces"),
    ("shared/adapters/chain_evm.py", "web3"),
    ("shared/adapters/chain_evm.py", "aiohttp"),
    ("shared/adapters/chain_evm.py", "shared.interfaces"),
    ("shared/adapters/gossip_libp2p.py", "trio"),
    ("shared/adapters/gossip_libp2p.py", "libp2p"),
    ("shared/adapters/engine_onnx.py", "onnxruntime"),
    ("shared/adapters/store_sqlite.py", "sqlite3"),
    ("shared/verification/logits.py", "shared.interfaces"),
    ("shared/interfaces.py", "shared.types"),
    ("shared/quorum.py", "shared.crypto.bls"),
]


def lint_imports(folder: Path) -> tuple[int, str]:
    tool = [LINT_IMPORTS, "--no-logo", "--no-cache"]
    env = {**os.environ, "COLUMNS": "200"}  # or the report breaks its lines
    done = subprocess.run(tool, cwd=folder, env=env, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def write_imports(folder: Path, imports: list[tuple[str, str]]) -> None:
    """A tree of the real shape in which nothing imports anything but what is asked for, under the real contracts."""
    shutil.copy(ROOT / "pyproject.toml", folder)
    for name in EMPTY:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"import {module}\n" for file, module in imports if file == name))


def broken(report: str) -> dict[str, str]:
    """What the report says about each contract that it calls broken."""
    sections = re.split(r"^(.+)\n-+$\n", report.partition("Broken contracts")[2], flags=re.MULTILINE)
    return dict(zip(sections[1::2], sections[2::2], strict=True))


def test_code_keeps_every_contract():
    code, report = lint_imports(ROOT)
    assert code == 0, report


def test_what_is_meant_to_be_allowed_is_allowed(tmp_path):
    assert {file for file, _ in ALLOWED} <= set(EMPTY)
    write_imports(tmp_path, ALLOWED)
    code, report = lint_imports(tmp_path)
    assert code == 0, report


@pytest.fixture(scope="module")
def everything_wrong(tmp_path_factory) -> dict[str, str]:
    """All that is forbidden in one tree, for one run: the report names each offence by file and line."""
    folder = tmp_path_factory.mktemp("wrong")
    write_imports(folder, [*ALLOWED, *((file, module) for file, module, _ in FORBIDDEN)])
    code, report = lint_imports(folder)
    assert code == 1, report
    return broken(report)


@pytest.mark.parametrize(("file", "module", "contract"), FORBIDDEN)
def test_a_forbidden_import_breaks_its_contract(everything_wrong, file, module, contract):
    assert file in EMPTY
    section = next((text for name, text in everything_wrong.items() if name.startswith(contract)), "")
    importer = file.removesuffix(".py").replace("/", ".")
    imported = module if module.split(".")[0] in {"shared", "performer", "attester", "poi"} else module.split(".")[0]
    assert f"{importer} -> {imported} (l." in section


def test_a_new_pure_file_needs_no_listing_to_be_held(tmp_path):
    write_imports(tmp_path, ALLOWED)
    (tmp_path / "shared/newcomer.py").write_text("from shared.adapters import chain_evm\n")
    code, report = lint_imports(tmp_path)
    assert code == 1
    assert "shared.newcomer" in report


def test_an_import_through_a_helper_is_seen(tmp_path):
    """A role that imports a helper that imports another role is as coupled as one that does it itself."""
    write_imports(tmp_path, [*ALLOWED, ("performer/service.py", "shared.crypto.bls")])
    (tmp_path / "shared/crypto/bls.py").write_text("def late():\n    import attester.service\n")
    code, report = lint_imports(tmp_path)
    assert code == 1
    assert any(name.startswith("Roles build on shared") for name in broken(report)), report
