"""Networks for batch audits: real ONNX files, taken apart and run, with a card and honest proofs."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from poi.calibration.audit import on_engine
from shared.adapters.engine_onnx import OnnxEngine
from shared.adapters.onnx_audit import split
from shared.card_parts import Audit, ModelFile, Tolerance
from shared.documents import BatchOutput, InputDocument, Parameters
from shared.interfaces import Tensors
from shared.model_card import ModelCard, check_card
from shared.tensors import TensorSpec, encode_tensor
from shared.types import Address, Digest
from shared.verification.method import AuditRuns, Compute, Forward, Work
from tests.cards import make_card

FLOAT, INT64 = int(TensorProto.FLOAT), int(TensorProto.INT64)
Floats = npt.NDArray[np.float32]


def random(*shape: int, seed: int = 0, scale: float = 1.0) -> Floats:
    return np.random.default_rng(seed).standard_normal(shape, np.float32) * np.float32(scale)


def onnx_file(
    nodes: Sequence[NodeProto],
    inputs: Mapping[str, Sequence[int | str | None]],
    outputs: Sequence[str],
    constants: Mapping[str, npt.NDArray[Any]],
    *,
    input_types: Mapping[str, int] | None = None,
    opset: int = 17,
) -> bytes:
    """Outputs are float32 of any shape."""
    kinds = input_types or {}
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(name, kinds.get(name, FLOAT), shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, FLOAT, None) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    data: bytes = model.SerializeToString()
    return data


def nodes_of(model: bytes) -> list[str]:
    parsed = ModelProto()
    parsed.ParseFromString(model)
    return [node.op_type for node in parsed.graph.node]


def mlp(width: int = 64, seed: int = 0) -> bytes:
    """x (batch, width) → sum1 → ReLU → sum2 → tanh → y, all of one width; the last product has neither bias nor name
    of its own."""
    return onnx_file(
        [
            helper.make_node("Gemm", ["x", "w1", "b1"], ["sum1"], transB=1, alpha=0.5, beta=2.0),
            helper.make_node("Relu", ["sum1"], ["active1"]),
            helper.make_node("MatMul", ["active1", "w2"], ["sum2"]),
            helper.make_node("Tanh", ["sum2"], ["active2"]),
            helper.make_node("MatMul", ["active2", "w3"], ["y"]),
        ],
        {"x": ["batch", width]},
        ["y"],
        {
            "w1": random(width, width, seed=seed + 1, scale=0.2),
            "b1": random(width, seed=seed + 2),
            "w2": random(width, width, seed=seed + 3, scale=0.2),
            "w3": random(width, width, seed=seed + 4, scale=0.2),
        },
    )


def decoder(width: int = 64, vocab: int = 96) -> bytes:
    """ids (batch, time) → logits (batch, time, vocab): embedding, one block of attention and one of gated units, with
    the tied embedding at its end left where it is (it is transposed, and no constant)."""
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["h0"]),
        *(helper.make_node("MatMul", ["h0", f"w{name}"], [name]) for name in "qkv"),
        helper.make_node("Transpose", ["k"], ["k_t"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["q", "k_t"], ["attention"]),
        helper.make_node("Softmax", ["attention"], ["shares"], axis=-1),
        helper.make_node("MatMul", ["shares", "v"], ["mixed"]),
        helper.make_node("MatMul", ["mixed", "wo"], ["o"]),
        helper.make_node("Add", ["h0", "o"], ["h1"]),
        helper.make_node("LayerNormalization", ["h1", "scale"], ["n1"], axis=-1),
        helper.make_node("MatMul", ["n1", "wg"], ["g"]),
        helper.make_node("MatMul", ["n1", "wu"], ["u"]),
        helper.make_node("Sigmoid", ["g"], ["gate"]),
        helper.make_node("Mul", ["gate", "u"], ["gated"]),
        helper.make_node("MatMul", ["gated", "wd"], ["d"]),
        helper.make_node("Add", ["h1", "d"], ["h2"]),
        helper.make_node("Transpose", ["table"], ["table_t"], perm=[1, 0]),
        helper.make_node("MatMul", ["h2", "table_t"], ["logits"]),
    ]
    constants = {f"w{name}": random(width, width, seed=i, scale=0.125) for i, name in enumerate("qkvogud")}
    table = random(vocab, width, seed=9)
    ones = np.ones(width, np.float32)
    return onnx_file(
        nodes,
        {"ids": ["batch", "time"]},
        ["logits"],
        {**constants, "table": table, "scale": ones},
        input_types={"ids": INT64},
    )


# --- a model that runs ---------------------------------------------------------------------------------
class Audited:
    """A model with everything that its performer and its attester need; `asked` notes each whole forward pass."""

    def __init__(self, model: bytes, card: ModelCard, inputs: Tensors, compute: Compute, runs: AuditRuns) -> None:
        self.model, self.card, self.inputs, self.runs = model, card, inputs, runs
        self.work = Work(Digest(bytes(32)), Address(bytes(20)), card, InputDocument(tensors=inputs), Parameters())
        self.asked: list[str] = []
        self.compute = Compute(
            run=self._counted("run", compute.run),
            reference=self._counted("reference", compute.reference),
            audit=compute.audit,
        )

    def _counted(self, name: str, forward: Forward) -> Forward:
        async def run(inputs: Tensors) -> Tensors:
            self.asked.append(name)
            return await forward(inputs)

        return run

    async def exposed(self) -> dict[str, Any]:
        return dict(await self.runs.exposed(self.inputs))

    def published(self, run: Tensors) -> BatchOutput:
        outputs = {spec.name for spec in self.card.outputs}
        names = [linear.result for linear in self.runs.linears if linear.result not in outputs]
        return BatchOutput(
            tensors={name: encode_tensor(run[name]) for name in sorted(outputs)},
            layers={name: encode_tensor(run[name]) for name in names},
        )


AUDIT = Audit(relative=5e-7, draws=3)


@asynccontextmanager
async def audited(
    model: bytes, inputs: Tensors, audit: Audit = AUDIT, tolerance: float = 1e-5
) -> AsyncIterator[Audited]:
    """The card's inputs are of the dtypes and widths of `inputs`, its outputs those of the model."""
    engine = OnnxEngine(max_loaded_bytes=1 << 28)
    double = OnnxEngine(max_loaded_bytes=1 << 28, precision="fp64")
    try:
        opening, parts = on_engine(engine), split(model)
        run = await opening(model)
        runs = AuditRuns(
            await opening(parts.exposed),
            await opening(parts.replay) if parts.replay is not None else _nothing,
            parts.linears,
            parts.inputs,
        )

        async def apart() -> AuditRuns:
            return runs

        card = card_of(model, inputs, await run(inputs), audit, tolerance)
        yield Audited(model, card, inputs, Compute(run, await on_engine(double)(model), apart), runs)
    finally:
        await double.close()
        await engine.close()


async def _nothing(inputs: Tensors) -> Tensors:
    return {}


def card_of(model: bytes, inputs: Tensors, outputs: Tensors, audit: Audit, tolerance: float) -> ModelCard:
    def specs(arrays: Tensors) -> tuple[TensorSpec, ...]:
        return tuple(
            TensorSpec(name, array.dtype.name, (-1,) * (array.ndim - 1) + array.shape[-1:])  # type: ignore[arg-type]
            if array.dtype == np.float32
            else TensorSpec(name, array.dtype.name, (-1,) * array.ndim)  # type: ignore[arg-type]
            for name, array in arrays.items()
        )

    card = make_card(
        method="batch-audit",
        model=ModelFile(cid="bafkrei", sha256=hashlib.sha256(model).hexdigest(), size=len(model), opset=17),
        inputs=specs(inputs),
        outputs=specs(outputs),
        tolerances={name: Tolerance(relative=tolerance, scale=float(np.abs(y).max())) for name, y in outputs.items()},
        audit=audit,
    )
    check_card(card)
    return card
