"""Method `batch-audit` on real graphs: honest batches pass, cheats are refused by name, shapes are never trusted."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
from onnx import helper

from shared.card_parts import Audit
from shared.documents import BatchOutput, InputDocument, Output, ProofObject, TensorOutput, decode_proof, encode_proof
from shared.errors import CodecError, InferenceFailed, InputMismatch
from shared.interfaces import Tensors
from shared.reasons import AbstainReason, InvalidReason
from shared.tensors import Tensor, encode_tensor
from shared.types import Cid, Digest, Fingerprint, Verdict
from shared.verification import METHODS
from shared.verification.batch_audit import MAX_AUDITS_OF_BASIS, BatchAudit, Projections
from shared.verification.method import Compute, Judgement
from tests.audit_support import AUDIT, INT64, Audited, audited, decoder, mlp, onnx_file, random

ROWS = 32
X = {"x": random(ROWS, 64, seed=7)}
METHOD = METHODS["batch-audit"]


@pytest.fixture
async def network() -> AsyncIterator[Audited]:
    async with audited(mlp(), X) as opened:
        yield opened


async def judge(network: Audited, output: Output, method: Any = METHOD) -> Judgement:
    fault = method.fault(network.work, output)
    assert fault is None, fault
    judgement: Judgement = await method.judge(network.work, output, network.compute)
    return judgement


async def refused(network: Audited, run: Tensors) -> InvalidReason | AbstainReason | None:
    judgement = await judge(network, network.published(run))
    assert judgement.verdict is Verdict.INVALID
    return judgement.reason


def encoded(array: Any) -> Tensor:
    """Whatever it is, NaN included."""
    return Tensor(dtype=array.dtype.name, shape=array.shape, data=array.tobytes())


# --- honest ------------------------------------------------------------------------------------------
async def test_an_honest_batch_passes_without_a_forward_pass(network: Audited) -> None:
    output = await METHOD.prove(network.work, network.compute)
    assert isinstance(output, BatchOutput)
    assert (list(output.tensors), list(output.layers)) == (["y"], ["sum1", "sum2"])
    judgement = await judge(network, output)
    assert (judgement.verdict, judgement.reason, judgement.is_refereed) == (Verdict.VALID, None, False)
    assert 0 < judgement.score < 0.5
    assert list(judgement.statistics) == ["residual of sum1", "residual of sum2", "residual of y"]
    assert max(judgement.statistics.values()) == judgement.score
    assert network.asked == []


async def test_an_honest_decoder_passes_and_one_product_is_replayed() -> None:
    ids = np.random.default_rng(3).integers(0, 96, (8, 12))
    async with audited(decoder(), {"ids": ids}) as network:
        output = await METHOD.prove(network.work, network.compute)
        assert isinstance(output, BatchOutput)
        assert list(output.layers) == ["q", "k", "v", "o", "g", "u", "d"]
        assert all(layer.shape == (8, 12, 64) for layer in output.layers.values())
        judgement = await judge(network, output)
        assert (judgement.verdict, network.asked) == (Verdict.VALID, [])
        assert 0 <= judgement.statistics["distance of logits"] < 0.5


async def test_a_batch_in_other_chunks_passes(network: Audited) -> None:
    parts = [await network.runs.exposed({"x": X["x"][start : start + 5]}) for start in range(0, ROWS, 5)]
    run = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    assert (await judge(network, network.published(run))).verdict is Verdict.VALID


async def test_an_empty_batch_has_an_empty_proof() -> None:
    async with audited(mlp(), X) as network:
        network.work = replace(network.work, document=InputDocument(tensors={"x": np.zeros((0, 64), np.float32)}))
        judgement = await judge(network, await METHOD.prove(network.work, network.compute))
        assert (judgement.verdict, judgement.score) == (Verdict.VALID, 0.0)


async def test_a_model_that_is_one_product() -> None:
    """No layer beside the output, and nothing to replay."""
    model = onnx_file([helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": ["n", 64]}, ["y"], {"w": random(64, 64)})
    async with audited(model, X) as network:
        output = await METHOD.prove(network.work, network.compute)
        assert isinstance(output, BatchOutput)
        assert output.layers == {}
        assert (await judge(network, output)).verdict is Verdict.VALID
        run = await network.exposed()
        assert await refused(network, {"y": run["y"] * np.float32(1.01)}) is InvalidReason.LAYER_DIFFERS


async def test_a_proof_survives_its_encoding(network: Audited) -> None:
    output = await METHOD.prove(network.work, network.compute)
    proof = ProofObject(
        Digest(bytes(32)), Cid("card"), Digest(bytes(32)), Cid("input"), "{}", Digest(bytes(32)), output,
        Fingerprint("onnxruntime", "1", "cpu", "cpu"),
    )  # fmt: skip
    assert decode_proof(encode_proof(proof)).output == output


# --- cheats ------------------------------------------------------------------------------------------
def int8(weight: Any) -> Any:
    scale = np.abs(weight).max() / 127
    return (np.round(weight / scale) * scale).astype(np.float32)


@pytest.mark.parametrize(
    "change",
    [
        int8,
        lambda w: w.astype(np.float16).astype(np.float32),
        lambda w: np.where(np.abs(w) < np.quantile(np.abs(w), 0.01), 0, w).astype(np.float32),
        lambda w: (w + np.float32(1e-4) * random(*w.shape, seed=99)).astype(np.float32),
    ],
    ids=["int8", "fp16", "pruned", "fine-tuned"],
)
@pytest.mark.parametrize("layer", [0, 1, 2])
async def test_one_layer_with_other_weights_is_refused_and_named(
    network: Audited, change: Callable[[Any], Any], layer: int
) -> None:
    """Everything after the cheated layer follows from it honestly."""
    run, linears = await network.exposed(), network.runs.linears
    source = {"x": X["x"], **run, "active1": np.maximum(run["sum1"], 0), "active2": np.tanh(run["sum2"])}
    linear = linears[layer]
    bias = 0 if linear.bias is None else linear.bias
    lie = (linear.alpha * (source[linear.source] @ change(linear.weight)) + bias).astype(np.float32)
    run[linear.result] = lie
    if layer == 0:
        run["sum2"] = np.maximum(lie, 0) @ linears[1].weight
    if layer <= 1:
        run["y"] = np.tanh(run["sum2"]) @ linears[2].weight
    judgement = await judge(network, network.published(run))
    assert (judgement.verdict, judgement.reason) == (Verdict.INVALID, InvalidReason.LAYER_DIFFERS)
    named = [name for name in judgement.statistics if name.startswith("first layer that differs")]
    assert len(named) == 1
    assert named[0].startswith(f"first layer that differs: {linear.result}, row ")


@pytest.mark.parametrize(
    ("lie", "reason"),
    [
        (lambda run: {**run, "y": run["y"] + np.float32(0.01)}, InvalidReason.LAYER_DIFFERS),
        (lambda run: {**run, "y": changed(run["y"], 5, 3, 0.01)}, InvalidReason.LAYER_DIFFERS),
        (lambda run: {name: array[::-1].copy() for name, array in run.items()}, InvalidReason.LAYER_DIFFERS),
        (lambda run: {name: swapped(array, 3, 8) for name, array in run.items()}, InvalidReason.LAYER_DIFFERS),
        (lambda run: {**run, "sum2": swapped(run["sum2"], 3, 8)}, InvalidReason.LAYER_DIFFERS),
        (lambda run: {name: np.zeros_like(array) for name, array in run.items()}, InvalidReason.LAYER_DIFFERS),
        (lambda run: {**run, "sum1": np.full_like(run["sum1"], 3e38)}, InvalidReason.LAYER_DIFFERS),
    ],
    ids=["outputs moved", "one output moved", "reversed", "swapped", "one layer swapped", "zeros", "overflow"],
)
async def test_what_was_not_computed_is_refused(
    network: Audited, lie: Callable[[Any], Any], reason: InvalidReason
) -> None:
    assert await refused(network, lie(await network.exposed())) is reason


def changed(array: Any, row: int, column: int, delta: float) -> Any:
    copy = array.copy()
    copy[row, column] += np.float32(delta)
    return copy


def swapped(array: Any, one: int, other: int) -> Any:
    copy = array.copy()
    copy[[one, other]] = array[[other, one]]
    return copy


async def test_one_cheated_row_is_refused_and_named(network: Audited) -> None:
    run, linear = await network.exposed(), network.runs.linears[0]
    run["sum1"][17] = 0.5 * (X["x"][17] @ int8(linear.weight)) + linear.bias
    run["sum2"] = np.maximum(run["sum1"], 0) @ network.runs.linears[1].weight
    run["y"] = np.tanh(run["sum2"]) @ network.runs.linears[2].weight
    judgement = await judge(network, network.published(run))
    assert (judgement.verdict, judgement.reason) == (Verdict.INVALID, InvalidReason.LAYER_DIFFERS)
    assert "first layer that differs: sum1, row 17" in judgement.statistics


async def test_another_input_is_refused_in_the_first_layer(network: Audited) -> None:
    """Layers of an honest run on something else, copied or stale."""
    run = dict(await network.runs.exposed({"x": random(ROWS, 64, seed=8)}))
    judgement = await judge(network, network.published(run))
    assert judgement.reason is InvalidReason.LAYER_DIFFERS
    assert any(name.startswith("first layer that differs: sum1") for name in judgement.statistics)


async def test_outputs_that_no_layer_gave_are_compared_with_the_replay() -> None:
    ids = np.random.default_rng(3).integers(0, 96, (4, 6))
    async with audited(decoder(), {"ids": ids}) as network:
        run = await network.exposed()
        run["logits"] = changed(run["logits"], 2, 3, 0.01)
        assert await refused(network, run) is InvalidReason.TENSOR_DIFFERS


# --- between the zones -------------------------------------------------------------------------------
@pytest.mark.parametrize(("delta", "verdict"), [(0.0, Verdict.VALID), (1e-3, Verdict.INVALID)])
async def test_between_the_zones_the_reference_recomputes_and_decides(delta: float, verdict: Verdict) -> None:
    """Under an audit tolerance so tight that honest rounding lies between the zones."""
    async with audited(mlp(), X, Audit(relative=1.5e-8, draws=3)) as network:
        run = await network.exposed()
        run["y"] = (run["y"] * np.float32(1 + delta * 1e-4)).astype(np.float32)
        output = network.published(run)
        if verdict is Verdict.INVALID:
            network.card = msgspec.structs.replace(
                network.card, tolerances={"y": msgspec.structs.replace(network.card.tolerances["y"], relative=1e-9)}
            )
            network.work = replace(network.work, card=network.card)
        judgement = await judge(network, output)
        assert (judgement.verdict, judgement.is_refereed, network.asked) == (verdict, True, ["reference"])
        assert judgement.reason is (None if verdict is Verdict.VALID else InvalidReason.TENSOR_DIFFERS)
        assert any(name.startswith("residual of") for name in judgement.statistics)


async def test_where_the_reference_fails_it_abstains() -> None:
    async with audited(mlp(), X, Audit(relative=1.5e-8, draws=3)) as network:

        async def fails(inputs: Tensors) -> Tensors:
            raise InferenceFailed("no double")

        network.compute = replace(network.compute, reference=fails)
        judgement = await judge(network, await METHOD.prove(network.work, network.compute))
        assert (judgement.verdict, judgement.reason) == (Verdict.ABSTAIN, AbstainReason.REFERENCE_FAILED)


# --- what is published of the layers -----------------------------------------------------------------
@pytest.mark.parametrize(
    "lie",
    [
        lambda output: {**output.layers, "sum3": output.layers["sum1"]},
        lambda output: {"sum1": output.layers["sum1"]},
        lambda output: {},
        lambda output: {**output.layers, "y": output.tensors["y"]},
        lambda output: {**output.layers, "sum1": encode_tensor(np.zeros((1, 64), np.float32))},
        lambda output: {**output.layers, "sum1": encode_tensor(np.zeros((ROWS, 1), np.float32))},
        lambda output: {**output.layers, "sum1": encode_tensor(np.zeros((ROWS * 64,), np.float32))},
        lambda output: {**output.layers, "sum1": encode_tensor(np.zeros((1 << 16, 1, 1), np.float32))},
        lambda output: {**output.layers, "sum2": encode_tensor(np.zeros((ROWS + 1, 64), np.float32))},
    ],
    ids=["extra", "missing", "none", "an output twice", "one row", "one column", "flat", "to broadcast", "a row more"],
)
async def test_layers_of_other_names_or_shapes_are_malformed_and_never_computed_with(
    network: Audited, lie: Callable[[BatchOutput], dict[str, Tensor]]
) -> None:
    output = await METHOD.prove(network.work, network.compute)
    assert isinstance(output, BatchOutput)

    async def never(inputs: Tensors) -> Tensors:
        raise AssertionError("it was computed with")

    runs = replace(network.runs, replay=never)

    async def apart() -> Any:
        return runs

    network.compute = Compute(never, never, apart)
    judgement = await judge(network, BatchOutput(output.tensors, lie(output)))
    assert (judgement.verdict, judgement.reason) == (Verdict.INVALID, InvalidReason.OUTPUT_MALFORMED)


@pytest.mark.parametrize(
    "lie",
    [
        lambda output: TensorOutput(output.tensors),
        lambda output: BatchOutput({}, output.layers),
        lambda output: BatchOutput({"y": encode_tensor(np.zeros((ROWS, 64)))}, output.layers),
        lambda output: BatchOutput({"y": encoded(np.full((ROWS, 64), np.nan, np.float32))}, output.layers),
        lambda output: BatchOutput(
            output.tensors, {**output.layers, "sum1": encode_tensor(np.zeros((ROWS, 64), np.int64))}
        ),
        lambda output: BatchOutput(output.tensors, {**output.layers, "sum1": Tensor("float32", (ROWS, 64), b"")}),
        lambda output: BatchOutput(output.tensors, {**output.layers, "sum1": Tensor("float32", (1 << 22, 64), b"")}),
    ],
    ids=["kind", "no output", "dtype of an output", "NaN output", "dtype of a layer", "cut", "huge"],
)
async def test_malformed_without_running_anything(network: Audited, lie: Callable[[Any], Output]) -> None:
    output = await METHOD.prove(network.work, network.compute)
    assert METHOD.fault(network.work, lie(output)) is InvalidReason.OUTPUT_MALFORMED


async def test_nan_in_a_layer_is_no_proof_and_differs_from_everything(network: Audited) -> None:
    output = await METHOD.prove(network.work, network.compute)
    assert isinstance(output, BatchOutput)
    lie = BatchOutput(output.tensors, {**output.layers, "sum2": encoded(np.full((ROWS, 64), np.nan, np.float32))})
    judgement = await judge(network, lie)
    assert (judgement.verdict, judgement.reason) == (Verdict.INVALID, InvalidReason.LAYER_DIFFERS)
    assert judgement.score == math.inf
    proof = ProofObject(
        Digest(bytes(32)), Cid("card"), Digest(bytes(32)), Cid("input"), "{}", Digest(bytes(32)), lie,
        Fingerprint("onnxruntime", "1", "cpu", "cpu"),
    )  # fmt: skip
    with pytest.raises(CodecError, match="NaN"):
        decode_proof(encode_proof(proof))


# --- what cannot be replayed, or not be taken apart --------------------------------------------------
def lookup() -> bytes:
    """A product's result, as whole numbers, picks rows of a table: a lie can point outside of it."""
    return onnx_file(
        [
            helper.make_node("MatMul", ["x", "w"], ["picked"]),
            helper.make_node("ReduceMax", ["picked"], ["most"], axes=[1], keepdims=0),
            helper.make_node("Cast", ["most"], ["index"], to=INT64),
            helper.make_node("Gather", ["table", "index"], ["y"]),
        ],
        {"x": ["batch", 64]},
        ["y"],
        {"w": random(64, 64, scale=0.02), "table": random(9, 3)},
    )


