"""The shipped models with their cards, honest performers and attesters on them, and small cards of no model at all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Awaitable, Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from models.measure import Runner
from models.mutations import MUTATIONS, mutate
from shared.documents import InputDocument, ModelCard, Output, Parameters, decode_card
from shared.interfaces import Tensors
from shared.model_card import Calibration, ModelFile, TextSpec, Tolerance
from shared.tensors import TensorSpec
from shared.types import Digest
from shared.verification import METHODS
from shared.verification.method import Judgement

MODELS = Path(__file__).resolve().parents[1] / "models"
TASK = Digest(hashlib.sha256(b"a task").digest())
OTHER_TASK = Digest(hashlib.sha256(b"another task").digest())

Array = npt.NDArray[np.generic]
Forward = Callable[[Tensors], Awaitable[Tensors]]


@cache
def card_of(name: str) -> ModelCard:
    return decode_card((MODELS / name / "card.json").read_bytes())


@cache
def runner_of(name: str, change: str = "") -> Runner:
    """`name` is a folder, or `digits/decoy`; `change` one of `MUTATIONS`."""
    folder, _, file = name.partition("/")
    model = (MODELS / folder / f"{file or 'model'}.onnx").read_bytes()
    return Runner(mutate(model, MUTATIONS[change]) if change else model)


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
    return await METHODS[card.method].prove(
        task_id=task_id, card=card, document=document, parameters=parameters or Parameters(), run=run
    )


async def verify(
    card: ModelCard,
    document: InputDocument,
    output: Output,
    run: Forward,
    parameters: Parameters | None = None,
    data: bytes | None = None,
) -> Judgement:
    """`data` follows from the output unless given."""
    method = METHODS[card.method]
    return await method.verify(
        task_id=TASK,
        card=card,
        document=document,
        parameters=parameters or Parameters(),
        output=output,
        data=method.data_of(card, output) if data is None else data,
        run=run,
    )


async def never_run(inputs: Tensors) -> Tensors:
    """For what must be decided without the model."""
    raise AssertionError("the model was run")


def giving(outputs: Mapping[str, Array]) -> Forward:
    """A model that gives the same for everything."""

    async def run(inputs: Tensors) -> Tensors:
        return dict(outputs)

    return run


# --- cards of no model -------------------------------------------------------------------------------
CALIBRATION = Calibration(engine="none", samples=1, configurations=(), honest_max=0.0, cheats={}, separation=0.0)


def make_card(**changes: Any) -> ModelCard:
    """A card of kind tensor: x (free, 3) to y of the same shape and whole numbers n (2), or what `changes` say."""
    card = ModelCard(
        version=1,
        name="test",
        kind="tensor",
        method="tensor",
        model=ModelFile(cid="bafkrei", sha256="00" * 32, size=1),
        inputs=(TensorSpec("x", "float32", (-1, 3)),),
        outputs=(TensorSpec("y", "float32", (-1, 3)), TensorSpec("n", "int64", (2,))),
        tolerances={"y": Tolerance(relative=1e-5, scale=10.0)},
        text=None,
        trained_on="nothing",
        licence="MIT",
        made_by="hand",
        quality={},
        calibration=CALIBRATION,
    )
    return msgspec.structs.replace(card, **changes)


def make_text_card(
    vocab: int = 258,
    context: int = 32,
    max_tokens: int = 16,
    seed: Literal["beacon", "requester"] = "requester",
) -> ModelCard:
    """A decoder of one layer, one head of width 2."""
    past = (1, -1, 1, -1, 2)
    return make_card(
        kind="text",
        method="text",
        inputs=(
            TensorSpec("ids", "int64", (-1, -1)),
            TensorSpec("past_keys", "float32", past),
            TensorSpec("past_values", "float32", past),
        ),
        outputs=(
            TensorSpec("logits", "float32", (-1, -1, vocab)),
            TensorSpec("keys", "float32", past),
            TensorSpec("values", "float32", past),
        ),
        tolerances={},
        text=TextSpec(
            tokens="bytes",
            vocab=vocab,
            bos=256,
            eos=257,
            context=context,
            max_tokens=max_tokens,
            margin=1e-4,
            seed=seed,
        ),
    )
