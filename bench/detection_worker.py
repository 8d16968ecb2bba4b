"""Computes in.npz by model.onnx into out.npz with the evaluator of the package onnx, and checks its instruction set.

Started by `detection_engines`, whose environment variables decide what OpenBLAS and numpy may use.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator


def main(folder: Path, core: str) -> None:
    if (loaded := openblas_core()) != core:
        raise SystemExit(f"OpenBLAS runs its kernels for {loaded}, not those for {core}")
    evaluator = ReferenceEvaluator(onnx.load(folder / "model.onnx"))
    feeds: dict[str, dict[str, Any]] = {}
    with np.load(folder / "in.npz") as inputs:
        for key in inputs.files:
            index, _, name = key.partition("/")
            feeds.setdefault(index, {})[name] = inputs[key]
    outputs: dict[str, Any] = {}
    for index, feed in feeds.items():
        for name, array in zip(evaluator.output_names, evaluator.run(None, feed), strict=True):
            outputs[f"{index}/{name}"] = np.asarray(array)
    np.savez(folder / "out.npz", **outputs)


def openblas_core() -> str:
    """Whose kernels the matrix products of numpy run, read back from the library itself."""
    for path in (Path(np.__file__).parents[1] / "numpy.libs").glob("libscipy_openblas64*"):
        name = ctypes.CDLL(str(path)).scipy_openblas_get_corename64_
        name.restype = ctypes.c_char_p
        return str(name().decode())
    return "another library"


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