async def test_a_lie_that_cannot_be_replayed_is_recomputed_and_refused() -> None:
    async with audited(lookup(), X) as network:
        run = await network.exposed()
        assert (await judge(network, network.published(run))).verdict is Verdict.VALID
        lie = {"picked": np.full_like(run["picked"], 1e6), "y": run["y"] + 1}
        judgement = await judge(network, network.published(lie))
        assert (judgement.verdict, judgement.reason) == (Verdict.INVALID, InvalidReason.TENSOR_DIFFERS)
        assert network.asked == ["run", "reference"]


async def test_inputs_that_leave_the_shapes_open_are_recomputed() -> None:
    """Two inputs of one named size that are of two: the graph broadcasts, and what is published of it cannot be held to
    a shape."""
    model = onnx_file(
        [helper.make_node("Add", ["x", "z"], ["s"]), helper.make_node("MatMul", ["s", "w"], ["y"])],
        {"x": ["batch", 64], "z": ["batch", 64]},
        ["y"],
        {"w": random(64, 64)},
    )
    inputs = {"x": X["x"], "z": random(1, 64, seed=2)}
    async with audited(model, inputs) as network:
        run = await network.exposed()
        assert (await judge(network, network.published(run))).verdict is Verdict.VALID
        assert await refused(network, {"y": run["y"] + np.float32(0.01)}) is InvalidReason.TENSOR_DIFFERS
        assert network.asked == ["run", "run", "reference"]


