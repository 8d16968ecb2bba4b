"""The eight highest logits of each position: which they are, how they are packed, and what is refused."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from shared.errors import CodecError
from shared.top_logits import TOPS, TopLogits, normalise, pack, top_logits, unpack

LOGITS = hnp.arrays(
    np.float32, st.tuples(st.integers(1, 5), st.integers(1, 40)), elements=st.floats(-1e4, 1e4, width=32)
)


def are_equal(one: TopLogits, other: TopLogits) -> bool:
    return np.array_equal(one.ids, other.ids) and np.array_equal(one.values, other.values)


@given(LOGITS)
def test_what_is_packed_comes_out_again(logits: npt.NDArray[np.float32]) -> None:
    tokens, vocabulary = logits.shape
    tops = top_logits(normalise(logits))
    packed = pack(tops, vocabulary)
    assert len(packed) == tokens * min(TOPS, vocabulary) * 6
    assert are_equal(unpack(packed, tokens, vocabulary), tops)


@given(LOGITS)
def test_they_are_the_highest_in_order(logits: npt.NDArray[np.float32]) -> None:
    normalised = normalise(logits)
    tops = top_logits(normalised)
    for row, ids in zip(normalised, tops.ids, strict=True):
        assert len(set(ids.tolist())) == len(ids)
        ordered = sorted(range(len(row)), key=lambda token: (-row[token], token))
        assert ids.tolist() == ordered[: len(ids)]


@given(LOGITS)
def test_normalised_logits_are_log_probabilities(logits: npt.NDArray[np.float32]) -> None:
    normalised = normalise(logits)
    np.testing.assert_allclose(np.exp(normalised).sum(-1), 1, rtol=1e-9)
    np.testing.assert_allclose(normalise(logits + 100), normalised, atol=0.02)  # float32 near 1e4 has steps of 1e-3


def test_a_large_vocabulary_has_ids_of_four_bytes() -> None:
    for vocabulary, width in ((1 << 16, 2), ((1 << 16) + 1, 4)):
        tops = TopLogits(np.arange(vocabulary - TOPS, vocabulary)[None], np.zeros((1, TOPS), np.float32))
        packed = pack(tops, vocabulary)
        assert len(packed) == TOPS * (width + 4)
        assert are_equal(unpack(packed, 1, vocabulary), tops)


def test_the_layout_is_that_of_the_protocol() -> None:
    tops = TopLogits(np.array([[258, 1]]), np.array([[-0.5, -2]], np.float32))
    assert pack(tops, 2).hex() == "02010100" + "000000bf" + "000000c0"  # ids of 2 bytes, then values, little-endian


def test_no_tokens_have_no_bytes() -> None:
    assert pack(TopLogits(np.zeros((0, 8), np.int64), np.zeros((0, 8), np.float32)), 258) == b""
    assert unpack(b"", 0, 258).ids.shape == (0, 8)


@pytest.mark.parametrize("size", [0, 1, 47, 49, 96])
def test_another_size_is_refused(size: int) -> None:
    with pytest.raises(CodecError, match=f"{size} bytes for 1 tokens, expected 48"):
        unpack(bytes(size), 1, 258)


@pytest.mark.parametrize("ids", [[0, 1, 2, 3, 4, 5, 6, 258], [0, 1, 2, 3, 4, 5, 6, 0], [7] * 8])
def test_an_id_outside_the_vocabulary_or_twice_is_refused(ids: list[int]) -> None:
    packed = pack(TopLogits(np.array([ids]), np.zeros((1, 8), np.float32)), 258)
    with pytest.raises(CodecError, match="outside the vocabulary, or twice"):
        unpack(packed, 1, 258)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_refused(value: float) -> None:
    values = np.zeros((1, 8), np.float32)
    values[0, 3] = value
    with pytest.raises(CodecError, match="NaN"):
        unpack(pack(TopLogits(np.arange(8)[None], values), 258), 1, 258)


@given(st.binary(max_size=200), st.integers(0, 5), st.sampled_from([1, 8, 258, 70_000]))
def test_any_bytes_are_tops_or_a_codec_error(data: bytes, tokens: int, vocabulary: int) -> None:
    try:
        tops = unpack(data, tokens, vocabulary)
    except CodecError:
        return
    assert pack(tops, vocabulary) == data


# Few values, so that many tie, also for the last place.
CROWDED = hnp.arrays(
    np.float64, st.tuples(st.integers(1, 4), st.integers(2, 20)), elements=st.sampled_from([-1.0, 0.0, 0.5])
)


@given(CROWDED)
def test_of_equals_the_lower_id_comes_first(normalised: npt.NDArray[np.float64]) -> None:
    tops = top_logits(normalised)
    for row, ids in zip(normalised.tolist(), tops.ids.tolist(), strict=True):
        assert ids == sorted(range(len(row)), key=lambda token: (-row[token], token))[:TOPS]
