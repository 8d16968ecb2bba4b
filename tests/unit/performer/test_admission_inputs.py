"""Inputs at the door: what does not fit the model is refused with its path, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest

from shared.canonical import encode_canonical
from shared.constants import (
    MAX_INPUT_BYTES,
    MAX_RPC_BODY_BYTES,
)
from shared.content.cid import Codec, make_block
from shared.content.unixfs import cid_of
from shared.documents import InputDocument, encode_input
from shared.keeping import kept_until
from shared.tensors import TensorSpec
from shared.types import TaskDefinition
from tests.cards import make_card
from tests.chain_support import PERFORMER
from tests.doors import Door, asking, open_door
from tests.toy_model import DEFINITION, DOCUMENT, MODEL_HASH, X, document_of


@pytest.fixture
async def door() -> AsyncIterator[Door]:
    async with open_door() as door:
        yield door


# --- refusals: inputs --------------------------------------------------------------------------------
def tensors(**arrays: Any) -> bytes:
    return encode_input(InputDocument(tensors={name: np.array(value) for name, value in arrays.items()}))


def raw(dtype: str, shape: list[int], data: bytes) -> bytes:
    form = {"dtype": dtype, "shape": shape, "data": base64.b64encode(data).decode()}
    return encode_canonical({"tensors": {"x": form}})


GOOD = np.array([[1, 2, 3, 4]], np.float32)
A_DOCUMENT = "an input document (see docs/protocol.md §5)"

BAD_INPUTS: dict[str, tuple[bytes, str, str]] = {
    "wrong dtype": (tensors(x=GOOD.astype(np.float64)), "tensors.x.dtype", "float32"),
    "wrong dtype, integers": (tensors(x=GOOD.astype(np.int32)), "tensors.x.dtype", "float32"),
    "wrong shape": (tensors(x=np.zeros((1, 5), np.float32)), "tensors.x.shape", "[1, 4]"),
    "wrong rank": (tensors(x=np.zeros(4, np.float32)), "tensors.x.shape", "[1, 4]"),
    "empty": (tensors(x=np.zeros((1, 0), np.float32)), "tensors.x.shape", "[1, 4]"),
    "extra tensor": (tensors(x=GOOD, y=GOOD), "tensors.y", "one of x"),
    "another name": (tensors(y=GOOD), "tensors.y", "one of x"),
    "a prompt": (b'{"prompt":"hello"}', "tensors", "tensors, as kind classify takes"),
    "both": (b'{"prompt":"hello","tensors":' + json.dumps(json.loads(DOCUMENT)["tensors"]).encode() + b"}",
             "input", A_DOCUMENT),
    "neither": (b"{}", "input", A_DOCUMENT),
    "no tensors": (b'{"tensors":{}}', "input", A_DOCUMENT),
    "NaN": (raw("float32", [1, 4], np.array([1, 2, np.nan, 4], "<f4").tobytes()), "input", A_DOCUMENT),
    "infinity": (raw("float32", [1, 4], np.array([1, 2, -np.inf, 4], "<f4").tobytes()), "input", A_DOCUMENT),
    "too few bytes": (raw("float32", [1, 4], bytes(15)), "input", A_DOCUMENT),
    "too many bytes": (raw("float32", [1, 4], bytes(17)), "input", A_DOCUMENT),
    "a declared terabyte": (raw("float32", [1 << 20, 1 << 18], bytes(16)), "input", A_DOCUMENT),
    "negative shape": (raw("float32", [-1, -4], bytes(16)), "input", A_DOCUMENT),
    "unknown dtype": (raw("float16", [1, 4], bytes(8)), "input", A_DOCUMENT),
    "not base64": (b'{"tensors":{"x":{"data":"!!","dtype":"float32","shape":[1,4]}}}', "input", A_DOCUMENT),
    "unknown field": (b'{"prompt":"hello","note":1}', "input", A_DOCUMENT),
    "not JSON": (b"hello", "input", A_DOCUMENT),
    "nothing": (b"", "input", A_DOCUMENT),
    "deep": (b"[" * 50_000, "input", A_DOCUMENT),
    "many values": (b'{"tensors":{"x":{"data":"","dtype":"float32","shape":[' + b"1," * 20_000 + b"1]}}}",
                    "input", A_DOCUMENT),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_INPUTS)
async def test_an_input_that_does_not_fit(door: Door, name: str) -> None:
    document, field, expected = BAD_INPUTS[name]
    await door.is_refused(asking(document)(door.world), -32002, field, expected)


@pytest.mark.parametrize("name", BAD_INPUTS)
async def test_an_unfit_input_named_by_its_cid_is_not_kept(door: Door, name: str) -> None:
    document, field, expected = BAD_INPUTS[name]
    cid = (await door.world.content.join(door.world.people[0].address).add(document)).cid
    await door.is_refused(asking(None, input_cid=cid)(door.world), -32002, field, expected)


async def test_a_refused_request_takes_no_promise_back_that_another_was_given(door: Door) -> None:
    """Else who asks twice for one input, once in vain, has the performer lose what a dispute will ask for."""
    shelf = door.world.people[0].address
    cid = (await door.world.content.join(shelf).add(DOCUMENT)).cid
    door.world.content.delay(shelf, 0.05)  # both come before the input does
    vain = asking(None, input_cid=cid, nonce=7, parameters='{"unknown":1}')(door.world)
    good = asking(None, input_cid=cid, nonce=8)(door.world)
    admitted, refused = await asyncio.gather(door.ask(good), door.ask(vain))
    assert refused["error"]["code"] == -32002
    assert "result" in admitted
    deadline, terms = door.world.request().deadline, DEFINITION.terms
    until = kept_until(deadline, terms.dispute_window, door.world.roster.settle_seconds)
    assert door.world.content.pins[PERFORMER.address][cid].keep_until == until


async def test_a_missing_tensor(door: Door) -> None:
    card = make_card(
        inputs=(X, TensorSpec("y", "int64", (2,))), model=make_card().model.__class__("bafkrei", MODEL_HASH.hex(), 1)
    )
    card_cid = (await door.desk.content.add(encode_canonical(card))).cid
    door.world.define(TaskDefinition(1, "two", "tensor", MODEL_HASH, card_cid))
    await door.desk.library.card(door.world.roster.definitions[1])
    form = asking(tensors(x=GOOD), task_definition_id=1)(door.world)
    await door.is_refused(form, -32002, "tensors.y", "a int64 tensor")


async def test_an_input_that_is_not_what_its_cid_says(door: Door) -> None:
    form = {**door.world.form(), "input": document_of(4, 3, 2, 1).decode()}
    expected = cid_of(document_of(4, 3, 2, 1))
    message = await door.is_refused(form, -32002, "request.inputCid", expected)
    assert message == "the input is not what its CID says"


async def test_a_directory_of_another_codec_is_no_input(door: Door) -> None:
    block = make_block(Codec.DAG_PB, DOCUMENT)
    shelf = door.world.people[0].address
    door.world.content.join(shelf)
    door.world.content.blocks[shelf][block.cid] = block
    form = asking(None, input_cid=block.cid)(door.world)
    await door.is_refused(form, -32002, "request.inputCid", f"a file of at most {MAX_INPUT_BYTES} bytes")


async def test_an_input_that_is_too_large(door: Door) -> None:
    document = b" " * (MAX_INPUT_BYTES + 1)
    await door.is_refused(asking(document)(door.world), -32602, "input", f"at most {MAX_INPUT_BYTES} bytes")
    cid = (await door.world.content.join(door.world.people[0].address).add(document)).cid
    form = asking(None, input_cid=cid)(door.world)
    await door.is_refused(form, -32002, "request.inputCid", f"a file of at most {MAX_INPUT_BYTES} bytes")


async def test_an_input_that_nobody_serves(door: Door) -> None:
    form = asking(None, input_cid=cid_of(b"nowhere"))(door.world)
    expected = "content that an operator serves, or the document itself as `input`"
    await door.is_refused(form, -32006, "request.inputCid", expected)


@pytest.mark.parametrize("document", [1, True, [], {}, {"tensors": {}}])
async def test_an_input_that_is_no_text(door: Door, document: Any) -> None:
    form = {**door.world.form(), "input": document}
    await door.is_refused(form, -32602, "input", "the input document as a JSON string, exactly as it was hashed")


async def test_a_body_over_the_limit_stores_nothing(door: Door) -> None:
    before = door.stored()
    answer = await door.ask({**door.world.form(), "input": " " * MAX_RPC_BODY_BYTES})
    assert answer["error"]["code"] == -32600
    assert door.stored() == before


async def test_a_card_that_nobody_serves_is_not_the_requesters_fault(door: Door) -> None:
    door.world.define(TaskDefinition(1, "absent", "exact", MODEL_HASH, cid_of(b"absent")))
    form = asking(task_definition_id=1)(door.world)
    await door.is_refused(form, -32006, None, "try again later, or another performer")