async def test_a_node_that_cannot_take_models_apart_says_so(network: Audited) -> None:
    output = await METHOD.prove(network.work, network.compute)
    compute = replace(network.compute, audit=None)
    for attempt in (METHOD.prove(network.work, compute), METHOD.judge(network.work, output, compute)):
        with pytest.raises(InferenceFailed, match="cannot take a model apart"):
            await attempt


async def test_a_batch_that_no_proof_has_room_for_is_refused_before_it_is_published(network: Audited) -> None:
    rows = 16_000  # of 3 × 64 float32: 12.3 MB
    work = replace(network.work, document=InputDocument(tensors={"x": np.zeros((rows, 64), np.float32)}))
    with pytest.raises(InputMismatch, match="at most 12189696 bytes of outputs and layers"):
        await METHOD.prove(work, network.compute)


async def test_a_performer_publishes_no_layer_that_attesters_would_refuse(network: Audited) -> None:
    first, *others = network.runs.linears
    runs = replace(network.runs, linears=(replace(first, shape=("batch", 63)), *others))

    async def apart() -> Any:
        return runs

    with pytest.raises(InferenceFailed, match="another shape"):
        await METHOD.prove(network.work, replace(network.compute, audit=apart))


async def test_a_layer_that_overflows_is_nobodys_offence(network: Audited) -> None:
    document = InputDocument(tensors={"x": np.full((1, 64), 3e38, np.float32)})
    with pytest.raises(InferenceFailed):
        await METHOD.prove(replace(network.work, document=document), network.compute)


