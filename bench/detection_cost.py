"""What being checked costs: bytes that the performer publishes, and the attester's time as a share of the performer's.

Both halves of the method run as they run in a node: the same engine, the same number of threads, on the same texts in
turn. Time is the process's own (CPU seconds), which others on the machine disturb least; what is told is a ratio.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import median
from typing import Final, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from bench.detection_subjects import SAMPLED, Subject
from bench.table import Cell, Row, Sheet
from shared.adapters.engine_onnx import OnnxEngine
from shared.documents import TextOutput, data_of, encode_output
from shared.interfaces import Tensors
from shared.top_logits import normalise, unpack
from shared.types import Digest
from shared.verification.decoder import spec_of
from shared.verification.method import Compute, Forward, Work
from shared.verification.text import SeededText, drift_of, misses_of, recomputed_logits, sampler_of, text_output
from shared.verification.verify import verify

ENGINE_BYTES: Final = 1 << 30
LONG_TOKENS: Final = 512
SPARE: Final = 4  # texts that may end too early, for each one that does not
SHORT_GOAL, LONG_GOAL = 0.15, 0.05
BYTES_GOAL: Final = 64.0
MOSTLY_PREFILL: Final = (
    "Three quarters of it are the prefill, which costs a decoder this small nearly as much as it saves: a token is "
    "written in half a millisecond."
)

Table = npt.NDArray[np.float32]
T = TypeVar("T")


@dataclass(frozen=True)
class Cost:
    """Of texts of one length, by the median text. Milliseconds."""

    tokens: int
    texts: int
    generation: float
    attester: float
    share: float  # the attester's of the generation
    evidence: float  # bytes a token
    stages: dict[str, float]


def cost_of_text(subject: Subject, tokens: int, texts: int) -> Cost:
    return asyncio.run(_measure(endless(subject, tokens), tokens, texts))


def rows_of(costs: Sequence[Cost]) -> list[Row]:
    rows = [Row("evidence, base64 included", max(cost.evidence for cost in costs), "bytes a token", BYTES_GOAL)]
    for cost in costs:
        name = f"attester cost, {cost.tokens} tokens"
        goal = LONG_GOAL if cost.tokens >= LONG_TOKENS else SHORT_GOAL
        rows.append(Row(name, 100 * cost.share, "% of generation", 100 * goal, hindrance=MOSTLY_PREFILL))
    return rows


def sheet_of(costs: Sequence[Cost]) -> Sheet:
    stages = list(costs[0].stages)
    lines: list[tuple[Cell, ...]] = [
        (f"{cost.tokens} tokens", cost.texts, cost.generation, cost.attester, *(cost.stages[name] for name in stages))
        for cost in costs
    ]
    header = ("text of", "texts", "generation, ms", "attester, ms", *(f"{name}, ms" for name in stages))
    return Sheet("Where an attester's time goes, by the median text", header, lines)


def endless(subject: Subject, tokens: int) -> Subject:
    """The same weights with room for as many tokens, and a card to match, under which no text ends before: begin and
    end token are swapped there, so that what the model would end with is never sampled, and what ends a text hardly
    ever. The texts mean little; their arithmetic is the same."""
    spec, file = spec_of(subject.card), subject.card.model
    if file is None:
        raise TypeError("a decoder without a model")
    context = max(spec.context, 2 * tokens)
    model = with_context(subject.model, spec.context, context)
    file = msgspec.structs.replace(file, sha256=hashlib.sha256(model).hexdigest(), size=len(model))
    text = msgspec.structs.replace(
        spec, bos=spec.eos, eos=spec.bos, context=context, max_tokens=max(spec.max_tokens, tokens)
    )
    return replace(subject, model=model, card=msgspec.structs.replace(subject.card, model=file, text=text))


def with_context(model: bytes, old: int, new: int) -> bytes:
    """Longer tables of rotary positions: constants of `old` rows whose first is the cosine, or the sine, of nothing."""
    parsed = onnx.load_model_from_string(model)
    stored = [node.attribute[0].t for node in parsed.graph.node if node.op_type == "Constant"]
    grown = 0
    for tensor in (*parsed.graph.initializer, *stored):
        if len(tensor.dims) == 2 and tensor.dims[0] == old and tensor.data_type == onnx.TensorProto.FLOAT:
            table = numpy_helper.to_array(tensor)
            longer = _longer(table, new)
            if longer.shape[1] != table.shape[1] or not np.allclose(longer[:old], table, atol=1e-4):
                raise SystemExit(f"{tensor.name} of {old} rows is no table of rotary positions")
            tensor.CopyFrom(numpy_helper.from_array(longer, tensor.name))
            grown += 1
    if grown != 2:
        raise SystemExit(f"{grown} tables of rotary positions in the model, expected a cosine's and a sine's")
    return parsed.SerializeToString()


def _longer(table: Table, rows: int) -> Table:
    width = table.shape[1]
    frequency = 10_000.0 ** -(np.arange(0, width, 2, dtype=np.float64) / width)
    angle = np.tile(np.outer(np.arange(rows), frequency), 2)
    longer: Table = (np.cos(angle) if table[0, 0] == 1 else np.sin(angle)).astype(np.float32)
    return longer


# --- timing ------------------------------------------------------------------------------------------
async def _measure(subject: Subject, tokens: int, texts: int) -> Cost:
    parameters = msgspec.structs.replace(SAMPLED, max_tokens=tokens)
    engine, model_hash = OnnxEngine(max_loaded_bytes=ENGINE_BYTES), Digest(hashlib.sha256(subject.model).digest())
    await engine.load(model_hash, subject.model)

    async def run(inputs: Tensors) -> Tensors:
        return await engine.run(model_hash, inputs)

    method, compute = SeededText(), Compute(run, run)
    generations, attesters, stages, evidence = [], [], [], []
    is_warm = False  # the first of each shape also sets up the session
    for work in subject.works(SPARE * texts, parameters):
        output, generation = await _timed(partial(method.prove, work, compute))
        if not isinstance(output, TextOutput) or len(output.tokens) != tokens:
            continue
        _, attester = await _timed(partial(verify, method, work, output, data_of(output), compute))
        if not is_warm:
            is_warm = True
            continue
        generations.append(generation)
        attesters.append(attester)
        stages.append(await _stages(work, output, run))
        evidence.append(evidence_bytes(output) / tokens)
        if len(generations) == texts:
            break
    await engine.close()
    if not generations:
        raise SystemExit(f"no text came to {tokens} tokens")
    return Cost(
        tokens,
        len(generations),
        median(generations),
        median(attesters),
        median(attesters) / median(generations),
        max(evidence),
        {name: median(each[name] for each in stages) for name in stages[0]},
    )


def evidence_bytes(output: TextOutput) -> int:
    """What the proof would be shorter by without them."""
    return len(encode_output(output)) - len(encode_output(msgspec.structs.replace(output, tops=b"")))


async def _stages(work: Work, output: TextOutput, run: Forward) -> dict[str, float]:
    """Milliseconds of each part of a judgement, by itself."""
    spec = spec_of(work.card)
    sampler = sampler_of(spec, work.task_id, work.parameters)
    logits, prefill = await _timed(lambda: recomputed_logits(work, output, run))
    _, sampling = await _timed(lambda: misses_of(sampler, logits, output.tokens, spec.margin))
    started = time.process_time()
    drift_of(unpack(output.tops, len(output.tokens), spec.vocab), normalise(logits))
    compared = time.process_time()
    text_output(spec, output.prompt, output.tokens, logits)
    packed = time.process_time()
    return {
        "prefill": prefill,
        "sampler": sampling,
        "logits": 1000 * (compared - started),
        "own evidence": 1000 * (packed - compared),
    }


async def _timed(work: Callable[[], Awaitable[T]]) -> tuple[T, float]:
    started = time.process_time()
    result = await work()
    return result, 1000 * (time.process_time() - started)
