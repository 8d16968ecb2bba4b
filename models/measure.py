"""Honest and dishonest runs of a model, and the distances between them: what `calibrate.py` builds a card from."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import onnxruntime

from shared.documents import InputDocument, ModelCard, Parameters, TextOutput
from shared.interfaces import Tensors
from shared.model_card import Cheat
from shared.types import Digest, Verdict
from shared.verification.text import SeededText, empty_past

HEADROOM = 4.0
FLOOR = 1e-6  # of the scale: eight float32 steps
BATCHES = (1, 8, 64)
THREADS = (1, 2)
OPTIMISATION = ("DISABLE_ALL", "ENABLE_BASIC", "ENABLE_EXTENDED", "ENABLE_ALL")
NOISE, COPIES = 0.02, 8  # sample inputs are also run with a little noise: more sums that round differently
TEXT_PARAMETERS = Parameters(max_tokens=64, temperature=0.8, top_k=40)

Values = npt.NDArray[np.float64]


class Runner:
    """One model under any configuration of the runtime."""

    def __init__(self, model: bytes) -> None:
        self._model = model
        self._sessions: dict[tuple[int, str], Any] = {}

    def session(self, threads: int = 1, optimisation: str = "ENABLE_ALL") -> Any:
        if (threads, optimisation) not in self._sessions:
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads, options.log_severity_level = threads, 4
            options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, f"ORT_{optimisation}")
            self._sessions[threads, optimisation] = onnxruntime.InferenceSession(
                self._model, options, providers=["CPUExecutionProvider"]
            )
        return self._sessions[threads, optimisation]

    def run(self, inputs: Tensors, threads: int = 1, optimisation: str = "ENABLE_ALL") -> dict[str, Any]:
        session = self.session(threads, optimisation)
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(names, dict(inputs)), strict=True))

    async def forward(self, inputs: Tensors) -> Tensors:
        return self.run(inputs)


@dataclass(frozen=True)
class Measured:
    """`limits` are the fields of the card that the measurement sets."""

    limits: dict[str, Any]
    samples: int
    configurations: tuple[str, ...]
    honest_max: float
    cheats: dict[str, Cheat]

    @property
    def separation(self) -> float:
        return min(cheat.smallest_deviation for cheat in self.cheats.values())


# --- tensors and classes ---------------------------------------------------------------------------
def measure_tensors(
    card: ModelCard, honest: Runner, cheats: Mapping[str, Runner], documents: Sequence[InputDocument]
) -> Measured:
    """Each output's largest honest distance, as a part of its largest magnitude."""
    inputs = _with_noise([document.tensors or {} for document in documents])
    batches = BATCHES if _has_free_batch(honest, card) else (1,)
    runs: dict[str, dict[str, Values]] = {}
    for threads, optimisation, batch in product(THREADS, OPTIMISATION, batches):
        name = f"{threads} threads, {optimisation}, batch {batch}"
        runs[name] = _run_all(card, partial(honest.run, threads=threads, optimisation=optimisation), inputs, batch)
    reference = next(iter(runs.values()))
    scale = {name: float(np.abs(values).max()) or 1.0 for name, values in reference.items()}
    honest_max = {name: _spread(run[name] for run in runs.values()) / scale[name] for name in scale}
    relative = {name: max(HEADROOM * honest_max[name], FLOOR) for name in scale}
    caught = {
        name: _deviations(reference, _run_all(card, cheat.run, inputs, 1), scale, relative)
        for name, cheat in cheats.items()
    }
    return Measured(
        limits={"tolerances": {name: {"relative": relative[name], "scale": scale[name]} for name in scale}},
        samples=len(inputs),
        configurations=tuple(runs),
        honest_max=max(honest_max.values()),
        cheats={name: _cheat(values, values > 1) for name, values in caught.items()},
    )


def _with_noise(inputs: list[Tensors]) -> list[Tensors]:
    noise = np.random.default_rng(0)
    noisy = []
    for sample, _ in product(inputs, range(COPIES - 1)):
        noisy.append({name: _blur(array, noise) for name, array in sample.items()})
    return [*inputs, *noisy]


def _blur(array: Any, noise: np.random.Generator) -> Any:
    if array.dtype.kind != "f":
        return array
    return (array + NOISE * noise.standard_normal(array.shape)).astype(array.dtype)


def _has_free_batch(runner: Runner, card: ModelCard) -> bool:
    """The graph takes many inputs at once, whatever the card allows."""
    return all(not isinstance(value.shape[0], int) for value in runner.session().get_inputs() if value.shape)


def _run_all(
    card: ModelCard, run: Callable[[Tensors], dict[str, Any]], inputs: list[Tensors], batch: int
) -> dict[str, Values]:
    """(inputs, values) of each float output."""
    names = list(card.tolerances)
    rows: dict[str, list[Values]] = {name: [] for name in names}
    for start in range(0, len(inputs), batch):
        group = inputs[start : start + batch]
        outputs = run({key: np.concatenate([sample[key] for sample in group]) for key in group[0]})
        for name in names:
            rows[name].append(np.asarray(outputs[name], np.float64).reshape(len(group), -1))
    return {name: np.concatenate(parts) for name, parts in rows.items()}


