"""What only the genai engine does: a real decoder's cache, folders and manifests, child processes that die."""

from __future__ import annotations

import hashlib
import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import onnxruntime_genai
import pytest

from shared.adapters import genai_worker
from shared.adapters.engine_genai import GenaiEngine
from shared.errors import InferenceFailed, InputMismatch
from shared.types import Digest
from tests.genai_support import CONTEXT, VOCABULARY, empty_caches, genai_config, tiny_llama, write_folder
from tests.onnx_support import digest_of

LLAMA = tiny_llama()
HASH = digest_of(LLAMA)
TOKENS = np.random.default_rng(5).integers(0, VOCABULARY, (1, CONTEXT))


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[GenaiEngine]:
    write_folder(tmp_path / "llama", LLAMA)
    engine = GenaiEngine(tmp_path, max_loaded_bytes=1 << 20)
    yield engine
    await engine.close()


def by_hand(ids: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """One prefill by ONNX Runtime."""
    session = onnxruntime.InferenceSession(LLAMA, providers=["CPUExecutionProvider"])
    feed = {"input_ids": ids, "attention_mask": np.ones_like(ids), **empty_caches()}
    found: npt.NDArray[np.float32] = session.run(["logits"], feed)[0]
    return found


async def logits(engine: GenaiEngine, ids: npt.NDArray[np.int64], model_hash: Digest = HASH) -> npt.NDArray[Any]:
    return (await engine.run(model_hash, {"ids": ids}))["logits"]


async def refusal(engine: GenaiEngine, model: bytes) -> str:
    with pytest.raises(InferenceFailed) as caught:
        await engine.load(digest_of(model), model)
    assert not engine.is_loaded(digest_of(model))
    return str(caught.value)


# --- logits --------------------------------------------------------------------------------------------
async def test_logits_are_those_of_the_same_graph(engine: GenaiEngine) -> None:
    await engine.load(HASH, LLAMA)
    found = await logits(engine, TOKENS)
    assert (found.dtype, found.shape) == (np.float32, (1, CONTEXT, VOCABULARY))
    np.testing.assert_allclose(found, by_hand(TOKENS), atol=1e-5)


async def test_a_cache_that_grows_and_goes_back_gives_what_a_prefill_gives(engine: GenaiEngine) -> None:
    await engine.load(HASH, LLAMA)
    other = TOKENS.copy()
    other[:, 5:] = (other[:, 5:] + 1) % VOCABULARY
    for ids in (TOKENS[:, :8], TOKENS[:, :9], TOKENS[:, :20], TOKENS[:, :5], other[:, :12], TOKENS):
        np.testing.assert_allclose(await logits(engine, ids), by_hand(ids), atol=1e-5)


@pytest.mark.parametrize(
    ("ids", "field", "expected"),
    [
        (np.zeros((1, CONTEXT + 1), np.int64), "tensors.ids.shape", f"[1, 1 to {CONTEXT}]"),
        (np.array([[1, -1]]), "tensors.ids", f"ids from 0 to {VOCABULARY - 1}"),
        (np.array([[VOCABULARY]]), "tensors.ids", f"ids from 0 to {VOCABULARY - 1}"),
    ],
)
async def test_ids_that_are_no_tokens_are_named(
    engine: GenaiEngine, ids: npt.NDArray[np.int64], field: str, expected: str
) -> None:
    await engine.load(HASH, LLAMA)
    with pytest.raises(InputMismatch) as caught:
        await logits(engine, ids)
    assert (caught.value.field, caught.value.expected) == (field, expected)


async def test_the_fingerprint_is_the_librarys_word(engine: GenaiEngine) -> None:
    await engine.load(HASH, LLAMA)
    fingerprint = engine.fingerprint(HASH)
    assert (fingerprint.runtime, fingerprint.version) == ("onnxruntime-genai", onnxruntime_genai.__version__)
    assert fingerprint.provider == "CPUExecutionProvider"


async def test_a_graph_that_gives_the_last_position_alone_is_refused(tmp_path: Path) -> None:
    """As exports for generation do."""
    graph = onnx.load_from_string(LLAMA)
    graph.graph.node[-1].output[0] = "all"
    ends = {"starts": [-1], "ends": [1 << 40], "axes": [1]}
    names = [onnx.numpy_helper.from_array(np.array(value), name) for name, value in ends.items()]
    graph.graph.initializer.extend(names)
    graph.graph.node.append(onnx.helper.make_node("Slice", ["all", *ends], ["logits"]))
    last = graph.SerializeToString()
    write_folder(tmp_path / "last", last)
    engine = GenaiEngine(tmp_path, max_loaded_bytes=1 << 20)
    await engine.load(digest_of(last), last)
    with pytest.raises(
        InferenceFailed, match=r"'logits' .* has shape {1,4,50} but the computed output shape for this run is {1,1,50}"
    ):
        await logits(engine, TOKENS[:, :4], digest_of(last))
    await engine.close()


# --- folders and manifests -------------------------------------------------------------------------------
async def test_a_model_that_no_folder_has_is_refused(engine: GenaiEngine) -> None:
    assert "no folder in" in await refusal(engine, tiny_llama(seed=1))


async def test_a_file_that_was_changed_is_not_run(engine: GenaiEngine, tmp_path: Path) -> None:
    (tmp_path / "llama" / "model.onnx").write_bytes(tiny_llama(seed=1))
    assert "with the hashes of this model" in await refusal(engine, LLAMA)


async def test_settings_that_name_another_file_are_refused(engine: GenaiEngine, tmp_path: Path) -> None:
    settings = genai_config().replace(b"model.onnx", b"other.onnx")
    (tmp_path / "llama" / "genai_config.json").write_bytes(settings)
    assert "names other.onnx; a manifest of all files would cover them" in await refusal(engine, LLAMA)


def manifest_of(files: dict[str, bytes]) -> bytes:
    digests = {name: f"0x{hashlib.sha256(data).hexdigest()}" for name, data in sorted(files.items())}
    return json.dumps({"files": digests}, separators=(",", ":")).encode()


def with_weights_apart(folder: Path) -> dict[str, bytes]:
    """The model in two files, as decoders over 2 GiB have to be."""
    folder.mkdir()
    graph = onnx.load_from_string(LLAMA)
    onnx.save(graph, folder / "model.onnx", save_as_external_data=True, location="model.onnx.data", size_threshold=256)
    (folder / "genai_config.json").write_bytes(genai_config())
    return {path.name: path.read_bytes() for path in folder.iterdir()}


async def test_a_manifest_covers_a_model_of_several_files(tmp_path: Path) -> None:
    files = with_weights_apart(tmp_path / "apart")
    manifest = manifest_of(files)
    engine = GenaiEngine(tmp_path, max_loaded_bytes=1 << 20)
    await engine.load(digest_of(manifest), manifest)
    np.testing.assert_allclose(await logits(engine, TOKENS, digest_of(manifest)), by_hand(TOKENS), atol=1e-5)
    await engine.close()


@pytest.mark.parametrize("name", ["model.onnx", "model.onnx.data", "genai_config.json"])
async def test_a_manifest_binds_every_file(tmp_path: Path, name: str) -> None:
    files = with_weights_apart(tmp_path / "apart")
    manifest = manifest_of(files)
    (tmp_path / "apart" / name).write_bytes(files[name] + b" ")
    engine = GenaiEngine(tmp_path, max_loaded_bytes=1 << 20)
    assert "with the hashes of this model" in await refusal(engine, manifest)
    await engine.close()


async def test_weights_apart_need_a_manifest(tmp_path: Path) -> None:
    files = with_weights_apart(tmp_path / "apart")
    engine = GenaiEngine(tmp_path, max_loaded_bytes=1 << 20)
    assert "keeps a tensor in another file" in await refusal(engine, files["model.onnx"])
    await engine.close()


@pytest.mark.parametrize(
    ("manifest", "said"),
    [
        (manifest_of({"model.onnx": LLAMA, "x": b""}), "the manifest does not name genai_config.json"),
        (manifest_of({"../model.onnx": LLAMA, "genai_config.json": b""}), "manifest: "),
        (b'{"files":{}}', "manifest: "),
        (b"{", "manifest: "),
    ],
)
async def test_what_is_no_manifest_is_refused(engine: GenaiEngine, manifest: bytes, said: str) -> None:
    assert f"not a model for onnxruntime-genai: {said}" in await refusal(engine, manifest)


# --- child processes ---------------------------------------------------------------------------------------
async def test_a_child_that_dies_is_replaced(engine: GenaiEngine) -> None:
    await engine.load(HASH, LLAMA)
    before = await logits(engine, TOKENS[:, :8])
    decoder = engine._models.use(HASH)
    assert decoder._child is not None
    os.kill(decoder._child.pid, signal.SIGKILL)
    await decoder._child.wait()
    assert np.array_equal(await logits(engine, TOKENS[:, :8]), before)


async def test_closing_ends_every_child(engine: GenaiEngine) -> None:
    await engine.load(HASH, LLAMA)
    child = engine._models.use(HASH)._child
    assert child is not None
    await engine.close()
    assert child.returncode == -signal.SIGKILL
    with pytest.raises(InferenceFailed, match="closed"):
        await engine.load(HASH, LLAMA)


async def test_another_provider_than_asked_for_is_refused(engine: GenaiEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker here has no CUDA; it stands for one that falls back without a word."""
    real = genai_worker.encode

    def on_the_cpu(request: Any) -> bytes:
        return real(genai_worker.Open(request.folder, "cpu", request.threads, request.parent))

    monkeypatch.setattr("shared.adapters.genai_decoder.encode", on_the_cpu)
    engine._provider = "cuda"
    assert "asked for CUDAExecutionProvider, got CPUExecutionProvider" in await refusal(engine, LLAMA)
