"""A calibration for people: everything that was measured, as Markdown, with a picture."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator
from pathlib import Path

from poi.calibration.calibrate import Calibrated
from poi.calibration.picture import draw
from poi.calibration.publish import nearest_cheat
from shared.card_parts import Calibration
from shared.documents import ModelCard
from shared.profiles import MIN_SEPARATION

REPORT, PICTURE = "report.md", "scores.png"
NO_MATPLOTLIB = "matplotlib is not installed, so there is no picture; `pip install matplotlib` and run it again"


def write_report(folder: Path, calibrated: Calibrated) -> tuple[Path, Path | None]:
    """The report's path, and the picture's, which is None without matplotlib."""
    folder.mkdir(parents=True, exist_ok=True)
    picture = draw(folder / PICTURE, calibrated)
    report = folder / REPORT
    report.write_text("\n".join(_lines(calibrated, has_picture=picture is not None)) + "\n")
    return report, picture


def _lines(calibrated: Calibrated, *, has_picture: bool) -> Iterator[str]:
    card, calibration = calibrated.card, calibrated.card.calibration
    if calibration is None:
        raise TypeError("a calibrated card has a calibration")
    yield f"# Calibration of {card.name}"
    yield ""
    yield _summary(card, calibration)
    yield ""
    yield f"![scores by configuration and cheat]({PICTURE})" if has_picture else NO_MATPLOTLIB
    yield from _table("What may differ", ("of", "relative", "scale", "absolute"), _limits(card))
    yield from _table(
        f"Honest configurations, {calibration.samples} samples each",
        ("configuration", "largest score against float64", "seconds", "same bytes as"),
        _configurations(calibrated, calibration),
    )
    if calibrated.honest.skipped:
        yield from _table("Skipped", ("configuration", "why"), calibrated.honest.skipped.items())
    yield from _table(
        "Cheats",
        ("cheat", "nearest score", "median score", "caught", "sets the floor"),
        _cheats(calibrated, calibration),
    )


def _summary(card: ModelCard, calibration: Calibration) -> str:
    nearest = nearest_cheat(calibration.cheats)
    size = f"{card.model.size} bytes, SHA-256 `{card.model.sha256}`" if card.model else "no model"
    return (
        f"Kind {card.kind}, method {card.method}, profile {card.profile}; {size}. Engines: "
        f"{', '.join(calibration.engines)}.\n\n"
        f"Scores are in tolerances: at most 1 is accepted. Two honest runs lie at most {calibration.honest_max:.3g} "
        f"apart; the nearest cheat that counts is {nearest or 'none'}, at {calibration.separation:.3g}, where "
        f"{MIN_SEPARATION:g} is the least for a card of profile fp32."
    )


def _limits(card: ModelCard) -> Iterator[tuple[str, str, str, str]]:
    for name, tolerance in card.tolerances.items():
        yield name, f"{tolerance.relative:.3g}", f"{tolerance.scale:.4g}", f"{tolerance.absolute:.3g}"
    if card.text is not None:
        yield "margin of a token, in logits", "", "", f"{card.text.margin:.3g}"
    if card.profile.is_exact:
        yield "nothing: equal bytes", "", "", ""


def _configurations(calibrated: Calibrated, calibration: Calibration) -> Iterator[tuple[str, str, str, str]]:
    honest = calibrated.honest
    for name, score in calibration.configurations.items():
        twin = honest.same_as[name]
        yield name, f"{score:.3g}", f"{honest.seconds[name]:.2f}", "" if twin == name else twin


def _cheats(calibrated: Calibrated, calibration: Calibration) -> Iterator[tuple[str, str, str, str, str]]:
    for name, cheat in sorted(calibration.cheats.items(), key=lambda item: item[1].smallest_score):
        median = statistics.median(calibrated.caught[name].scores)
        caught = f"{100 * cheat.caught:.4g} %"
        yield name, f"{cheat.smallest_score:.3g}", f"{median:.3g}", caught, "yes" if cheat.sets_floor else "no"


def _table(title: str, columns: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    yield ""
    yield f"## {title}"
    yield ""
    yield f"| {' | '.join(columns)} |"
    yield f"|{'---|' * len(columns)}"
    for row in rows:
        yield f"| {' | '.join(_cell(text) for text in row)} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
