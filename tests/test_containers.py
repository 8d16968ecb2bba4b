"""The container files, held to account as far as goes without an engine: schema, lint, and what they refer to."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
COMPOSE = ROOT / "docker-compose.yml"
ROLES = ["aggregator", "performer", "attester-1", "attester-2", "attester-3", "attester-4"]


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return YAML(typ="safe").load(COMPOSE.read_text())


@pytest.fixture(scope="module")
def dockerfile() -> list[tuple[str, str]]:
    """(instruction, argument) of every instruction, continued lines joined, comments dropped."""
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.startswith("#")]
    text = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in text.splitlines() if line)]


def stages(dockerfile: list[tuple[str, str]]) -> dict[str, list[tuple[str, str]]]:
    found: dict[str, list[tuple[str, str]]] = {}
    for word, rest in dockerfile:
        if word == "FROM":
            found[rest.split(" AS ")[1]] = []
        else:
            found[list(found)[-1]].append((word, rest))
    return found


def sent_to_the_engine(path: str) -> bool:
    """What .dockerignore lets through: the last pattern that matches a path, or a folder above it, decides."""
    kept = True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.removeprefix("!").removeprefix("**/")
        above = [path, *(str(p) for p in Path(path).parents if str(p) != ".")]
        if line and not line.startswith("#") and any(fnmatch(p, pattern) for p in [*above, Path(path).name]):
            kept = line.startswith("!")
    return kept


def test_compose_file_follows_the_specification():
    tool = [BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", COMPOSE]
    done = subprocess.run(tool, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_a_misspelt_key_does_not_pass_the_schema(tmp_path):
    """The check above is worth something only if it can fail."""
    wrong = tmp_path / "docker-compose.yml"
    wrong.write_text(COMPOSE.read_text().replace("mem_limit:", "memory_limit:", 1))
    tool = [BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", wrong]
    done = subprocess.run(tool, capture_output=True, text=True)
    assert done.returncode == 1
    assert "memory_limit" in done.stdout


def test_dockerfile_passes_the_linter():
    done = subprocess.run([BIN / "hadolint", "--no-color", ROOT / "Dockerfile"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert done.stdout == ""


def test_network_has_every_role(compose):
    assert set(compose["services"]) == {"chain", "deploy", *ROLES}
    for name in ROLES:
        assert compose["services"][name]["command"] == [name.split("-")[0], "--config", f"/config/{name}.toml"]


def test_services_wait_for_services_that_exist_and_can_say_that_they_are_ready(compose):
    services = compose["services"]
    for name, service in services.items():
        for target, wait in service.get("depends_on", {}).items():
            assert target in services, f"{name} waits for {target}, which is not there"
            if wait["condition"] == "service_healthy":
                assert "interval" in services[target]["healthcheck"], f"{target} is waited for without a health check"
            else:
                assert wait["condition"] == "service_completed_successfully"
                assert "restart" not in services[target], f"{target} would never complete"
    for name in ROLES:
        assert {"chain", "deploy"} <= set(services[name]["depends_on"])


def test_no_service_waits_in_a_circle(compose):
    waits = {name: set(service.get("depends_on", {})) for name, service in compose["services"].items()}
    while ready := [name for name, targets in waits.items() if not targets]:
        for name in ready:
            del waits[name]
        waits = {name: targets - set(ready) for name, targets in waits.items()}
    assert not waits


def test_health_tests_are_in_the_images(compose, dockerfile):
    for name, service in compose["services"].items():
        stage = stages(dockerfile)[service["build"]["target"]]
        assert any(word == "HEALTHCHECK" for word, _ in stage), name
        assert service["healthcheck"].keys() <= {"interval", "timeout", "start_period", "retries", "disable"}, name


def test_every_service_has_a_memory_limit(compose):
    assert all(re.fullmatch(r"\d+[mg]", service["mem_limit"]) for service in compose["services"].values())


def test_only_the_two_apis_are_published_and_only_to_this_machine(compose):
    published = {name: service["ports"] for name, service in compose["services"].items() if "ports" in service}
    assert set(published) == {"performer", "aggregator"}
    assert all(port.startswith("127.0.0.1:") for ports in published.values() for port in ports)


def test_volumes_are_declared_and_no_two_nodes_share_their_data(compose):
    used = {
        (name, volume.split(":")[0], volume.split(":")[1])
        for name, service in compose["services"].items()
        for volume in service.get("volumes", [])
    }
    assert {volume for _, volume, _ in used} == set(compose["volumes"])
    data = [volume for _, volume, path in used if path == "/data"]
    assert len(data) == len(set(data)) == len(ROLES) + 1  # and the chain's
    for name in ROLES:
        assert "config:/config:ro" in compose["services"][name]["volumes"]


def test_roles_run_without_privileges(compose, dockerfile):
    for name in ("deploy", *ROLES):
        service = compose["services"][name]
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
    for name in ("chain", "node"):
        users = [rest for word, rest in stages(dockerfile)[name] if word == "USER"]
        assert users, f"stage {name} runs as root"
        assert users[-1] not in {"root", "0"}


def test_dockerfile_copies_what_exists_and_what_is_sent(dockerfile):
    for word, rest in dockerfile:
        if word == "COPY" and not rest.startswith("--from"):
            for source in rest.split()[:-1]:
                assert (ROOT / source).exists(), f"COPY {source}: there is no such file"
                assert sent_to_the_engine(source), f"COPY {source}: .dockerignore holds it back"


@pytest.mark.parametrize("path", [".env", ".git/config", ".venv/bin/python", "data/keys.json", "tools/node_modules/x"])
def test_what_belongs_to_this_machine_is_not_sent(path):
    assert not sent_to_the_engine(path)


def test_image_holds_every_package(dockerfile):
    copied = {rest.split()[0] for word, rest in stages(dockerfile)["build"] if word == "COPY"}
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert set(wheel["packages"]) <= copied


def test_packages_of_the_image_come_by_hash(dockerfile):
    installs = [part for _, rest in dockerfile for part in rest.split("&&") if "pip install" in part]
    assert len(installs) == 3
    assert all("--no-deps" in part for part in installs)
    assert all("--require-hashes" in part or part.rstrip().endswith(" .") for part in installs)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_build_steps_work_outside_of_a_container(tmp_path, dockerfile):
    """The build stage's own commands, on what the engine would be sent; needs the package registries.

    Two things differ: the folder of the environment, and pip's, which must not be this machine's.
    """
    source, target, programs = tmp_path / "src", tmp_path / "poi", tmp_path / "bin"
    source.mkdir()
    programs.mkdir()
    python = getattr(sys, "_base_executable", sys.executable)
    for name, script in (("python", f'{python} "$@"'), ("pip", f'{python} -m pip "$@"')):
        (programs / name).write_text(f"#!/bin/sh\nexec {script}\n")
        (programs / name).chmod(0o755)
    path = f"{programs}:{tmp_path}/pip/bin:/usr/bin:/bin"
    env = {**os.environ, "PATH": path, "PIP_TARGET": str(tmp_path / "pip"), "UV_SYSTEM_CERTS": "1"}
    for word, rest in stages(dockerfile)["build"]:
        if word == "COPY":
            *names, into = rest.split()
            for name in names:
                copy_into(ROOT / name, source / into)
        elif word == "RUN":
            command = rest.replace("/opt/poi", str(target))
            done = subprocess.run(["sh", "-ec", command], cwd=source, env=env, capture_output=True, text=True)
            assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    done = subprocess.run(
        [target / "bin/python", "-c", "import poi; print(poi.__file__)"], cwd="/", capture_output=True
    )
    assert done.stdout.decode().startswith(str(target)), done.stderr.decode()


def copy_into(source: Path, target: Path) -> None:
    """COPY of one source: a folder's contents go into the target, a file keeps its name."""
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)
