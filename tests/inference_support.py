"""The shipped models with their cards, and honest performers and attesters on them."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from poi.cheats.weights import WEIGHT_CHEATS
from shared.adapters.onnx_precision import convert
from shared.adapters.onnx_runner import Runner
from shared.documents import InputDocument, ModelCard, Output, Parameters, data_of, decode_card
from shared.interfaces import Tensors
from shared.types import Digest
from shared.verification import METHODS
from shared.verification.method import Compute, Judgement, Measurement, Measuring, Work
from shared.verification.verify import verify as judge_output
from tests.cards import OTHER_TASK, PERFORMER, TASK

__all__ = ["OTHER_TASK", "PERFORMER", "TASK"]

MODELS = Path(__file__).resolve().parents[1] / "models"

Array = npt.NDArray[np.generic]
Forward = Callable[[Tensors], Awaitable[Tensors]]


@cache
def card_of(name: str) -> ModelCard:
    return decode_card((MODELS / name / "card.json").read_bytes())


@cache
def runner_of(name: str, change: str = "") -> Runner:
    """`name` is a folder, or `digits/decoy`; `change` one of `WEIGHT_CHEATS`."""
    folder, _, file = name.partition("/")
    model = (MODELS / folder / f"{file or 'model'}.onnx").read_bytes()
    return Runner(WEIGHT_CHEATS[change](model) if change else model)


@cache
def reference_of(name: str) -> Runner:
    """The shipped model of this folder in float64."""
    return Runner(convert((MODELS / name / "model.onnx").read_bytes(), "fp64"))


@cache
def samples() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((MODELS / "digits" / "samples.json").read_text())
    return rows


# --- the two halves, with everything honest unless said otherwise ----------------------------------
async def prove(
    card: ModelCard,
    document: InputDocument,
    run: Forward,
    parameters: Parameters | None = None,
    task_id: Digest = TASK,
) -> Output:
    work = Work(task_id, PERFORMER, card, document, parameters or Parameters())
    return await METHODS[card.method].prove(work, Compute(run, run))


async def verify(
    card: ModelCard,
    document: InputDocument,
    output: Output,
    run: Forward,
    parameters: Parameters | None = None,
    data: bytes | None = None,
    reference: Forward | None = None,
) -> Judgement:
    """`data` follows from the output unless given; the reference is `run` itself unless given."""
    work = Work(TASK, PERFORMER, card, document, parameters or Parameters())
    signed = data_of(output) if data is None else data
    return await judge_output(METHODS[card.method], work, output, signed, Compute(run, reference or run))


async def measure(
    card: ModelCard, document: InputDocument, output: Output, run: Forward, parameters: Parameters | None = None
) -> Measurement:
    """By the card's own method; TASK's own work."""
    method: Any = METHODS[card.method]
    measuring: Measuring = method
    return await measuring.measure(Work(TASK, PERFORMER, card, document, parameters or Parameters()), output, run)


async def never_run(inputs: Tensors) -> Tensors:
    """For what must be decided without the model."""
    raise AssertionError("the model was run")


def giving(outputs: Mapping[str, Array]) -> Forward:
    """A model that gives the same for everything."""

    async def run(inputs: Tensors) -> Tensors:
        return dict(outputs)

    return run
