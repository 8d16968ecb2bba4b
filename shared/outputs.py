"""What a model gave, as the proof carries it (protocol §6): one shape a kind, told apart by `kind`."""

from __future__ import annotations

import hashlib
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from shared.canonical import encode_canonical
from shared.constants import MAX_JSON_OUTPUT_CHARACTERS, MAX_TENSOR_ELEMENTS, MAX_TEXT_TOKENS
from shared.tensors import Tensor, Tensors, decode_tensor

Token = Annotated[int, Meta(ge=0, lt=1 << 20)]
Tokens = Annotated[tuple[Token, ...], Meta(max_length=MAX_TEXT_TOKENS)]
MAX_LAYERS = 1024  # of a batch; decoders of 80 blocks have 560 products
MAX_TOPS_BYTES = MAX_TEXT_TOKENS * 64  # eight ids of four bytes and eight float32 values a token


class ClassifyOutput(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="classify"):
    """Class scores, and the index of the highest (the first of equals)."""

    scores: Tensor
    label: Annotated[int, Meta(ge=0, lt=MAX_TENSOR_ELEMENTS)]


class TensorOutput(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="tensor"):
    """All outputs of the model, by name."""

    tensors: Tensors


class TextOutput(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="text"):
    """Token ids. `encoding` is the card's `text.tokens`; with bytes, `prompt` starts with bos. `tokens` includes the
    eos that stopped it; `tops` are the highest logits before each token, as `shared.top_logits` packs them."""

    encoding: Literal["bytes", "ids"]
    prompt: Tokens
    tokens: Tokens
    stop: Literal["eos", "length"]
    tops: Annotated[bytes, Meta(max_length=MAX_TOPS_BYTES)]

    @property
    def text(self) -> bytes:
        """What the tokens spell where they are bytes (it need not be UTF-8, and may end within a character); the ids
        themselves, 4 bytes big-endian each, where only the requester's tokenizer can spell them."""
        if self.encoding == "ids":
            return b"".join(token.to_bytes(4, "big") for token in self.tokens)
        return bytes(token for token in self.tokens if token < 256)


class BatchOutput(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="batch"):
    """All outputs of a batch, and what each linear layer gave before them, by the name of its tensor. A layer that
    gives an output is there once, as that."""

    tensors: Tensors
    layers: Annotated[dict[str, Tensor], Meta(max_length=MAX_LAYERS)]


class JsonOutput(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="json"):
    """What a service or a source answered: canonical JSON as text, and when (unix seconds)."""

    body: Annotated[str, Meta(min_length=1, max_length=MAX_JSON_OUTPUT_CHARACTERS)]
    made_at: Annotated[int, Meta(ge=0, lt=1 << 53)]


Output = ClassifyOutput | TensorOutput | TextOutput | BatchOutput | JsonOutput


def encode_output(output: Output) -> bytes:
    """Canonical."""
    return encode_canonical(output)


def data_of(output: Output) -> bytes:
    """The short answer that the performer signs beside the proof (protocol §6), 32 bytes: a label as a contract reads
    it (uint256, big-endian), or the SHA-256 of what was answered."""
    match output:
        case ClassifyOutput():
            return output.label.to_bytes(32, "big")
        case TextOutput():
            return hashlib.sha256(output.text).digest()
        case BatchOutput():
            return hashlib.sha256(encode_output(TensorOutput(output.tensors))).digest()
        case JsonOutput():
            return hashlib.sha256(output.body.encode()).digest()
        case TensorOutput():
            return hashlib.sha256(encode_output(output)).digest()


def output_view(output: Output) -> dict[str, Any]:
    """For people and dApps: scores as numbers, tokens as text; tensors stay as documents carry them, and what is there
    for attesters alone stays in the proof."""
    match output:
        case ClassifyOutput():
            return {
                "kind": "classify",
                "label": output.label,
                "scores": decode_tensor(output.scores).ravel().tolist(),
            }
        case TextOutput():
            # The end may cut a character in two.
            text = output.text.decode(errors="replace") if output.encoding == "bytes" else None
            return {"kind": "text", "text": text, "stop": output.stop, "tokens": list(output.tokens)}
        case JsonOutput():
            return {"kind": "json", "body": msgspec.json.decode(output.body), "madeAt": output.made_at}
        case BatchOutput():
            return {"kind": "batch", "tensors": msgspec.json.decode(encode_canonical(output.tensors))}
        case TensorOutput():
            view: dict[str, Any] = msgspec.json.decode(encode_output(output))
            return view
