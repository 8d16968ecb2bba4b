"""`poi calibrate`: measure a model, say what came out, and write its card if it is one to publish."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from poi.calibration.calibrate import Calibrated, calibrate
from poi.calibration.progress import Progress
from poi.calibration.publish import nearest_cheat, publishable
from poi.calibration.report import NO_MATPLOTLIB, write_report
from poi.keys import show
from shared.canonical import encode_canonical
from shared.card_signatures import sign_card
from shared.crypto.keystore import NodeKeys
from shared.documents import ModelCard, decode_card
from shared.errors import ConfigError

CARD, GOLDEN, REPORTS = "card.json", "golden.json", "calibration"


@dataclass(frozen=True, slots=True)
class Options:
    """As given on the command line. `out` and `report` default to the model's folder, and to one within `out`."""

    model: Path
    profile: str | None = None
    method: str | None = None
    samples: Path | None = None
    out: Path | None = None
    sign: Path | None = None
    password_file: Path | None = None
    report: Path | None = None


def main(options: Options, console: Console | None = None) -> int:
    """The exit code. Raises `PoiError`; `CalibrationFailed` for cheats that come too near comes after the report."""
    console = console or Console()
    keys = None if options.sign is None else show(options.sign, options.password_file)  # asked before minutes of work
    out = options.out or options.model
    calibrated = asyncio.run(
        calibrate(
            options.model,
            samples=options.samples,
            profile=options.profile,
            method=options.method,
            progress=Progress(console),
        )
    )
    report, picture = write_report(options.report or out / REPORTS, calibrated)
    _say(console, calibrated, report, picture)
    card = _signed(publishable(calibrated.card), keys)
    _write(out / GOLDEN, calibrated.golden)  # first: a card whose golden vectors are missing is of no use
    _write(out / CARD, encode_canonical(card))
    for path in (out / CARD, out / GOLDEN):
        console.print(f"wrote {path}", highlight=False, soft_wrap=True)
    return 0


def _signed(card: ModelCard, keys: NodeKeys | None) -> ModelCard:
    return card if keys is None else decode_card(encode_canonical(sign_card(card, keys.operator)))


def _say(console: Console, calibrated: Calibrated, report: Path, picture: Path | None) -> None:
    calibration = calibrated.card.calibration
    if calibration is not None:
        nearest = nearest_cheat(calibration.cheats) or "none applies"
        console.print(
            f"honest runs at most {calibration.honest_max:.3g} tolerances apart; separation "
            f"{calibration.separation:.3g}, nearest cheat: {nearest}",
            highlight=False,
        )
    console.print(f"wrote {report}", highlight=False, soft_wrap=True)
    console.print(f"wrote {picture}" if picture else NO_MATPLOTLIB, highlight=False, soft_wrap=True)


def _write(path: Path, data: bytes) -> None:
    """Complete or not at all: a performer may be serving the folder. Raises `ConfigError`."""
    draft = path.with_name(f".{path.name}.draft")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_bytes(data)
        draft.replace(path)
    except OSError as error:
        raise ConfigError(f"write {path}: {error.strerror}") from None
