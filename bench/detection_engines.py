"""Honest ways to compute a model: what performers and attesters on other machines would have.

Instruction sets come without other hardware: numpy's matrix kernels (OpenBLAS) and its own loops can be told, before
they are loaded, to leave newer instructions alone, so the independent evaluator runs in processes of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import onnxruntime

from bench.detection_subjects import Subject
from poi.calibration import emulated
from poi.calibration.subject import past_of
from shared.adapters.onnx_precision import convert
from shared.adapters.onnx_runner import Optimisation, Runner, Setting, providers
from shared.documents import ModelCard
from shared.interfaces import Tensors
from shared.profiles import Profile
from shared.tensors import Array

ROOT: Final = Path(__file__).resolve().parents[1]
BATCH: Final = 8
PIECE: Final = 24  # tokens of a text
REFERENCE: Final = "float64 reference, rounded"
WORKER_TIMEOUT_SECONDS: Final = 300
CUDA: Final = "CUDAExecutionProvider"
# OpenBLAS's name of a core: the numpy features that it does without, the CPU flags that it needs, its name in tables
CORES: Final = {
    "SkylakeX": ("", ("avx512f", "avx512bw", "avx512dq", "avx512vl"), "AVX-512"),
    "Haswell": ("X86_V4 AVX512_ICL AVX512_SPR", ("avx2", "fma"), "AVX2"),
    "Sandybridge": ("X86_V3 X86_V4 AVX512_ICL AVX512_SPR", ("avx",), "AVX"),
    "Nehalem": ("X86_V3 X86_V4 AVX512_ICL AVX512_SPR", ("sse4_2",), "SSE4.2"),
}

SETTINGS: Final[tuple[tuple[int, Optimisation], ...]] = (
    (1, "all"),
    (2, "all"),
    (2, "basic"),
    (1, "off"),
)  # threads and optimisation

Many = Callable[[Sequence[Tensors]], list[Tensors]]


@dataclass(frozen=True)
class Configuration:
    """One honest way to compute: outputs for inputs, in order. `engine` names the engine with its instruction set;
    several configurations may share one."""

    name: str
    engine: str
    run: Many


def configurations_of(
    subject: Subject, *, keeps_all: bool = False, is_emulated: bool = False
) -> Iterator[Configuration]:
    """Every honest way at hand to compute a subject in its card's arithmetic. Where that is float32, the float64
    reference is one of them, as any attester may use it. With `keeps_all` a decoder's keys and values come too, for
    texts of one length. With `is_emulated`, what this machine's processor does, and what emulated ones do, which takes
    a minute: the runtime alone."""
    is_exact = subject.card.profile is Profile.EXACT_FP64
    computed = replace(subject, model=convert(subject.model, "fp64")) if is_exact else subject
    others = (emulated_configurations if is_emulated else independent_configurations)(computed.model)
    for configuration in (*native_configurations(computed, keeps_all=keeps_all), *others):
        yield replace(configuration, run=_rounding(configuration.run)) if is_exact else configuration
    if subject.card.profile is Profile.FP32 and not keeps_all and not is_emulated:
        reference = Runner(convert(subject.model, "fp64"))
        yield Configuration(REFERENCE, REFERENCE, _rounding(partial(_each, reference, Setting())))


def native_configurations(subject: Subject, *, keeps_all: bool = False) -> Iterator[Configuration]:
    """ONNX Runtime on every provider there is, with one thread and two, optimised and as exported, one by one and in
    batches; a decoder also token by token."""
    runner = Runner(subject.model)
    for provider in providers():
        device = "CUDA" if provider == CUDA else instruction_set()
        settings = [Setting(threads, optimisation, provider) for threads, optimisation in SETTINGS]
        shapes: list[tuple[str, Many]] = [
            (
                f"{each.threads} thread{'s' * (each.threads > 1)}, optimisation {each.optimisation}",
                partial(_each, runner, each),
            )
            for each in settings
        ]
        if subject.card.text is not None and keeps_all:
            shapes.append((f"batch of {BATCH}", partial(_together, runner, settings[1], subject.card)))
        elif subject.card.text is not None:
            shapes.append((f"batch of {BATCH} texts", partial(_padded, runner, settings[1], subject)))
            shapes += [
                (f"token by token, optimisation {each.optimisation}", partial(_in_pieces, runner, each, subject, 1))
                for each in (settings[0], settings[-1])
            ]
            shapes.append((f"pieces of {PIECE} tokens", partial(_in_pieces, runner, settings[0], subject, PIECE)))
        elif runner.has_free_batch():
            shapes.append((f"batch of {BATCH}", partial(_batched, runner, settings[1])))
        for name, run in shapes:
            yield Configuration(
                f"onnxruntime, {device}, {name}", f"onnxruntime {onnxruntime.__version__}, {device}", run
            )


def independent_configurations(model: bytes) -> Iterator[Configuration]:
    """The evaluator of the package onnx, which shares no code with the runtime, on each instruction set there is."""
    flags = cpu_flags()
    for core, (_, needed, label) in CORES.items():
        if flags.issuperset(needed):
            yield Configuration(f"numpy, {label}", f"numpy {np.__version__}, {label}", _worker(model, core))


def emulated_configurations(model: bytes) -> Iterator[Configuration]:
    """ONNX Runtime on processors with fewer instructions, where an emulator is installed."""
    names = [value.name for value in onnx.load_model_from_string(model).graph.output]
    for cpu, label in emulated.CPUS.items() if emulated.is_available() else ():
        yield Configuration(
            f"onnxruntime, {label} (emulated {cpu})",
            f"onnxruntime {onnxruntime.__version__}, {label}",
            partial(_emulated, cpu, model, names),
        )


def _emulated(cpu: str, model: bytes, names: Sequence[str], feeds: Sequence[Tensors]) -> list[Tensors]:
    return emulated.run_emulated(cpu, model, feeds, names)


def instruction_set() -> str:
    """The widest that this machine has, by the names of `CORES`."""
    flags = cpu_flags()
    return next((label for _, needed, label in CORES.values() if flags.issuperset(needed)), os.uname().machine)


def cpu_flags() -> frozenset[str]:
    """Empty where the kernel tells none under this name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line.split(":")[1].split() for line in lines if line.startswith("flags")), []))


