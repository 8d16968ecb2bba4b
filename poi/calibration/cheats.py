"""The cheats that a card is measured against: the model changed as somebody who saves money would change it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from poi.cheats.weights import SETS_FLOOR, WEIGHT_CHEATS, NotApplicable

DECOY: Final = "another model"  # `decoy.onnx`, where it lies beside the model


@dataclass(frozen=True, slots=True)
class Changed:
    """What is run instead of the model. `sets_floor`: the card's separation counts it."""

    name: str
    model: bytes
    sets_floor: bool


def changed_models(folder: Path, model: bytes) -> Iterator[Changed]:
    """Every cheat of the list that this model has something for."""
    for name, change in WEIGHT_CHEATS.items():
        try:
            yield Changed(name, change(model), name in SETS_FLOOR)
        except NotApplicable:
            continue
    if (folder / "decoy.onnx").exists():
        yield Changed(DECOY, (folder / "decoy.onnx").read_bytes(), sets_floor=True)
