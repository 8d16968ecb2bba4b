"""The documents of a task (protocol §5): input, parameters and proof object, each read with strict limits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec
import numpy as np
from msgspec import Meta

from shared.canonical import check_depth, decode_canonical, decode_json, encode_canonical
from shared.constants import (
    MAX_CID_CHARACTERS,
    MAX_INPUT_BYTES,
    MAX_PARAMETERS_BYTES,
    MAX_PROOF_BYTES,
    MAX_TENSOR_ELEMENTS,
)
from shared.errors import CodecError, InputMismatch
from shared.model_card import ModelCard, TextSpec, decode_card
from shared.outputs import (
    BatchOutput,
    ClassifyOutput,
    JsonOutput,
    Output,
    TensorOutput,
    TextOutput,
    data_of,
    encode_output,
    output_view,
)
from shared.tensors import Array, Name, Tensor, Tensors, TensorSpec, check_arrays, decode_tensor, encode_tensor, shown
from shared.types import Cid, Digest, Fingerprint

__all__ = [
    "BatchOutput",
    "ClassifyOutput",
    "InputDocument",
    "JsonOutput",
    "ModelCard",
    "Output",
    "Parameters",
    "ProofObject",
    "TensorOutput",
    "TextOutput",
    "data_of",
    "decode_card",
    "decode_input",
    "decode_parameters",
    "decode_proof",
    "encode_input",
    "encode_output",
    "encode_parameters",
    "encode_proof",
    "output_view",
    "validate_input",
]

DEFAULT_MAX_TOKENS = 64
SAMPLING = ("max_tokens", "temperature", "top_k")
MIN_TEMPERATURE, MAX_TEMPERATURE = 0.01, 10.0  # colder is greedy in all but name, hotter is noise alone


# --- the input and its parameters ----------------------------------------------------------------
class InputDocument(msgspec.Struct, frozen=True, kw_only=True):
    """What `inputCid` names: tensors or a prompt, never both. `tensors` are decoded and finite."""

    tensors: Mapping[str, Array] | None = None
    prompt: str | None = None


class _InputForm(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    tensors: Tensors | None = None
    prompt: str | None = None


class Parameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How text is sampled, or what a feed is asked for; a model of another kind takes no parameter at all."""

    max_tokens: int = DEFAULT_MAX_TOKENS
    temperature: float = 0.0  # 0 = greedy
    top_k: int = 0  # 0 = every token
    query: Mapping[str, str] = msgspec.field(default_factory=dict)  # of a feed


def decode_input(data: bytes) -> InputDocument:
    """Raises `CodecError`. It need not be canonical: its CID speaks for its bytes."""
    form = decode_json(data, _InputForm, "input document", max_bytes=MAX_INPUT_BYTES)
    if (form.tensors is None) == (form.prompt is None):
        raise CodecError("input document: either tensors or a prompt")
    tensors = None if form.tensors is None else _decode_tensors(form.tensors)
    return InputDocument(tensors=tensors, prompt=form.prompt)


def encode_input(document: InputDocument) -> bytes:
    """Canonical. Raises `CodecError`, as `encode_tensor`."""
    tensors = None if document.tensors is None else {k: encode_tensor(v) for k, v in document.tensors.items()}
    return encode_canonical(_InputForm(tensors=tensors, prompt=document.prompt))


def decode_parameters(card: ModelCard, text: str) -> Parameters:
    """Raises `InputMismatch` with the field's path, and `CodecError` for what is not canonical JSON."""
    data = text.encode(errors="surrogatepass")  # a lone surrogate is refused by the decoder, as any wrong UTF-8
    values = decode_canonical(data, dict[str, object], "parameters", max_bytes=MAX_PARAMETERS_BYTES)
    known = _known_parameters(card)
    for name in values:
        if name not in known:
            expected = f"one of {', '.join(known)}" if known else f"{{}} for kind {card.kind}"
            raise InputMismatch(f"parameters.{shown(name)}", expected, "an unknown name")
    if card.feed is not None:
        return Parameters(
            query={name: _choice(values, name, allowed) for name, allowed in card.feed.parameters.items()}
        )
    if card.text is None:
        return Parameters()
    limits = card.text
    return Parameters(
        max_tokens=_integer(values, "max_tokens", 1, limits.max_tokens, min(DEFAULT_MAX_TOKENS, limits.max_tokens)),
        temperature=_temperature(values.get("temperature", 0.0)),
        top_k=_integer(values, "top_k", 0, limits.vocab, 0),
    )


def encode_parameters(parameters: Parameters | None) -> str:
    """Canonical JSON; None for a model that takes no parameters."""
    if parameters is None:
        return "{}"
    if parameters.query:
        return encode_canonical(dict(parameters.query)).decode()
    return encode_canonical({name: getattr(parameters, name) for name in SAMPLING}).decode()


def validate_input(card: ModelCard, document: InputDocument, parameters: Parameters) -> None:
    """The requester's document against what the model takes. Raises `InputMismatch` with the field's path."""
    if card.text is not None:
        _check_prompt(card.text, document, parameters)
        return
    if card.kind == "json":
        return  # any document: what it means is the service's own matter
    if document.tensors is None:
        raise InputMismatch("tensors", f"tensors, as kind {card.kind} takes", "a prompt")
    check_arrays(card.inputs, document.tensors)
    for name, reach in card.reach.items():
        largest = float(np.abs(document.tensors[name]).max(initial=0.0))
        if largest > reach:
            raise InputMismatch(f"tensors.{name}", f"magnitudes up to {reach:g}", f"{largest:g}")