# --- batches, and token by token ---------------------------------------------------------------------
def _each(runner: Runner, setting: Setting, feeds: Sequence[Tensors]) -> list[Tensors]:
    return [runner.run(feed, setting) for feed in feeds]


def _batched(runner: Runner, setting: Setting, feeds: Sequence[Tensors]) -> list[Tensors]:
    rows: list[Tensors] = []
    for start in range(0, len(feeds), BATCH):
        group = feeds[start : start + BATCH]
        outputs = runner.run({name: np.concatenate([feed[name] for feed in group]) for name in group[0]}, setting)
        rows += [{name: array[i : i + 1] for name, array in outputs.items()} for i in range(len(group))]
    return rows


def _padded(runner: Runner, setting: Setting, subject: Subject, feeds: Sequence[Tensors]) -> list[Tensors]:
    """Texts of several lengths side by side: what is behind a text cannot change what is in it."""
    rows: list[Tensors] = []
    for start in range(0, len(feeds), BATCH):
        texts = [feed["ids"][0] for feed in feeds[start : start + BATCH]]
        ids = np.zeros((len(texts), max(map(len, texts))), np.int64)
        for row, text in zip(ids, texts, strict=True):
            row[: len(text)] = text
        past = {name: np.repeat(array, len(texts), 1) for name, array in past_of(subject.card).items()}
        logits = runner.run({"ids": ids, **past}, setting)["logits"]
        rows += [as_outputs(subject.card, logits[i : i + 1, : len(text)]) for i, text in enumerate(texts)]
    return rows


def _together(runner: Runner, setting: Setting, card: ModelCard, feeds: Sequence[Tensors]) -> list[Tensors]:
    """Texts of one length, all outputs: the batch is the first dimension of logits, the second of keys and values."""
    rows: list[Tensors] = []
    for start in range(0, len(feeds), BATCH):
        ids = np.concatenate([feed["ids"] for feed in feeds[start : start + BATCH]])
        past = {name: np.repeat(array, len(ids), 1) for name, array in past_of(card).items()}
        outputs = runner.run({"ids": ids, **past}, setting)
        rows += [{name: _row(name, array, i) for name, array in outputs.items()} for i in range(len(ids))]
    return rows


def _row(name: str, array: Array, index: int) -> Array:
    return array[index : index + 1] if name == "logits" else array[:, index : index + 1]


def _in_pieces(
    runner: Runner, setting: Setting, subject: Subject, size: int, feeds: Sequence[Tensors]
) -> list[Tensors]:
    """Each piece of a text behind what was kept of those before: with one token as texts are written, with more as long
    ones are read."""
    return [as_outputs(subject.card, _by_piece(runner, setting, subject.card, size, feed["ids"])) for feed in feeds]


def _by_piece(runner: Runner, setting: Setting, card: ModelCard, size: int, ids: Array) -> Array:
    past: Tensors = past_of(card)
    rows = []
    for start in range(0, ids.shape[1], size):
        fed = ids[:, start : start + size] if past else ids[:, : start + size]
        outputs = runner.run({"ids": fed, **past}, setting)
        rows.append(outputs["logits"][:, -min(size, ids.shape[1] - start) :])
        past = {"past_keys": outputs["keys"], "past_values": outputs["values"]} if past else {}
    return np.concatenate(rows, 1)


def as_outputs(card: ModelCard, logits: Array) -> Tensors:
    """Logits as a decoder gives them; of keys and values, which no method looks at, none."""
    return {"logits": logits, **{name.removeprefix("past_"): array for name, array in past_of(card).items()}}


def rounded(outputs: Tensors) -> Tensors:
    """Doubles as float32, as they are published."""
    return {name: array.astype(np.float32) if array.dtype == np.float64 else array for name, array in outputs.items()}


def _rounding(run: Many) -> Many:
    return lambda feeds: [rounded(each) for each in run(feeds)]


# --- a process of its own --------------------------------------------------------------------------
def _worker(model: bytes, core: str) -> Many:
    def run(feeds: Sequence[Tensors]) -> list[Tensors]:
        disabled = CORES[core][0]
        environment = {"OPENBLAS_CORETYPE": core, "OPENBLAS_NUM_THREADS": "1"}
        if disabled:
            environment["NPY_DISABLE_CPU_FEATURES"] = disabled
        with tempfile.TemporaryDirectory(prefix="poi-bench-") as folder:
            path = Path(folder)
            (path / "model.onnx").write_bytes(model)
            flat: dict[str, Any] = {
                f"{i}/{name}": array for i, feed in enumerate(feeds) for name, array in feed.items()
            }
            np.savez(path / "in.npz", **flat)
            command = [sys.executable, "-m", "bench.detection_worker", folder, core]
            subprocess.run(
                command, check=True, cwd=ROOT, env={**os.environ, **environment}, timeout=WORKER_TIMEOUT_SECONDS
            )
            with np.load(path / "out.npz") as outputs:
                results: list[dict[str, Array]] = [{} for _ in feeds]
                for key in outputs.files:
                    index, _, name = key.partition("/")
                    results[int(index)][name] = outputs[key]
        return list(results)

    return run
