"""The command line: what reaches the roles, and what a person sees when something is wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from poi import cli
from poi.calibration.command import Options
from shared.config import Config
from shared.crypto import keystore
from shared.errors import ChainUnavailable, ConfigError, PoiError

ROOT = Path(__file__).resolve().parents[3]
EXAMPLE = ROOT / "config.example.toml"

Run = Callable[..., int]
Install = Callable[[str, Any], None]


@pytest.fixture
def run() -> Run:
    """Run a command in this process; its exit status."""

    def run(*arguments: object) -> int:
        with pytest.raises(SystemExit) as caught:
            cli.main([str(argument) for argument in arguments])
        return int(caught.value.code or 0)

    return run


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Install:
    """Put a function in the place of `poi.run.run_role`, `poi.testnet.command.main` or `poi.deploy.main`."""

    def install(name: str, function: Any) -> None:
        module, _, attribute = name.rpartition(".")
        fake = ModuleType(module)
        setattr(fake, attribute, function)
        monkeypatch.setitem(sys.modules, module, fake)
        monkeypatch.setattr(sys.modules["poi"], module.removeprefix("poi."), fake, raising=False)

    return install


@pytest.fixture
def password_file(tmp_path: Path) -> Path:
    path = tmp_path / "password"
    path.write_text("secret\n")
    path.chmod(0o600)
    return path


# --- roles ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("role", ["performer", "attester", "aggregator"])
def test_a_role_runs_with_its_settings(run: Run, install: Install, role: str) -> None:
    started: list[tuple[str, Config]] = []

    async def run_role(name: str, config: Config) -> int:
        started.append((name, config))
        return 7

    install("poi.run.run_role", run_role)
    assert run(role, "--config", EXAMPLE) == 7
    ((name, config),) = started
    assert (name, config.network.chain_id) == (role, 31337)
    assert config.node.data_dir == ROOT / "data"


def test_wrong_settings_are_one_line_and_status_2(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "poi.run", None)  # importing it now would fail: settings come first
    path = tmp_path / "config.toml"
    path.write_text("[http]\nprot = 1\n")
    assert run("attester", "--config", path) == 2
    assert capsys.readouterr().err == f"poi: {path}: http.prot is unknown; did you mean http.port?\n"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ChainUnavailable("fetch operators:\nconnection refused"), ["poi: fetch operators: connection refused"]),
        (PoiError(), ["poi: PoiError"]),
        (
            ExceptionGroup("many", [ConfigError("one"), ExceptionGroup("deep", [ChainUnavailable("two")])]),
            ["poi: one", "poi: two"],
        ),
    ],
    ids=["one", "empty", "group"],
)
def test_a_failure_of_ours_is_explained_without_a_traceback(
    run: Run, install: Install, capsys: pytest.CaptureFixture[str], error: Exception, said: list[str]
) -> None:
    async def run_role(*_: object) -> int:
        raise error

    install("poi.run.run_role", run_role)
    assert run("attester", "--config", EXAMPLE) == 2
    assert capsys.readouterr().err.splitlines() == said


@pytest.mark.parametrize(
    "error", [KeyError("bug"), ExceptionGroup("mixed", [ConfigError("ours"), KeyError("bug")])], ids=["alone", "mixed"]
)
def test_a_bug_keeps_its_traceback(install: Install, error: Exception) -> None:
    async def run_role(*_: object) -> int:
        raise error

    install("poi.run.run_role", run_role)
    with pytest.raises(type(error)):
        cli.main(["attester", "--config", str(EXAMPLE)])


def test_ctrl_c_ends_quietly(run: Run, install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(*_: object) -> int:
        raise KeyboardInterrupt

    install("poi.testnet.command.main", interrupted)
    assert run("testnet") == 130
    assert capsys.readouterr().err == ""


# --- networks ------------------------------------------------------------------------------------
def test_the_testnet_gets_its_options(run: Run, install: Install, tmp_path: Path) -> None:
    calls: list[tuple[Any, ...]] = []

    def main(*arguments: object) -> int:
        calls.append(arguments)
        return len(calls) - 1

    install("poi.testnet.command.main", main)
    assert run("testnet") == 0
    path = tmp_path / "result.json"
    options = ["--operators", 32, "--tasks", 20, "--cheats", 0, "--json", path, "--keep-running", "--folder", tmp_path]
    assert run("testnet", *options, "--store", "kubo") == 1
    assert calls == [(4, 6, 3, None, False, None, "embedded"), (32, 20, 0, path, True, tmp_path, "kubo")]


@pytest.mark.parametrize(
    "options",
    [
        ["--operators", "3"],
        ["--operators", "33"],
        ["--tasks", "0"],
        ["--cheats", "-1"],
        ["--store", "ipfs"],
        ["--unknown"],
    ],
    ids=" ".join,
)
def test_a_wrong_option_is_refused(
    run: Run, install: Install, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    install("poi.testnet.command.main", lambda *_: pytest.fail("it started"))
    assert run("testnet", *options) == 2
    assert options[0] in capsys.readouterr().err


def test_deploy_gets_its_options(run: Run, install: Install, tmp_path: Path) -> None:
    calls: list[tuple[Any, ...]] = []

    def main(chain_rpc: str, config_dir: Path, attesters: int, models: Path) -> int:
        calls.append((chain_rpc, config_dir, attesters, models))
        return 0

    install("poi.deploy.main", main)
    assert run("deploy", "--config-dir", tmp_path) == 0
    assert run("deploy", "--config-dir", tmp_path, "--chain-rpc", "http://a:1", "--attesters", 5) == 0
    assert calls == [("http://chain:8545", tmp_path, 4, Path("models")), ("http://a:1", tmp_path, 5, Path("models"))]


# --- models --------------------------------------------------------------------------------------
def test_calibrate_gets_its_options(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[Options] = []
    monkeypatch.setattr("poi.calibration.command.main", lambda options: asked.append(options) or 0)
    assert run("calibrate", tmp_path) == 0
    assert asked.pop() == Options(tmp_path)
    given = {"profile": "exact-fp64", "method": "exact"} | {
        name: tmp_path / name for name in ("samples", "out", "sign", "password_file", "report")
    }
    options = [part for name, value in given.items() for part in (f"--{name.replace('_', '-')}", value)]
    assert run("calibrate", tmp_path, *options) == 0
    assert asked == [Options(tmp_path, **given)]


def test_calibrating_what_is_no_model_is_one_line(run: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run("calibrate", tmp_path) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("poi: ")
    assert "model.onnx: No such file or directory; a model's folder has model.onnx, about.json" in said


def test_a_calibration_that_is_interrupted_ends_quietly(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def interrupted(options: Options) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("poi.calibration.command.main", interrupted)
    assert run("calibrate", tmp_path) == 130
    assert capsys.readouterr().err == ""


# --- keys ----------------------------------------------------------------------------------------
def test_a_new_key_is_shown_again(
    run: Run, tmp_path: Path, password_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--keystore", tmp_path / "k.json", "--password-file", password_file]
    assert run("key", "new", *options, "--kdf", "pbkdf2") == 0
    printed = dict(line.split() for line in capsys.readouterr().out.splitlines())
    assert run("key", "show", *options, "--json") == 0
    keys = keystore.load(tmp_path / "k.json", "secret")
    assert json.loads(capsys.readouterr().out) == printed
    assert printed == {
        "operator": f"0x{keys.address.hex()}",
        "voteKey": f"0x{keys.vote.public_key.hex()}",
        "peerKey": f"0x{keys.peer_key.hex()}",
    }


def test_no_secret_is_ever_printed(
    run: Run, tmp_path: Path, password_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seed = bytes(range(32))
    keys = keystore.create(tmp_path / "k.json", "secret", seed=seed, kdf="pbkdf2", iterations=1)
    assert run("key", "show", "--keystore", tmp_path / "k.json", "--password-file", password_file) == 0
    out, err = capsys.readouterr()
    assert seed.hex() not in out + err
    assert keys.peer_seed.hex() not in out + err


def test_the_default_kdf_is_scrypt(run: Run, tmp_path: Path, password_file: Path) -> None:
    assert run("key", "new", "--keystore", tmp_path / "k.json", "--password-file", password_file) == 0
    assert json.loads((tmp_path / "k.json").read_bytes())["crypto"]["kdf"] == "scrypt"


def test_a_keystore_is_never_replaced(
    run: Run, tmp_path: Path, password_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--keystore", tmp_path / "k.json", "--password-file", password_file]
    assert run("key", "new", *options, "--kdf", "pbkdf2") == 0
    before = (tmp_path / "k.json").read_bytes()
    assert run("key", "new", *options, "--kdf", "pbkdf2") == 2
    assert "exists already and is never replaced" in capsys.readouterr().err
    assert (tmp_path / "k.json").read_bytes() == before


def test_a_missing_keystore_is_said_before_a_password_is_asked_for(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("key", "show", "--keystore", tmp_path / "k.json") == 2
    assert "does not exist; make one with: poi key new" in capsys.readouterr().err


def test_without_a_terminal_a_password_file_is_needed(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "poi", "key", "new", "--keystore", str(tmp_path / "k.json")]
    done = subprocess.run(command, input="secret\nsecret\n", capture_output=True, text=True, cwd=ROOT, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "there is no terminal to ask for the password" in done.stderr
    assert not (tmp_path / "k.json").exists()


def test_a_person_is_asked_twice_for_a_new_password(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[tuple[str, bool, bool]] = []

    def prompt(text: str, *, hide_input: bool, confirmation_prompt: bool) -> str:
        asked.append((text, hide_input, confirmation_prompt))
        return "typed"

    monkeypatch.setattr("typer.prompt", prompt)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    assert run("key", "new", "--keystore", tmp_path / "k.json", "--kdf", "pbkdf2") == 0
    assert run("key", "show", "--keystore", tmp_path / "k.json") == 0
    assert asked == [("Password", True, True), ("Password", True, False)]
    assert "typed" not in "".join(capsys.readouterr())
    keystore.load(tmp_path / "k.json", "typed")


# --- starting ------------------------------------------------------------------------------------
def test_help_lists_every_command() -> None:
    done = subprocess.run([sys.executable, "-m", "poi", "--help"], capture_output=True, text=True, cwd=ROOT, check=True)
    for command in ("performer", "attester", "aggregator", "testnet", "deploy", "calibrate", "key"):
        assert f" {command} " in done.stdout


def test_the_command_line_imports_nothing_heavy() -> None:
    heavy = {"web3", "libp2p", "trio", "eth_account", "onnxruntime", "numpy", "aiohttp", "cryptography"}
    check = f"import sys, poi.cli; print(*{heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == ""


# --- operators and requesters ----------------------------------------------------------------------
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["operator", "register", "--p2p-address", "/ip4/1.2.3.4/tcp/1", "--role", "attester", "--stake", "x"],
            "--stake",
        ),
        (["operator", "register", "--p2p-address", "/ip4/1.2.3.4/tcp/1", "--role", "cook", "--stake", "1"], "'cook'"),
        (["operator", "add-stake", "--amount", "0"], "--amount"),
        (["operator", "set-rewards-receiver", "0x12"], "expected an address"),
        (["operator", "claim", "--blocks", "0"], "--blocks"),
        (["fees", "deposit", "--performer", "me", "--amount", "1", "--key-file", "none"], "--performer is 'me'"),
        (["fees", "refund", "--performer", "0x" + "11" * 20, "--amount", "-1", "--key-file", "none"], "--amount"),
        (["fees", "status", "--key-file", "none"], "key file none does not exist"),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, list) else "",
)
def test_what_is_typed_wrong_is_said_before_anything_is_asked(
    run: Run, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    """No chain is there; whoever asked for one would say so."""
    assert run(*arguments, "--config", EXAMPLE) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error


# --- evidence ------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("options", "asked"),
    [
        (["--url", "http://attester:8700"], ("http://attester:8700", "0x12", None)),
        (["--url", "http://attester:8700", "--commitment", "0x34"], ("http://attester:8700", "0x12", "0x34")),
        (["--config", EXAMPLE], ("http://127.0.0.1:8700", "0x12", None)),
    ],
)
def test_evidence_is_asked_of_the_url_or_of_the_own_node(
    run: Run, install: Install, capsys: pytest.CaptureFixture[str], options: list[Any], asked: tuple[Any, ...]
) -> None:
    heard: list[tuple[Any, ...]] = []

    def show(*arguments: Any) -> str:
        heard.append(arguments)
        return "what it rests on"

    install("poi.evidence.show", show)
    assert run("evidence", "0x12", *options) == 0
    assert heard == [asked]
    assert capsys.readouterr().out == "what it rests on\n"
