"""The tensor codec: what goes in comes out, and what a stranger declares costs nothing."""

from __future__ import annotations

import base64
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from shared.canonical import encode_canonical
from shared.constants import MAX_TENSOR_ELEMENTS, MAX_TENSOR_RANK
from shared.errors import CodecError, InputMismatch
from shared.tensors import DTYPES, Array, Tensor, TensorSpec, check_arrays, decode_tensor, encode_tensor, shown

SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)


@st.composite
def arrays(draw: st.DrawFn) -> Array:
    """Any array that documents carry; floats are finite."""
    dtype = draw(st.sampled_from(sorted(DTYPES)))
    elements = {"allow_nan": False, "allow_infinity": False} if dtype.startswith("float") else None
    return draw(hnp.arrays(np.dtype(dtype), draw(SHAPES), elements=elements))


@given(arrays())
def test_a_tensor_survives_its_document(array: Array) -> None:
    tensor = msgspec.json.decode(encode_canonical(encode_tensor(array)), type=Tensor)
    decoded = decode_tensor(tensor)
    assert (decoded.dtype, decoded.shape) == (array.dtype, array.shape)
    assert decoded.tobytes() == array.tobytes()  # to the last bit, the sign of zero included
    assert not decoded.flags.writeable


def test_bytes_are_little_endian_in_c_order() -> None:
    array = np.arange(6, dtype=">f4").reshape(2, 3).T  # big-endian, columns first
    tensor = encode_tensor(array)
    assert (tensor.dtype, tensor.shape) == ("float32", (3, 2))
    assert tensor.data == np.array([0, 3, 1, 4, 2, 5], "<f4").tobytes()
    assert decode_tensor(tensor).tolist() == [[0, 3], [1, 4], [2, 5]]


def test_the_document_form() -> None:
    form = encode_canonical(encode_tensor(np.array([[1, 2]], np.uint8)))
    assert form == b'{"data":"' + base64.b64encode(b"\x01\x02") + b'","dtype":"uint8","shape":[1,2]}'


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_nan_and_infinities_are_refused_both_ways(value: float, dtype: Any) -> None:
    array = np.array([0, value], dtype)
    with pytest.raises(CodecError, match="NaN"):
        encode_tensor(array)
    with pytest.raises(CodecError, match="NaN"):
        decode_tensor(Tensor(dtype, (2,), array.tobytes()))


@pytest.mark.parametrize(
    "array",
    [np.zeros(1, np.float16), np.zeros(1, np.complex64), np.zeros(1, np.uint64), np.array(["a"]), np.array([None])],
)
def test_other_dtypes_are_refused(array: Array) -> None:
    with pytest.raises(CodecError, match="dtype"):
        encode_tensor(array)


def test_what_is_over_the_limits_is_not_encoded() -> None:
    for array in (np.zeros(MAX_TENSOR_ELEMENTS + 1, bool), np.zeros((1,) * (MAX_TENSOR_RANK + 1), bool)):
        with pytest.raises(CodecError, match="limits"):
            encode_tensor(array)


@pytest.mark.parametrize(
    ("shape", "size"),
    [((2,), 7), ((2,), 9), ((2,), 0), ((), 0), ((0,), 4), ((1 << 22, 1 << 22), 4), ((1 << 22,) * 8, 0), ((3, 0), 12)],
)
def test_a_declared_shape_must_be_the_datas(shape: tuple[int, ...], size: int) -> None:
    with pytest.raises(CodecError):
        decode_tensor(Tensor("float32", shape, bytes(size)))


@pytest.mark.parametrize("shape", [(0, *(1 << 22,) * 3), (*(1 << 22,) * 7, 0), (0, 1 << 22, 2)])
def test_a_dimension_of_0_hides_none_that_no_array_can_have(shape: tuple[int, ...]) -> None:
    with pytest.raises(CodecError, match="at most"):
        decode_tensor(Tensor("float32", shape, b""))


def test_no_elements_and_one_element() -> None:
    assert decode_tensor(Tensor("float32", (3, 0), b"")).shape == (3, 0)
    assert decode_tensor(Tensor("int64", (), bytes(8))).shape == ()


def test_a_bool_has_two_values() -> None:
    assert decode_tensor(Tensor("bool", (2,), b"\x00\x01")).tolist() == [False, True]
    with pytest.raises(CodecError, match="bool"):
        decode_tensor(Tensor("bool", (2,), b"\x00\x02"))


@pytest.mark.parametrize(
    "form",
    [
        b'{"data":"","dtype":"float32","shape":[-1]}',
        b'{"data":"","dtype":"float32","shape":[4194305]}',
        b'{"data":"","dtype":"float32","shape":[0,0,0,0,0,0,0,0,0]}',
        b'{"data":"","dtype":"float16","shape":[0]}',
        b'{"data":"","dtype":"object","shape":[0]}',
        b'{"data":"","dtype":"float32","shape":[0.0]}',
        b'{"data":"","dtype":"float32","shape":[99999999999999999999999]}',
        b'{"data":"","dtype":"float32"}',
        b'{"data":"*","dtype":"float32","shape":[0]}',
        b'{"data":[],"dtype":"float32","shape":[0]}',
        b'{"data":"","dtype":"float32","shape":[0],"order":"F"}',
    ],
)
def test_other_forms_are_refused(form: bytes) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(form, type=Tensor)


# --- what a model takes ------------------------------------------------------------------------------
SPECS = (TensorSpec("a", "float32", (-1, 3)), TensorSpec("b", "bool", ()))
FIT: dict[str, Array] = {"a": np.zeros((2, 3), np.float32), "b": np.array(True)}


def test_what_fits_fits() -> None:
    check_arrays(SPECS, FIT)


@pytest.mark.parametrize(
    ("changes", "field", "expected", "got"),
    [
        ({"c": np.zeros(1)}, "tensors.c", "one of a, b", "an unknown name"),
        ({"a": np.zeros((2, 3))}, "tensors.a.dtype", "float32", "float64"),
        ({"a": np.zeros((2, 4), np.float32)}, "tensors.a.shape", "[-1, 3]", "[2, 4]"),
        ({"a": np.zeros((3,), np.float32)}, "tensors.a.shape", "[-1, 3]", "[3]"),
        ({"b": np.array([True])}, "tensors.b.shape", "[]", "[1]"),
        ({"\n" * 500: np.zeros(1)}, "tensors." + r"\n" * 38 + "\\...", "one of a, b", "an unknown name"),
    ],
)
def test_what_does_not_fit_is_named(changes: dict[str, Array], field: str, expected: str, got: str) -> None:
    with pytest.raises(InputMismatch) as caught:
        check_arrays(SPECS, {**FIT, **changes})
    assert (caught.value.field, caught.value.expected, caught.value.got) == (field, expected, got)


def test_what_is_missing_is_named() -> None:
    with pytest.raises(InputMismatch) as caught:
        check_arrays(SPECS, {"a": FIT["a"]})
    assert (caught.value.field, caught.value.expected) == ("tensors.b", "a bool tensor")


@given(st.text())
def test_a_strangers_text_is_short_and_plain_in_errors(text: str) -> None:
    assert len(shown(text)) <= 80
    assert shown(text).isascii()
    assert shown(text).isprintable()
