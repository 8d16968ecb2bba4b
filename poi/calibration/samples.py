"""What a model is run on to be calibrated: the sample inputs beside it, and the same with a little noise."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from shared.canonical import encode_canonical
from shared.documents import InputDocument, decode_input
from shared.errors import CodecError, ConfigError
from shared.interfaces import Tensors
from shared.tensors import Array

Float64 = npt.NDArray[np.float64]

LEAST_INPUTS = 256  # of tensors: sums that round differently come with different numbers
NOISE = 0.05  # of a value's standard deviation over the samples


def read_samples(folder: Path, file: Path | None) -> list[InputDocument]:
    """From `file`, a JSON list of input documents, or else from what lies beside the model. Raises `ConfigError`."""
    try:
        documents = _read_list(file) if file is not None else _read_folder(folder)
    except (OSError, ValueError, CodecError) as error:
        raise ConfigError(f"sample inputs: {error}; expected a JSON list of input documents, see --samples") from None
    if not documents:
        raise ConfigError(f"{file or folder}: no sample inputs; a few dozen real ones are needed")
    return documents


def _read_list(file: Path) -> list[InputDocument]:
    return [decode_input(encode_canonical(document)) for document in json.loads(file.read_text())]


def _read_folder(folder: Path) -> list[InputDocument]:
    if (folder / "inputs.json").exists():
        return _read_list(folder / "inputs.json")
    try:
        from models.samples import read_documents
    except ModuleNotFoundError:
        raise ConfigError(f"{folder} has no inputs.json; write one, or name a file of inputs: --samples") from None
    return read_documents(folder)


def with_noise(inputs: Sequence[Tensors], least: int = LEAST_INPUTS) -> list[Tensors]:
    """The inputs, and noisy copies of those that have floats until there are `least`."""
    floats = [name for name, array in inputs[0].items() if array.dtype.kind == "f"]
    if not floats or len(inputs) >= least:
        return list(inputs)
    noise = np.random.default_rng(0)
    deviations = {name: _deviation([sample[name] for sample in inputs]) for name in floats}
    copies = islice(cycle(inputs), least - len(inputs))
    return [*inputs, *(_blurred(sample, deviations, noise) for sample in copies)]


def _blurred(sample: Tensors, deviations: Mapping[str, Float64], noise: np.random.Generator) -> Tensors:
    blurred = dict(sample)
    for name, deviation in deviations.items():
        array = sample[name]
        moved = array.astype(np.float64) + NOISE * deviation * noise.standard_normal(array.shape)
        blurred[name] = moved.astype(array.dtype)
    return blurred


def _deviation(arrays: Sequence[Array]) -> Float64:
    """Of each value over the samples; of all values together where there is one sample, or where shapes differ."""
    wide = [array.astype(np.float64) for array in arrays]
    if len(wide) == 1 or len({array.shape for array in wide}) > 1:
        return np.asarray(np.std(np.concatenate([array.ravel() for array in wide])))
    return np.asarray(np.std(np.stack(wide), axis=0))
