"""The bench on the smallest shipped model: what it counts is what the methods say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from bench import detection_engines
from bench.detection_adversary import steer_labels
from bench.detection_cost import evidence_bytes
from bench.detection_engines import configurations_of, instruction_set
from bench.detection_honest import Honest, emulated_matrix, engines_of, honest_matrix
from bench.detection_subjects import Subject, read_subjects
from bench.detection_tensors import HONEST, try_tensors
from shared.card_parts import Tolerance
from shared.documents import TextOutput
from shared.errors import InferenceFailed

MODELS = Path(__file__).parents[3] / "models"


@pytest.fixture(scope="module")
def wine() -> Subject:
    return next(subject for subject in read_subjects(MODELS, frozenset({"tensor"})) if subject.name == "wine")


def test_works_are_all_different_and_fit_the_card(wine):
    works = wine.works(len(wine.documents) + 3)
    assert len({work.task_id for work in works}) == len(works)
    assert len({work.document.tensors["features"].tobytes() for work in works}) == len(works)
    assert works[-1].document.tensors["features"].dtype == np.float32


def test_a_card_that_cannot_be_read_stops_the_bench(tmp_path):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/card.json").write_text("{}")
    with pytest.raises(SystemExit, match="make the card anew"):
        list(read_subjects(tmp_path, frozenset({"tensor"})))


def test_every_configuration_performs_and_judges(wine, monkeypatch):
    monkeypatch.setattr(detection_engines, "independent_configurations", lambda model: [])
    honest = honest_matrix(wine, 3, seconds=60.0)
    count = sum(map(len, honest.engines.values()))
    assert honest.outputs == 3 * count
    assert honest.checks == 3 * count * (count - 1)
    assert honest.rejected == []
    assert 0 <= max(honest.scores) <= 1


def test_a_worker_process_runs_the_instruction_set_that_it_was_asked_for(wine):
    configurations = {each.name: each for each in configurations_of(wine)}
    feeds = [work.document.tensors for work in wine.works(2)]
    name = f"numpy, {instruction_set()}"
    if name not in configurations:
        pytest.skip("a processor that OpenBLAS has other names for")
    first = next(iter(configurations.values()))
    for own, other in zip(first.run(feeds), configurations[name].run(feeds), strict=True):
        np.testing.assert_allclose(own["scores"], other["scores"], atol=1e-4)


def test_cheats_are_counted_by_each_method(wine):
    tried = {each.name: each for each in try_tensors(wine, 2, seconds=60.0)}
    assert tried[HONEST].accepted == tried[HONEST].outputs == 2
    trees = tried["half the trees"]
    assert (trees.outputs, trees.accepted, trees.methods["exact hash"]) == (2, 0, 0)
    assert min(trees.scores) > 10
    label = tried["wrong label"]
    assert (label.accepted, label.scores) == (0, [])  # refused by its form: nothing was measured


def test_another_label_is_claimed_only_where_the_tolerance_reaches(wine):
    narrow = steer_labels(wine, 4)
    assert (narrow.changed, narrow.accepted) == (0, 0)
    name = wine.card.outputs[0].name
    tolerances = {name: Tolerance(relative=1.0, scale=1e3)}
    wide = steer_labels(replace(wine, card=msgspec.structs.replace(wine.card, tolerances=tolerances)), 4)
    assert (wide.changed, wide.accepted) == (4, 4)


def test_evidence_is_64_bytes_a_token():
    output = TextOutput(encoding="bytes", prompt=(256, 65), tokens=(66,) * 10, stop="length", tops=bytes(480))
    assert evidence_bytes(output) == 640


def test_a_configuration_that_cannot_run_is_told_and_not_counted(wine, monkeypatch):
    def fail(feeds):
        raise InferenceFailed("took too long")

    broken = detection_engines.Configuration("emulated, slow", "an emulator", fail)
    monkeypatch.setattr(detection_engines, "emulated_configurations", lambda model: [broken])
    honest = Honest("wine")
    emulated_matrix(wine, honest)
    assert honest.skipped == {"emulated, slow": "took too long"}
    assert "an emulator" not in honest.engines
    assert honest.checks > 0
    assert ("skipped", "emulated, slow: took too long") in engines_of([honest]).lines
