"""Measure how far honest runs of a model lie apart, set its tolerance from that, measure cheats, and write `card.json`.

    python -m models.calibrate models/digits

The folder holds `model.onnx`, `about.json` (the card's words and shapes), `quality.json`, and sample inputs (see
`samples.py`). A tolerance is four times the largest honest distance: the same model on instruction sets that nobody
here has stayed within that by a wide margin, and float16 weights lie far outside. A card whose cheats lie within is
not written.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import sys
from pathlib import Path
from typing import Any

import onnxruntime

from models.measure import FLOOR, Measured, Runner, measure_tensors, measure_text
from models.samples import read_documents
from poi.cheats.weights import SETS_FLOOR, WEIGHT_CHEATS, NotApplicable
from shared.canonical import decode_json, encode_canonical
from shared.constants import MAX_CARD_BYTES
from shared.content.unixfs import build_file
from shared.model_card import Calibration, ModelCard, decode_card

REQUIRED_SEPARATION = 2.0


def calibrate(folder: Path) -> ModelCard:
    """The card of the model in `folder`. Raises `SystemExit` when cheats cannot be told from honest runs."""
    model = (folder / "model.onnx").read_bytes()
    about = json.loads((folder / "about.json").read_text())
    documents = read_documents(folder)
    cheats = {}
    for name in sorted(SETS_FLOOR):
        with contextlib.suppress(NotApplicable):
            cheats[name] = WEIGHT_CHEATS[name](model)
    decoy = folder / "decoy.onnx"
    if decoy.exists():
        cheats["another model"] = decoy.read_bytes()
    draft = _draft(model, about, json.loads((folder / "quality.json").read_text()))
    measure = measure_text if draft.text else measure_tensors
    measured = measure(draft, Runner(model), {name: Runner(cheat) for name, cheat in cheats.items()}, documents)
    if measured.separation < REQUIRED_SEPARATION:
        raise SystemExit(f"{folder}: cheats lie within {measured.separation:.2f} tolerances of honest runs")
    return _finish(draft, measured)


def _draft(model: bytes, about: dict[str, Any], quality: dict[str, float]) -> ModelCard:
    """A card with everything but what is to be measured."""
    outputs = [output["name"] for output in about["outputs"]] if about["kind"] != "text" else []
    cid, size = build_file(io.BytesIO(model), lambda _: None)
    form = {
        **about,
        "version": 1,
        "model": {"cid": cid, "sha256": hashlib.sha256(model).hexdigest(), "size": size},
        "tolerances": {name: {"relative": FLOOR, "scale": 1.0} for name in outputs},
        "text": {**about["text"], "margin": FLOOR} if about.get("text") else None,
        "quality": quality,
        "calibration": {
            "engine": f"onnxruntime {onnxruntime.__version__}",
            "samples": 1,
            "configurations": [],
            "honestMax": 0.0,
            "cheats": {},
            "separation": 0.0,
        },
    }
    return decode_json(encode_canonical(form), ModelCard, "about.json", max_bytes=MAX_CARD_BYTES)


def _finish(draft: ModelCard, measured: Measured) -> ModelCard:
    form = {
        **json.loads(encode_canonical(draft)),
        **json.loads(encode_canonical(measured.limits)),
        "calibration": Calibration(
            engine=draft.calibration.engine,
            samples=measured.samples,
            configurations=measured.configurations,
            honest_max=measured.honest_max,
            cheats=measured.cheats,
            separation=measured.separation,
        ),
    }
    return decode_card(encode_canonical(form))


def main() -> None:
    parser = argparse.ArgumentParser(description="Calibrate a model and write its card.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, help="where the card goes instead of FOLDER/card.json")
    arguments = parser.parse_args()
    card = calibrate(arguments.folder)
    (arguments.out or arguments.folder / "card.json").write_bytes(encode_canonical(card))
    json.dump(json.loads(encode_canonical(card)), sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()
