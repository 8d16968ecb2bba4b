"""Models taken apart once, whoever asks, held to their hash; their graphs come back when an engine has let them go."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import msgspec
import numpy as np
import pytest
from onnx import helper

from shared.adapters.engine_onnx import OnnxEngine
from shared.adapters.onnx_audit import split
from shared.audit_library import AuditLibrary
from shared.canonical import encode_canonical
from shared.card_parts import ModelFile
from shared.errors import ContentUnavailable, InferenceFailed, ModelMismatch
from shared.model_card import ModelCard
from shared.model_library import ModelLibrary, ModelUnavailable
from shared.profiles import Profile
from shared.types import Address, Cid, Digest, TaskDefinition, TaskTerms, Verdict
from shared.verification import METHODS
from shared.verification.linear import AuditParts
from tests.audit_support import AUDIT, audited, card_of, mlp, onnx_file, random

MODEL, OTHER = mlp(), mlp(seed=50)
X = {"x": random(5, 64, seed=1)}


def digest_of(data: bytes) -> Digest:
    return Digest(hashlib.sha256(data).digest())


HASH = digest_of(MODEL)


class Counting:
    """`split` and a content store that count."""

    def __init__(self, **models: bytes) -> None:
        self.splits, self.fetches = 0, 0
        self.content = {Cid(name): data for name, data in models.items()}

    def split(self, model: bytes) -> AuditParts:
        self.splits += 1
        return split(model)

    async def fetch(self) -> bytes:
        return await self.get(Cid("model"))

    async def has(self, cid: Cid) -> bool:
        return cid in self.content

    async def open(self, cid: Cid, **_: Any) -> AsyncGenerator[bytes, None]:
        yield await self.get(cid)

    async def get(self, cid: Cid, **_: Any) -> bytes:
        self.fetches += 1
        await asyncio.sleep(0)
        if cid not in self.content:
            raise ContentUnavailable(cid)
        return self.content[cid]


@pytest.fixture
async def engine() -> AsyncIterator[OnnxEngine]:
    opened = OnnxEngine(max_loaded_bytes=1 << 28)
    yield opened
    await opened.close()


async def test_a_model_is_taken_apart_once_however_many_want_it(engine: OnnxEngine) -> None:
    counting = Counting(model=MODEL)
    library = AuditLibrary(counting.split, max_bytes=1 << 28)
    runs = await asyncio.gather(*(library.runs(engine, HASH, counting.fetch) for _ in range(5)))
    assert (counting.splits, counting.fetches) == (1, 1)
    assert all(each.linears is runs[0].linears for each in runs)
    assert [linear.result for linear in runs[0].linears] == ["sum1", "sum2", "y"]


async def test_its_graphs_run_and_come_back_when_the_engine_has_let_them_go(engine: OnnxEngine) -> None:
    counting = Counting(model=MODEL)
    runs = await AuditLibrary(counting.split, max_bytes=1 << 28).runs(engine, HASH, counting.fetch)
    exposed = await runs.exposed(X)
    given = {**X, **{name: exposed[name] for name in ("sum1", "sum2", "y")}}
    replayed = await runs.replay(given)
    np.testing.assert_array_equal(replayed["active1"], np.maximum(exposed["sum1"], 0))
    engine._sessions.clear()
    again = await asyncio.gather(*(runs.replay(given) for _ in range(3)))
    assert all(np.array_equal(each["active1"], replayed["active1"]) for each in again)
    assert counting.splits == 4  # for the parts, for each of the graphs, and once more


async def test_bytes_that_do_not_have_the_hash_are_never_taken_apart(engine: OnnxEngine) -> None:
    """A card can name one model's hash and another's CID, while the first is loaded by a card that names it rightly."""
    counting = Counting(model=OTHER)
    with pytest.raises(ModelMismatch, match=HASH.hex()):
        await AuditLibrary(counting.split, max_bytes=1 << 28).runs(engine, HASH, counting.fetch)
    assert counting.splits == 0


async def test_a_model_without_products_fails_and_is_tried_again(engine: OnnxEngine) -> None:
    model = onnx_file([helper.make_node("Relu", ["x"], ["y"])], {"x": ["n", 64]}, ["y"], {})
    counting = Counting(model=model)
    library = AuditLibrary(counting.split, max_bytes=1 << 28)
    for _ in range(2):
        with pytest.raises(InferenceFailed, match="no product"):
            await library.runs(engine, digest_of(model), counting.fetch)
    assert counting.splits == 2


@pytest.mark.parametrize(("max_bytes", "splits"), [(1 << 28, 2), (1, 4)])
async def test_weights_are_kept_within_the_budget(engine: OnnxEngine, max_bytes: int, splits: int) -> None:
    one, other = Counting(model=MODEL), Counting(model=OTHER)
    library = AuditLibrary(one.split, max_bytes=max_bytes)
    for _ in range(2):
        for counting, model in ((one, MODEL), (other, OTHER)):
            await library.runs(engine, digest_of(model), counting.fetch)
            await library.runs(engine, digest_of(model), counting.fetch)
    assert one.splits == splits


# --- through the model library -------------------------------------------------------------------------
class Published:
    """A card and its model in a content store, with a library on them."""

    def __init__(self, engine: OnnxEngine, card: ModelCard, *, is_audited: bool = True) -> None:
        data = encode_canonical(card)
        self.counting = Counting(model=MODEL, card=data)
        self.definition = TaskDefinition(0, "mlp", card.method, HASH, Cid("card"), terms=TaskTerms(dispute_window=500))
        self.library = ModelLibrary(
            content=self.counting,  # type: ignore[arg-type]  # these three are all
            engines={Profile.FP32: engine},
            reference=engine,
            audits=AuditLibrary(split, max_bytes=1 << 28) if is_audited else None,
        )


def card(method: str = "batch-audit") -> ModelCard:
    y = {"y": random(5, 64)}
    made = card_of(MODEL, X, y, AUDIT, 1e-5)
    file = ModelFile(cid="model", sha256=HASH.hex(), size=len(MODEL), opset=17)
    return msgspec.structs.replace(made, model=file, method=method, audit=AUDIT if method == "batch-audit" else None)


async def test_a_card_of_the_method_comes_with_its_parts_and_both_halves_run(engine: OnnxEngine) -> None:
    published, method = Published(engine, card()), METHODS["batch-audit"]
    ready = await published.library.ready(published.definition)
    async with audited(MODEL, X) as network:
        output = await method.prove(network.work, ready.compute)
        judgement = await method.judge(network.work, output, ready.compute)
    assert judgement.verdict is Verdict.VALID


@pytest.mark.parametrize(("method", "is_audited"), [("tensor", True), ("batch-audit", False)])
async def test_other_cards_and_other_nodes_have_no_parts(engine: OnnxEngine, method: str, is_audited: bool) -> None:
    published = Published(engine, card(method), is_audited=is_audited)
    assert (await published.library.ready(published.definition)).compute.audit is None


async def test_a_model_that_has_gone_is_unavailable(engine: OnnxEngine) -> None:
    published = Published(engine, card())
    ready = await published.library.ready(published.definition, prefer=Address(bytes(20)))
    del published.counting.content[Cid("model")]
    assert ready.compute.audit is not None
    with pytest.raises(ModelUnavailable):
        await ready.compute.audit()
