"""A calibration from beginning to end, in the order of protocol §6."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from poi.calibration.card import (
    check_separation,
    cid_of,
    draft_card,
    finished,
    scores_of,
    with_calibration,
    with_limits,
)
from poi.calibration.cheats import changed_models
from poi.calibration.golden import golden_vectors
from poi.calibration.matrix import honest_matrix
from poi.calibration.measure import Caught, Honest, Say, Spread, run_matrix, spread_of, try_cheat
from poi.calibration.samples import read_samples
from poi.calibration.subject import Sample, tensor_samples, text_samples
from shared.adapters.onnx_precision import Precision, convert
from shared.adapters.onnx_runner import Runner, version
from shared.card_parts import Golden
from shared.documents import ModelCard
from shared.golden import encode_golden
from shared.profiles import Profile
from shared.verification.method import Compute

PRECISION_OF: Final[dict[Profile, Precision]] = {
    Profile.EXACT_INT: "native",
    Profile.EXACT_FP64: "fp64",
    Profile.FP32: "native",
    Profile.FP16: "fp16",
    Profile.BF16: "bf16",
}
CHEATED_TEXTS: Final = 16


@dataclass(frozen=True)
class Calibrated:
    """A finished card, its golden vectors, and what was measured on the way."""

    card: ModelCard
    golden: bytes
    samples: Sequence[Sample]
    honest: Honest
    spread: Spread
    caught: dict[str, Caught]

    def honest_scores(self) -> dict[str, list[float]]:
        """Of every sample from the reference, in tolerances, by distinct configuration."""
        return {
            name: [scores_of(self.card, distances) for distances in each] for name, each in self.spread.each.items()
        }


async def calibrate(
    folder: Path, *, samples: Path | None = None, profile: str | None = None, method: str | None = None, say: Say
) -> Calibrated:
    """Raises `ConfigError` for a folder that is none, `CalibrationFailed` where no card can be made."""
    draft, model = draft_card(folder, profile=profile, method=method)
    documents = read_samples(folder, samples)
    runner = Runner(convert(model, PRECISION_OF[draft.profile]))
    work = await text_samples(draft, documents, runner.forward) if draft.text else tensor_samples(draft, documents)
    say(f"{draft.name}: {len(work)} samples")
    honest = run_matrix(draft, honest_matrix(draft, runner), work, say)
    reference = _reference(draft, runner, model)
    by_reference = [reference.run(sample.inputs) for sample in work]
    spread = await spread_of(draft, work, honest, by_reference)
    limited = with_limits(draft, spread, by_reference)
    caught, floor = await _try_cheats(limited, folder, model, work, Compute(runner.forward, reference.forward), say)
    card = with_calibration(
        limited,
        engines=(version(),),
        samples=len(work),
        configurations={name: scores_of(limited, spread.from_reference[twin]) for name, twin in honest.same_as.items()},
        honest_max=scores_of(limited, spread.largest),
        cheats={name: each.as_card_has_it(sets_floor=floor[name]) for name, each in caught.items()},
    )
    check_separation(card)
    vectors = await golden_vectors(card, documents, reference.forward)
    golden = encode_golden(card, vectors)
    return Calibrated(
        finished(card, Golden(cid=cid_of(golden), vectors=len(vectors))), golden, work, honest, spread, caught
    )


def _reference(card: ModelCard, runner: Runner, model: bytes) -> Runner:
    """The same graph in float64; of an exact profile what it is computed in anyway."""
    return runner if card.profile.is_exact else Runner(convert(model, "fp64"))


async def _try_cheats(
    card: ModelCard, folder: Path, model: bytes, samples: Sequence[Sample], honest: Compute, say: Say
) -> tuple[dict[str, Caught], dict[str, bool]]:
    caught: dict[str, Caught] = {}
    floor: dict[str, bool] = {}
    tried = samples if card.text is None else samples[:CHEATED_TEXTS]
    for changed in changed_models(folder, model):
        cheat = Runner(convert(changed.model, PRECISION_OF[card.profile]))
        measured = await try_cheat(card, tried, cheat.forward, honest)
        caught[changed.name], floor[changed.name] = measured, changed.sets_floor
        say(f"{changed.name}: nearest {min(measured.scores):.3g} tolerances, {measured.seconds:.1f} s")
    return caught, floor
