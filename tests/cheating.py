"""The shipped models under cards of four times the honest noise, with everything that a cheat may run instead."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import onnxruntime

from models.samples import read_documents
from poi.cheats import CHEATS, OtherModels
from shared.adapters.onnx_precision import convert
from shared.canonical import decode_json, encode_canonical
from shared.constants import MAX_CARD_BYTES
from shared.documents import InputDocument, ModelCard, Output, Parameters, data_of
from shared.interfaces import Tensors
from shared.model_card import Tolerance
from shared.types import Address, Digest, Fingerprint
from shared.verification import METHODS
from shared.verification.decoder import Decoding, prompt_tokens
from shared.verification.method import Compute, Forward, Judgement, Method, Work
from shared.verification.verify import verify
from tests.cards import make_card

MODELS = Path(__file__).resolve().parents[1] / "models"
PERFORMER = Address(bytes([7]) * 20)
SAMPLED = Parameters(max_tokens=32, temperature=0.8, top_k=50)
HEADROOM, FLOOR = 4.0, 1e-6


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


_SUBJECTS: dict[str, Subject] = {}


@cache
def documents_of(name: str) -> list[InputDocument]:
    return [document for document in read_documents(MODELS / name) if document.prompt != ""]


async def subject(name: str) -> Subject:
    """Made once; the tolerances are measured between float32 and the float64 reference."""
    if name not in _SUBJECTS:
        model = (MODELS / name / "model.onnx").read_bytes()
        run, reference = forward_of(Session(model)), forward_of(Session(convert(model, "fp64")))
        card = await _calibrated(_draft(name), documents_of(name)[:16], run, reference)
        others = OtherModels(model, PlainEngine(), MODELS / name)
        _SUBJECTS[name] = Subject(name, card, Compute(run, reference), others)
    return _SUBJECTS[name]


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


# --- cards ---------------------------------------------------------------------------------------------
def _draft(name: str) -> ModelCard:
    about = json.loads((MODELS / name / "about.json").read_text())
    if about.get("text"):
        about["text"] |= {"margin": 1e-4, "sampler": "gumbel-philox-1"}
    about |= {"method": "text" if about["kind"] == "text" else "tensor", "profile": "fp32"}
    form = msgspec.json.decode(encode_canonical(make_card())) | about
    return decode_json(encode_canonical(form), ModelCard, name, max_bytes=MAX_CARD_BYTES)


async def _calibrated(draft: ModelCard, documents: list[InputDocument], run: Forward, reference: Forward) -> ModelCard:
    honest = [await _computed(draft, run, document, 1) for document in documents]
    exact = [await _computed(draft, reference, document, 1 << 16) for document in documents]
    tolerances = {}
    for name in exact[0]:
        scale = max(float(np.abs(each[name]).max()) for each in exact)
        noise = max(float(np.abs(one[name] - two[name]).max()) for one, two in zip(honest, exact, strict=True))
        tolerances[name] = Tolerance(relative=max(FLOOR, HEADROOM * noise / scale), scale=scale)
    text = draft.text and msgspec.structs.replace(draft.text, margin=tolerances["logits"].absolute)
    return msgspec.structs.replace(draft, tolerances=tolerances, text=text)


async def _computed(
    card: ModelCard, forward: Forward, document: InputDocument, tokens_a_pass: int
) -> dict[str, npt.NDArray[np.float64]]:
    """Float outputs; of a decoder its logits over the prompt four times, some tokens at once."""
    if card.text is None:
        outputs = await forward(document.tensors or {})
        return {spec.name: outputs[spec.name].astype(np.float64) for spec in card.outputs}
    tokens, decoding = prompt_tokens(card.text, document) * 4, Decoding(card, forward)
    parts = [tokens[at : at + tokens_a_pass] for at in range(0, len(tokens), tokens_a_pass)]
    return {"logits": np.concatenate([await decoding.feed(part) for part in parts]).astype(np.float64)}
