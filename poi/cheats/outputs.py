"""Outputs that no model computed for this task: copied, made up, or changed by hand afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final

import msgspec
import numpy as np

from poi.cheats.cheat import ANY_KIND, TENSORS, WRONG_NUMBERS, WRONG_TENSORS, Cheat, Forwards, drawn
from poi.cheats.graph import NotApplicable
from poi.cheats.prompts import other_prompt
from poi.cheats.sampling import other_task
from poi.cheats.writing import Written, publish, write
from shared.documents import ClassifyOutput, InputDocument, ModelCard, Output, TensorOutput
from shared.model_card import TextSpec
from shared.reasons import InvalidReason
from shared.tensors import Array, TensorSpec
from shared.verification.decoder import prompt_tokens
from shared.verification.method import Compute, Method, Work
from shared.verification.tensor import output_of, published_of

NUDGE: Final = 100.0  # tolerances: far beyond noise, far below what a person would see
EXACT_NUDGE: Final = 1e-5  # of the value, where the card tolerates nothing
SPREAD: Final = 5.0  # of made-up scores
AUDIT: Final = "batch-audit"


def output_cheats() -> Iterator[Cheat]:
    label = frozenset({InvalidReason.LABEL_DIFFERS})
    yield Cheat(name="copied output", kinds=ANY_KIND, expected=WRONG_NUMBERS, play=copied, surely_refused=True)
    yield Cheat(name="random output", kinds=ANY_KIND, expected=WRONG_NUMBERS, play=made_up, surely_refused=True)
    yield Cheat(name="tampered tensor", kinds=TENSORS, expected=WRONG_TENSORS, play=_tampered, surely_refused=True)
    yield Cheat(
        name="wrong label", kinds=frozenset({"classify"}), expected=label, play=_mislabelled, surely_refused=True
    )


async def copied(honest: Method, work: Work, compute: Compute, others: Forwards) -> Output:
    """The honest output of another task, whose input was another one."""
    if work.card.text is None:
        return await honest.prove(replace(work, document=_other_document(work.document)), compute)
    spec = work.card.text
    prompt = other_prompt(spec, prompt_tokens(spec, work.document))
    other = replace(work, task_id=other_task(work.task_id))
    return publish(work, await write(other, compute.run, prompt=prompt[: spec.context - work.parameters.max_tokens]))


def _other_document(document: InputDocument) -> InputDocument:
    """Its tensors read backwards; where that is the same, one number more."""
    tensors = {name: np.flip(array) for name, array in (document.tensors or {}).items()}
    if all(np.array_equal(array, (document.tensors or {})[name]) for name, array in tensors.items()):
        tensors = {name: (array + 1).astype(array.dtype) for name, array in tensors.items()}
    return InputDocument(tensors=tensors)


async def made_up(honest: Method, work: Work, compute: Compute, others: Forwards) -> Output:
    """Something that looks like an answer, from no model at all."""
    noise = np.random.default_rng(drawn(work.task_id, "noise"))
    if work.card.text is None:
        check_tensors(work.card)
        return output_of(work.card, {spec.name: _random(spec, noise) for spec in work.card.outputs})
    spec, count = work.card.text, work.parameters.max_tokens
    tokens = noise.choice(_plausible(spec), count).tolist()
    return publish(work, Written(tuple(tokens), noise.normal(0, SPREAD, (count, spec.vocab))))


def _plausible(spec: TextSpec) -> list[int]:
    """Letters, or any ids but those that begin and end a text."""
    if spec.tokens == "bytes":
        return list(range(ord("a"), ord("z") + 1))
    return [token for token in range(spec.vocab) if token not in (spec.bos, spec.eos)]


def check_tensors(card: ModelCard) -> None:
    """Raises `NotApplicable` where a proof has more in it than the model's outputs, which has to be made up as well."""
    if card.method == AUDIT:
        raise NotApplicable(f"the method {AUDIT} wants what every layer gave")


def _random(spec: TensorSpec, noise: np.random.Generator) -> Array:
    shape = [max(1, size) for size in spec.shape]
    return np.asarray(noise.normal(0, SPREAD, shape)).astype(spec.dtype)


async def _tampered(honest: Method, work: Work, compute: Compute, others: Forwards) -> Output:
    """One value moved by a hundred tolerances; of a classifier, where the label stays as it is."""
    arrays = _published(work.card, await honest.prove(work, compute))
    name = next((spec.name for spec in work.card.outputs if spec.dtype.startswith("float")), None)
    if name is None or not arrays[name].size:
        raise NotApplicable("no number in the output to move")
    values = arrays[name].reshape(-1)
    tolerance = work.card.tolerances.get(name)
    place = int(values.argmin())
    step = NUDGE * tolerance.absolute if tolerance else EXACT_NUDGE * max(1.0, abs(float(values[place])))
    values[place] -= np.float32(step)
    return output_of(work.card, arrays)


async def _mislabelled(honest: Method, work: Work, compute: Compute, others: Forwards) -> Output:
    output = await honest.prove(work, compute)
    if not isinstance(output, ClassifyOutput):
        raise NotApplicable("no label in the output")
    return msgspec.structs.replace(output, label=(output.label + 1) % output.scores.shape[1])


def _published(card: ModelCard, output: Output) -> dict[str, Any]:
    """Copies that can be written to."""
    arrays = published_of(card, output) if isinstance(output, ClassifyOutput | TensorOutput) else None
    if arrays is None:
        raise NotApplicable(f"no tensors to change in {type(output).__name__}")
    return {name: np.array(array) for name, array in arrays.items()}
