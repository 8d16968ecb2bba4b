"""What a model gave, held to what its card says."""

from __future__ import annotations

import numpy as np

from shared.documents import ModelCard
from shared.errors import CodecError, InferenceFailed, InputMismatch
from shared.interfaces import Tensors
from shared.tensors import Array, TensorSpec, check_arrays, check_encodable


def check_computed(card: ModelCard, outputs: Tensors) -> dict[str, Array]:
    """The card's outputs, finite and of the card's shapes; where it has float32, a reference may give float64.

    Raises `InferenceFailed` for what no proof could carry, a double too large for float32 among it: an overflow here
    may be none on other hardware, so it is nobody's offence."""
    named = {spec.name: outputs[spec.name] for spec in card.outputs if spec.name in outputs}
    try:
        check_arrays(tuple(_as_computed(spec, named) for spec in card.outputs), named, "outputs")
        for spec in card.outputs:
            with np.errstate(over="ignore", under="ignore"):
                check_encodable(named[spec.name].astype(spec.dtype, copy=False))  # as it is going to be published
    except (InputMismatch, CodecError) as error:
        raise InferenceFailed(f"the model's output is not what its card says: {error}") from None
    return named


def _as_computed(spec: TensorSpec, outputs: Tensors) -> TensorSpec:
    array = outputs.get(spec.name)
    is_wider = spec.dtype == "float32" and array is not None and array.dtype == np.float64
    return TensorSpec(spec.name, "float64", spec.shape) if is_wider else spec
