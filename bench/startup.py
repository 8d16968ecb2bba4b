"""From a fresh clone with empty caches to the first verdict, and a second run with everything in place.

Clones the committed state of this repository, so commit first.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.table import Row, arguments, report

ROOT = Path(__file__).resolve().parents[1]
FIRST_GOAL_S, SECOND_GOAL_S = 90.0, 25.0
LIMIT_S = 540


def main() -> None:
    options = arguments(__doc__ or "").parse_args()
    with tempfile.TemporaryDirectory(prefix="poi-clone-") as folder:
        clone = Path(folder) / "clone"
        subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
        home = Path(folder) / "home"
        home.mkdir()
        environment = _empty_caches(home)
        first, _ = _run(clone, environment, "--tasks", "1", "--cheats", "0")
        _, second = _run(clone, environment, "--tasks", "8", "--cheats", "0")
    rows = [
        Row("Fresh clone, empty caches → first verdict", first, "s", FIRST_GOAL_S),
        Row("Second `testnet` with 8 tasks", second, "s", SECOND_GOAL_S),
    ]
    report("startup", rows, options.json)


def _empty_caches(home: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("UV_", "VIRTUAL_ENV", "XDG_"))}
    caches = {"HOME": str(home), "UV_CACHE_DIR": str(home / "uv"), "PIP_CACHE_DIR": str(home / "pip")}
    return kept | caches | {"npm_config_cache": str(home / "npm")}


def _run(clone: Path, environment: dict[str, str], *options: str) -> tuple[float, float]:
    """Seconds to the first verdict, and to the end."""
    python = getattr(sys, "_base_executable", sys.executable)
    started, verdict = time.monotonic(), None
    command = [python, "-u", "dev.py", "testnet", *options]
    with subprocess.Popen(command, cwd=clone, env=environment, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout or ():
            if verdict is None and line.rstrip().endswith(": approved"):
                verdict = time.monotonic() - started
            if time.monotonic() - started > LIMIT_S:
                process.kill()
    if process.returncode != 0 or verdict is None:
        raise SystemExit(f"dev.py testnet ended with {process.returncode}")
    return verdict, time.monotonic() - started


if __name__ == "__main__":
    main()
