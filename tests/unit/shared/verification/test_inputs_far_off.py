"""An input far from those of calibration: honest runs differ by more than the card knows, and nobody is to blame."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec
import numpy as np
import pytest

from shared.adapters.engine_onnx import OnnxEngine
from shared.adapters.engine_reference import ReferenceEngine
from shared.documents import InputDocument, Parameters, decode_card, validate_input
from shared.errors import InputMismatch
from shared.interfaces import InferenceEngine, Tensors
from shared.reasons import AbstainReason, InvalidReason
from shared.types import Digest, Verdict
from shared.verification.method import Forward
from tests.inference_support import prove, verify

FOLDER = Path("models/digits")
MODEL = (FOLDER / "model.onnx").read_bytes()
CARD = decode_card((FOLDER / "card.json").read_bytes())
BOUNDLESS = msgspec.structs.replace(CARD, reach={})
HASH = Digest(hashlib.sha256(MODEL).digest())
BYTES = 1 << 24


async def forward_of(engine: InferenceEngine) -> Forward:
    await engine.load(HASH, MODEL)

    async def forward(inputs: Tensors) -> Tensors:
        return await engine.run(HASH, inputs)

    return forward


@pytest.mark.parametrize("times", [100.0, 1000.0, 1e6])
async def test_a_requester_cannot_have_an_honest_performer_refuted(times: float) -> None:
    image = np.random.default_rng(0).normal(size=(1, 1, 8, 8)) * times
    document = InputDocument(tensors={"image": image.astype(np.float32)})
    engines = (
        ReferenceEngine(max_loaded_bytes=BYTES),
        OnnxEngine(max_loaded_bytes=BYTES),
        OnnxEngine(max_loaded_bytes=BYTES, precision="fp64", rounded=True),
    )
    performer, attester, reference = [await forward_of(engine) for engine in engines]
    output = await prove(BOUNDLESS, document, performer)
    judgement = await verify(BOUNDLESS, document, output, attester, reference=reference)
    assert (judgement.verdict, judgement.reason) == (Verdict.ABSTAIN, AbstainReason.INPUT_UNUSABLE)
    for engine in engines:
        await engine.close()


async def test_a_lie_about_a_usual_input_stays_one() -> None:
    document = InputDocument(tensors={"image": np.ones((1, 1, 8, 8), np.float32)})
    engine, exact = OnnxEngine(max_loaded_bytes=BYTES), OnnxEngine(max_loaded_bytes=BYTES, precision="fp64")
    honest, reference = await forward_of(engine), await forward_of(exact)

    async def liar(inputs: Tensors) -> Tensors:
        return {"scores": (await honest(inputs))["scores"] + np.float32(0.01)}

    output = await prove(CARD, document, liar)
    judgement = await verify(CARD, document, output, honest, reference=reference)
    assert (judgement.verdict, judgement.reason) == (Verdict.INVALID, InvalidReason.SCORES_DIFFER)
    await engine.close()
    await exact.close()


async def test_a_card_says_how_far_inputs_may_go() -> None:
    """Beyond it nobody performs, and nobody judges."""
    reach = CARD.reach["image"]
    furthest = np.full((1, 1, 8, 8), -reach, np.float32)
    validate_input(CARD, InputDocument(tensors={"image": np.nextafter(furthest, np.float32(0))}), Parameters())
    with pytest.raises(InputMismatch, match=r"tensors\.image: expected magnitudes up to") as refused:
        validate_input(CARD, InputDocument(tensors={"image": furthest * np.float32(1.01)}), Parameters())
    assert refused.value.field == "tensors.image"
