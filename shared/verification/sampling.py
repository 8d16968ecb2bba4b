"""Seeded Gumbel-max sampling, and how far a claimed token is from being its pick.

argmax(logits + T · Gumbel noise) is a draw from softmax(logits / T). The noise of each position comes from the task id
alone, which is fixed when the requester signs: nobody can search for a seed that makes a wished text the right one.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from shared.types import Digest

Logits = npt.NDArray[np.floating]
Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Sampler:
    """One task's sampler. `temperature` 0 is greedy, `top_k` 0 keeps every token; `banned` is never picked (bos)."""

    task_id: Digest
    temperature: float
    top_k: int
    banned: int

    def pick(self, logits: Logits, position: int) -> int:
        """The token at `position` (0 for the first one generated) from its logits (vocab,); the first of equals."""
        allowed = self._allowed(logits)
        if self.temperature == 0:
            return int(allowed.argmax())
        perturbed = allowed + self.temperature * gumbel(self.task_id, position, len(allowed))
        return int(np.where(allowed >= self._cut(allowed)[0], perturbed, -math.inf).argmax())

    def miss(self, logits: Logits, position: int, token: int, margin: float) -> float:
        """See `misses`; logits (vocab,)."""
        return float(self.misses(logits[np.newaxis], position, [token], margin)[0])

    def misses(self, logits: Logits, start: int, tokens: Sequence[int], margin: float) -> Float64:
        """By how many logits each of `tokens` misses being the pick of its position, the first of which is `start`; 0
        for the pick itself, infinite for the banned one. Logits (tokens, vocab); takes several times their memory.

        Two honest runs may disagree by up to half of `margin` on each logit, so either may move a token over the top-k
        boundary. Only tokens that every honest run keeps compete: those `margin` above the one that comes next after
        the kept. Were all tokens near the boundary dropped instead, a forger could claim what they beat. A token
        outside the kept set is charged its distance to the boundary.
        """
        claimed = np.asarray(tokens, np.int64)
        allowed = self._allowed(logits)
        own = _at(allowed, claimed)
        if self.temperature == 0:
            behind: Float64 = allowed.max(-1) - own
            return behind
        perturbed = allowed + self.temperature * gumbel_rows(self.task_id, start, *allowed.shape)
        boundary, excluded = self._cut(allowed)
        is_certain = allowed >= excluded[:, np.newaxis] + margin
        best = np.where(is_certain, perturbed, -math.inf).max(-1)
        is_banned = claimed == self.banned
        with np.errstate(invalid="ignore"):  # minus infinities of the banned token, which gets its miss below
            beaten, outside = best - _at(perturbed, claimed), boundary - own
        misses: Float64 = np.where(is_banned, math.inf, np.maximum(0.0, np.maximum(beaten, outside)))
        return misses

    def _allowed(self, logits: Logits) -> Float64:
        allowed = logits.astype(np.float64)
        allowed[..., self.banned] = -math.inf
        return allowed

    def _cut(self, logits: Float64) -> tuple[Float64, Float64]:
        """The lowest logit of each row that is kept, and the highest that is not, where equals have ranks of their own;
        -inf both where none is cut."""
        if not 0 < self.top_k < logits.shape[-1]:
            none = np.full(logits.shape[:-1], -math.inf)
            return none, none
        highest = np.partition(logits, -self.top_k - 1)[..., -self.top_k - 1 :]
        return highest[..., 1:].min(-1), highest[..., 0]


def gumbel(task_id: Digest, position: int, count: int) -> Float64:
    """`count` standard Gumbel variates; see `gumbel_rows`."""
    (variates,) = gumbel_rows(task_id, position, 1, count)
    return np.asarray(variates, np.float64)


def gumbel_rows(task_id: Digest, start: int, rows: int, count: int) -> Float64:
    """(rows, count) standard Gumbel variates for as many positions from `start` on, the same on every machine up to the
    last bits of a logarithm.

    Philox4x64-10, its counter 1 for the first block, its key the first 16 bytes of SHA-256(task id ‖ position, 8 bytes
    big-endian) as a big-endian number; the upper 53 bits of each word, centred, are the uniform variate. Raw words,
    because numpy keeps those for ever and the streams of its distributions not.
    """
    words = np.empty((rows, count), np.uint64)
    philox = np.random.Philox(0)  # one for all rows: making it takes four times as long as giving it another key
    fresh: Any = philox.state
    digests = [hashlib.sha256(task_id + (start + row).to_bytes(8, "big")).digest() for row in range(rows)]
    keys = np.frombuffer(b"".join(digest[:16] for digest in digests), ">u8").reshape(rows, 2)
    for row, key in enumerate(keys[:, ::-1].astype(np.uint64)):
        fresh["state"]["key"] = key
        philox.state = fresh
        words[row] = philox.random_raw(count)
    uniform = ((words >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    variates: Float64 = -np.log(-np.log(uniform))
    return variates


def _at(values: Float64, columns: npt.NDArray[np.int64]) -> Float64:
    """One of each row."""
    return values[np.arange(len(values)), columns]
