"""The sample inputs beside each model, as input documents."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from shared.canonical import encode_canonical
from shared.documents import InputDocument, decode_input


def read_documents(folder: Path) -> list[InputDocument]:
    """From `prompts.json` (texts), `samples.json` (images of 8 × 8 pixels from 0 to 16), or a model of your own's
    `inputs.json` (input documents)."""
    if (folder / "prompts.json").exists():
        return [InputDocument(prompt=prompt) for prompt in json.loads((folder / "prompts.json").read_text())]
    if (folder / "samples.json").exists():
        return [image_document(row["pixels"]) for row in json.loads((folder / "samples.json").read_text())]
    return [decode_input(encode_canonical(document)) for document in json.loads((folder / "inputs.json").read_text())]


def image_document(pixels: list[int]) -> InputDocument:
    """What the digit classifier takes: intensities from 0 to 1."""
    return InputDocument(tensors={"image": np.array(pixels, np.float32).reshape(1, 1, 8, 8) / np.float32(16)})
