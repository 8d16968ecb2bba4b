"""How well honest work is told from cheats: false rejects, false accepts, and what checking costs.

Every number is counted in this run, by the methods as attesters use them. It takes three minutes on two free cores; on
busy ones up to nine, counts less, and says how much. With --full, in up to an hour, it counts several times as much.
The exit code says whether it could be measured, not what came out.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Final

import onnxruntime

from bench import (
    detection_adversary,
    detection_audit,
    detection_cost,
    detection_exact,
    detection_honest,
    detection_sequential,
    detection_tensors,
    detection_texts,
)
from bench.allowance import while_allowed
from bench.bounds import upper_bound
from bench.detection_plot import Strip, draw
from bench.detection_subjects import GREEDY, SAMPLED, Subject, read_subjects
from bench.table import Cell, Row, Sheet, arguments, markdown, report
from poi.calibration import emulated
from shared.adapters.onnx_runner import providers
from shared.documents import Parameters
from shared.profiles import Profile

ROOT: Final = Path(__file__).resolve().parents[1]
SIMILARITY_BY: Final = "sentences"  # the model by whose embeddings texts are compared
METHODS: Final = frozenset({"exact", "tensor", "text"})
UNCUT: Final = Parameters(max_tokens=64, temperature=0.8)  # every token may be sampled
LONG: Final = Parameters(max_tokens=192, temperature=0.8, top_k=40)
CHECKS_GOAL, ENGINES_GOAL = 30_000, 5
# Seconds after which a part does no more than it has done; two parts run at once.
TEXT_SECONDS, HONEST_SECONDS, EMULATED_SECONDS = 180.0, 120.0, 40.0
LOW_SECONDS, ADVERSARY_SECONDS, TENSOR_SECONDS = 120.0, 100.0, 60.0


@dataclass(frozen=True)
class Counts:
    """How much of everything is run."""

    honest_tensors: int  # outputs of each configuration
    honest_texts: int
    cheats: tuple[tuple[Parameters, int], ...]  # texts of each cheat
    tensors: int  # outputs of each cheat
    steered: tuple[tuple[str, Parameters, int], ...]  # texts of the adaptive adversary
    labels: int
    costed: dict[int, int]  # texts by tokens
    exact_texts: int  # of 256 tokens
    low: dict[Profile, detection_sequential.Counts]  # texts in each low precision
    is_emulated_exactly: bool = False  # exact values on emulated processors too
    patience: float = 1.0  # of the seconds that each part is allowed


DEFAULT: Final = Counts(
    honest_tensors=96,
    honest_texts=32,
    cheats=((SAMPLED, 32), (UNCUT, 8), (GREEDY, 8)),
    tensors=64,
    steered=(("sampled, top-k 40", LONG, 250), ("greedy", Parameters(max_tokens=192), 16)),
    labels=256,
    costed={64: 15, 512: 9, 1024: 3},
    exact_texts=27,
    low={
        Profile.BF16: detection_sequential.Counts(honest=96, goal=300, cheats=8),
        Profile.FP16: detection_sequential.Counts(honest=96, goal=100, cheats=8),
    },
)
FULL: Final = Counts(
    honest_tensors=512,
    honest_texts=128,
    cheats=((SAMPLED, 192), (UNCUT, 48), (GREEDY, 48)),
    tensors=512,
    steered=(("sampled, top-k 40", LONG, 1500), ("greedy", Parameters(max_tokens=192), 200)),
    labels=2048,
    costed={64: 45, 512: 27, 1024: 15},
    exact_texts=81,
    low={each: detection_sequential.Counts() for each in (Profile.BF16, Profile.FP16)},
    is_emulated_exactly=True,
    patience=10.0,
)


@dataclass
class Found:
    """What a part of the bench gives."""

    rows: list[Row] = field(default_factory=list)
    sheets: list[Sheet] = field(default_factory=list)
    strips: list[Strip] = field(default_factory=list)


Part = Callable[[Sequence[Subject], Counts], Found]


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write all tables to this file")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw all scores into this file")
    parser.add_argument("--full", action="store_true", help="count several times as much; up to an hour")
    parser.add_argument("--models", type=Path, metavar="FOLDER", default=ROOT / "models", help="with cards and samples")
    options = parser.parse_args()
    counts = FULL if options.full else DEFAULT
    subjects = list(read_subjects(options.models, METHODS))
    started = time.monotonic()
    found = _measured(subjects, counts)
    rows = [row for part in found for row in part.rows]
    sheets = [sheet for part in found for sheet in part.sheets]
    sheets.append(_conditions(subjects, time.monotonic() - started))
    report("detection", rows, options.json, sheets)
    if options.markdown is not None:
        options.markdown.write_text(markdown("Detection", rows, sheets))
    if options.plot is not None:
        draw([strip for part in found for strip in part.strips], options.plot)


def _measured(subjects: Sequence[Subject], counts: Counts) -> list[Found]:
    """Costs first and alone, since others would disturb them; then the rest, two parts at once."""
    costs, audit = costs_of(subjects, counts), audit_of()
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        running: list[Future[Found]] = [pool.submit(part, subjects, counts) for part in PARTS]
        parts = [future.result() for future in running]
    texts, honest, low, adversary, tensors, exact = parts
    return [texts, honest, costs, exact, low, audit, adversary, tensors]


def _conditions(subjects: Sequence[Subject], seconds: float) -> Sheet:
    gpu = [name for name in providers() if name != "CPUExecutionProvider"]
    lines = [
        ("models", ", ".join(subject.name for subject in subjects)),
        ("machine", f"{platform.machine()}, {platform.system()}"),
        ("onnxruntime", onnxruntime.__version__),
        ("GPU", ", ".join(gpu) or "no GPU on this machine: not measured"),
        (
            "emulated instruction sets",
            ", ".join(emulated.CPUS) if emulated.is_available() else "no emulator: not measured",
        ),
        ("took", f"{seconds:.0f} s"),
    ]
    return Sheet("Conditions", ("of this run", ""), lines)


# --- the parts -----------------------------------------------------------------------------------------
def texts_of(subjects: Sequence[Subject], counts: Counts) -> Found:
    found = Found()
    encoder = next((subject.model for subject in subjects if subject.name == SIMILARITY_BY), None)
    for subject in _decoders(subjects):
        tried = detection_texts.try_texts(subject, encoder, counts.cheats, counts.patience * TEXT_SECONDS)
        found.rows += detection_texts.rows_of(tried)
        found.sheets += detection_texts.sheets_of(tried)
        found.strips += [
            Strip(subject.name, each.name, each.scores, each.name == detection_texts.HONEST)
            for each in tried
            if each.scores and not each.name.startswith(detection_texts.SPOOF)
        ]
    return found


def tensors_of(subjects: Sequence[Subject], counts: Counts) -> Found:
    models = _tensors(subjects)
    if not models:
        return Found()
    seconds = counts.patience * TENSOR_SECONDS / len(models)
    tried = [each for subject in models for each in detection_tensors.try_tensors(subject, counts.tensors, seconds)]
    strips = [
        Strip(each.model, each.name, each.scores, each.name == detection_tensors.HONEST)
        for each in tried
        if each.scores
    ]
    return Found(detection_tensors.rows_of(tried), [detection_tensors.sheet_of(tried)], strips)


def honest_of(subjects: Sequence[Subject], counts: Counts) -> Found:
    seconds = counts.patience * HONEST_SECONDS / len(subjects)
    honest = [
        detection_honest.honest_matrix(
            subject, counts.honest_texts if subject.card.text else counts.honest_tensors, seconds
        )
        for subject in subjects
    ]
    if emulated.is_available():  # decoders first: they have the most to go wrong
        ordered = sorted(zip(subjects, honest, strict=True), key=lambda pair: pair[0].card.text is None)
        for subject, counted in while_allowed(ordered, counts.patience * EMULATED_SECONDS):
            detection_honest.emulated_matrix(subject, counted)
    checks, rejected = sum(each.checks for each in honest), sum(len(each.rejected) for each in honest)
    engines = len({engine for each in honest for engine in each.engines})
    name = f"honest checks rejected, ≥ {ENGINES_GOAL} engines/instruction sets"
    rows = [
        Row(name, rejected, "checks", 0.0),
        Row("honest checks: judged", checks, "checks", CHECKS_GOAL, at_least=True),
        Row("honest checks: engines and instruction sets", engines, "", ENGINES_GOAL, at_least=True),
        Row("honest checks: share rejected at most (exact 95 % bound)", upper_bound(rejected, checks), ""),
    ]
    sheets = [detection_honest.sheet_of(honest), detection_honest.engines_of(honest)]
    strips = [Strip(each.name, "honest, all configurations", each.scores, True) for each in honest]
    return Found(rows, sheets, strips)


def adversary_of(subjects: Sequence[Subject], counts: Counts) -> Found:
    seconds = counts.patience * ADVERSARY_SECONDS
    planned = sum(texts for _, _, texts in counts.steered)
    games = [
        detection_adversary.steer_text(subject, texts, parameters, f"{subject.name}: {name}", seconds * texts / planned)
        for subject in _decoders(subjects)
        for name, parameters, texts in counts.steered
    ]
    labels = [
        detection_adversary.steer_labels(subject, counts.labels)
        for subject in subjects
        if subject.card.kind == "classify" and subject.card.tolerances
    ]
    return Found(detection_adversary.rows_of(games), [detection_adversary.sheet_of([*games, *labels])])


def costs_of(subjects: Sequence[Subject], counts: Counts) -> Found:
    found = Found()
    for subject in _decoders(subjects):
        costs = [detection_cost.cost_of_text(subject, tokens, texts) for tokens, texts in counts.costed.items()]
        found.rows += detection_cost.rows_of(costs)
        found.sheets.append(detection_cost.sheet_of(costs))
    return found


def audit_of() -> Found:
    figures = detection_audit.measure_audit_cost()
    row = figures.cheats[detection_audit.ONE_ROW]
    name = f"batch audit at {detection_audit.ROWS}"
    rows = [
        Row(
            f"{name}: cost",
            100 * figures.cost_share,
            "% of recompute",
            100 * detection_audit.COST_GOAL,
            hindrance="Drawing vectors and replaying what is between the layers do not shrink with the products saved; "
            "they weigh less on wider networks.",
        ),
        Row(f"{name}, one cheated row: found", 100 * row.share, "%", 100 * detection_audit.FOUND_GOAL, at_least=True),
        Row(f"{name}: honest batches refused", figures.honest_refused, f"of {figures.honest_audits}", 0.0),
        Row(f"{name}: published", figures.published_bytes / detection_audit.ROWS, "bytes a row"),
    ]
    lines: list[tuple[Cell, ...]] = [
        (cheat, detection_audit.AUDITS, each.share, each.smallest_score, each.ratio, ", ".join(each.reasons))
        for cheat, each in figures.cheats.items()
    ]
    header = ("cheat", "audits", "found", "smallest score", "over the largest honest residual", "refused as")
    return Found(rows, [Sheet(f"Batch audits of a wide network, {detection_audit.ROWS} rows", header, lines)])


def exact_of(subjects: Sequence[Subject], counts: Counts) -> Found:
    found = Found()
    for subject in _decoders(subjects):
        exact = detection_exact.exact_values(subject, counts.exact_texts, is_emulated=counts.is_emulated_exactly)
        found.rows += detection_exact.rows_of(exact)
        found.sheets.append(detection_exact.sheet_of(exact))
    return found


def low_of(subjects: Sequence[Subject], counts: Counts) -> Found:
    found = Found()
    for subject in _decoders(subjects):
        for profile, planned in counts.low.items():
            tried = detection_sequential.try_sequential(
                subject.card,
                subject.model,
                subject.documents,
                subject.folder,
                profile,
                planned,
                counts.patience * LOW_SECONDS / len(counts.low),
            )
            found.rows += detection_sequential.rows_of(tried)
            found.sheets.append(detection_sequential.sheet_of(tried))
    return found


PARTS: Final[tuple[Part, ...]] = (texts_of, honest_of, low_of, adversary_of, tensors_of, exact_of)


def _decoders(subjects: Sequence[Subject]) -> list[Subject]:
    return [subject for subject in subjects if subject.card.text is not None]


def _tensors(subjects: Sequence[Subject]) -> list[Subject]:
    return [subject for subject in subjects if subject.card.text is None]


if __name__ == "__main__":
    main()
