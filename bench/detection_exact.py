"""The profile `exact-fp64`: whether values computed in float64 and rounded to float32 are the same to the bit, whoever
computes them, and what that costs at prefill."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from bench.detection_engines import configurations_of, emulated_configurations, rounded
from bench.detection_subjects import Subject
from bench.table import Row, Sheet
from poi.calibration.subject import past_of
from shared.adapters.engine_onnx import OnnxEngine
from shared.adapters.onnx_precision import Precision, convert
from shared.errors import InferenceFailed
from shared.interfaces import Tensors
from shared.types import Digest
from shared.verification.exact import steps_between

VALUES_GOAL = 10_000_000
CONFIGURATIONS_GOAL = 5
PREFILL_GOAL = 3.0
ON_A_BORDER = (
    "A value on the border between two float32 steps may be rounded either way; the method `exact` looks into a hash "
    "that differs, and lets one such value in 100,000 through."
)
ENGINE_BYTES = 1 << 30
REPEATS = 27


@dataclass(frozen=True)
class Computed:
    """One configuration's values against those of the first."""

    name: str
    values: int
    differing: int
    steps: float  # the largest difference, in float32 steps
    digest: str  # SHA-256 of all values, float32 little-endian in order


@dataclass(frozen=True)
class Exact:
    computed: list[Computed]
    prefill: float  # of float64 over float32
    tokens: int  # of the timed prefill
    milliseconds: tuple[float, float]  # float32, float64


def exact_values(subject: Subject, texts: int, *, is_emulated: bool) -> Exact:
    """Logits, keys and values of `texts` texts that fill the context, by the decoder `subject`; with `is_emulated` on
    emulated processors too, which takes thirty times as long."""
    feeds = full_feeds(subject, texts)
    double = replace(subject, model=convert(subject.model, "fp64"))
    computed: list[Computed] = []
    first: list[np.ndarray] = []
    emulated = emulated_configurations(double.model) if is_emulated else ()
    for configuration in (*configurations_of(double, keeps_all=True), *emulated):
        try:
            outputs = [rounded(each) for each in configuration.run(feeds)]
        except InferenceFailed:
            continue  # an emulated processor that takes too long
        values = [outputs[i][name].ravel() for i in range(len(outputs)) for name in sorted(outputs[i])]
        first = first or values
        steps = [steps_between(one, other) for one, other in zip(first, values, strict=True)]
        digest = hashlib.sha256()
        for each in values:
            digest.update(each.astype("<f4", copy=False).tobytes())
        computed.append(
            Computed(
                configuration.name,
                sum(each.size for each in values),
                sum(int((each > 0).sum()) for each in steps),
                max(float(each.max()) for each in steps),
                digest.hexdigest(),
            )
        )
    tokens = feeds[0]["ids"].shape[1]
    milliseconds = asyncio.run(_prefill(subject, feeds))
    return Exact(computed, milliseconds[1] / milliseconds[0], tokens, milliseconds)


def full_feeds(subject: Subject, texts: int) -> list[Tensors]:
    """The samples' prompts and arbitrary bytes behind them, up to the context: any token may follow any other here."""
    if subject.card.text is None:
        raise TypeError(f"{subject.name} is no decoder")
    noise, context = np.random.default_rng(0), subject.card.text.context
    feeds: list[Tensors] = []
    for index in range(texts):
        prompt = [subject.card.text.bos, *(subject.documents[index % len(subject.documents)].prompt or "").encode()]
        ids = [*prompt, *noise.integers(0, min(256, subject.card.text.vocab), context)][:context]
        feeds.append({"ids": np.array([ids], np.int64), **past_of(subject.card)})
    return feeds


def rows_of(exact: Exact) -> list[Row]:
    agreeing = Counter(each.digest for each in exact.computed).most_common(1)[0][1]
    differing = max(each.differing for each in exact.computed)
    tried = len(exact.computed)
    values = exact.computed[0].values
    goal = f"exact-fp64: values equal across ≥ {CONFIGURATIONS_GOAL} configurations, one SHA-256"
    return [
        Row(goal, values, "values", VALUES_GOAL, at_least=True),
        Row(
            "exact-fp64: configurations with that SHA-256", agreeing, f"of {tried}", CONFIGURATIONS_GOAL, at_least=True
        ),
        Row(
            f"exact-fp64: values of any of all {tried} configurations that differ",
            differing,
            "values",
            0.0,
            hindrance=ON_A_BORDER,
        ),
        Row(
            f"exact-fp64: cost of prefill, {exact.tokens} tokens",
            exact.prefill,
            "× fp32",
            PREFILL_GOAL,
            hindrance="A third of its time are exponentials, which the runtime computes one by one in double.",
        ),
    ]


def sheet_of(exact: Exact) -> Sheet:
    return Sheet(
        "Values computed in float64 and rounded, each configuration against the first",
        ("configuration", "values", "that differ", "by float32 steps", "SHA-256"),
        [(each.name, each.values, each.differing, each.steps, each.digest[:16]) for each in exact.computed],
    )


async def _prefill(subject: Subject, feeds: Sequence[Tensors]) -> tuple[float, float]:
    """Milliseconds (CPU) of the least disturbed prefill in float32 and in float64, by a node's engine with one
    thread."""
    model_hash = Digest(hashlib.sha256(subject.model).digest())
    precisions: tuple[Precision, Precision] = ("native", "fp64")
    engines = [OnnxEngine(max_loaded_bytes=ENGINE_BYTES, precision=each, rounded=True) for each in precisions]
    times: list[list[float]] = [[], []]
    for engine in engines:
        await engine.load(model_hash, subject.model)
        await engine.run(model_hash, feeds[0])
    for repeat in range(REPEATS):
        for engine, taken in zip(engines, times, strict=True):
            started = time.process_time()
            await engine.run(model_hash, feeds[repeat % len(feeds)])
            taken.append(1000 * (time.process_time() - started))
    for engine in engines:
        await engine.close()
    return min(times[0]), min(times[1])
