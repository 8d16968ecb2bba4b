"""Text in bfloat16 through the real judge: an engine for the profile, the reference beside it, a durable memory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import msgspec
import pytest

from attester.judge import Judge
from attester.sequences import SequenceLedger
from shared.adapters.memory.engine import FunctionEngine, FunctionModel
from shared.adapters.memory.store import MemoryFile, MemoryStore
from shared.adapters.onnx_runner import Runner
from shared.canonical import encode_canonical
from shared.card_parts import Golden
from shared.content.unixfs import cid_of
from shared.documents import InputDocument, Parameters, data_of, decode_parameters, encode_input, encode_parameters
from shared.golden import GoldenVector, encode_golden
from shared.messages import TaskMessage
from shared.model_library import ModelLibrary
from shared.profiles import Profile
from shared.reasons import AbstainReason, InvalidReason
from shared.types import Cid, Digest, TaskDefinition, Verdict
from shared.verification import METHODS
from shared.verification.method import Compute, Work
from shared.verification.sequential import SequentialText
from tests.chain_support import PERFORMER, sha
from tests.inference_support import MODELS, reference_of
from tests.listening import virtual
from tests.roles import World
from tests.sequence_support import bf16, bf16_card

MODEL = (MODELS / "text" / "model.onnx").read_bytes()
PROMPTS = ("In the beginning", "And it came to pass", "The wise man", "Behold, I will")
PARAMETERS = Parameters(max_tokens=64, temperature=0.8, top_k=40)


def engine(runner: Runner) -> FunctionEngine:
    card = bf16_card()
    assert card.model is not None
    return FunctionEngine({Digest(bytes.fromhex(card.model.sha256)): FunctionModel(card.inputs, runner.run)})


@dataclass
class Network:
    """One definition of low-precision text, and an attester that judges it."""

    world: World
    card_cid: Cid
    judge: Judge

    async def task(self, prompt: str, nonce: int, performer: Runner) -> TaskMessage:
        """As a performer on this engine publishes it."""
        card, document = bf16_card(), InputDocument(prompt=prompt)
        text, model = encode_parameters(PARAMETERS), card.model
        assert model is not None
        request = {
            "task_definition_id": 1,
            "model_hash": Digest(bytes.fromhex(model.sha256)),
            "parameters": text,
            "nonce": nonce,
        }
        asked = self.world.request(**request, performer=PERFORMER.address, input_cid=cid_of(encode_input(document)))
        work = Work(self.world.domain.task_id(asked), PERFORMER.address, card, document, decode_parameters(card, text))
        output = await SequentialText().prove(work, Compute(performer.forward, performer.forward))
        bound = {"card_cid": self.card_cid, "model_hash": request["model_hash"], "output": output}
        return await self.world.performed(
            request=request, bound=bound, document=encode_input(document), info={"data": data_of(output)}
        )


@asynccontextmanager
async def network(own: Runner) -> AsyncIterator[Network]:
    async with World() as world, MemoryStore(MemoryFile()) as store:
        shelf = world.content.join(PERFORMER.address)
        card = bf16_card()
        vector = Work(
            Digest(sha("golden")), PERFORMER.address, card, InputDocument(prompt="In"), Parameters(max_tokens=8)
        )
        reference = reference_of("text")
        output = await SequentialText().prove(vector, Compute(reference.forward, reference.forward))
        golden = encode_golden(card, [GoldenVector(vector.task_id, vector.document, vector.parameters, output)])
        card = msgspec.structs.replace(card, golden=Golden(cid=cid_of(golden), vectors=1))
        for content in (MODEL, golden):
            await shelf.add(content)
        card_cid = (await shelf.add(encode_canonical(card))).cid
        assert card.model is not None
        world.define(TaskDefinition(1, "low", "sequential", Digest(bytes.fromhex(card.model.sha256)), card_cid))
        library = ModelLibrary(
            content=world.content.join(world.people[0].address),
            engines={Profile.BF16: engine(own)},
            reference=engine(reference),
        )
        methods = {**METHODS, "sequential": SequentialText(SequenceLedger(store))}
        yield Network(world, card_cid, world.judge(library=library, methods=methods))


@virtual
async def test_an_honest_performer_on_another_engine_stays_honest_over_many_texts() -> None:
    async with network(bf16()) as net:
        for nonce, prompt in enumerate(PROMPTS, 1):
            judgement = await net.judge.judge(await net.task(prompt, nonce, bf16(str(nonce))))
            assert (judgement.verdict, judgement.reason) == (Verdict.VALID, None)
            assert judgement.score < 1


@virtual
async def test_int8_weights_in_bfloat16_are_refused_by_the_first_text_and_a_retry_says_the_same() -> None:
    async with network(bf16()) as net:
        task = await net.task(PROMPTS[0], 1, bf16("int8 weights"))
        for _ in range(2):
            judgement = await net.judge.judge(task)
            assert (judgement.verdict, judgement.reason) == (Verdict.INVALID, InvalidReason.SEQUENCE_DIFFERS)


@pytest.mark.parametrize("own", ["layer skipped", "int4 weights"])
@virtual
async def test_an_attester_whose_own_engine_is_another_abstains(own: str) -> None:
    """It finds out on the golden vectors, before it accuses anybody."""
    async with network(bf16(own)) as net:
        judgement = await net.judge.judge(await net.task(PROMPTS[0], 1, bf16()))
        assert (judgement.verdict, judgement.reason) == (Verdict.ABSTAIN, AbstainReason.SELF_TEST_FAILED)
