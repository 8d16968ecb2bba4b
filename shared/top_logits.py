"""The highest logits of each position, as a text's proof carries them: 48 bytes a token for vocabularies up to 65,536.

Layout, for each token in turn: 8 ids (unsigned, little-endian, 2 bytes each, or 4 where the vocabulary has more than
65,536 entries), then 8 float32 values (little-endian) in the same order, highest first. Values are *normalised*:
logit − log Σ exp(logits), the log-probability at temperature 1, so that engines which only give log-probabilities can
be compared with those that give logits. A vocabulary of fewer than 8 entries gives all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from shared.errors import CodecError

TOPS: Final = 8  # a token; the report's 64 bytes a token, base64 included
_NARROW_VOCABULARY: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class TopLogits:
    """`ids` int64 and `values` float32, both (tokens, k) with k = min(8, vocabulary), highest first."""

    ids: npt.NDArray[np.int64]
    values: npt.NDArray[np.float32]


def normalise(logits: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """log-softmax of (tokens, vocabulary), in float64."""
    wide = logits.astype(np.float64)
    shifted = wide - wide.max(-1, keepdims=True)
    result: npt.NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return result


def top_logits(normalised: npt.NDArray[np.float64]) -> TopLogits:
    """Of equal values the lower id comes first."""
    count = min(TOPS, normalised.shape[-1])
    least = np.partition(normalised, -count, -1)[:, -count, np.newaxis]
    if (np.count_nonzero(normalised >= least, -1) == count).all():
        ids = np.nonzero(normalised >= least)[1].reshape(len(normalised), count)  # ascending in each row
        order = np.argsort(-np.take_along_axis(normalised, ids, -1), -1, kind="stable")
        ids = np.take_along_axis(ids, order, -1)
    else:  # several values tie for the last place
        ids = np.argsort(-normalised, -1, kind="stable")[:, :count]
    values = np.take_along_axis(normalised, ids, -1).astype(np.float32)
    return TopLogits(ids.astype(np.int64), values)


def pack(tops: TopLogits, vocabulary: int) -> bytes:
    return np.rec.fromarrays([tops.ids, tops.values], dtype=_record(vocabulary)).tobytes() if len(tops.ids) else b""


def unpack(data: bytes, tokens: int, vocabulary: int) -> TopLogits:
    """Raises `CodecError` for another size, ids outside the vocabulary or twice at one position, and for values that
    are not finite."""
    record = _record(vocabulary)
    if len(data) != tokens * record.itemsize:
        raise CodecError(f"tops: {len(data)} bytes for {tokens} tokens, expected {tokens * record.itemsize}")
    rows = np.frombuffer(data, record)
    ids, values = rows["ids"].astype(np.int64), rows["values"].astype(np.float32)
    if tokens and (ids.max() >= vocabulary or (np.diff(np.sort(ids, -1), axis=-1) == 0).any()):
        raise CodecError("tops: an id outside the vocabulary, or twice at one position")
    if not np.isfinite(values).all():
        raise CodecError("tops: NaN and infinities are refused")
    return TopLogits(ids, values)


def _record(vocabulary: int) -> np.dtype[np.void]:
    count = min(TOPS, vocabulary)
    kind = "<u2" if vocabulary <= _NARROW_VOCABULARY else "<u4"
    return np.dtype([("ids", kind, (count,)), ("values", "<f4", (count,))])
