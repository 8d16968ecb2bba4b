"""How far the random projections of honest runs lie apart: the card's `audit`."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from itertools import product

import numpy as np

from shared.adapters.onnx_audit import split
from shared.adapters.onnx_runner import LEVELS, Runner, Setting
from shared.card_parts import Audit
from shared.errors import ConfigError
from shared.interfaces import InferenceEngine, Tensors
from shared.profiles import MAX_RELATIVE_TOLERANCE, Profile
from shared.types import Digest
from shared.verification.linear import AuditParts
from shared.verification.method import Forward
from shared.verification.projection import RandomBytes, draw_basis, draw_projection, residuals

Opening = Callable[[bytes], Awaitable[Forward]]
"""One honest configuration: how it opens an ONNX file."""

DRAWS = 3  # what is wrong by x tolerances is missed with (0.8/x)³: by 100, once in two million batches
CHUNKS = (0, 1, 7, 64)  # rows at a time; 0 is all at once
ROWS = 128  # of a batch made of the samples
SEEDS = 20  # of projections, for every batch, configuration and chunk
MARGIN = 4.0  # tolerances over the largest honest residual, as for tensors
LEAST_RELATIVE = 1e-8  # a sixth of a float32 step: less would be luck


def openings() -> list[Opening]:
    """One thread and two, optimised and not."""
    return [_at(Setting(threads, level)) for threads, level in product((1, 2), LEVELS) if level in ("off", "all")]


def _at(setting: Setting) -> Opening:
    async def opening(model: bytes) -> Forward:
        runner = Runner(model)

        async def forward(inputs: Tensors) -> Tensors:
            return runner.run(inputs, setting)

        return forward

    return opening


def batches_of(inputs: Sequence[Tensors], rows: int = ROWS) -> list[Tensors]:
    """The samples side by side, `rows` in a batch."""
    groups = [inputs[start : start + rows] for start in range(0, len(inputs), rows)]
    return [{name: np.concatenate([each[name] for each in group]) for name in group[0]} for group in groups]


def on_engine(engine: InferenceEngine) -> Opening:
    async def opening(model: bytes) -> Forward:
        digest = Digest(hashlib.sha256(model).digest())
        await engine.load(digest, model)
        return partial(engine.run, digest)

    return opening


async def calibrate_audit(
    model: bytes,
    batches: Sequence[Tensors],
    openings: Sequence[Opening],
    *,
    draws: int = DRAWS,
    chunks: Sequence[int] = CHUNKS,
    seeds: int = SEEDS,
) -> Audit:
    """`MARGIN` times `honest_residual`. Raises `ConfigError` where that is more than the profile fp32 may tolerate, and
    `InferenceFailed` as `split` and the engines do."""
    largest = await honest_residual(split(model), batches, openings, draws=draws, chunks=chunks, seeds=seeds)
    relative, most = max(MARGIN * largest, LEAST_RELATIVE), MAX_RELATIVE_TOLERANCE[Profile.FP32]
    if relative > most:
        raise ConfigError(
            f"honest runs lie {largest:g} apart in a batch audit, which takes a tolerance of {relative:g}; at most "
            f"{most:g} may be declared: is every configuration computing in float32, with TF32 off?"
        )
    return Audit(relative=relative, draws=draws)


async def honest_residual(
    parts: AuditParts,
    batches: Sequence[Tensors],
    openings: Sequence[Opening],
    *,
    draws: int = DRAWS,
    chunks: Sequence[int] = CHUNKS,
    seeds: int = SEEDS,
) -> float:
    """The largest residual of any layer: every configuration performs every batch, in chunks of rows where the inputs
    have a free first dimension, and every configuration audits it."""
    largest, random_bytes = 0.0, random.Random(0).randbytes
    replays = [await opening(parts.replay) for opening in openings if parts.replay is not None]
    for opening in openings:
        exposed = await opening(parts.exposed)
        for batch, chunk in ((batch, chunk) for batch in batches for chunk in chunks):
            performed = await _in_chunks(exposed, batch, chunk)
            given = {**batch, **{linear.result: performed[linear.result] for linear in parts.linears}}
            for replayed in [await replay(given) for replay in replays] or [{}]:
                values = {**given, **replayed}
                largest = max(largest, *_largest(parts, values, draws, seeds, random_bytes))
    return largest


def _largest(parts: AuditParts, values: Tensors, draws: int, seeds: int, random_bytes: RandomBytes) -> Iterator[float]:
    for linear in parts.linears:
        basis = draw_basis(linear, random_bytes)
        for _ in range(seeds):
            projection = draw_projection(basis, draws, random_bytes)
            rows = residuals(linear, projection, values[linear.source], values[linear.result])
            yield float(rows.max(initial=0.0))


async def _in_chunks(forward: Forward, batch: Tensors, chunk: int) -> Tensors:
    """The same batch, `chunk` rows at a time. 0, or a batch whose inputs differ in rows, goes at once."""
    rows = {len(array) if array.ndim else 0 for array in batch.values()}
    if chunk == 0 or len(rows) != 1:
        return await forward(batch)
    starts = range(0, max(rows), chunk)
    given = [await forward({name: array[start : start + chunk] for name, array in batch.items()}) for start in starts]
    return {name: np.concatenate([each[name] for each in given]) for name in given[0]}
