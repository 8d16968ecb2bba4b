"""JSON that came from outside: read with bounds, published as canonical text."""

from __future__ import annotations

import msgspec

from shared.canonical import check_depth, decode_json, encode_canonical
from shared.constants import MAX_ANSWER_BYTES, MAX_JSON_OUTPUT_CHARACTERS
from shared.documents import JsonOutput, Output
from shared.errors import CodecError, ServiceFailed
from shared.reasons import InvalidReason


def read_answer(answer: bytes, who: str) -> object:
    """Raises `ServiceFailed` for what is no JSON of reasonable size and depth."""
    try:
        check_depth(answer)
        return decode_json(answer, object, who, max_bytes=MAX_ANSWER_BYTES)
    except CodecError as error:
        raise ServiceFailed(f"{who} did not answer with JSON: {error}") from None


def json_output(value: object, now: float, who: str) -> JsonOutput:
    """Raises `ServiceFailed` for more than a proof may hold."""
    body = encode_canonical(value).decode()
    if len(body) > MAX_JSON_OUTPUT_CHARACTERS:
        raise ServiceFailed(f"{who} answered {len(body)} characters, at most {MAX_JSON_OUTPUT_CHARACTERS} are allowed")
    return JsonOutput(body=body, made_at=int(now))


def json_fault(output: Output) -> InvalidReason | None:
    """That its body is canonical JSON, `decode_proof` has seen to; an output built by hand may be anything."""
    if not isinstance(output, JsonOutput):
        return InvalidReason.OUTPUT_MALFORMED
    try:
        check_depth(output.body.encode())
        is_canonical = encode_canonical(msgspec.json.decode(output.body)).decode() == output.body
    except (CodecError, msgspec.DecodeError, UnicodeError):
        return InvalidReason.OUTPUT_MALFORMED
    return None if is_canonical else InvalidReason.OUTPUT_MALFORMED
