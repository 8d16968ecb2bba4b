"""What the testnet sends: honest tasks of every kind of model in turn, and cheats drawn from the list."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Final

from poi.cheats import Cheat, NotApplicable
from poi.cheats.others import other_model
from poi.testnet.lies import LIES
from poi.testnet.words import WORDS
from shared.documents import InputDocument, ModelCard, decode_card, encode_input
from shared.errors import ConfigError

MODELS: Final = Path(__file__).resolve().parents[2] / "models"
# An image classifier, a decoder, an encoder, a regressor, a tree ensemble.
MODEL_NAMES: Final = ("digits", "text", "sentences", "diabetes", "wine")
TOKENS: Final = 32
TEMPERATURES: Final = (0.0, 0.8)
CHEATED_TEMPERATURE: Final = 0.8  # a greedy text has no sampler to cheat with
SEED: Final = 4  # of the draw, so that the same command sends the same cheats


@dataclass(frozen=True)
class Errand:
    """One task to send, and the cheat that the lying performer shall play on it; None for an honest one."""

    model: str
    kind: str  # of output, as the card has it
    document: str  # JSON
    parameters: dict[str, Any]
    asked: str
    cheat: Cheat | None = None

    @property
    def title(self) -> str:
        """For the table and the JSON."""
        return self.model if self.cheat is None else f"{self.model}: {self.cheat.name}"


def model_folder(name: str) -> Path:
    """Raises `ConfigError` where the models are not beside the code, as in a wheel without them."""
    folder = MODELS / name
    if not (folder / "model.onnx").exists():
        raise ConfigError(f"models/{name}/model.onnx is not here; run the testnet from a clone of the repository")
    return folder


def plan(tasks: int, cheats: int) -> list[Errand]:
    """`tasks` honest errands, then `cheats` lies."""
    count = len(MODEL_NAMES)
    honest = [_errand(MODEL_NAMES[i % count], i // count, TEMPERATURES[i // count % 2]) for i in range(tasks)]
    return honest + [
        replace(_errand(name, len(documents(name)) // 2 + i, CHEATED_TEMPERATURE), cheat=cheat)
        for i, (name, cheat) in enumerate(draw(cheats))
    ]


def draw(count: int) -> list[tuple[str, Cheat]]:
    """Models, and the cheat on each: every cheat once before one comes again, the models as even as that lets them be,
    and of what is left always a cheat whose reasons were seen least."""
    pairs = [(name, cheat) for name in MODEL_NAMES for cheat in LIES[card_of(name).kind]]
    random.Random(SEED).shuffle(pairs)
    drawn: list[tuple[str, Cheat]] = []
    for _ in range(count):
        times = Counter(cheat.name for _, cheat in drawn)
        models = Counter(name for name, _ in drawn)
        reasons = Counter(cheat.expected for _, cheat in drawn)
        ranked = sorted(pairs, key=lambda pair: (times[pair[1].name], models[pair[0]], reasons[pair[1].expected]))
        drawn.append(next(pair for pair in ranked if _is_playable(*pair)))
    return drawn


@cache
def _is_playable(name: str, cheat: Cheat) -> bool:
    """The model has what the cheat would run instead."""
    if cheat.model is None:
        return True
    folder = model_folder(name)
    try:
        other_model(cheat.model, (folder / "model.onnx").read_bytes(), folder)
    except NotApplicable:
        return False
    return True


def _errand(name: str, number: int, temperature: float) -> Errand:
    card, document = card_of(name), documents(name)[number % len(documents(name))]
    asked, parameters = WORDS[name].asked(document), dict[str, Any]()
    if card.text is not None:
        asked += f", {'greedy' if temperature == 0 else f'T {temperature}'}"
        parameters = {"max_tokens": TOKENS, "temperature": temperature, "top_k": 0}
    return Errand(name, card.kind, encode_input(document).decode(), parameters, asked)


@cache
def card_of(name: str) -> ModelCard:
    return decode_card((model_folder(name) / "card.json").read_bytes())


@cache
def documents(name: str) -> list[InputDocument]:
    """The sample inputs beside the model; an empty prompt has nothing to show and nothing to cheat with."""
    folder = model_folder(name)
    from models.samples import read_documents  # beside the code, as the models are: not in a wheel

    return [document for document in read_documents(folder) if document.prompt != ""]
