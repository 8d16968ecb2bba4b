"""The decoder in bfloat16, as fused kernels run it: its card, honest engines, and those of cheats."""

from __future__ import annotations

from functools import cache

import msgspec

from poi.calibration.sequence import nudged
from poi.cheats.weights import WEIGHT_CHEATS
from shared.adapters.onnx_precision import convert
from shared.adapters.onnx_runner import Runner
from shared.card_parts import Sequence, Tolerance
from shared.documents import ModelCard
from shared.model_card import check_card
from shared.profiles import Profile
from shared.verification.method import Compute
from tests.inference_support import MODELS, card_of, reference_of

# As `poi calibrate models/text --profile bf16 --method sequential` measures it, rounded up.
SEQUENCE = Sequence(honest_mean=0.017, honest_deviation=0.43, honest_miss=0.001, shift=0.06, limit=9.22)


@cache
def bf16_card() -> ModelCard:
    text = card_of("text")
    if text.text is None:
        raise TypeError("the decoder's card has no text")
    card = msgspec.structs.replace(
        text,
        method="sequential",
        profile=Profile.BF16,
        tolerances={"logits": Tolerance(relative=0.04, scale=20.0)},
        text=msgspec.structs.replace(text.text, margin=0.3, seed="requester"),
        sequence=SEQUENCE,
    )
    check_card(card)
    return card


@cache
def bf16(change: str = "") -> Runner:
    """An engine in bfloat16; `change` one of `WEIGHT_CHEATS`, or a number: an honest neighbour's seed."""
    model = (MODELS / "text" / "model.onnx").read_bytes()
    if change.isdigit():
        model = nudged(model, int(change))
    elif change:
        model = WEIGHT_CHEATS[change](model)
    return Runner(convert(model, "bf16", fused=True))


def attester() -> Compute:
    return Compute(bf16().forward, reference_of("text").forward)
