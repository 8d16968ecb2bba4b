"""Other instruction sets on this machine: the same wheels under `qemu-user`, where it is installed.

ONNX Runtime picks its kernels by what the processor can do, and the emulator says less than it could: what comes out is
what the wheels compute on such a machine, up to instructions that estimate a reciprocal. This file is both sides: who
starts the emulator, and, as `python -m poi.calibration.emulated FOLDER`, what runs inside it.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from shared.adapters.onnx_runner import Runner
from shared.errors import InferenceFailed
from shared.interfaces import Tensors
from shared.tensors import Array

EMULATOR: Final = "qemu-x86_64"
CPUS: Final = {"Haswell": "AVX2", "SandyBridge": "AVX"}  # numpy's wheels stop at once on older ones
TIMEOUT_SECONDS: Final = 300.0  # a processor; the models here take ten, and one that hangs must not hold the rest
MODEL, INPUTS, OUTPUTS = "model.onnx", "inputs.npz", "outputs.npz"


def is_available() -> bool:
    return shutil.which(EMULATOR) is not None


def run_emulated(cpu: str, model: bytes, inputs: Sequence[Tensors], names: Sequence[str]) -> list[Tensors]:
    """The outputs `names` for each of the inputs by itself, one thread. Raises `InferenceFailed`, also where the wheels
    need more than `cpu` has."""
    with tempfile.TemporaryDirectory(prefix="poi-emulated-") as made:
        folder = Path(made)
        (folder / MODEL).write_bytes(model)
        _save(folder / INPUTS, inputs)
        command = [EMULATOR, "-cpu", cpu, sys.executable, "-m", __name__, str(folder), *names]
        try:
            ended = subprocess.run(command, capture_output=True, timeout=TIMEOUT_SECONDS, check=False)
        except subprocess.TimeoutExpired:
            raise InferenceFailed(f"{EMULATOR} -cpu {cpu} took more than {TIMEOUT_SECONDS:g} seconds") from None
        if ended.returncode != 0:
            raise InferenceFailed(f"{EMULATOR} -cpu {cpu}: {_last_line(ended.stderr) or ended.returncode}")
        with np.load(folder / OUTPUTS) as file:
            return _listed(dict(file), len(inputs))


def _last_line(text: bytes) -> str:
    return text.decode(errors="replace").strip().rpartition("\n")[2]


def _save(path: Path, each: Sequence[Tensors]) -> None:
    arrays: dict[str, Any] = {f"{i}/{name}": array for i, tensors in enumerate(each) for name, array in tensors.items()}
    np.savez(path, **arrays)


def _listed(flat: Tensors, count: int) -> list[Tensors]:
    listed: list[dict[str, Array]] = [{} for _ in range(count)]
    for key, array in flat.items():
        i, _, name = key.partition("/")
        listed[int(i)][name] = array
    return list(listed)


def _main(folder: Path, names: Sequence[str]) -> None:
    """Inside the emulator."""
    runner = Runner((folder / MODEL).read_bytes())
    with np.load(folder / INPUTS) as file:
        flat = dict(file)
    inputs = _listed(flat, 1 + max(int(key.partition("/")[0]) for key in flat))
    outputs = [runner.run(each) for each in inputs]
    _save(folder / OUTPUTS, [{name: each[name] for name in names} for each in outputs])


if __name__ == "__main__":
    _main(Path(sys.argv[1]), sys.argv[2:])
