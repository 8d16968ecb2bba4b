"""No performer can show a dApp another result than a quorum certified."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec
import pytest

from poi.client import UntrueAnswer
from shared.canonical import encode_canonical
from shared.content.unixfs import cid_of
from shared.documents import TensorOutput, TextOutput
from shared.errors import CodecError, Reject
from shared.json_forms import certificate_to_json, to_hex
from shared.outputs import Output, output_view
from shared.types import Verdict
from shared.workflow import Phase
from tests.cast import Cast
from tests.false_doors import NETWORK, answered, result
from tests.toy_model import DATA, OUTPUT

# --- believing ---------------------------------------------------------------------------------------
CAST = Cast()
TEXT = TextOutput(encoding="bytes", prompt=(256, 104), tokens=(104, 105, 257), stop="eos", tops=bytes(144))
TENSORS = TensorOutput(tensors={"y": OUTPUT.scores})
OUTPUTS: dict[str, tuple[Output, bytes]] = {
    "label": (OUTPUT, DATA),
    "text": (TEXT, hashlib.sha256(b"hi").digest()),
    "tensors": (TENSORS, hashlib.sha256(encode_canonical(TENSORS)).digest()),
}


def view_of(name: str, verdict: Verdict = Verdict.VALID, **changes: Any) -> dict[str, Any]:
    """What an honest door shows of a certified task."""
    output, data = OUTPUTS[name]
    info = CAST.info(name, data=data)
    view = {
        "taskId": to_hex(info.task_id),
        "phase": str(Phase.CERTIFIED),
        "result": msgspec.to_builtins(output_view(output)),
        "proofOfTask": info.proof_of_task,
        "data": to_hex(data),
        "certificate": certificate_to_json(CAST.certificate(info, verdict)),
    }
    return {**view, **changes}


async def check(view: dict[str, Any]) -> Any:
    async with answered(result(NETWORK)) as client:
        return await client.verify(view, CAST.table_of(1))


@pytest.mark.parametrize("name", OUTPUTS)
async def test_a_true_view_is_believed(name: str) -> None:
    info = CAST.info(name, data=OUTPUTS[name][1])
    assert await check(view_of(name)) == CAST.certificate(info)
    assert await check(view_of(name, result=None)) == CAST.certificate(info)


async def test_a_rejection_is_certified_too() -> None:
    assert (await check(view_of("label", Verdict.INVALID))).verdict is Verdict.INVALID


def result_of(name: str, **changes: Any) -> dict[str, Any]:
    view: dict[str, Any] = msgspec.to_builtins(output_view(OUTPUTS[name][0]))
    return {**view, **changes}


LIES: dict[str, tuple[str, dict[str, Any]]] = {
    "another label": ("label", {"result": result_of("label", label=2)}),
    "a huge label": ("label", {"result": result_of("label", label=1 << 300)}),
    "a negative label": ("label", {"result": result_of("label", label=-1)}),
    "no label": ("label", {"result": {"kind": "classify"}}),
    "another text": ("text", {"result": result_of("text", text="ho")}),
    "other tokens": ("text", {"result": result_of("text", tokens=[104, 111, 257])}),
    "other tensors": ("tensors", {"result": result_of("tensors", tensors={})}),
    "another kind": ("label", {"result": result_of("text")}),
    "an unknown kind": ("label", {"result": {"kind": "image", "label": 1}}),
    "no object": ("label", {"result": "1"}),
    "other data": ("label", {"data": to_hex((2).to_bytes(32, "big")), "result": result_of("label", label=2)}),
    "other data alone": ("label", {"data": to_hex((2).to_bytes(32, "big"))}),
    "other data without a result": ("text", {"data": to_hex(bytes(32)), "result": None}),
    "no data": ("label", {"data": None}),
    "another proof": ("label", {"proofOfTask": cid_of(b"another")}),
    "another task's certificate": ("label", {"certificate": view_of("text")["certificate"]}),
    "another task": ("label", {"taskId": to_hex(bytes(32))}),
}


@pytest.mark.parametrize("name", LIES)
async def test_a_view_that_is_not_what_was_certified_is_not_believed(name: str) -> None:
    kind, changes = LIES[name]
    with pytest.raises(UntrueAnswer):
        await check(view_of(kind, **changes))


def certificate_of(name: str, **changes: Any) -> dict[str, Any]:
    certificate = CAST.certificate(CAST.info(name, data=OUTPUTS[name][1]))
    return {"certificate": certificate_to_json(msgspec.structs.replace(certificate, **changes))}


FORGED: dict[str, dict[str, Any]] = {
    "turned round": certificate_of("label", verdict=Verdict.INVALID),
    "too few": certificate_of("label", signers=(0, 1)),
    "other signers": certificate_of("label", signers=(0, 1, 2)),
    "out of the table": certificate_of("label", signers=(0, 1, 2, 9)),
    "nobody's": certificate_of("label", signature=bytes(96)),
    "not the performer's": certificate_of("label", performer_signature=bytes(65)),
}


@pytest.mark.parametrize("name", FORGED)
async def test_a_certificate_that_no_quorum_signed_is_not_believed(name: str) -> None:
    with pytest.raises(Reject):
        await check(view_of("label", **FORGED[name]))


async def test_a_certificate_of_other_attesters_is_not_believed() -> None:
    async with answered(result(NETWORK)) as client:
        table = Cast((1, 1, 1)).table_of(1)
        with pytest.raises(Reject):
            await client.verify(view_of("label"), table)


async def test_a_certificate_for_another_contract_is_not_believed() -> None:
    elsewhere = {**NETWORK, "attestationCenter": to_hex(b"\x01" * 20)}
    async with answered(result(elsewhere)) as client:
        with pytest.raises(Reject):
            await client.verify(view_of("label"), CAST.table_of(1))


@pytest.mark.parametrize("certificate", [None, {}, [], "yes", {"verdict": "valid"}])
async def test_no_certificate_is_no_certificate(certificate: Any) -> None:
    with pytest.raises(CodecError):
        await check(view_of("label", certificate=certificate))
