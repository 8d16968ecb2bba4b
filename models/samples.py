"""The sample inputs beside each model, as input documents."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np

from shared.canonical import encode_canonical
from shared.documents import InputDocument, decode_input

SENTENCE_BYTES: Final = 64  # what the sentence encoder takes, padded with PAD
PAD: Final = 256


def read_documents(folder: Path) -> list[InputDocument]:
    """From whichever file of sample inputs lies in the folder; see READERS."""
    for name, read in READERS.items():
        if (folder / name).exists():
            return [read(row) for row in json.loads((folder / name).read_text())]
    raise FileNotFoundError(f"{folder}: no sample inputs; one of {', '.join(READERS)} is expected")


def prompt_document(prompt: str) -> InputDocument:
    return InputDocument(prompt=prompt)


def image_document(pixels: list[int]) -> InputDocument:
    """What the digit classifier takes: intensities from 0 to 1."""
    return InputDocument(tensors={"image": np.array(pixels, np.float32).reshape(1, 1, 8, 8) / np.float32(16)})


def sentence_document(text: str) -> InputDocument:
    """What the sentence encoder takes: bytes of UTF-8 as ids (1, 64). Raises `ValueError` for a longer text: a cut one
    would be another."""
    data = text.encode()
    if len(data) > SENTENCE_BYTES:
        raise ValueError(f"a sentence has at most {SENTENCE_BYTES} bytes of UTF-8, this one has {len(data)}: split it")
    ids = np.full((1, SENTENCE_BYTES), PAD, np.int64)
    ids[0, : len(data)] = np.frombuffer(data, np.uint8)
    return InputDocument(tensors={"ids": ids})


def row_document(features: list[float]) -> InputDocument:
    """What the models of tables take: float32 features (1, columns)."""
    return InputDocument(tensors={"features": np.array([features], np.float32)})


# file beside the model: its rows as documents
READERS: Final[dict[str, Callable[[Any], InputDocument]]] = {
    "prompts.json": prompt_document,
    "samples.json": lambda row: image_document(row["pixels"]),
    "sentences.json": sentence_document,
    "rows.json": lambda row: row_document(row["features"]),
    "inputs.json": lambda document: decode_input(encode_canonical(document)),  # of a model of your own
}
