"""JSON forms: nothing is lost on the way, and whatever is wrong is named by its path."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.json_forms import (
    FieldError,
    certificate_from_json,
    certificate_to_json,
    from_hex,
    request_from_json,
    request_to_json,
    to_hex,
)
from shared.types import TaskCertificate, TaskRequest, Verdict
from tests.builders import certificate, replace, request
from tests.strategies import certificates, json_values, requests

REQUEST = request_to_json(request())
CERTIFICATE = certificate_to_json(certificate())


def through_json(form: Any) -> Any:
    """As Python's decoder gives it; msgspec's own text must be the same."""
    text = json.dumps(form)
    assert msgspec.json.decode(msgspec.json.encode(form)) == json.loads(text)
    return json.loads(text)


# --- round trips ---------------------------------------------------------------------------------
@given(requests)
def test_a_request_comes_back(request: TaskRequest) -> None:
    assert request_from_json(through_json(request_to_json(request))) == request


@given(certificates)
def test_a_certificate_comes_back(certificate: TaskCertificate) -> None:
    assert certificate_from_json(through_json(certificate_to_json(certificate))) == certificate


@given(st.binary())
def test_bytes_come_back(data: bytes) -> None:
    assert from_hex(to_hex(data), "x") == data
    assert to_hex(data) == "0x" + data.hex()


def test_the_forms_are_in_camel_case() -> None:
    assert {
        "requester": to_hex(request().requester),
        "nonce": "1",
        "performer": to_hex(request().performer),
        "taskDefinitionId": 3,
        "modelHash": to_hex(request().model_hash),
        "inputCid": request().input_cid,
        "parameters": "{}",
        "seed": to_hex(request().seed),
        "fee": "0",
        "deadline": request().deadline,
    } == REQUEST
    assert list(CERTIFICATE) == ["taskInfo", "verdict", "signers", "signature", "performerSignature"]
    assert CERTIFICATE["verdict"] == "valid"
    assert certificate_to_json(replace(certificate(), verdict=Verdict.INVALID))["verdict"] == "invalid"


def test_large_integers_travel_as_text() -> None:
    """JavaScript rounds integers over 53 bits; what it cannot round, it may send as a number too."""
    large = request(2**256 - 1)
    assert request_to_json(large)["nonce"] == str(2**256 - 1)
    assert request_from_json(REQUEST | {"nonce": str(2**256 - 1)}) == large
    assert request_from_json(REQUEST | {"nonce": 1, "fee": 0}) == request()
    # Python's decoder gives integers of any size.
    assert request_from_json(REQUEST | {"nonce": 2**256 - 1}) == large


def test_hex_may_be_of_either_case() -> None:
    upper = {name: "0x" + value[2:].upper() for name, value in REQUEST.items() if str(value).startswith("0x")}
    assert len(upper) == 4
    assert request_from_json(REQUEST | upper) == request()


# --- what is wrong is named ----------------------------------------------------------------------
NO_HEX: list[object] = [
    "",
    "0",
    "00",
    "0X00",
    "0x0",
    "0xgg",
    " 0x00",
    "0x00 ",
    "0x00\n",
    "0x0٣",
    "0x-1",
    None,
    0,
    b"0x00",
    ["0x00"],
]


@pytest.mark.parametrize("text", NO_HEX)
def test_no_hex(text: object) -> None:
    with pytest.raises(FieldError, match=r"^f: expected 0x-hex$"):
        from_hex(text, "f")
    with pytest.raises(FieldError, match=r"^f: expected 1 bytes as 0x-hex$"):
        from_hex(text, "f", 1)


@pytest.mark.parametrize("size", [0, 19, 21])
def test_hex_of_another_length(size: int) -> None:
    with pytest.raises(FieldError, match=r"^f: expected 20 bytes as 0x-hex$"):
        from_hex(to_hex(bytes(size)), "f", 20)


def wrong_request(name: str) -> list[object]:
    """Values that the field cannot have, beside those of another type."""
    if name in ("nonce", "fee"):
        return ["", "01", "+1", "-1", " 1", "1 ", "1e3", "0x1", "٣", "1_0", "1" * 79, str(2**256), 2**256, -1]
    if name in ("taskDefinitionId", "deadline"):
        return [-1, 2**64, "1"]
    if name in ("requester", "performer"):
        return [*NO_HEX, to_hex(bytes(19)), to_hex(bytes(21)), request().requester.hex()]
    if name in ("modelHash", "seed"):
        return [*NO_HEX, to_hex(bytes(31)), to_hex(bytes(33))]
    return [0, "\ud800"]


def wrong_certificate(name: str) -> list[object]:
    wrong: dict[str, list[object]] = {
        "taskId": [*NO_HEX, to_hex(bytes(31))],
        "taskPerformer": [*NO_HEX, to_hex(bytes(21))],
        "proofOfTask": [0, "\ud800"],
        "data": NO_HEX,
        "taskDefinitionId": [-1, 2**16, "0"],
        "epoch": [-1, 2**32, "0"],
        "taskInfo": ["", 1],
        "verdict": ["", "Valid", "abstain", 1, 0],
        "signers": ["0x00", 1, "012"],
        "signature": [*NO_HEX, to_hex(bytes(95)), to_hex(bytes(192))],
        "performerSignature": [*NO_HEX, to_hex(bytes(64))],
    }
    return wrong[name]


OF_ANOTHER_TYPE: list[object] = [None, True, 1.0, {}]


@pytest.mark.parametrize("name", REQUEST)
def test_each_wrong_field_of_a_request_is_named(name: str) -> None:
    for value in [*wrong_request(name), *OF_ANOTHER_TYPE, []]:
        with pytest.raises(FieldError) as error:
            request_from_json(REQUEST | {name: value})
        assert error.value.field == f"request.{name}"
        assert str(error.value) == f"request.{name}: expected {error.value.expected}"
        assert not error.value.expected.lower().startswith("expected")


@pytest.mark.parametrize("name", [*CERTIFICATE, *CERTIFICATE["taskInfo"]])
def test_each_wrong_field_of_a_certificate_is_named(name: str) -> None:
    is_inner = name in CERTIFICATE["taskInfo"]
    for value in [*wrong_certificate(name), *OF_ANOTHER_TYPE]:
        info = CERTIFICATE["taskInfo"] | {name: value}
        form = CERTIFICATE | ({"taskInfo": info} if is_inner else {name: value})
        with pytest.raises(FieldError) as error:
            certificate_from_json(form, "it")
        expected = f"it.taskInfo.{name}" if is_inner else f"it.{name}"
        # Of an object where an object is right, the first field that is missing is named.
        assert error.value.field.startswith(expected) if value == {} else error.value.field == expected


def test_what_is_expected_is_said() -> None:
    for changes, said in (
        ({"nonce": "-1"}, "request.nonce: expected a decimal integer"),
        ({"nonce": 2**256}, "request.nonce: expected an unsigned integer of 256 bits"),
        ({"taskDefinitionId": 2**16}, "request.taskDefinitionId: expected an unsigned integer of 16 bits"),
        ({"deadline": 2**64}, "request.deadline: expected an unsigned integer of 64 bits"),
        ({"seed": "0x00"}, "request.seed: expected 32 bytes as 0x-hex"),
        ({"parameters": {}}, "request.parameters: expected `str`, got `object`"),
        ({"parameters": "\udfff"}, "request.parameters: expected text that UTF-8 can encode"),
    ):
        with pytest.raises(FieldError) as error:
            request_from_json(REQUEST | changes)
        assert str(error.value) == said


def test_a_wrong_signer_is_named() -> None:
    with pytest.raises(FieldError, match=r"^certificate\.signers\[1\]: expected `int`, got `str`$"):
        certificate_from_json(CERTIFICATE | {"signers": [0, "1"]})


def test_missing_and_unknown_fields_are_named() -> None:
    for name in REQUEST:
        rest = {key: value for key, value in REQUEST.items() if key != name}
        with pytest.raises(FieldError, match=rf"^request\.{name}: expected a value$"):
            request_from_json(rest)
    info = {key: value for key, value in CERTIFICATE["taskInfo"].items() if key != "epoch"}
    with pytest.raises(FieldError, match=r"^certificate\.taskInfo\.epoch: expected a value$"):
        certificate_from_json(CERTIFICATE | {"taskInfo": info})
    with pytest.raises(FieldError, match=r"^a\.b\.more: expected no field of this name$"):
        request_from_json(REQUEST | {"more": 1}, "a.b")
    with pytest.raises(FieldError, match=r"^certificate\.taskInfo\.more: expected no field of this name$"):
        certificate_from_json(CERTIFICATE | {"taskInfo": CERTIFICATE["taskInfo"] | {"more": 1}})


def test_a_long_or_odd_name_is_repeated_in_part() -> None:
    for name in ("x" * 100_000, "`", "", " - at `$.fee`", "a\nb"):
        with pytest.raises(FieldError) as error:
            request_from_json(REQUEST | {name: 1})
        assert error.value.field.startswith("request.")
        assert len(str(error.value)) < 200
    with pytest.raises(FieldError, match=r"^request: expected names that UTF-8 can encode$"):
        request_from_json(REQUEST | {"\ud800": 1})


@pytest.mark.parametrize("form", [None, [], "", 1, "request", [REQUEST]])
def test_only_objects_are_forms(form: object) -> None:
    with pytest.raises(FieldError, match=r"^request: expected `object`, got `"):
        request_from_json(form)
    with pytest.raises(FieldError, match=r"^certificate: expected `object`, got `"):
        certificate_from_json(form)


@given(json_values, st.sampled_from(sorted(REQUEST)), st.sampled_from([*CERTIFICATE, *CERTIFICATE["taskInfo"]]))
def test_any_json_is_a_form_or_refused(value: object, name: str, other: str) -> None:
    inner = CERTIFICATE | {"taskInfo": CERTIFICATE["taskInfo"] | {other: value}}
    for read, form in (
        (request_from_json, value),
        (certificate_from_json, value),
        (request_from_json, REQUEST | {name: value}),
        (certificate_from_json, CERTIFICATE | {other: value}),
        (certificate_from_json, inner),
    ):
        with contextlib.suppress(FieldError):
            read(form)
