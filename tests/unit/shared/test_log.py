"""Log lines: their shape, what never stands in them, and how many a stranger can cause."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import subprocess
import sys
import threading
import warnings
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from shared import log
from shared.config import LogConfig
from shared.crypto.keystore import NodeKeys
from shared.errors import ContentUnavailable
from shared.reasons import AbstainReason
from shared.types import Address, Verdict

ROOT = Path(__file__).resolve().parents[3]
OPERATOR = Address(bytes([0xAB] * 20))
TASK = bytes(range(32))


class Lines(io.StringIO):
    """What was written, a dict a line."""

    def read_all(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.getvalue().splitlines()]

    def one(self) -> dict[str, Any]:
        (line,) = self.read_all()
        return line


@pytest.fixture
def libp2p_logger() -> Iterator[None]:
    """As before libp2p's import, whatever a gossip node of another test here did to it. (What the import itself does is
    tried in a process of its own: pytest puts handlers on loggers that do not propagate.)"""
    logger = logging.getLogger("libp2p")
    handlers, level, propagate = list(logger.handlers), logger.level, logger.propagate
    logger.handlers[:] = []
    logger.setLevel(logging.NOTSET)
    logger.propagate = True
    yield
    logger.handlers[:] = handlers
    logger.setLevel(level)
    logger.propagate = propagate


@pytest.fixture
def configured(libp2p_logger: None) -> Iterator[Lines]:
    """Logs of level info as JSON; everything global is put back."""
    root, last_resort = logging.getLogger(), logging.lastResort
    handlers, level = list(root.handlers), root.level
    lines = Lines()
    log.configure(LogConfig(), "attester", OPERATOR, lines)
    yield lines
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.lastResort = last_resort
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()


def reconfigure(**changes: Any) -> Lines:
    lines = Lines()
    log.configure(LogConfig(**changes), "attester", OPERATOR, lines)
    # pytest's own handler would keep what is logged for its report, and half surrogates break xdist's.
    root = logging.getLogger()
    root.handlers[:] = [handler for handler in root.handlers if isinstance(handler, log._Handler)]
    return lines


# --- the shape -----------------------------------------------------------------------------------
def test_a_line_says_when_who_and_what(configured: Lines) -> None:
    log.get("attester").info("decided", task=TASK, verdict=Verdict.VALID, ms=12.5)
    line = configured.one()
    assert line.pop("at").endswith("Z")
    assert line == {
        "level": "info",
        "logger": "attester",
        "event": "decided",
        "role": "attester",
        "operator": "ab" * 20,
        "task": "00010203",
        "verdict": "valid",
        "ms": 12.5,
    }
    assert configured.getvalue().startswith('{"at":"')


@pytest.mark.parametrize("task", [TASK, TASK.hex(), "0x" + TASK.hex()])
def test_a_task_is_its_first_eight_digits(configured: Lines, task: object) -> None:
    log.get("attester").info("taken", task=task)
    assert configured.one()["task"] == "00010203"


def test_bound_fields_stand_in_every_line_inside(configured: Lines) -> None:
    logger = log.get("attester")
    with log.bound(task=TASK, role="performer"):
        logger.info("inside")
    logger.info("outside")
    inside, outside = configured.read_all()
    assert (inside["task"], inside["role"]) == ("00010203", "performer")
    assert "task" not in outside
    assert outside["role"] == "attester"


async def test_fields_are_bound_to_one_asyncio_task(configured: Lines) -> None:
    async def duty(name: str, mine: asyncio.Event, other: asyncio.Event) -> None:
        with log.bound(role=name):
            mine.set()
            await other.wait()
            log.get(name).info("taken")

    first, second = asyncio.Event(), asyncio.Event()
    await asyncio.gather(duty("performer", first, second), duty("aggregator", second, first))
    assert {line["logger"]: line["role"] for line in configured.read_all()} == {
        "performer": "performer",
        "aggregator": "aggregator",
    }


def test_a_thread_that_a_library_started_has_the_defaults(configured: Lines) -> None:
    thread = threading.Thread(target=lambda: logging.getLogger("libp2p").warning("dial failed"))
    thread.start()
    thread.join()
    assert configured.one()["operator"] == "ab" * 20


def test_others_lines_have_our_shape(configured: Lines) -> None:
    logging.getLogger("web3.manager").warning("took %d s", 3)
    line = configured.one()
    assert (line["level"], line["logger"], line["event"]) == ("warning", "web3.manager", "took 3 s")
    assert line["role"] == "attester"


def test_python_warnings_are_lines(configured: Lines) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        # catch_warnings puts its own printer in place of the one that logging installed.
        logging.captureWarnings(capture=False)
        logging.captureWarnings(capture=True)
        warnings.warn("old", DeprecationWarning, stacklevel=1)
        logging.captureWarnings(capture=False)
    assert configured.one()["logger"] == "py.warnings"


@pytest.mark.parametrize("logger", ["attester", "web3"])
def test_an_exception_brings_its_traceback(configured: Lines, logger: str) -> None:
    try:
        raise ValueError("wrong\nvalue")
    except ValueError:
        if logger == "attester":
            log.get(logger).exception("verify")
        else:
            logging.getLogger(logger).exception("verify")
    line = configured.one()
    assert line["level"] == "error"
    assert line["exception"].startswith("Traceback (most recent call last):\n")
    assert line["exception"].endswith("ValueError: wrong\nvalue")


def test_libp2p_imported_late_writes_our_lines() -> None:
    # Its import removes every handler from its logger and cuts it off from the root.
    script = """if True:
        import logging
        from shared import log
        from shared.config import LogConfig
        log.configure(LogConfig(), "attester", "0x00")
        import libp2p
        logging.getLogger("libp2p.host").warning("dial failed")
    """
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True)
    events = [json.loads(line)["event"] for line in done.stderr.splitlines()]
    assert "dial failed" in events


def test_a_handler_that_passes_a_librarys_lines_on_does_not_hear_itself(configured: Lines) -> None:
    class Forwarder(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            structlog.get_logger("library").warning(record.getMessage())

    library = logging.getLogger("library")
    library.propagate, forwarder = False, Forwarder()
    library.addHandler(forwarder)
    library.warning("dial failed")
    library.removeHandler(forwarder)
    assert configured.one()["logger"] == "poi.library"


def test_a_logger_without_a_name_is_ours(configured: Lines) -> None:
    structlog.get_logger().info("hello")
    assert configured.one()["logger"] == "poi"


def test_the_last_call_of_configure_counts(configured: Lines) -> None:
    second = reconfigure()
    log.get("attester").info("once")
    logging.getLogger("web3").warning("twice")
    assert configured.read_all() == []
    assert [line["event"] for line in second.read_all()] == ["once", "twice"]


def test_a_logger_made_before_configure_follows_it(configured: Lines) -> None:
    logger = log.get("attester")
    logger.info("first")
    second = reconfigure()
    logger.info("second")
    assert configured.one()["event"] == "first"
    assert second.one()["event"] == "second"


# --- levels --------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("level", "expected"),
    [
        ("debug", ["our debug", "our info", "our warning", "their info", "their warning"]),
        ("info", ["our info", "our warning", "their warning"]),
        ("warning", ["our warning", "their warning"]),
        ("error", []),
    ],
)
def test_a_level_is_the_least_that_is_written(configured: Lines, level: str, expected: list[str]) -> None:
    lines = reconfigure(level=level)
    logger, foreign = log.get("shared.adapters"), logging.getLogger("aiohttp.access")
    logger.debug("our debug")
    logger.info("our info")
    logger.warning("our warning")
    foreign.info("their info")
    foreign.warning("their warning")
    assert [line["event"] for line in lines.read_all()] == expected


# --- what never stands in a line -------------------------------------------------------------------
def test_keys_inputs_and_outputs_are_withheld(configured: Lines) -> None:
    secret = "do-not-write-this"
    fields: dict[str, object] = dict.fromkeys(log.WITHHELD, secret)
    log.get("attester").info("taken", **fields, nested={"seed": secret, "list": [{"outputs": secret}]})
    assert secret not in configured.getvalue()
    assert configured.one()["seed"] == "[withheld]"


def test_objects_do_not_spell_themselves_out(configured: Lines) -> None:
    class Message(msgspec.Struct):
        content: str

    keys = NodeKeys.from_seed(TASK)
    log.get("attester").info("x", a=np.arange(3), b=Message("private"), c=keys, d=bytearray(b"abc"), e={b"private"})
    line = configured.one()
    assert [line[name] for name in "abcde"] == ["<ndarray>", "<Message>", "<NodeKeys>", "<3 bytes>", "<set>"]


def test_bytes_are_shown_for_public_identifiers_only(configured: Lines) -> None:
    log.get("attester").info("x", peer=TASK, tx=TASK, anything=TASK)
    line = configured.one()
    assert (line["peer"], line["tx"], line["anything"]) == (TASK.hex(), TASK.hex(), "<32 bytes>")


def test_plain_values_stay_readable(configured: Lines) -> None:
    error = ContentUnavailable("bafy")
    log.get("attester").info(
        "x", a=None, b=True, c=2**70, d=float("nan"), e=AbstainReason.GUARDED, f=Path("/a"), g=error, h=deque([1]), i=-5
    )
    line = configured.one()
    assert [line[name] for name in "abcdefghi"] == [
        None,
        True,
        str(2**70),
        "nan",
        "guarded",
        "/a",
        "content bafy is unavailable (no source is known)",
        [1],
        -5,
    ]


@pytest.mark.parametrize("format_", ["json", "console"])
def test_a_strangers_text_ends_no_line(configured: Lines, format_: str) -> None:
    lines = reconfigure(format=format_)
    forged = 'x\n{"level":"error"}\r\u2028\x1b[2J\x00\ud800'
    log.get("attester").info("taken", reason=forged, causes={forged: forged})
    logging.getLogger("web3").warning(forged)
    written = lines.getvalue()
    assert written.count("\n") == 2
    assert not any(c in written for c in "\r\u2028\x1b\x00\ud800")


def test_a_strangers_text_is_bounded(configured: Lines) -> None:
    nested: list[Any] = []
    for _ in range(100):
        nested = [nested]
    logger = log.get("attester")
    logger.info("x" * 10_000, reason="y" * 10_000, many=list(range(10_000)), nested=nested, names={"z" * 10_000: 1})
    assert len(configured.getvalue()) < 3_000
    line = configured.one()
    assert line["reason"] == "y" * 512 + "…"
    assert line["many"] == [*range(16), "…"]
    assert line["nested"] == [[["…"]]]


def test_a_long_traceback_keeps_its_end(configured: Lines) -> None:
    try:
        raise ValueError("x" * 100_000 + " the end")
    except ValueError:
        log.get("attester").exception("verify")
    assert configured.one()["exception"].endswith("the end")
    assert len(configured.getvalue()) < 9_000


@settings(deadline=None)
@given(st.dictionaries(st.text(max_size=5).map("f_{}".format), st.text() | st.binary() | st.integers() | st.floats()))
def test_any_fields_make_one_json_line(fields: dict[str, Any]) -> None:
    event = {"_record": record("attester"), "role": "attester", "operator": OPERATOR, "event": "x", **fields}
    line = json.loads(log._json(log._present(None, "info", event)))
    assert line["event"] == "x"
    assert line.keys() >= {log._clean(name) for name in fields}


# --- how much ------------------------------------------------------------------------------------
class Stopped:
    """A clock that moves when told."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def record(name: str, level: int = logging.WARNING) -> logging.LogRecord:
    return logging.LogRecord(name, level, "", 0, "flood", None, None)


