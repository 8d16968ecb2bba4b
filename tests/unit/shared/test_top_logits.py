from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from shared.errors import CodecError
from shared.top_logits import TopLogits, normalise, pack, top_logits, unpack

# Few values, so that many tie, also for the last place.
CROWDED = hnp.arrays(np.float64, st.tuples(st.integers(1, 4), st.integers(2, 20)), elements=st.sampled_from([-1.0, 0.0, 0.5]))
SPREAD = hnp.arrays(np.float64, st.tuples(st.integers(1, 4), st.integers(2, 20)), elements=st.floats(-9, 9))


@given(st.one_of(CROWDED, SPREAD))
def test_the_highest_come_first_and_of_equals_the_lower_id(logits):
    tops = top_logits(logits)
    for row, ids, values in zip(logits, tops.ids, tops.values, strict=True):
        expected = sorted(range(len(row)), key=lambda index: (-row[index], index))[:8]
        assert ids.tolist() == expected
        np.testing.assert_array_equal(values, row[expected].astype(np.float32))


def test_normalised_logits_are_log_probabilities():
    logits = np.array([[1.0, 2.0, 3.0], [1000.0, 0.0, -1000.0]], np.float32)
    np.testing.assert_allclose(np.exp(normalise(logits)).sum(-1), [1.0, 1.0])
    np.testing.assert_allclose(normalise(logits), normalise(logits + 7))


@pytest.mark.parametrize(("vocabulary", "size"), [(258, 48), (1 << 16, 48), ((1 << 16) + 1, 64), (3, 18)])
def test_bytes_a_token(vocabulary, size):
    logits = np.zeros((2, vocabulary))
    tops = top_logits(logits)
    data = pack(tops, vocabulary)
    assert len(data) == 2 * size
    again = unpack(data, 2, vocabulary)
    np.testing.assert_array_equal(again.ids, tops.ids)
    np.testing.assert_array_equal(again.values, tops.values)


def test_strangers_bytes_are_refused_by_what_is_wrong():
    good = pack(top_logits(np.zeros((1, 258))), 258)
    with pytest.raises(CodecError, match="47 bytes for 1 tokens, expected 48"):
        unpack(good[:-1], 1, 258)
    with pytest.raises(CodecError, match="twice"):
        unpack(good[:2] * 2 + good[4:], 1, 258)
    with pytest.raises(CodecError, match="outside"):
        unpack(b"\xff\xff" + good[2:], 1, 258)
    nan = TopLogits(np.arange(8)[np.newaxis], np.full((1, 8), np.nan, np.float32))
    with pytest.raises(CodecError, match="NaN"):
        unpack(pack(nan, 258), 1, 258)
