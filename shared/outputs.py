"""What a model gave, as the proof carries it (protocol §6): one shape a kind, told apart by `kind`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from shared.canonical import encode_canonical
from shared.constants import MAX_TENSOR_ELEMENTS, MAX_TEXT_TOKENS
from shared.tensors import Tensor, Tensors, decode_tensor

Token = Annotated[int, Meta(ge=0, lt=1 << 20)]
Tokens = Annotated[tuple[Token, ...], Meta(max_length=MAX_TEXT_TOKENS)]


class ClassifyOutput(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="classify"):
    """Class scores, and the index of the highest (the first of equals)."""

    scores: Tensor
    label: Annotated[int, Meta(ge=0, lt=MAX_TENSOR_ELEMENTS)]


class TensorOutput(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="tensor"):
    """All outputs of the model, by name."""

    tensors: Tensors


class TextOutput(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="text"):
    """Token ids. `prompt` starts with bos; `tokens` includes the eos that stopped it."""

    prompt: Tokens
    tokens: Tokens
    stop: Literal["eos", "length"]

    @property
    def text(self) -> bytes:
        """What the tokens spell; it need not be UTF-8, and may end within a character."""
        return bytes(token for token in self.tokens if token < 256)


Output = ClassifyOutput | TensorOutput | TextOutput


def encode_output(output: Output) -> bytes:
    """Canonical; what `data` of the tensor method is the SHA-256 of."""
    return encode_canonical(output)


def output_view(output: Output) -> dict[str, Any]:
    """For people and dApps: scores as numbers, tokens as text; tensors stay as documents carry them."""
    match output:
        case ClassifyOutput():
            return {
                "kind": "classify",
                "label": output.label,
                "scores": decode_tensor(output.scores).ravel().tolist(),
            }
        case TextOutput():
            # The end may cut a character in two.
            text = output.text.decode(errors="replace")
            return {"kind": "text", "text": text, "stop": output.stop, "tokens": list(output.tokens)}
        case TensorOutput():
            view: dict[str, Any] = msgspec.json.decode(encode_output(output))
            return view
