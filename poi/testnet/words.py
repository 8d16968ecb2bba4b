"""What each shipped model is asked and answers, in the few words that a table has room for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import numpy as np

from shared.documents import InputDocument
from shared.tensors import Tensor, decode_tensor

SHOWN_NUMBERS: Final = 3


@dataclass(frozen=True)
class Words:
    """`asked` of an input document, `answered` of the view of an output (`shared.outputs.output_view`)."""

    asked: Callable[[InputDocument], str]
    answered: Callable[[dict[str, Any]], str]


def _sentence(document: InputDocument) -> str:
    """The bytes below 256 of the ids; what is above is padding."""
    ids = np.asarray((document.tensors or {})["ids"], np.int64).ravel().tolist()
    return bytes(one for one in ids if one < 256).decode(errors="replace")


def _numbers(view: dict[str, Any]) -> str:
    """The first numbers of the first tensor."""
    tensor = next(iter(view["tensors"].values()))
    values = decode_tensor(msgspec.convert(tensor, Tensor)).ravel()
    shown = " ".join(f"{float(value):.3g}" for value in values[:SHOWN_NUMBERS])
    return f"{shown} …" if values.size > SHOWN_NUMBERS else shown


def _first(name: str) -> Callable[[dict[str, Any]], str]:
    """The first number of the tensor of this name."""
    return lambda view: _numbers({"tensors": {name: view["tensors"][name]}})


WORDS: Final[Mapping[str, Words]] = {
    "digits": Words(lambda _: "a handwritten digit", lambda view: f"a {view['label']}"),
    "text": Words(lambda document: f"“{document.prompt}…”", lambda view: "…" + " ".join(str(view["text"]).split())),
    "sentences": Words(lambda document: f"embed “{_sentence(document)}”", _numbers),
    "diabetes": Words(lambda _: "diabetes after a year", _first("progression")),
    "wine": Words(lambda _: "a wine's cultivar", lambda view: f"cultivar {view['label']}"),
}
