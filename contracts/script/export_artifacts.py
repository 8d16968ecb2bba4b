"""Write `shared/abi/*.json` from the contracts' sources, or with `--check` compare them byte for byte.

The compiler is npm's wasm build behind `tools/solc-forge`, with the settings of `foundry.toml`: the same bytes that
`forge build` makes, because no metadata goes into them. A node needs these files only; whoever changes a contract runs
this script again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

CONTRACTS = Path(__file__).resolve().parents[1]
REPOSITORY = CONTRACTS.parent
ARTIFACTS = REPOSITORY / "shared" / "abi"
TOOLS = REPOSITORY / "tools"
EXPORTED = (
    "EpochTables",
    "OperatorRegistry",
    "AttestationCenter",
    "TaskEscrow",
    "SlashingCourt",
    "eigenlayer/EigenLayerSource",
)
EXPORTED_PATHS = tuple(f"src/{name}.sol" for name in EXPORTED)
COMPILE_TIMEOUT_SECONDS = 300.0  # 15 s on one quiet core

IMPORT = re.compile(r'^\s*import\s+(?:[^"\';]*\sfrom\s+)?["\']([^"\']+)["\']\s*;', re.MULTILINE)


class CompileError(Exception):
    """The compiler is missing, or refused the sources; the text is its own."""


def source_sha256() -> str:
    """SHA-256 over `path NUL content NUL` of every file under `contracts/src`, in path order."""
    digest = hashlib.sha256()
    for path in sorted((CONTRACTS / "src").rglob("*.sol")):
        digest.update(path.relative_to(CONTRACTS).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def openzeppelin_version() -> str:
    """What `tools/package-lock.json` pins; its sources go into the bytecode too."""
    lock = json.loads((TOOLS / "package-lock.json").read_text())
    version: str = lock["packages"]["node_modules/@openzeppelin/contracts"]["version"]
    return version


def settings() -> dict[str, Any]:
    """How `foundry.toml` compiles what is deployed, as the compiler's own settings."""
    profile = tomllib.loads((CONTRACTS / "foundry.toml").read_text())["profile"]["default"]
    profile |= next(extra for extra in profile["additional_compiler_profiles"] if extra["name"] == "deployed")
    return {
        "optimizer": {"enabled": profile["optimizer"], "runs": profile["optimizer_runs"]},
        "metadata": {"bytecodeHash": profile["bytecode_hash"], "appendCBOR": profile["cbor_metadata"]},
        "evmVersion": profile["evm_version"],
        "viaIR": profile["via_ir"],
    }


def collect_sources(paths: Sequence[str]) -> dict[str, dict[str, str]]:
    """Every source that these reach, by the name that imports resolve to."""
    sources: dict[str, dict[str, str]] = {}
    queue = list(paths)
    while queue:
        name = queue.pop()
        if name in sources:
            continue
        text = _path_of(name).read_text()
        sources[name] = {"content": text}
        queue.extend(_resolve(name, target) for target in IMPORT.findall(text))
    return dict(sorted(sources.items()))


def _path_of(name: str) -> Path:
    return (TOOLS / "node_modules" if name.startswith("@") else CONTRACTS) / name


def _resolve(importer: str, target: str) -> str:
    if not target.startswith("."):
        return target
    parts = importer.split("/")[:-1]
    for part in target.split("/"):
        if part == "..":
            parts.pop()
        elif part != ".":
            parts.append(part)
    return "/".join(parts)


def compile_contracts(paths: Sequence[str] = EXPORTED_PATHS, *, via_ir: bool = True) -> dict[str, dict[str, Any]]:
    """The artifacts by contract name; a file's contract has its name. Raises `CompileError`."""
    names = {path: Path(path).stem for path in paths}
    wanted = ["abi", "evm.bytecode.object", "evm.deployedBytecode.object"]
    selection = {path: {name: wanted} for path, name in names.items()}
    job = {
        "language": "Solidity",
        "sources": collect_sources(paths),
        "settings": settings() | {"viaIR": via_ir, "outputSelection": selection},
    }
    output = json.loads(_run_compiler("--standard-json", json.dumps(job)))
    errors = [entry["formattedMessage"] for entry in output.get("errors", []) if entry["severity"] == "error"]
    if errors:
        raise CompileError("\n".join(errors))
    version = _run_compiler("--version").split("Version:")[1].strip()
    return {name: _artifact(output["contracts"][path][name], version) for path, name in names.items()}


def _run_compiler(argument: str, text: str = "") -> str:
    command = [str(TOOLS / "solc-forge"), argument]
    done = subprocess.run(
        command, input=text, capture_output=True, text=True, timeout=COMPILE_TIMEOUT_SECONDS, check=False
    )
    if done.returncode != 0:
        raise CompileError(done.stderr)
    return done.stdout


def _artifact(output: dict[str, Any], version: str) -> dict[str, Any]:
    return {
        "abi": output["abi"],
        "bytecode": "0x" + output["evm"]["bytecode"]["object"],
        "deployedBytecode": "0x" + output["evm"]["deployedBytecode"]["object"],
        "compiler": version,
        "settings": settings() | {"openzeppelin": openzeppelin_version()},
        "sourceSha256": source_sha256(),
    }


def render(artifact: dict[str, Any]) -> str:
    """The file's text: an ABI entry a line, so that a change of the interface shows as one in a diff."""
    abi = ",\n".join("    " + json.dumps(entry) for entry in artifact["abi"])
    rest = json.dumps({key: value for key, value in artifact.items() if key != "abi"}, indent=2)
    return '{\n  "abi": [\n' + abi + "\n  ],\n" + rest[2:] + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare with the committed files, write nothing")
    check: bool = parser.parse_args().check
    stale = 0
    for name, artifact in compile_contracts().items():
        path = ARTIFACTS / f"{name}.json"
        text = render(artifact)
        if not check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            print(f"{path.relative_to(REPOSITORY)}: {len(artifact['deployedBytecode']) // 2 - 1} bytes of code")
        elif not path.exists() or path.read_text() != text:
            print(f"{path.relative_to(REPOSITORY)} is not what the sources give; run this script", file=sys.stderr)
            stale += 1
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
