"""How wide the audit's tolerance is: four times what honest configurations differ by, and no more than the profile."""

from __future__ import annotations

from collections.abc import AsyncIterator

import numpy as np
import pytest

from poi.calibration.audit import DRAWS, LEAST_RELATIVE, MARGIN, Opening, calibrate_audit, honest_residual, on_engine
from shared.adapters.engine_onnx import OnnxEngine
from shared.adapters.onnx_audit import split
from shared.errors import ConfigError
from shared.interfaces import Tensors
from shared.verification.method import Forward
from tests.audit_support import decoder, mlp, random

BATCHES = [{"x": random(20, 64, seed=seed)} for seed in range(2)]


@pytest.fixture
async def openings() -> AsyncIterator[list[Opening]]:
    engines = [OnnxEngine(max_loaded_bytes=1 << 28, threads=threads) for threads in (1, 2)]
    yield [on_engine(engine) for engine in engines]
    for engine in engines:
        await engine.close()


async def test_four_times_the_largest_honest_residual(openings: list[Opening]) -> None:
    audit = await calibrate_audit(mlp(), BATCHES, openings, seeds=3)
    largest = await honest_residual(split(mlp()), BATCHES, openings, seeds=3)
    assert audit.draws == DRAWS
    assert audit.relative == pytest.approx(max(MARGIN * largest, LEAST_RELATIVE))
    assert 1e-8 < audit.relative < 5e-7


async def test_a_decoders_batches_of_one_time_and_of_another(openings: list[Opening]) -> None:
    batches = [{"ids": np.random.default_rng(time).integers(0, 96, (6, time))} for time in (1, 9)]
    audit = await calibrate_audit(decoder(), batches, openings, seeds=2, draws=2)
    assert audit.draws == 2
    assert 1e-8 < audit.relative < 5e-7


async def test_chunks_are_performed_as_chunks_and_compared_as_one_batch(openings: list[Opening]) -> None:
    sizes: list[int] = []

    async def watched(model: bytes) -> Forward:
        forward = await openings[0](model)

        async def run(inputs: Tensors) -> Tensors:
            sizes.append(len(inputs["x"]))
            return await forward(inputs)

        return run

    await honest_residual(split(mlp()), BATCHES[:1], [watched], chunks=(0, 1, 8), seeds=1)
    assert sizes == [20, 20, *[1] * 20, 20, 8, 8, 4, 20]


async def test_a_configuration_that_does_not_compute_in_float32_is_found_out(openings: list[Opening]) -> None:
    """As an engine with TF32 on would be: no tolerance is made wide enough for it."""

    async def coarse(model: bytes) -> Forward:
        forward = await openings[0](model)

        async def run(inputs: Tensors) -> Tensors:
            return {
                name: array.astype(np.float16).astype(np.float32) for name, array in (await forward(inputs)).items()
            }

        return run

    with pytest.raises(ConfigError, match="at most 5e-05 may be declared"):
        await calibrate_audit(mlp(), BATCHES, [openings[0], coarse], seeds=1)