async def test_measure_recomputes_the_outputs_as_tensor_does(network: Audited) -> None:
    output = await METHOD.prove(network.work, network.compute)
    assert isinstance(output, BatchOutput)
    for published in (output, TensorOutput(output.tensors)):
        measured = await BatchAudit().measure(network.work, published, network.compute.run)
        assert measured.score < 0.5
        assert "distance of y" in measured.statistics


# --- projections ---------------------------------------------------------------------------------------
async def test_every_audit_has_vectors_of_its_own(network: Audited) -> None:
    linear, projections = network.runs.linears[0], Projections(np.random.default_rng(0).bytes)
    drawn = [projections.draw(linear, 2).vectors.tobytes() for _ in range(50)]
    assert len(set(drawn)) == 50


async def test_a_basis_serves_so_many_audits_and_none_after_a_refusal(network: Audited) -> None:
    asked: list[int] = []

    def random_bytes(size: int) -> bytes:
        asked.append(size)
        return np.random.default_rng(len(asked)).bytes(size)

    linear, projections = network.runs.linears[0], Projections(random_bytes)
    basis, coefficients = 2 * 32 * 64, 2 * 2 * 32
    for _ in range(MAX_AUDITS_OF_BASIS + 1):
        projections.draw(linear, 2)
    assert asked == [basis, *[coefficients] * MAX_AUDITS_OF_BASIS, basis, coefficients]
    projections.forget(linear)
    projections.draw(linear, 2)
    assert asked[-2:] == [basis, coefficients]


