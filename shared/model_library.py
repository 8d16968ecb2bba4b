"""From a task definition on chain to a model that runs: card by CID, model by CID, both held to the chain's hash."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog

from shared.constants import FETCH_TIMEOUT_SECONDS, MAX_CARD_BYTES, MAX_MODEL_BYTES
from shared.documents import ModelCard, decode_card
from shared.errors import (
    CodecError,
    ContentCorrupt,
    ContentTooLarge,
    ContentUnavailable,
    ModelMismatch,
    PoiError,
)
from shared.interfaces import ContentStore, InferenceEngine, Tensors
from shared.roster import Roster
from shared.types import Address, Cid, Digest, TaskDefinition

# A model may take its size at this pace, and never less than FETCH_TIMEOUT_SECONDS.
SLOWEST_MODEL_BYTES_PER_SECOND = 1 << 20
READY_POLL_SECONDS = 1.0

log = structlog.get_logger(__name__)


class CardUnavailable(ContentUnavailable):
    """Nobody served the model card."""


class ModelUnavailable(ContentUnavailable):
    """Nobody served the model."""


@dataclass(frozen=True)
class ReadyModel:
    """A loaded model and its card."""

    card: ModelCard
    card_cid: Cid
    model_hash: Digest
    run: Callable[[Tensors], Awaitable[Tensors]]


class ModelLibrary:
    """Fetches, checks and loads models, each once."""

    def __init__(self, *, content: ContentStore, engine: InferenceEngine) -> None:
        self._content, self._engine = content, engine
        self._cards: dict[Cid, ModelCard] = {}
        self._loading: dict[Digest, asyncio.Lock] = {}
        self.ready_ids: set[int] = set()  # definitions whose model was loaded at least once
        self._troubles: dict[int, str] = {}  # by definition: what is logged once, not every second

    @property
    def engine(self) -> InferenceEngine:
        return self._engine

    async def ready(self, definition: TaskDefinition, *, prefer: Address | None = None) -> ReadyModel:
        """Raises `CardUnavailable`, `ModelUnavailable`, `ModelMismatch` when card or model are not what the chain says,
        and the engine's errors."""
        card = await self.card(definition, prefer=prefer)
        await self._load(definition, card, prefer)

        async def run(inputs: Tensors) -> Tensors:
            if not self._engine.is_loaded(definition.model_hash):  # pushed out by another model meanwhile
                await self._load(definition, card, prefer)
            return await self._engine.run(definition.model_hash, inputs)

        return ReadyModel(card, definition.card_cid, definition.model_hash, run)

    async def keep_ready(self, roster: Callable[[], Roster]) -> None:
        """Load every definition's model as soon as somebody serves it, so that the first task need not wait for it.
        Until cancelled."""
        while True:
            for definition in list(roster().definitions.values()):
                if definition.id not in self.ready_ids:
                    await self._try_ready(definition)
            await asyncio.sleep(READY_POLL_SECONDS)

    async def _try_ready(self, definition: TaskDefinition) -> None:
        try:
            await self.ready(definition)
            self.ready_ids.add(definition.id)
            log.info("model ready", definition=definition.id, name=definition.name)
        except PoiError as error:
            if self._troubles.get(definition.id) != type(error).__name__:
                self._troubles[definition.id] = type(error).__name__
                log.info("model not ready", definition=definition.id, reason=str(error))

    async def card(self, definition: TaskDefinition, *, prefer: Address | None = None) -> ModelCard:
        """The definition's card, held to its model hash and method."""
        card = self._cards.get(definition.card_cid)
        if card is None:
            card = await self._fetch_card(definition.card_cid, prefer)
            self._cards[definition.card_cid] = card
        if not _is_card_of(card, definition):
            raise ModelMismatch(
                f"card {definition.card_cid} is for another model or method than task definition {definition.id}"
            )
        return card

    def known_card(self, definition: TaskDefinition) -> ModelCard | None:
        """As `card`, but asks nobody: None while it is not here, and for one that is not the definition's."""
        card = self._cards.get(definition.card_cid)
        return card if card is not None and _is_card_of(card, definition) else None

    async def _fetch_card(self, cid: Cid, prefer: Address | None) -> ModelCard:
        try:
            data = await self._content.get(
                cid, max_bytes=MAX_CARD_BYTES, timeout_seconds=FETCH_TIMEOUT_SECONDS, prefer=prefer
            )
            return decode_card(data)
        except ContentUnavailable as error:
            raise CardUnavailable(error.cid, error.causes) from None
        except (ContentTooLarge, ContentCorrupt, CodecError) as error:
            raise ModelMismatch(f"card {cid}: {error}") from None

    async def _load(self, definition: TaskDefinition, card: ModelCard, prefer: Address | None) -> None:
        async with self._loading.setdefault(definition.model_hash, asyncio.Lock()):
            if self._engine.is_loaded(definition.model_hash):
                return
            timeout = max(FETCH_TIMEOUT_SECONDS, card.model.size / SLOWEST_MODEL_BYTES_PER_SECOND)
            limit = min(card.model.size, MAX_MODEL_BYTES)
            try:
                model = await self._content.get(
                    Cid(card.model.cid), max_bytes=limit, timeout_seconds=timeout, prefer=prefer
                )
            except ContentUnavailable as error:
                raise ModelUnavailable(error.cid, error.causes) from None
            except (ContentTooLarge, ContentCorrupt, CodecError) as error:  # the last for a CID that is none
                raise ModelMismatch(f"model {card.model.cid}: {error}") from None
            await self._engine.load(definition.model_hash, model)


def _is_card_of(card: ModelCard, definition: TaskDefinition) -> bool:
    return bytes.fromhex(card.model.sha256) == definition.model_hash and card.method == definition.method