def _deviations(
    honest: dict[str, Values], cheat: dict[str, Values], scale: dict[str, float], relative: dict[str, float]
) -> Values:
    """For each input the largest deviation over the outputs, in tolerances."""
    each = [np.abs(honest[name] - cheat[name]).max(1) / (relative[name] * scale[name]) for name in honest]
    return np.asarray(np.max(each, axis=0))


# --- text ------------------------------------------------------------------------------------------
def measure_text(
    card: ModelCard, honest: Runner, cheats: Mapping[str, Runner], documents: Sequence[InputDocument]
) -> Measured:
    """The largest honest distance of any logit, over whole texts: at once, in batches, and token by token."""
    spec = card.text
    if spec is None:
        raise SystemExit("the card has no text")
    texts = [asyncio.run(_write(card, honest, document, i)) for i, document in enumerate(documents)]
    runs: dict[str, list[Values]] = {}
    for threads, optimisation, batch in product(THREADS, OPTIMISATION, BATCHES[:2]):
        name = f"{threads} threads, {optimisation}, batch {batch}"
        runs[name] = [_prefill(card, honest, text, threads, optimisation, batch) for text in texts]
    runs["2 threads, ENABLE_ALL, token by token"] = [_decode(card, honest, text) for text in texts]
    reference = next(iter(runs.values()))
    scale = max(float(np.abs(values).max()) for values in reference)
    honest_max = max(_spread(run[i] for run in runs.values()) for i in range(len(texts)))
    margin = max(HEADROOM * honest_max, FLOOR * scale)
    limited = msgspec.structs.replace(card, text=msgspec.structs.replace(spec, margin=margin))
    measured = {}
    for name, cheat in cheats.items():
        far = [
            np.abs(_prefill(card, cheat, text) - values).max() for text, values in zip(texts, reference, strict=True)
        ]
        caught = [asyncio.run(_is_caught(limited, honest, cheat, document, i)) for i, document in enumerate(documents)]
        measured[name] = _cheat(np.array(far) / margin, np.array(caught))
    return Measured(
        limits={"text": limited.text},
        samples=len(texts),
        configurations=tuple(runs),
        honest_max=honest_max,
        cheats=measured,
    )


async def _write(card: ModelCard, runner: Runner, document: InputDocument, i: int) -> TextOutput:
    output = await SeededText().prove(
        task_id=_task_id(i), card=card, document=document, parameters=TEXT_PARAMETERS, run=runner.forward
    )
    if not isinstance(output, TextOutput):
        raise TypeError("not a text")
    return output


async def _is_caught(card: ModelCard, honest: Runner, cheat: Runner, document: InputDocument, i: int) -> bool:
    """The cheat writes, the honest model verifies."""
    output = await _write(card, cheat, document, i)
    method = SeededText()
    judgement = await method.verify(
        task_id=_task_id(i),
        card=card,
        document=document,
        parameters=TEXT_PARAMETERS,
        output=output,
        data=method.data_of(card, output),
        run=honest.forward,
    )
    return judgement.verdict is Verdict.INVALID


def _task_id(i: int) -> Digest:
    return Digest(hashlib.sha256(b"calibration" + i.to_bytes(4, "big")).digest())


def _prefill(
    card: ModelCard,
    runner: Runner,
    text: TextOutput,
    threads: int = 1,
    optimisation: str = "ENABLE_ALL",
    batch: int = 1,
) -> Values:
    """Logits (time, vocab) of the whole text at once; in a batch its neighbours are other texts of the same length."""
    tokens = np.array(text.prompt + text.tokens, np.int64)
    rows = np.stack([np.roll(tokens, shift) for shift in range(batch)])
    past = {name: np.repeat(array, batch, 1) for name, array in empty_past(card).items()}
    return np.asarray(runner.run({"ids": rows, **past}, threads, optimisation)["logits"][0], np.float64)


def _decode(card: ModelCard, runner: Runner, text: TextOutput) -> Values:
    """The same logits, token by token with the cache."""
    past: Tensors = empty_past(card)
    rows = []
    for token in text.prompt + text.tokens:
        outputs = runner.run({"ids": np.array([[token]], np.int64), **past}, threads=2)
        past = {"past_keys": outputs["keys"], "past_values": outputs["values"]}
        rows.append(np.asarray(outputs["logits"][0, 0], np.float64))
    return np.stack(rows)


# --- both ------------------------------------------------------------------------------------------
def _spread(runs: Iterable[Values]) -> float:
    """The largest distance between any two runs at any value."""
    stacked = list(runs)
    return float((np.max(stacked, axis=0) - np.min(stacked, axis=0)).max())


def _cheat(deviations: Values, caught: npt.NDArray[np.bool_]) -> Cheat:
    return Cheat(smallest_deviation=float(deviations.min()), caught=float(caught.mean()))