async def test_a_refusal_draws_a_new_basis_for_the_layers_that_differ(network: Audited) -> None:
    asked: list[int] = []

    def random_bytes(size: int) -> bytes:
        asked.append(size)
        return np.random.default_rng(len(asked)).bytes(size)

    method, run, basis = BatchAudit(random_bytes), await network.exposed(), 2 * 32 * 64
    honest, lie = network.published(run), network.published({**run, "y": run["y"] * np.float32(1.1)})
    for output, drawn in ((honest, 3), (honest, 0), (lie, 0), (lie, 1), (honest, 1), (honest, 0)):
        asked.clear()
        await judge(network, output, method)
        assert asked.count(basis) == drawn


async def test_who_knows_all_randomness_can_cheat(network: Audited) -> None:
    """Why an attester draws it, from the operating system: with a generator that a performer can run as well, the last
    layer can be anything."""

    def known() -> Callable[[int], bytes]:
        return np.random.default_rng(42).bytes

    rehearsal = Projections(known())
    vectors = [rehearsal.draw(linear, AUDIT.draws).vectors for linear in network.runs.linears][-1]
    run = await network.exposed()
    error = (np.linalg.svd(vectors.astype(np.float64))[2][-1] * 10).astype(np.float32)
    forged = network.published({**run, "y": run["y"] + error})
    assert (await judge(network, forged, BatchAudit(known()))).verdict is Verdict.VALID
    for _ in range(20):
        judgement = await judge(network, forged, BatchAudit())
        assert (judgement.verdict, judgement.reason) == (Verdict.INVALID, InvalidReason.LAYER_DIFFERS)
