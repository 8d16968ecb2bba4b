"""Text of a served model: performer and attester each ask a server of their own, over HTTP, for log-probabilities."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pytest

from shared.adapters.engine_openai import OpenAiEngine
from shared.adapters.openai_answers import Style
from shared.documents import InputDocument, ModelCard, Parameters, TextOutput
from shared.errors import InferenceFailed
from shared.interfaces import Tensors
from shared.model_card import check_card
from shared.reasons import AbstainReason, InvalidReason
from shared.tensors import TensorSpec
from shared.types import Verdict
from shared.verification.method import Forward
from tests.inference_support import card_of, prove, runner_of, verify
from tests.onnx_support import digest_of
from tests.openai_support import CompletionServer, manifest, serving

VOCABULARY, KNOWN = 258, 64  # log-probabilities a position that the servers give
FEW = 8
MANIFEST = manifest("verses", VOCABULARY, KNOWN)
DOCUMENT = InputDocument(prompt="And it came to pass")
SAMPLED = Parameters(max_tokens=16, temperature=0.8, top_k=40)
Model = Callable[[Sequence[int]], npt.NDArray[np.float32]]


def card() -> ModelCard:
    """The decoder's, without a cache: what a server has is its own matter."""
    served = msgspec.structs.replace(
        card_of("text"),
        inputs=(TensorSpec("ids", "int64", (-1, -1)),),
        outputs=(TensorSpec("logits", "float32", (-1, -1, VOCABULARY)),),
    )
    check_card(served)
    return served


def decoder(change: str = "") -> Model:
    past = np.zeros((5, 1, 4, 0, 32), np.float32)

    def logits(ids: Sequence[int]) -> npt.NDArray[np.float32]:
        feed = {"ids": np.array([ids], np.int64), "past_keys": past, "past_values": past}
        found: npt.NDArray[np.float32] = runner_of("text", change).run(feed)["logits"][0]
        return found

    return logits


@asynccontextmanager
async def served(model: Model, style: Style = "vllm", served_as: bytes = MANIFEST) -> AsyncIterator[Forward]:
    """An engine on a server that runs this model under the name of the manifest."""
    async with serving(CompletionServer({"verses": model})) as server:
        engine = OpenAiEngine(server.url, max_loaded_bytes=1 << 20, style=style)
        await engine.load(digest_of(served_as), served_as)

        async def forward(inputs: Tensors) -> Tensors:
            return await engine.run(digest_of(served_as), inputs)

        try:
            yield forward
        finally:
            await engine.close()


async def no_reference(inputs: Tensors) -> Tensors:
    raise InferenceFailed("a manifest is no ONNX file")


@pytest.mark.parametrize("style", ["vllm", "openai"])
@pytest.mark.parametrize("parameters", [SAMPLED, Parameters(max_tokens=16)], ids=["sampled", "greedy"])
async def test_an_honest_text_of_one_server_is_valid_on_another(style: Style, parameters: Parameters) -> None:
    async with served(decoder()) as performer, served(decoder(), style) as attester:
        output = await prove(card(), DOCUMENT, performer, parameters)
        judgement = await verify(card(), DOCUMENT, output, attester, parameters, reference=no_reference)
    assert (judgement.verdict, judgement.reason) == (Verdict.VALID, None)
    assert judgement.score < 1


async def test_what_a_server_gives_is_what_the_model_itself_gives() -> None:
    """The same tokens, whoever samples: log-probabilities are logits but for a shift."""
    async with served(decoder()) as performer:
        output = await prove(card(), DOCUMENT, performer, SAMPLED)
    direct: Any = await prove(card_of("text"), DOCUMENT, runner_of("text").forward, SAMPLED)
    assert isinstance(output, TextOutput)
    assert (output.tokens, output.stop) == (direct.tokens, direct.stop)


@pytest.mark.parametrize("change", ["int8 weights", "fp16 weights"])
async def test_a_server_that_runs_other_weights_is_refused(change: str) -> None:
    async with served(decoder(change)) as performer, served(decoder()) as attester:
        output = await prove(card(), DOCUMENT, performer, SAMPLED)
        judgement = await verify(card(), DOCUMENT, output, attester, SAMPLED, reference=no_reference)
    assert (judgement.verdict, judgement.reason) == (Verdict.INVALID, InvalidReason.LOGITS_DIFFER)


async def test_between_the_zones_it_abstains_for_want_of_a_reference() -> None:
    narrow = card()
    tolerance = narrow.tolerances["logits"]
    async with served(decoder()) as attester:
        output = await prove(narrow, DOCUMENT, attester, SAMPLED)
        assert isinstance(output, TextOutput)
        score = (await verify(narrow, DOCUMENT, output, runner_of_ids(), SAMPLED)).score
        # So narrow a tolerance that honest noise lies at five times it.
        closer = msgspec.structs.replace(tolerance, relative=tolerance.relative * score / 5)
        narrow = msgspec.structs.replace(narrow, tolerances={"logits": closer})
        judgement = await verify(narrow, DOCUMENT, output, runner_of_ids(), SAMPLED, reference=no_reference)
    assert (judgement.verdict, judgement.reason) == (Verdict.ABSTAIN, AbstainReason.REFERENCE_FAILED)


def runner_of_ids() -> Forward:
    """The decoder on this machine under the layout without a cache."""
    model = decoder()

    async def forward(inputs: Tensors) -> Tensors:
        return {"logits": model(inputs["ids"][0].tolist())[np.newaxis]}

    return forward


@pytest.mark.parametrize("style", ["vllm", "openai"])
@pytest.mark.parametrize("top_k", [0, FEW, FEW + 1])
async def test_a_sampler_that_looks_beyond_what_servers_give_refutes_no_honest_text(style: Style, top_k: int) -> None:
    """Behind a position that it reads, a server tells of the token that follows; when that was written, it did not."""
    few, parameters = manifest("verses", VOCABULARY, FEW), Parameters(max_tokens=16, temperature=1.0, top_k=top_k)
    async with served(decoder(), style, few) as performer, served(decoder(), style, few) as attester:
        output = await prove(card(), DOCUMENT, performer, parameters)
        judgement = await verify(card(), DOCUMENT, output, attester, parameters, reference=no_reference)
    assert (judgement.verdict, judgement.reason) == (Verdict.VALID, None)
