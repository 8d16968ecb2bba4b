"""Batch audit of a wide network at 256 rows: what it costs beside recomputing, and which cheats it finds.

For `bench detection`, which makes the rows.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, helper, numpy_helper

from poi.calibration.audit import calibrate_audit, honest_residual, on_engine
from shared.adapters.engine_onnx import OnnxEngine
from shared.adapters.onnx_audit import split
from shared.card_parts import Audit, Calibration, Golden, ModelFile, Tolerance
from shared.documents import BatchOutput, InputDocument, Output, Parameters
from shared.interfaces import Tensors
from shared.model_card import ModelCard, check_card
from shared.profiles import Profile
from shared.reasons import InvalidReason
from shared.tensors import TensorSpec, encode_tensor
from shared.types import Address, Digest, Verdict
from shared.verification.batch_audit import MAX_AUDITS_OF_BASIS, BatchAudit
from shared.verification.linear import AuditParts
from shared.verification.method import AuditRuns, Compute, Judgement, Work
from shared.verification.projection import draw_basis

Floats = npt.NDArray[np.float32]

ROWS: Final = 256
ONE_ROW: Final = f"1 of {ROWS} rows int8"
WIDTH: Final = 1024
LAYERS: Final = 4
COST_GOAL: Final = 0.10  # of recomputing
FOUND_GOAL: Final = 1.0
AUDITS: Final = 50  # of each cheat, each with vectors of its own
TIMED: Final = 40  # of each kind
TOLERANCE: Final = 1e-5  # of the outputs, relative to the largest: a card's; no layer is judged by it


@dataclass(frozen=True)
class Found:
    """What became of one cheat."""

    share: float  # of the audits that refused it
    smallest_score: float  # in tolerances
    ratio: float  # the smallest residual over the largest honest one
    reasons: tuple[InvalidReason, ...]


@dataclass(frozen=True)
class AuditFigures:
    """Milliseconds are CPU time of all threads."""

    audit: Audit
    honest_residual: float
    honest_audits: int
    honest_refused: int
    audit_ms: float  # all that an attester does once it has decoded the proof
    basis_ms: float  # of all layers, once in `MAX_AUDITS_OF_BASIS` audits
    recompute_ms: float  # one forward pass, and nothing else
    published_bytes: int
    cheats: Mapping[str, Found]

    @property
    def cost_share(self) -> float:
        """Of recomputing."""
        return (self.audit_ms + self.basis_ms / MAX_AUDITS_OF_BASIS) / self.recompute_ms

    @property
    def found_share(self) -> float:
        """Of the cheat that is found least."""
        return min(found.share for found in self.cheats.values())


def measure_audit_cost(width: int = WIDTH) -> AuditFigures:
    """About ten seconds; the share falls as one over the width."""
    return asyncio.run(_measure(width))


# --- the network, and ways to compute it badly -------------------------------------------------------
def weights(width: int = WIDTH) -> list[Floats]:
    """As wide layers are initialised: each keeps the scale of what goes in."""
    rng = np.random.default_rng(0)
    return [rng.standard_normal((width, width), np.float32) * np.float32(np.sqrt(2 / width)) for _ in range(LAYERS)]


def network(matrices: list[Floats]) -> bytes:
    """x (batch, width) through linear layers with biases, with ReLU between them, to y of the same shape."""
    rng, width = np.random.default_rng(1), len(matrices[0])
    nodes, constants, value = [], [], "x"
    for layer, matrix in enumerate(matrices):
        bias = rng.standard_normal(width, np.float32) / np.float32(10)
        constants += [numpy_helper.from_array(matrix, f"w{layer}"), numpy_helper.from_array(bias, f"b{layer}")]
        is_last = layer == len(matrices) - 1
        result = "y" if is_last else f"sum{layer}"
        nodes.append(helper.make_node("Gemm", [value, f"w{layer}", f"b{layer}"], [result]))
        if not is_last:
            value = f"active{layer}"
            nodes.append(helper.make_node("Relu", [result], [value]))
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", width]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "network", ends[:1], ends[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def int8(matrix: Floats) -> Floats:
    """A scale a column."""
    scale = np.abs(matrix).max(axis=0) / 127
    rounded: Floats = (np.round(matrix / scale) * scale).astype(np.float32)
    return rounded


def fp16(matrix: Floats) -> Floats:
    return matrix.astype(np.float16).astype(np.float32)


def pruned(matrix: Floats) -> Floats:
    """Without the smallest hundredth."""
    return np.where(np.abs(matrix) < np.quantile(np.abs(matrix), 0.01), np.float32(0), matrix)


WEIGHT_CHEATS: Final[Mapping[str, Callable[[list[Floats]], list[Floats]]]] = {
    "int8 weights": lambda matrices: list(map(int8, matrices)),
    "fp16 weights": lambda matrices: list(map(fp16, matrices)),
    "1 % pruned": lambda matrices: list(map(pruned, matrices)),
    "one layer int8": lambda matrices: [*matrices[:2], int8(matrices[2]), *matrices[3:]],
}


def edits(int8_run: Tensors) -> dict[str, Callable[[Tensors], dict[str, Any]]]:
    """What becomes of an honest run's tensors."""
    return {
        ONE_ROW: lambda run: {name: _with_row(run[name], 5, int8_run[name][5]) for name in run},
        "one logit changed by 0.01": lambda run: {**run, "y": _with_value(run["y"], (5, 3), 0.01)},
        "a row swapped": lambda run: {name: _permuted(array, [5, 9]) for name, array in run.items()},
        "rows permuted": lambda run: {name: np.roll(array, 1, axis=0) for name, array in run.items()},
    }


