"""Tensors in documents (protocol §5): `{"dtype","shape","data"}`, base64 of the little-endian C-order bytes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Meta

from shared.constants import MAX_TENSOR_ELEMENTS, MAX_TENSOR_RANK
from shared.errors import CodecError, InputMismatch

Array = npt.NDArray[np.generic]
DType = Literal["float32", "float64", "int32", "int64", "uint8", "bool"]

# Fixed byte order: a document means the same on every machine.
DTYPES: dict[str, np.dtype[np.generic]] = {
    "float32": np.dtype("<f4"),
    "float64": np.dtype("<f8"),
    "int32": np.dtype("<i4"),
    "int64": np.dtype("<i8"),
    "uint8": np.dtype("u1"),
    "bool": np.dtype("?"),
}
MAX_TENSORS = 16  # in one document; the graphs that people publish have one to four inputs
MAX_NAME_CHARACTERS = 256
_SHOWN_CHARACTERS = 80  # of a stranger's text in an error

Name = Annotated[str, Meta(min_length=1, max_length=MAX_NAME_CHARACTERS)]
Dimension = Annotated[int, Meta(ge=0, le=MAX_TENSOR_ELEMENTS)]
# A free dimension of a model is -1.
FreeDimension = Annotated[int, Meta(ge=-1, le=MAX_TENSOR_ELEMENTS)]


class Tensor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A tensor as documents carry it. `data` may still be of the wrong size: `decode_tensor` finds out."""

    dtype: DType
    shape: Annotated[tuple[Dimension, ...], Meta(max_length=MAX_TENSOR_RANK)]
    data: bytes


Tensors = Annotated[dict[Name, Tensor], Meta(min_length=1, max_length=MAX_TENSORS)]


class TensorSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a model takes or gives under one name."""

    name: Name
    dtype: DType
    shape: Annotated[tuple[FreeDimension, ...], Meta(max_length=MAX_TENSOR_RANK)]

    def admits(self, shape: tuple[int, ...]) -> bool:
        """Same rank, and equal wherever the model's dimension is fixed."""
        return len(shape) == len(self.shape) and all(
            wanted in (-1, got) for wanted, got in zip(self.shape, shape, strict=True)
        )


def encode_tensor(array: Array) -> Tensor:
    """Raises `CodecError`, as `check_encodable`."""
    check_encodable(array)
    data = array.astype(DTYPES[array.dtype.name], copy=False).tobytes()  # always in C order
    return Tensor(dtype=array.dtype.name, shape=array.shape, data=data)  # type: ignore[arg-type]  # checked above


def check_encodable(array: Array) -> None:
    """Raises `CodecError` for other dtypes, NaN, infinities, and what is over the limits."""
    name = array.dtype.name
    if name not in DTYPES:
        raise CodecError(f"tensor: dtype {name} is not one of {', '.join(DTYPES)}")
    if array.ndim > MAX_TENSOR_RANK or _extent(array.shape) > MAX_TENSOR_ELEMENTS:
        raise CodecError(f"tensor: shape {list(array.shape)} is over the limits")
    check_finite(array)


def decode_tensor(tensor: Tensor) -> Array:
    """A read-only view of the tensor's bytes. Raises `CodecError` for a wrong number of bytes, NaN and infinities.

    The shape is measured before anything is allocated: a declared terabyte costs nothing.
    """
    dtype = DTYPES[tensor.dtype]
    if _extent(tensor.shape) > MAX_TENSOR_ELEMENTS:
        raise CodecError(f"tensor: shape {list(tensor.shape)}, at most {MAX_TENSOR_ELEMENTS} elements are allowed")
    elements = math.prod(tensor.shape)
    if len(tensor.data) != elements * dtype.itemsize:
        raise CodecError(f"tensor: {len(tensor.data)} bytes for shape {list(tensor.shape)} of {tensor.dtype}")
    if tensor.dtype == "bool" and tensor.data.strip(b"\x00\x01"):
        raise CodecError("tensor: a bool is 0 or 1")
    array = np.frombuffer(tensor.data, dtype).reshape(tensor.shape)
    check_finite(array)
    return array


def check_arrays(specs: tuple[TensorSpec, ...], arrays: Mapping[str, Array], path: str = "tensors") -> None:
    """Names, dtypes and shapes against what the model takes. Raises `InputMismatch` with the path of the first wrong
    one, as `tensors.image.shape`."""
    wanted = {spec.name for spec in specs}
    for name in arrays:
        if name not in wanted:
            raise InputMismatch(f"{path}.{shown(name)}", f"one of {', '.join(sorted(wanted))}", "an unknown name")
    for spec in specs:
        array = arrays.get(spec.name)
        if array is None:
            raise InputMismatch(f"{path}.{spec.name}", f"a {spec.dtype} tensor", "nothing")
        if array.dtype.name != spec.dtype:
            raise InputMismatch(f"{path}.{spec.name}.dtype", spec.dtype, array.dtype.name)
        if not spec.admits(array.shape):
            raise InputMismatch(f"{path}.{spec.name}.shape", str(list(spec.shape)), str(list(array.shape)))


def shown(text: str) -> str:
    """A stranger's text, cut and escaped for an error."""
    escaped = ascii(text)[1:-1]
    return escaped if len(escaped) <= _SHOWN_CHARACTERS else escaped[: _SHOWN_CHARACTERS - 3] + "..."


def _extent(shape: tuple[int, ...]) -> int:
    """Elements, where a dimension of 0 counts as 1: a 0 must not hide others whose product no array can have."""
    return math.prod(max(1, size) for size in shape)


def check_finite(array: Array) -> None:
    """Raises `CodecError`."""
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise CodecError("tensor: NaN and infinities are refused")