def _known_parameters(card: ModelCard) -> tuple[str, ...]:
    if card.feed is not None:
        return tuple(card.feed.parameters)
    return () if card.text is None else SAMPLING


def _choice(values: Mapping[str, object], name: str, allowed: tuple[str, ...]) -> str:
    value = values.get(name)
    if not isinstance(value, str) or value not in allowed:
        raise InputMismatch(f"parameters.{name}", f"one of {', '.join(allowed)}", shown(repr(value)))
    return value


def _check_prompt(text: TextSpec, document: InputDocument, parameters: Parameters) -> None:
    if text.tokens == "ids":
        _check_ids(text, document, parameters)
        return
    if document.prompt is None:
        raise InputMismatch("prompt", "a prompt, as kind text takes", "tensors")
    # Longer ones are refused, not cut: a cut prompt would be answered as if it had been the question.
    longest = text.context - 1 - parameters.max_tokens
    size = len(document.prompt.encode())
    if size > longest:
        raise InputMismatch("prompt", f"at most {longest} bytes before {parameters.max_tokens} tokens", f"{size} bytes")


def _check_ids(text: TextSpec, document: InputDocument, parameters: Parameters) -> None:
    check_arrays((TensorSpec("ids", "int64", (1, -1)),), document.tensors or {})
    ids = np.asarray((document.tensors or {})["ids"], np.int64)
    longest = text.context - parameters.max_tokens
    if not 1 <= ids.size <= longest:
        raise InputMismatch("tensors.ids", f"1 to {longest} ids before {parameters.max_tokens} tokens", f"{ids.size}")
    if ids.min() < 0 or ids.max() >= text.vocab:
        raise InputMismatch("tensors.ids", f"ids from 0 to {text.vocab - 1}", f"{ids.min()} to {ids.max()}")


def _decode_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Array]:
    arrays = {name: decode_tensor(tensor) for name, tensor in tensors.items()}
    if sum(array.size for array in arrays.values()) > MAX_TENSOR_ELEMENTS:
        raise CodecError(f"more than {MAX_TENSOR_ELEMENTS} elements together")
    return arrays


def _integer(values: Mapping[str, object], name: str, low: int, high: int, default: int) -> int:
    value = values.get(name, default)
    if type(value) is not int or not low <= value <= high:  # a bool is an int to Python
        raise InputMismatch(f"parameters.{name}", f"an integer from {low} to {high}", shown(repr(value)))
    return value


def _temperature(value: object) -> float:
    if type(value) not in (int, float) or not isinstance(value, int | float):
        raise InputMismatch("parameters.temperature", "a number", shown(repr(value)))
    if value != 0 and not MIN_TEMPERATURE <= value <= MAX_TEMPERATURE:
        expected = f"0 (greedy) or a number from {MIN_TEMPERATURE} to {MAX_TEMPERATURE}"
        raise InputMismatch("parameters.temperature", expected, shown(repr(value)))
    return float(value)


# --- the proof ------------------------------------------------------------------------------------
class ProofObject(msgspec.Struct, frozen=True):
    """What `proofOfTask` names. Its CID is the one digest that binds an output to task, card, model, input, parameters
    and seed."""

    task_id: Digest
    card_cid: Cid
    model_hash: Digest
    input_cid: Cid
    parameters: str  # as the request has them
    seed: Digest
    output: Output
    engine: Fingerprint


_Hex32 = Annotated[str, Meta(pattern="^0x[0-9a-f]{64}$", max_length=66)]
_CidText = Annotated[str, Meta(max_length=MAX_CID_CHARACTERS)]


class _EngineForm(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    runtime: Name
    version: Name
    provider: Name
    device: Name
    precision: Name


class _ProofForm(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel", kw_only=True):
    version: Literal[2] = 2
    task_id: _Hex32
    card_cid: _CidText
    model_hash: _Hex32
    input_cid: _CidText
    parameters: Annotated[str, Meta(max_length=MAX_PARAMETERS_BYTES)]
    seed: _Hex32
    output: Output
    engine: _EngineForm


def encode_proof(proof: ProofObject) -> bytes:
    """Canonical."""
    return encode_canonical(
        _ProofForm(
            task_id=f"0x{proof.task_id.hex()}",
            card_cid=proof.card_cid,
            model_hash=f"0x{proof.model_hash.hex()}",
            input_cid=proof.input_cid,
            parameters=proof.parameters,
            seed=f"0x{proof.seed.hex()}",
            output=proof.output,
            engine=_EngineForm(**msgspec.structs.asdict(proof.engine)),
        )
    )


def decode_proof(data: bytes) -> ProofObject:
    """Raises `CodecError`, also for tensors that are not what they declare."""
    form = decode_canonical(data, _ProofForm, "proof object", max_bytes=MAX_PROOF_BYTES)
    match form.output:
        case ClassifyOutput():
            decode_tensor(form.output.scores)
        case TensorOutput():
            _decode_tensors(form.output.tensors)
        case BatchOutput():
            _decode_tensors(form.output.tensors)
            _decode_tensors(form.output.layers)
        case JsonOutput():
            body = form.output.body.encode(errors="surrogatepass")
            check_depth(body)
            decode_canonical(body, object, "body", max_bytes=MAX_PROOF_BYTES)
    return ProofObject(
        task_id=_digest(form.task_id),
        card_cid=Cid(form.card_cid),
        model_hash=_digest(form.model_hash),
        input_cid=Cid(form.input_cid),
        parameters=form.parameters,
        seed=_digest(form.seed),
        output=form.output,
        engine=Fingerprint(**msgspec.structs.asdict(form.engine)),
    )


def _digest(text: str) -> Digest:
    return Digest(bytes.fromhex(text[2:]))
