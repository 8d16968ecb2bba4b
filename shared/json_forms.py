"""JSON forms of what the door, the client and documents share: camelCase keys, bytes as lower-case 0x-hex.

Integers over 53 bits (nonce, fee) travel as decimal strings, since JavaScript would round them; both forms are read.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from shared.errors import CodecError
from shared.types import Address, Cid, Digest, TaskCertificate, TaskInfo, TaskRequest, Uint256, Verdict

HEX = re.compile(r"0x(?:[0-9a-fA-F]{2})*")
DECIMAL = re.compile(r"0|[1-9][0-9]{0,77}")
MISSING = "missing required"
NAMED = re.compile(rf"Object (?P<what>{MISSING}|contains unknown) field `(?P<name>.*?)`?", re.DOTALL)
MAX_NAME_CHARACTERS = 64  # of a stranger's field name that an answer repeats
VERDICT_NAMES = {Verdict.VALID: "valid", Verdict.INVALID: "invalid"}


class _Request(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    requester: str
    nonce: int | str
    performer: str
    task_definition_id: int
    model_hash: str
    input_cid: str
    parameters: str
    seed: str
    fee: int | str
    deadline: int


class _Info(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    task_id: str
    proof_of_task: str
    data: str
    task_performer: str
    task_definition_id: int
    epoch: int


class _Certificate(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    task_info: _Info
    verdict: str
    signers: list[int]
    signature: str
    performer_signature: str


def to_hex(data: bytes) -> str:
    """Lower-case hex with 0x."""
    return "0x" + data.hex()


def from_hex(text: object, field: str, length: int | None = None) -> bytes:
    """Raises `FieldError`. `length` in bytes, None for any."""
    expected = f"{length} bytes as 0x-hex" if length is not None else "0x-hex"
    if not isinstance(text, str) or not HEX.fullmatch(text):
        raise FieldError(field, expected)
    data = bytes.fromhex(text[2:])
    if length is not None and len(data) != length:
        raise FieldError(field, expected)
    return data


class FieldError(CodecError):
    """A value of a JSON form is not what it must be; `field` is its path."""

    def __init__(self, field: str, expected: str) -> None:
        super().__init__(f"{field}: expected {expected}")
        self.field, self.expected = field, expected


def request_to_json(request: TaskRequest) -> dict[str, Any]:
    """The inverse of `request_from_json`."""
    return {
        "requester": to_hex(request.requester),
        "nonce": str(request.nonce),
        "performer": to_hex(request.performer),
        "taskDefinitionId": request.task_definition_id,
        "modelHash": to_hex(request.model_hash),
        "inputCid": request.input_cid,
        "parameters": request.parameters,
        "seed": to_hex(request.seed),
        "fee": str(request.fee),
        "deadline": request.deadline,
    }


def request_from_json(form: object, path: str = "request") -> TaskRequest:
    """Raises `FieldError` with the offending field's path."""
    parsed = _convert(form, _Request, path)
    return TaskRequest(
        requester=Address(from_hex(parsed.requester, f"{path}.requester", 20)),
        nonce=Uint256(_integer(parsed.nonce, f"{path}.nonce", 256)),
        performer=Address(from_hex(parsed.performer, f"{path}.performer", 20)),
        task_definition_id=_integer(parsed.task_definition_id, f"{path}.taskDefinitionId", 16),
        model_hash=Digest(from_hex(parsed.model_hash, f"{path}.modelHash", 32)),
        input_cid=Cid(_text(parsed.input_cid, f"{path}.inputCid")),
        parameters=_text(parsed.parameters, f"{path}.parameters"),
        seed=Digest(from_hex(parsed.seed, f"{path}.seed", 32)),
        fee=Uint256(_integer(parsed.fee, f"{path}.fee", 256)),
        deadline=_integer(parsed.deadline, f"{path}.deadline", 64),
    )


def certificate_to_json(certificate: TaskCertificate) -> dict[str, Any]:
    """The inverse of `certificate_from_json`."""
    info = certificate.task_info
    return {
        "taskInfo": {
            "taskId": to_hex(info.task_id),
            "proofOfTask": info.proof_of_task,
            "data": to_hex(info.data),
            "taskPerformer": to_hex(info.task_performer),
            "taskDefinitionId": info.task_definition_id,
            "epoch": info.epoch,
        },
        "verdict": VERDICT_NAMES[certificate.verdict],
        "signers": list(certificate.signers),
        "signature": to_hex(certificate.signature),
        "performerSignature": to_hex(certificate.performer_signature),
    }


def certificate_from_json(form: object, path: str = "certificate") -> TaskCertificate:
    """Raises `FieldError`. Shape only: `validation.verify_certificate` says whether it is true."""
    parsed = _convert(form, _Certificate, path)
    verdict = next((verdict for verdict, name in VERDICT_NAMES.items() if name == parsed.verdict), None)
    if verdict is None:
        raise FieldError(f"{path}.verdict", "valid or invalid")
    info, at = parsed.task_info, f"{path}.taskInfo"
    return TaskCertificate(
        task_info=TaskInfo(
            task_id=Digest(from_hex(info.task_id, f"{at}.taskId", 32)),
            proof_of_task=Cid(_text(info.proof_of_task, f"{at}.proofOfTask")),
            data=from_hex(info.data, f"{at}.data"),
            task_performer=Address(from_hex(info.task_performer, f"{at}.taskPerformer", 20)),
            task_definition_id=_integer(info.task_definition_id, f"{at}.taskDefinitionId", 16),
            epoch=_integer(info.epoch, f"{at}.epoch", 32),
        ),
        verdict=verdict,
        signers=tuple(parsed.signers),
        signature=from_hex(parsed.signature, f"{path}.signature", 96),
        performer_signature=from_hex(parsed.performer_signature, f"{path}.performerSignature", 65),
    )


def _convert(form: object, kind: Any, path: str) -> Any:
    try:
        return msgspec.convert(form, kind)
    except msgspec.ValidationError as error:
        # msgspec ends its messages with " - at `$.field`"; a missing or an unknown field it names before that.
        said, _, at = str(error).partition(" - at `$")
        field = path + at.rstrip("`")
        if named := NAMED.fullmatch(said):
            is_missing, name = named["what"] == MISSING, named["name"][:MAX_NAME_CHARACTERS]
            raise FieldError(f"{field}.{name}", "a value" if is_missing else "no field of this name") from None
        raise FieldError(field, said.removeprefix("Expected ")) from None
    except UnicodeEncodeError:
        raise FieldError(path, "names that UTF-8 can encode") from None


def _text(value: str, field: str) -> str:
    # Other decoders than ours, a browser's or Python's, let lone surrogates through, which no digest can take.
    try:
        value.encode()
    except UnicodeEncodeError:
        raise FieldError(field, "text that UTF-8 can encode") from None
    return value


def _integer(value: int | str, field: str, bits: int) -> int:
    if isinstance(value, str):
        if not DECIMAL.fullmatch(value):
            raise FieldError(field, "a decimal integer")
        value = int(value)
    if not 0 <= value < 1 << bits:
        raise FieldError(field, f"an unsigned integer of {bits} bits")
    return value
