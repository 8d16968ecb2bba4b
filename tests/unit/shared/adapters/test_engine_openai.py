"""What only the HTTP engine does: three styles against a server that computes, and servers that misbehave."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
from aiohttp import web

from shared.adapters.engine_openai import OpenAiEngine
from shared.adapters.openai_answers import Style
from shared.errors import ConfigError, InferenceFailed, InputMismatch
from tests.onnx_support import digest_of
from tests.openai_support import CompletionServer, manifest, serving

MODEL = Path(__file__).resolve().parents[4] / "models" / "text" / "model.onnx"
VOCABULARY, BEST = 258, 8
MANIFEST = manifest("small-text", VOCABULARY, BEST)
PROMPT = [0, *b"The model writes words."]
STYLES: list[Style] = ["vllm", "openai", "llamacpp"]


class Decoder:
    """models/text through ONNX Runtime: ids to logits."""

    def __init__(self) -> None:
        self._session = onnxruntime.InferenceSession(MODEL.read_bytes(), providers=["CPUExecutionProvider"])
        self._past = np.zeros((5, 1, 4, 0, 32), np.float32)

    def __call__(self, ids: Any) -> npt.NDArray[np.float32]:
        feed = {"ids": np.array([ids], np.int64), "past_keys": self._past, "past_values": self._past}
        found: npt.NDArray[np.float32] = self._session.run(["logits"], feed)[0][0]
        return found


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    return Decoder()


@pytest.fixture
async def server(decoder: Decoder) -> AsyncIterator[CompletionServer]:
    async with serving(CompletionServer({"small-text": decoder})) as running:
        yield running


def ids_of(tokens: list[int]) -> dict[str, npt.NDArray[np.int64]]:
    return {"ids": np.array([tokens], np.int64)}


async def loaded(server: CompletionServer, style: Style = "vllm", **limits: Any) -> OpenAiEngine:
    engine = OpenAiEngine(server.url, max_loaded_bytes=1 << 20, style=style, **limits)
    await engine.load(digest_of(MANIFEST), MANIFEST)
    return engine


async def refusal(server: CompletionServer, style: Style = "vllm", **limits: Any) -> str:
    engine = await loaded(server, style, **limits)
    with pytest.raises(InferenceFailed) as caught:
        await engine.run(digest_of(MANIFEST), ids_of(PROMPT))
    await engine.close()
    return str(caught.value)


def log_softmax(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    wide = logits.astype(np.float64)
    return np.asarray(wide - np.log(np.exp(wide).sum(-1, keepdims=True)))


# --- what it gives -----------------------------------------------------------------------------------
@pytest.mark.parametrize("style", STYLES)
async def test_the_best_of_every_position_are_the_models(
    server: CompletionServer, decoder: Decoder, style: Style
) -> None:
    engine = await loaded(server, style)
    [found] = (await engine.run(digest_of(MANIFEST), ids_of(PROMPT)))["logits"]
    expected = log_softmax(decoder(PROMPT))
    assert found.shape == expected.shape
    assert found.dtype == np.float32
    best = np.argsort(-expected, axis=-1, kind="stable")[:, :BEST]
    np.testing.assert_allclose(np.take_along_axis(found, best, -1), np.take_along_axis(expected, best, -1), atol=1e-5)
    np.testing.assert_array_equal(found.argmax(-1), expected.argmax(-1))
    await engine.close()


@pytest.mark.parametrize("style", STYLES)
async def test_what_was_not_returned_has_the_lowest_number_of_its_position(
    server: CompletionServer, style: Style
) -> None:
    engine = await loaded(server, style)
    [found] = (await engine.run(digest_of(MANIFEST), ids_of(PROMPT)))["logits"]
    for row in found:
        returned = int((row > row.min()).sum()) + 1  # the lowest of the best is one of the filled, too
        assert returned == BEST
    await engine.close()


async def test_a_server_without_an_echo_is_asked_once_a_position(server: CompletionServer) -> None:
    engine = await loaded(server, "llamacpp")
    for tokens in (PROMPT[:5], PROMPT[:7], [*PROMPT[:6], 99]):
        await engine.run(digest_of(MANIFEST), ids_of(tokens))
    assert [len(body["prompt"]) for body in server.asked] == [1, 2, 3, 4, 5, 6, 7, 7]
    await engine.close()


async def test_the_fingerprint_claims_no_more_than_the_server_says(server: CompletionServer) -> None:
    engine = await loaded(server)
    fingerprint = engine.fingerprint(digest_of(MANIFEST))
    assert (fingerprint.runtime, fingerprint.version, fingerprint.provider) == ("openai", "vllm", "vllm")
    assert (fingerprint.device, fingerprint.precision) == ("127.0.0.1", "unknown")
    await engine.close()


# --- what it refuses before it asks --------------------------------------------------------------------
@pytest.mark.parametrize(
    "data",
    [
        b"no manifest",
        MANIFEST.replace(b'"logprobs":8', b'"logprobs":0'),
        MANIFEST.replace(b'"vocab":258', b'"vocab":1e9'),
        MANIFEST.replace(b"}", b',"more":1}'),
        MANIFEST.replace(b":", b": "),
    ],
)
async def test_what_is_no_manifest_is_refused(server: CompletionServer, data: bytes) -> None:
    engine = OpenAiEngine(server.url, max_loaded_bytes=1 << 20)
    with pytest.raises(InferenceFailed, match="not a model for an OpenAI-compatible server"):
        await engine.load(digest_of(data), data)
    await engine.close()


async def test_a_name_that_is_not_served_is_refused_with_those_that_are(server: CompletionServer) -> None:
    engine, other = OpenAiEngine(server.url, max_loaded_bytes=1 << 20), manifest("large-text", VOCABULARY, BEST)
    with pytest.raises(InferenceFailed, match="does not serve large-text; it serves small-text"):
        await engine.load(digest_of(other), other)
    assert not engine.is_loaded(digest_of(other))
    await engine.close()


@pytest.mark.parametrize(
    ("tokens", "field"), [([], "tensors.ids.shape"), ([-1], "tensors.ids"), ([0, VOCABULARY], "tensors.ids")]
)
async def test_ids_outside_the_vocabulary_are_not_sent(server: CompletionServer, tokens: list[int], field: str) -> None:
    engine = await loaded(server)
    with pytest.raises(InputMismatch) as caught:
        await engine.run(digest_of(MANIFEST), ids_of(tokens))
    assert (caught.value.field, server.asked) == (field, [])
    await engine.close()


# --- the key ------------------------------------------------------------------------------------------
async def test_the_key_comes_from_a_private_file(decoder: Decoder, tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("sk-something\n")
    path.chmod(0o600)
    async with serving(CompletionServer({"small-text": decoder}, key="sk-something")) as server:
        engine = await loaded(server, key_file=path)
        assert (await engine.run(digest_of(MANIFEST), ids_of([0])))["logits"].shape == (1, 1, VOCABULARY)
        await engine.close()
        keyless = OpenAiEngine(server.url, max_loaded_bytes=1 << 20)
        with pytest.raises(InferenceFailed, match="/v1/models answers 401: 'no such key'"):
            await keyless.load(digest_of(MANIFEST), MANIFEST)
        await keyless.close()


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("sk-something")
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        OpenAiEngine("http://127.0.0.1:1", max_loaded_bytes=1, key_file=path)


# --- servers that misbehave ----------------------------------------------------------------------------
def other_ids(answer: dict[str, Any]) -> Any:
    [choice] = answer["choices"]
    choice["logprobs"]["tokens"][0] = "token_id:1"
    if "prompt_logprobs" in choice:
        choice["prompt_logprobs"][1] = {"1": {"logprob": -0.1}}
    return answer


def one_more(answer: dict[str, Any]) -> Any:
    """A begin token that the server put before the prompt."""
    [choice] = answer["choices"]
    choice["logprobs"]["tokens"].insert(0, "token_id:0")
    choice["logprobs"]["top_logprobs"].insert(0, None)
    choice.get("prompt_logprobs", []).insert(0, None)
    return answer


def a_hole(answer: dict[str, Any]) -> Any:
    [choice] = answer["choices"]
    choice.get("prompt_logprobs", choice["logprobs"]["top_logprobs"])[3] = None
    return answer


def text_keys(answer: dict[str, Any]) -> Any:
    answer["choices"][0]["logprobs"]["top_logprobs"][-1] = {f"word{n}": -1.0 for n in range(BEST)}
    return answer


def too_few(answer: dict[str, Any]) -> Any:
    answer["choices"][0]["logprobs"]["top_logprobs"][-1] = {"token_id:3": -1.0}
    return answer


def set_to(value: float) -> Callable[[dict[str, Any]], Any]:
    def change(answer: dict[str, Any]) -> Any:
        tops = answer["choices"][0]["logprobs"]["top_logprobs"][-1]
        tops[next(iter(tops))] = value
        return answer

    return change


def unknown_token(answer: dict[str, Any]) -> Any:
    tops = answer["choices"][0]["logprobs"]["top_logprobs"][-1]
    tops[f"token_id:{VOCABULARY}"] = tops.pop(next(iter(tops)))
    return answer


@pytest.mark.parametrize("style", ["vllm", "openai"])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (other_ids, "adds or changes tokens"),
        (one_more, "adds or changes tokens"),
        (a_hole, "adds or changes tokens|position 2: 0 log-probabilities instead of 8"),
        (text_keys, 'names tokens by text; it must say "token_id:N"'),
        (too_few, "position 23: 1 log-probabilities instead of 8"),
        (set_to(float("nan")), "see that inference.openai_style is the server's"),
        (set_to(float("-inf")), "see that inference.openai_style is the server's"),
        (set_to(0.5), "0.5 is not a log-probability"),
        (unknown_token, f"token {VOCABULARY} is not in a vocabulary of {VOCABULARY}"),
        (lambda _: "<html>", "see that inference.openai_style is the server's"),
        (lambda _: {"choices": []}, "see that inference.openai_style is the server's"),
        (lambda _: "[" * 100_000, "see that inference.openai_style is the server's"),
        (lambda _: web.Response(status=500, text="out of memory"), "answers 500: 'out of memory'"),
        (lambda _: web.Response(status=302, headers={"Location": "http://127.0.0.1:1/"}), "answers 302"),
    ],
)
async def test_a_server_that_answers_nonsense_is_the_engines_trouble(
    server: CompletionServer, style: Style, change: Any, said: str
) -> None:
    server.change = change
    text = await refusal(server, style)
    assert any(part in text for part in said.split("|")), text


async def test_an_endless_answer_is_cut(server: CompletionServer) -> None:
    server.change = lambda _: " " * (8 << 20)
    assert "/v1/completions answers with more than" in await refusal(server)


async def test_a_server_that_hangs_up_is_the_engines_trouble(server: CompletionServer) -> None:
    engine = await loaded(server)
    engine._url = "http://127.0.0.1:1"
    with pytest.raises(InferenceFailed, match=r"see that the server runs and inference\.openai_url is its"):
        await engine.run(digest_of(MANIFEST), ids_of(PROMPT))
    await engine.close()


async def test_a_server_that_never_answers_is_left(decoder: Decoder) -> None:
    never = CompletionServer({"small-text": lambda ids: np.full((len(ids), VOCABULARY), np.nan, np.float32)})
    async with serving(never) as server:
        started = time.monotonic()
        assert "ran for more than 0.2 seconds" in await refusal(server, timeout_seconds=0.2)
        assert time.monotonic() - started < 20
