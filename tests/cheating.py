"""The shipped models with their cards, honest engines, and everything that a cheat may run instead."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import onnxruntime

from models.samples import read_documents
from poi.cheats import CHEATS, OtherModels
from shared.adapters.onnx_precision import convert
from shared.documents import InputDocument, ModelCard, Output, Parameters, data_of, decode_card
from shared.interfaces import Tensors
from shared.types import Address, Digest, Fingerprint
from shared.verification import METHODS
from shared.verification.method import Compute, Forward, Judgement, Method, Work
from shared.verification.verify import verify

MODELS = Path(__file__).resolve().parents[1] / "models"
PERFORMER = Address(bytes([7]) * 20)
SAMPLED = Parameters(max_tokens=32, temperature=0.8, top_k=50)


def task(number: int) -> Digest:
    return Digest(number.to_bytes(32, "big"))


@dataclass(frozen=True)
class Subject:
    """One shipped model with a card, honest engines, and the models of cheats."""

    name: str
    card: ModelCard
    compute: Compute
    others: OtherModels

    @property
    def method(self) -> Method:
        return METHODS[self.card.method]

    def work(self, number: int, parameters: Parameters = SAMPLED) -> Work:
        """The `number`-th sample input as a task."""
        documents = documents_of(self.name)
        given = parameters if self.card.text else Parameters()
        return Work(task(number), PERFORMER, self.card, documents[number % len(documents)], given)

    async def honest(self, work: Work) -> Output:
        return await self.method.prove(work, self.compute)

    async def cheat(self, name: str, work: Work) -> Output:
        return await CHEATS[name].prove(self.method, work, self.compute, self.others)

    async def judge(self, work: Work, output: Output) -> Judgement:
        return await verify(self.method, work, output, data_of(output), self.compute)


@cache
def documents_of(name: str) -> list[InputDocument]:
    return [document for document in read_documents(MODELS / name) if document.prompt != ""]


@cache
def subject(name: str) -> Subject:
    """Made once."""
    folder = MODELS / name
    model = (folder / "model.onnx").read_bytes()
    run, reference = forward_of(Session(model)), forward_of(Session(convert(model, "fp64")))
    card = decode_card((folder / "card.json").read_bytes())
    return Subject(name, card, Compute(run, reference), OtherModels(model, PlainEngine(), folder))


# --- engines that belong to no event loop ------------------------------------------------------------
class Session:
    def __init__(self, model: bytes) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 4
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def run(self, inputs: Tensors) -> Tensors:
        names = [output.name for output in self._session.get_outputs()]
        return dict(zip(names, self._session.run(names, dict(inputs)), strict=True))


def forward_of(session: Session) -> Forward:
    async def forward(inputs: Tensors) -> Tensors:
        return session.run(inputs)

    return forward


class PlainEngine:
    """An `InferenceEngine` without threads and limits."""

    def __init__(self) -> None:
        self._sessions: dict[Digest, Session] = {}

    async def load(self, model_hash: Digest, model: bytes) -> None:
        assert hashlib.sha256(model).digest() == model_hash
        self._sessions[model_hash] = Session(model)

    def is_loaded(self, model_hash: Digest) -> bool:
        return model_hash in self._sessions

    async def run(self, model_hash: Digest, inputs: Tensors) -> Tensors:
        return self._sessions[model_hash].run(inputs)

    def fingerprint(self, model_hash: Digest) -> Fingerprint:
        return Fingerprint("onnxruntime", "test", "CPUExecutionProvider", "cpu")
