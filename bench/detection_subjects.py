"""The models that are tried, each with its card, its bytes, and as many inputs and tasks as wanted."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from models.samples import read_documents
from shared.documents import InputDocument, ModelCard, Parameters, decode_card
from shared.errors import CodecError
from shared.interfaces import Tensors
from shared.tensors import Array
from shared.types import Address, Digest
from shared.verification import METHODS
from shared.verification.method import Method, Work

SAMPLED: Final = Parameters(max_tokens=64, temperature=0.8, top_k=40)
GREEDY: Final = Parameters(max_tokens=64)
BLUR: Final = 0.02  # of a sample's own spread: other sums, which round differently
PERFORMER: Final = Address(b"\x01" * 20)


@dataclass(frozen=True)
class Subject:
    """One model."""

    name: str  # of its folder
    card: ModelCard
    model: bytes
    documents: tuple[InputDocument, ...]
    folder: Path

    @property
    def method(self) -> Method:
        return METHODS[self.card.method]

    def works(self, count: int, parameters: Parameters = SAMPLED) -> list[Work]:
        """`count` tasks: every sample in turn, and from the second round on a little changed. No two are the same."""
        noise = np.random.default_rng(0)
        works = []
        for number in range(count):
            document = self.documents[number % len(self.documents)]
            if number >= len(self.documents) and document.tensors is not None:
                other = self.documents[(number * 7 + 1) % len(self.documents)].tensors or {}
                document = InputDocument(tensors=_varied(document.tensors, other, noise))
            task_id = Digest(hashlib.sha256(f"{self.name} {number}".encode()).digest())
            works.append(Work(task_id, PERFORMER, self.card, document, self._parameters(parameters)))
        return works

    def _parameters(self, parameters: Parameters) -> Parameters:
        return parameters if self.card.text is not None else Parameters()


def read_subjects(folder: Path, methods: frozenset[str]) -> Iterator[Subject]:
    """Every model of the folder whose card is verified by one of `methods`. A card that cannot be read is an error:
    a table that leaves a model out would look complete."""
    for path in sorted(folder.glob("*/card.json")):
        try:
            card = decode_card(path.read_bytes())
        except CodecError as error:
            raise SystemExit(f"{path}: {error}; make the card anew with `poi calibrate`") from None
        if card.method in methods:
            model = (path.parent / "model.onnx").read_bytes()
            yield Subject(path.parent.name, card, model, tuple(read_documents(path.parent)), path.parent)


def _varied(sample: Tensors, other: Tensors, noise: np.random.Generator) -> dict[str, Array]:
    """Floats with noise; whole numbers, which may be ids, in part from another sample."""
    return {
        name: _blurred(array, noise) if array.dtype.kind == "f" else _spliced(array, other[name], noise)
        for name, array in sample.items()
    }


def _blurred(array: Array, noise: np.random.Generator) -> Array:
    values = array.astype(np.float64)
    spread = BLUR * float(values.std() or 1.0)
    blurred: Array = (values + noise.standard_normal(array.shape) * spread).astype(array.dtype)
    return blurred


def _spliced(array: Array, other: Array, noise: np.random.Generator) -> Array:
    if array.shape != other.shape:
        return array
    cut = int(noise.integers(1, max(2, array.shape[-1])))
    spliced: Array = np.concatenate([array[..., :cut], other[..., cut:]], -1)
    return spliced
