"""Small cards of no model at all, and whose tasks they are for."""

from __future__ import annotations

import hashlib
from typing import Any, Literal

import msgspec

from shared.card_parts import Calibration, Golden, ModelFile, TextSpec, Tolerance
from shared.documents import ModelCard
from shared.profiles import Profile
from shared.tensors import TensorSpec
from shared.types import Address, Digest

TASK = Digest(hashlib.sha256(b"a task").digest())
OTHER_TASK = Digest(hashlib.sha256(b"another task").digest())
PERFORMER = Address(bytes([7]) * 20)

CALIBRATION = Calibration(engines=("none",), samples=1, configurations={}, honest_max=0.0, cheats={}, separation=9.0)


def make_card(**changes: Any) -> ModelCard:
    """A card of kind tensor: x (free, 3) to y of the same shape and whole numbers n (2), or what `changes` say."""
    card = ModelCard(
        version=2,
        name="test",
        kind="tensor",
        method="tensor",
        profile=Profile.FP32,
        model=ModelFile(cid="bafkrei", sha256="00" * 32, size=1),
        inputs=(TensorSpec("x", "float32", (-1, 3)),),
        outputs=(TensorSpec("y", "float32", (-1, 3)), TensorSpec("n", "int64", (2,))),
        tolerances={"y": Tolerance(relative=1e-5, scale=10.0)},
        reach={},
        text=None,
        trained_on="nothing",
        licence="MIT",
        made_by="hand",
        quality={},
        calibration=CALIBRATION,
        golden=Golden(cid="bafkrei", vectors=1),
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
        tolerances={"logits": Tolerance(relative=1e-5, scale=10.0)},
        text=TextSpec(
            tokens="bytes",
            vocab=vocab,
            bos=256,
            eos=257,
            context=context,
            max_tokens=max_tokens,
            margin=1e-4,
            sampler="gumbel-philox-1",
            seed=seed,
        ),
    )


def make_json_card(**changes: Any) -> ModelCard:
    """A card without a model."""
    return make_card(
        kind="json",
        profile=Profile.EXACT_INT,
        model=None,
        inputs=(),
        outputs=(),
        tolerances={},
        calibration=None,
        golden=None,
        **changes,
    )
