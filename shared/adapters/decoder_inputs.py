"""What stateless decoders take: `ids` int64 (1, T), one sequence from its beginning."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from shared.errors import InputMismatch
from shared.tensors import TensorSpec

INPUT: Final = (TensorSpec("ids", "int64", (1, -1)),)


def check_ids(ids: npt.NDArray[np.int64], context: int, vocabulary: int) -> None:
    """Raises `InputMismatch`: negative ids would count from the end of the vocabulary."""
    if not 0 < len(ids) <= context:
        raise InputMismatch("tensors.ids.shape", f"[1, 1 to {context}]", str([1, len(ids)]))
    if ids.min() < 0 or ids.max() >= vocabulary:
        raise InputMismatch("tensors.ids", f"ids from 0 to {vocabulary - 1}", f"{ids.min()} to {ids.max()}")