def _with_row(array: Any, row: int, values: Any) -> Any:
    changed = array.copy()
    changed[row] = values
    return changed


def _with_value(array: Any, at: tuple[int, int], delta: float) -> Any:
    changed = array.copy()
    changed[at] += np.float32(delta)
    return changed


def _permuted(array: Any, rows: list[int]) -> Any:
    changed = array.copy()
    changed[rows] = array[rows[::-1]]
    return changed


# --- the measurement -----------------------------------------------------------------------------------
async def _measure(width: int) -> AuditFigures:
    x = np.random.default_rng(2).standard_normal((ROWS, width), np.float32)
    inputs, matrices = {"x": x}, weights(width)
    model = network(matrices)
    parts = split(model)
    async with _engine(threads=1) as engine, _engine(threads=2) as other:
        openings = [on_engine(engine), on_engine(other)]
        audit = await calibrate_audit(model, [inputs], openings, seeds=5)
        honest = await honest_residual(parts, [inputs], openings, seeds=5)
        run, exposed = await openings[0](model), await openings[0](parts.exposed)
        compute = await _compute(engine, parts, run)
        true = await exposed(inputs)
        work = Work(
            Digest(bytes(32)),
            Address(bytes(20)),
            _card(model, audit, true["y"]),
            InputDocument(tensors=inputs),
            Parameters(),
        )
        lies = {}
        for name, change in WEIGHT_CHEATS.items():
            lies[name] = await (await openings[0](split(network(change(matrices))).exposed))(inputs)
        lies |= {name: edit(true) for name, edit in edits(lies["int8 weights"]).items()}
        output, method = _published(true), BatchAudit()
        judged = [await method.judge(work, output, compute) for _ in range(AUDITS)]
        return AuditFigures(
            audit=audit,
            honest_residual=honest,
            honest_audits=AUDITS,
            honest_refused=sum(each.verdict is not Verdict.VALID for each in judged),
            audit_ms=await _least_ms(lambda: _verify(method, work, output, compute)),
            basis_ms=_basis_ms(parts),
            recompute_ms=await _least_ms(lambda: compute.run(inputs)),
            published_bytes=sum(len(each.data) for each in (*output.tensors.values(), *output.layers.values())),
            cheats={
                name: await _try(work, _published(lie), compute, honest / audit.relative) for name, lie in lies.items()
            },
        )


@asynccontextmanager
async def _engine(threads: int) -> Any:
    engine = OnnxEngine(max_loaded_bytes=1 << 30, threads=threads)
    try:
        yield engine
    finally:
        await engine.close()


async def _compute(engine: OnnxEngine, parts: AuditParts, run: Callable[[Tensors], Awaitable[Tensors]]) -> Compute:
    opening = on_engine(engine)
    if parts.replay is None:
        raise AssertionError("the network has more than its products")
    runs = AuditRuns(await opening(parts.exposed), await opening(parts.replay), parts.linears, parts.inputs)

    async def audit() -> AuditRuns:
        return runs

    # The reference of what lies between the zones: this network has no cheat there.
    return Compute(run=run, reference=run, audit=audit)


async def _verify(method: BatchAudit, work: Work, output: Output, compute: Compute) -> Judgement:
    assert method.fault(work, output) is None
    return await method.judge(work, output, compute)


async def _try(work: Work, lie: BatchOutput, compute: Compute, honest_score: float) -> Found:
    method = BatchAudit()
    judged = [await method.judge(work, lie, compute) for _ in range(AUDITS)]
    scores = [max(v for name, v in each.statistics.items() if name.startswith("residual of ")) for each in judged]
    return Found(
        share=sum(each.verdict is Verdict.INVALID for each in judged) / AUDITS,
        smallest_score=min(scores),
        ratio=min(scores) / honest_score,
        reasons=tuple(sorted({InvalidReason(each.reason) for each in judged if each.reason is not None})),
    )


async def _least_ms(work: Callable[[], Awaitable[object]]) -> float:
    """As it is when nothing else on the machine disturbs it. One kind of work after the other: who audits does not
    recompute in between, which would leave the caches full of weights."""
    spent = []
    for _ in range(TIMED):
        started = time.process_time()
        await work()
        spent.append(time.process_time() - started)
    return min(spent) * 1000


def _basis_ms(parts: AuditParts) -> float:
    started = time.process_time()
    for linear in parts.linears:
        draw_basis(linear, secrets.token_bytes)
    return (time.process_time() - started) * 1000


def _published(run: Tensors) -> BatchOutput:
    layers = {name: encode_tensor(array) for name, array in run.items() if name != "y"}
    return BatchOutput(tensors={"y": encode_tensor(run["y"])}, layers=layers)


def _card(model: bytes, audit: Audit, y: Any) -> ModelCard:
    """Of the network; it measures the audit alone."""
    card = ModelCard(
        version=2,
        name="wide network",
        kind="tensor",
        method="batch-audit",
        profile=Profile.FP32,
        model=ModelFile(cid="none", sha256=hashlib.sha256(model).hexdigest(), size=len(model), opset=17),
        inputs=(TensorSpec("x", "float32", (-1, y.shape[1])),),
        outputs=(TensorSpec("y", "float32", (-1, y.shape[1])),),
        tolerances={"y": Tolerance(relative=TOLERANCE, scale=float(np.abs(y).max()))},
        reach={},
        text=None,
        trained_on="nothing",
        licence="MIT",
        made_by="bench/detection_audit.py",
        quality={},
        calibration=Calibration(engines=(), samples=1, configurations={}, honest_max=0.0, cheats={}, separation=4.0),
        golden=Golden(cid="none", vectors=1),
        audit=audit,
    )
    check_card(card)
    return card
