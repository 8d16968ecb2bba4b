"""Seeded Gumbel-max sampling, and how far a claimed token is from being its pick.

argmax(logits + T · Gumbel noise) is a draw from softmax(logits / T). The noise of each position comes from the task id
alone, which is fixed when the requester signs: nobody can search for a seed that makes a wished text the right one.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

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
        return int(np.where(allowed >= self._boundary(allowed), perturbed, -math.inf).argmax())

    def miss(self, logits: Logits, position: int, token: int, margin: float) -> float:
        """By how many logits `token` misses being the pick; 0 for the pick itself, infinite for the banned one.

        Two honest runs may disagree by up to half of `margin` on each logit, so either may move a token over the top-k
        boundary. Only tokens that every honest run keeps compete: those `margin` above the one that comes next after
        the kept. Were all tokens near the boundary dropped instead, a forger could claim what they beat. A token
        outside the kept set is charged its distance to the boundary.
        """
        if token == self.banned:
            return math.inf
        allowed = self._allowed(logits)
        if self.temperature == 0:
            return float(allowed.max() - allowed[token])
        perturbed = allowed + self.temperature * gumbel(self.task_id, position, len(allowed))
        certain = allowed >= self._highest(allowed, self.top_k + 1) + margin
        best = perturbed[certain].max(initial=-math.inf)
        return float(max(0.0, best - perturbed[token], self._boundary(allowed) - allowed[token]))

    def _allowed(self, logits: Logits) -> Float64:
        allowed = logits.astype(np.float64)
        allowed[self.banned] = -math.inf
        return allowed

    def _boundary(self, logits: Float64) -> float:
        """The lowest logit that is kept."""
        return self._highest(logits, self.top_k)

    def _highest(self, logits: Float64, rank: int) -> float:
        """The logit of this rank (1 for the highest), where equals have ranks of their own; -inf where none is cut."""
        if self.top_k == 0 or rank > len(logits):
            return -math.inf
        return float(np.partition(logits, -rank)[-rank])


def gumbel(task_id: Digest, position: int, count: int) -> Float64:
    """`count` standard Gumbel variates, the same on every machine up to the last bits of a logarithm.

    Philox4x64-10, its counter 1 for the first block, its key the first 16 bytes of SHA-256(task id ‖ position, 8 bytes
    big-endian) as a big-endian number; the upper 53 bits of each word, centred, are the uniform variate. Raw words,
    because numpy keeps those for ever and the streams of its distributions not.
    """
    digest = hashlib.sha256(task_id + position.to_bytes(8, "big")).digest()
    words = np.random.Philox(key=int.from_bytes(digest[:16], "big")).random_raw(count)
    uniform = ((words >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    variates: Float64 = -np.log(-np.log(uniform))
    return variates