def admitted(gate: log.Gate, count: int, name: str, level: int = logging.WARNING) -> int:
    return sum(gate.filter(record(name, level)) for _ in range(count))


def test_a_flood_is_cut_to_the_burst_and_then_the_rate() -> None:
    clock = Stopped()
    gate = log.Gate(monotonic=clock)
    assert admitted(gate, 20_000, "libp2p.pubsub") == 50
    clock.now = 2.0
    assert admitted(gate, 20_000, "libp2p.pubsub") == 10


def test_what_was_suppressed_is_said() -> None:
    clock = Stopped()
    gate = log.Gate(monotonic=clock)
    admitted(gate, 150, "libp2p")
    clock.now = 1.0
    first, second = record("libp2p"), record("libp2p")
    assert gate.filter(first)
    assert gate.filter(second)
    assert (first.__dict__["suppressed"], second.__dict__["suppressed"]) == (100, 0)


def test_a_flood_silences_no_other_part_and_no_higher_level() -> None:
    gate = log.Gate(monotonic=Stopped())
    admitted(gate, 20_000, "libp2p")
    assert admitted(gate, 10, "web3") == 10
    assert admitted(gate, 10, "libp2p", logging.ERROR) == 10
    assert admitted(gate, 20_000, "attester") == 1000
    assert admitted(gate, 10, "attester", logging.ERROR) == 10


def test_many_names_share_the_last_bucket() -> None:
    gate = log.Gate(monotonic=Stopped())
    assert sum(admitted(gate, 1, f"name{i}") for i in range(10_000)) == log.MAX_BUCKETS + 50
    assert len(gate._buckets) == log.MAX_BUCKETS + 1


def test_a_flood_through_the_real_handler_is_counted(configured: Lines) -> None:
    for _ in range(5_000):
        logging.getLogger("libp2p.pubsub").warning("subscription flood")
    lines = configured.read_all()
    assert 50 <= len(lines) < 100
    assert all(line["event"] == "subscription flood" for line in lines)
