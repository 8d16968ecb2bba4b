"""A calibration from beginning to end, in the order of protocol §6."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from poi.calibration.audit import batches_of, calibrate_audit, openings
from poi.calibration.cheats import changed_models
from poi.calibration.draft import draft_card
from poi.calibration.golden import golden_vectors
from poi.calibration.limits import score_of, with_limits, with_reach
from poi.calibration.matrix import honest_matrix
from poi.calibration.measure import Caught, Honest, Spread, run_matrix, spread_of, try_cheat
from poi.calibration.progress import Progress
from poi.calibration.publish import separation_of
from poi.calibration.samples import read_samples
from poi.calibration.sequence import neighbours, sequence_part
from poi.calibration.similarity import with_error_rates
from poi.calibration.subject import Sample, tensor_samples, text_samples
from shared.adapters.onnx_precision import Precision, convert
from shared.adapters.onnx_runner import Runner
from shared.card_parts import Calibration, Golden
from shared.content.unixfs import cid_of
from shared.documents import InputDocument, ModelCard
from shared.errors import InferenceFailed
from shared.golden import encode_golden
from shared.profiles import Profile
from shared.verification.method import Compute

PRECISION_OF: Final[Mapping[Profile, Precision]] = {
    Profile.EXACT_INT: "native",
    Profile.EXACT_FP64: "fp64",
    Profile.FP32: "native",
    Profile.FP16: "fp16",
    Profile.BF16: "bf16",
}
CHEATED_TEXTS: Final = 16  # a cheat writes each of its texts token by token


@dataclass(frozen=True)
class Calibrated:
    """A card with all of its numbers, which may be none to publish; its golden vectors; and what was measured."""

    card: ModelCard
    golden: bytes
    honest: Honest
    spread: Spread
    caught: Mapping[str, Caught]

    def honest_scores(self) -> dict[str, list[float]]:
        """Of every sample against the reference, by configuration; those that gave equal bytes once."""
        return {name: [score_of(self.card, distances) for distances in each] for name, each in self.spread.each.items()}


async def calibrate(
    folder: Path,
    *,
    samples: Path | None = None,
    profile: str | None = None,
    method: str | None = None,
    progress: Progress,
) -> Calibrated:
    """Raises `ConfigError` for a folder that is none, `CalibrationFailed` where no tolerance of the profile will do,
    `InferenceFailed` where the model does not run, or not in float64."""
    draft, model = draft_card(folder, profile=profile, method=method)
    documents = read_samples(folder, samples)
    runner = Runner(_as_served(model, draft.profile))
    # An exact profile is its own reference: what it computes in is what everybody else must.
    reference = runner if draft.profile.is_exact else Runner(convert(model, "fp64"))
    work = await _samples(draft, documents, runner)
    if draft.audit is not None:
        with progress.of("projections of layers"):
            batches = batches_of([sample.inputs for sample in work])
            draft = msgspec.structs.replace(draft, audit=await calibrate_audit(model, batches, openings()))
    honest = run_matrix(draft, honest_matrix(draft, runner), work, progress)
    with progress.of("distances between honest runs"):
        computed = [reference.run(sample.inputs) for sample in work]
        spread = await spread_of(draft, work, honest, computed)
        limited = with_reach(with_limits(draft, spread, computed), [sample.inputs for sample in work])
    attester = Compute(runner.forward, reference.forward)
    if limited.sequence is not None:
        limited = await _with_sequence(limited, model, documents, attester, progress)
    caught, floor = await _try_cheats(limited, folder, model, work, attester, progress)
    if limited.similarity is not None:
        limited = await with_error_rates(limited, limited.similarity, work, honest, caught.values())
    with progress.of("golden vectors"):
        vectors = await golden_vectors(limited, documents, reference.forward)
        golden = encode_golden(limited, vectors)
    card = msgspec.structs.replace(
        limited,
        calibration=_calibration(limited, len(work), honest, spread, caught, floor),
        golden=Golden(cid=cid_of(golden), vectors=len(vectors)),
    )
    return Calibrated(card, golden, honest, spread, caught)


def _as_served(model: bytes, profile: Profile) -> bytes:
    return convert(model, PRECISION_OF[profile], fused=True)


async def _samples(draft: ModelCard, documents: Sequence[InputDocument], runner: Runner) -> list[Sample]:
    if draft.text is None:
        return tensor_samples(draft, documents)
    return await text_samples(draft, documents, runner.forward)


async def _with_sequence(
    card: ModelCard, model: bytes, documents: Sequence[InputDocument], attester: Compute, progress: Progress
) -> ModelCard:
    """What the method `sequential` needs to know of honest errors."""
    with progress.of("errors of honest runs, by an honest run's own"):
        groups = {"this engine": [attester.run], "neighbours": neighbours(model, PRECISION_OF[card.profile])}
        return msgspec.structs.replace(card, sequence=await sequence_part(card, documents, groups, attester))


async def _try_cheats(
    card: ModelCard, folder: Path, model: bytes, samples: Sequence[Sample], attester: Compute, progress: Progress
) -> tuple[dict[str, Caught], set[str]]:
    """What was caught of each cheat, and the names of those that set the floor."""
    caught: dict[str, Caught] = {}
    floor: set[str] = set()
    tried = samples if card.text is None else samples[:CHEATED_TEXTS]
    for changed in changed_models(folder, model):
        with progress.of(f"cheat: {changed.name}") as note:
            cheat = _cheating_runner(changed.model, card.profile)
            caught[changed.name] = await try_cheat(card, tried, cheat.forward, attester)
            floor |= {changed.name} if changed.sets_floor else set()
            note(f"nearest {min(caught[changed.name].scores):.3g} tolerances")
    return caught, floor


def _cheating_runner(model: bytes, profile: Profile) -> Runner:
    """In the card's arithmetic, or as it is: integer kernels have no other."""
    try:
        return Runner(_as_served(model, profile))
    except InferenceFailed:
        return Runner(model)


def _calibration(
    card: ModelCard, samples: int, honest: Honest, spread: Spread, caught: Mapping[str, Caught], floor: set[str]
) -> Calibration:
    cheats = {name: each.as_in_card(sets_floor=name in floor) for name, each in caught.items()}
    return Calibration(
        engines=tuple(honest.engines),
        samples=samples,
        configurations={name: score_of(card, spread.from_reference[twin]) for name, twin in honest.same_as.items()},
        honest_max=score_of(card, spread.largest),
        cheats=cheats,
        separation=separation_of(cheats),
    )
