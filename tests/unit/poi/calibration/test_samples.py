"""Sample inputs: where they come from, and the noise that makes more of them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from poi.calibration.samples import NOISE, read_samples, with_noise
from shared.documents import InputDocument
from shared.errors import ConfigError
from tests.inference_support import MODELS


def test_a_list_of_documents_goes_before_what_lies_in_the_folder(tmp_path: Path) -> None:
    (tmp_path / "inputs.json").write_text('[{"prompt":"from the folder"}]')
    (tmp_path / "mine.json").write_text('[{"prompt":"mine"}]')
    assert read_samples(tmp_path, None) == [InputDocument(prompt="from the folder")]
    assert read_samples(tmp_path, tmp_path / "mine.json") == [InputDocument(prompt="mine")]


def test_the_shipped_models_bring_their_own() -> None:
    assert len(read_samples(MODELS / "wine", None)) == 40


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"prompt":"no list"}', '[{"prompt":1}]', '[{"tensors":{}}]', "[1]", '["x"]']
)
def test_what_is_no_list_of_documents(tmp_path: Path, text: str) -> None:
    (tmp_path / "mine.json").write_text(text)
    with pytest.raises(ConfigError, match=r"sample inputs|no sample"):
        read_samples(tmp_path, tmp_path / "mine.json")


def test_a_missing_file_and_an_empty_folder_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"No such file .* see --samples"):
        read_samples(tmp_path, tmp_path / "none.json")
    with pytest.raises(ConfigError, match="sample inputs"):
        read_samples(tmp_path, None)


def test_without_the_repositorys_models_a_file_has_to_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "models.samples", None)
    with pytest.raises(ConfigError, match=r"no inputs\.json; write one, or name a file of inputs: --samples"):
        read_samples(tmp_path, None)


def test_noise_makes_as_many_as_are_wanted_and_keeps_the_first() -> None:
    inputs = [{"x": np.full((1, 3), i, np.float32), "n": np.array([i])} for i in range(3)]
    noisy = with_noise(inputs, 10)
    assert len(noisy) == 10
    assert noisy[:3] == inputs
    for i, each in enumerate(noisy[3:]):
        assert each["x"].dtype == np.float32
        assert each["n"].tolist() == [i % 3]
        assert 0 < np.abs(each["x"] - inputs[i % 3]["x"]).max() < 10 * NOISE
    assert json.dumps([each["x"].tolist() for each in noisy]) == json.dumps(
        [each["x"].tolist() for each in with_noise(inputs, 10)]
    )


def test_what_never_changes_has_no_noise() -> None:
    """The black border of every image stays black."""
    inputs = [{"x": np.array([[0.0, i]], np.float32)} for i in range(4)]
    noisy = with_noise(inputs, 20)
    assert all(each["x"][0, 0] == 0 for each in noisy)
    assert len({float(each["x"][0, 1]) for each in noisy}) == 20


def test_one_sample_is_blurred_by_its_own_values() -> None:
    noisy = with_noise([{"x": np.array([[0.0, 100.0]], np.float32)}], 5)
    assert len({each["x"].tobytes() for each in noisy}) == 5
    assert all(np.abs(each["x"][0] - [0, 100]).max() < 5 * NOISE * 50 for each in noisy)


def test_samples_of_differing_shapes_are_blurred_all_the_same() -> None:
    noisy = with_noise([{"x": np.ones((1, 2), np.float32)}, {"x": np.zeros((1, 3), np.float32)}], 4)
    assert [each["x"].shape for each in noisy] == [(1, 2), (1, 3), (1, 2), (1, 3)]


def test_whole_numbers_are_left_alone() -> None:
    inputs = [{"ids": np.array([[1, 2]])}]
    assert with_noise(inputs, 10) == inputs
