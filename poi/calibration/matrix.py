"""The honest matrix: every way at hand of computing one model that no attester may mistake for another model."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Final

import numpy as np

from poi.calibration import emulated, independent
from poi.calibration.subject import past_of
from shared.adapters.onnx_runner import LEVELS, Runner, Setting, providers, version
from shared.documents import ModelCard
from shared.interfaces import Tensors
from shared.profiles import Profile
from shared.tensors import Array

BATCHES: Final = (1, 8, 64)
TEXT_BATCHES: Final = (1, 8)  # eight rows of a whole text are five hundred tokens at once

RunAll = Callable[[Sequence[Tensors]], list[Tensors]]
"""Each of the inputs, whatever it is batched with; outputs with the card's batch dimension."""


@dataclass(frozen=True, slots=True)
class Configuration:
    """One way to run the model. `run` may raise what its engine raises."""

    name: str
    engine: str  # with its version
    run: RunAll


def honest_matrix(card: ModelCard, runner: Runner) -> Iterator[Configuration]:
    """The first is the baseline: one thread, all optimisations, one input at a time."""
    settings = [
        Setting(threads, optimisation, provider)
        for provider, threads, optimisation in product(providers(), _threads(), reversed(LEVELS))
        if provider == "CPUExecutionProvider" or threads == 1  # a GPU's threads are its own
    ]
    for setting in settings:
        if card.text is not None:
            yield from _text_shapes(card, runner, setting)
        else:
            yield from _batch_shapes(card, runner, setting)
    evaluator = independent.Evaluator(runner.model, in_double=card.profile is Profile.EXACT_FP64)
    yield Configuration("onnx reference evaluator", independent.version(), evaluator.run_all)
    names = ["logits"] if card.text is not None else [spec.name for spec in card.outputs]
    for cpu, instructions in emulated.CPUS.items() if emulated.is_available() else ():
        yield Configuration(f"emulated {cpu} ({instructions})", version(), partial(_emulated, cpu, runner.model, names))


def _emulated(cpu: str, model: bytes, names: Sequence[str], inputs: Sequence[Tensors]) -> list[Tensors]:
    return emulated.run_emulated(cpu, model, inputs, names)


def _threads() -> list[int]:
    return sorted({1, 2, os.cpu_count() or 1})


def _batch_shapes(card: ModelCard, runner: Runner, setting: Setting) -> Iterator[Configuration]:
    for size in BATCHES if runner.has_free_batch() else (1,):
        yield Configuration(_named(setting, f"batch {size}"), version(), partial(_in_batches, runner, setting, size))


def _in_batches(runner: Runner, setting: Setting, size: int, inputs: Sequence[Tensors]) -> list[Tensors]:
    """Groups of `size` in order; the last one may be smaller."""
    results: list[Tensors] = []
    for start in range(0, len(inputs), size):
        group = inputs[start : start + size]
        rows = [array.shape[0] for array in (next(iter(each.values())) for each in group)]
        outputs = runner.run({name: np.concatenate([each[name] for each in group]) for name in group[0]}, setting)
        results += _split(outputs, rows)
    return results


def _split(outputs: dict[str, Array], rows: list[int]) -> list[Tensors]:
    """One part for each input, which may itself be of several rows."""
    if len(rows) == 1:
        return [outputs]
    ends = np.cumsum(rows)[:-1]
    parts = {name: np.split(array, ends) for name, array in outputs.items()}
    return [{name: part[i] for name, part in parts.items()} for i in range(len(rows))]


def _text_shapes(card: ModelCard, runner: Runner, setting: Setting) -> Iterator[Configuration]:
    for size in TEXT_BATCHES:
        yield Configuration(
            _named(setting, f"prefill, batch {size}"), version(), partial(_prefill, card, runner, setting, size)
        )
    if setting.optimisation in ("all", "off"):
        yield Configuration(_named(setting, "token by token"), version(), partial(_decode, card, runner, setting))


def _prefill(card: ModelCard, runner: Runner, setting: Setting, size: int, inputs: Sequence[Tensors]) -> list[Tensors]:
    """Whole texts at once. In a batch a text's neighbours are its own tokens in another order."""
    past = {name: np.repeat(array, size, 1) for name, array in past_of(card).items()}
    results: list[Tensors] = []
    for each in inputs:
        rows = np.concatenate([np.roll(each["ids"], shift, -1) for shift in range(size)])
        outputs = runner.run({"ids": rows, **past}, setting)
        results.append(outputs if size == 1 else {"logits": outputs["logits"][:1]})
    return results


def _decode(card: ModelCard, runner: Runner, setting: Setting, inputs: Sequence[Tensors]) -> list[Tensors]:
    return [_decode_one(card, runner, setting, each["ids"]) for each in inputs]


def _decode_one(card: ModelCard, runner: Runner, setting: Setting, ids: Array) -> Tensors:
    """With a cache a token at a time; without one the text so far, again and again."""
    past = past_of(card)
    has_cache = bool(past)
    rows = []
    for i in range(ids.shape[1]):
        outputs = runner.run({"ids": ids[:, i : i + 1] if has_cache else ids[:, : i + 1], **past}, setting)
        rows.append(outputs["logits"][:, -1:])
        if has_cache:
            past = {"past_keys": outputs["keys"], "past_values": outputs["values"]}
    return {"logits": np.concatenate(rows, 1)}


def _named(setting: Setting, shape: str) -> str:
    device = "" if setting.provider == "CPUExecutionProvider" else f"{setting.provider}, "
    threads = "1 thread" if setting.threads == 1 else f"{setting.threads} threads"
    return f"{device}{threads}, optimisation {setting.optimisation}, {shape}"
