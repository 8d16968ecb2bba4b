"""From a task definition on chain to a model that runs: card by CID, model by CID, both held to the chain's hash.

A card's profile picks the engine; the float64 reference of a model is loaded when a judgement first asks for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import structlog

from shared.audit_library import AuditLibrary
from shared.constants import FETCH_TIMEOUT_SECONDS, MAX_CARD_BYTES, MAX_MODEL_BYTES
from shared.documents import ModelCard, decode_card
from shared.errors import (
    CodecError,
    ContentCorrupt,
    ContentTooLarge,
    ContentUnavailable,
    InferenceFailed,
    ModelMismatch,
    PoiError,
)
from shared.interfaces import ContentStore, InferenceEngine, Tensors
from shared.model_card import ModelFile
from shared.profiles import Profile
from shared.roster import Roster
from shared.types import Address, Cid, Digest, Fingerprint, TaskDefinition
from shared.verification.method import Compute, Forward

# A model may take its size at this pace, and never less than FETCH_TIMEOUT_SECONDS.
SLOWEST_MODEL_BYTES_PER_SECOND = 1 << 20
NO_MODEL = Digest(bytes(32))  # the model hash of a definition whose answers come from a service or a source
READY_POLL_SECONDS = 1.0

log = structlog.get_logger(__name__)


class CardUnavailable(ContentUnavailable):
    """Nobody served the model card."""


class ModelUnavailable(ContentUnavailable):
    """Nobody served the model."""


@dataclass(frozen=True)
class ReadyModel:
    """A card, and its model loaded, if it has one."""

    card: ModelCard
    card_cid: Cid
    model_hash: Digest
    compute: Compute
    fingerprint: Callable[[], Fingerprint]  # of the engine that `compute.run` runs on


class ModelLibrary:
    """Fetches, checks and loads models, each once an engine. `engines` has one for each profile that this node can
    compute in, `reference` computes any model in float64, `audits` takes models apart for the method `batch-audit`. A
    model of more than `max_bytes` is not fetched: no engine would load it, and it is in memory when it is here."""

    def __init__(
        self,
        *,
        content: ContentStore,
        engines: Mapping[Profile, InferenceEngine],
        reference: InferenceEngine,
        audits: AuditLibrary | None = None,
        max_bytes: int = MAX_MODEL_BYTES,
    ) -> None:
        self._content, self._engines, self._reference, self._audits = content, engines, reference, audits
        self._max_bytes = min(max_bytes, MAX_MODEL_BYTES)
        self._cards: dict[Cid, ModelCard] = {}
        self._loading: dict[tuple[int, Digest], asyncio.Lock] = {}
        self.ready_ids: set[int] = set()  # definitions whose model was loaded at least once
        self._troubles: dict[int, str] = {}  # by definition: what is logged once, not every second

    async def ready(self, definition: TaskDefinition, *, prefer: Address | None = None) -> ReadyModel:
        """Raises `CardUnavailable`, `ModelUnavailable`, `ModelMismatch` when card or model are not what the chain says,
        and the engine's errors."""
        card = await self.card(definition, prefer=prefer)
        if card.model is None:
            return ReadyModel(card, definition.card_cid, NO_MODEL, Compute(_no_model, _no_model), lambda: _SERVED)
        engine = self._engines.get(card.profile)
        if engine is None:
            raise InferenceFailed(f"this node has no engine for profile {card.profile} of card {definition.card_cid}")
        await self._load(engine, definition, card.model, prefer)
        audit = None
        if card.method == "batch-audit" and self._audits is not None:
            fetch = partial(self._fetch_model, card.model, prefer)
            audit = partial(self._audits.runs, engine, definition.model_hash, fetch)
        return ReadyModel(
            card,
            definition.card_cid,
            definition.model_hash,
            Compute(
                run=self._forward(engine, definition, card.model, prefer),
                reference=self._forward(self._reference, definition, card.model, prefer),
                audit=audit,
            ),
            lambda: engine.fingerprint(definition.model_hash),
        )

    def _forward(
        self, engine: InferenceEngine, definition: TaskDefinition, model: ModelFile, prefer: Address | None
    ) -> Forward:
        async def run(inputs: Tensors) -> Tensors:
            if not engine.is_loaded(definition.model_hash):  # a first use, or pushed out by another model meanwhile
                await self._load(engine, definition, model, prefer)
            return await engine.run(definition.model_hash, inputs)

        return run

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
        except Exception as error:  # anybody may define a task: no definition is to end the node
            if self._troubles.get(definition.id) != type(error).__name__:
                self._troubles[definition.id] = type(error).__name__
                log.exception("fault while making a model ready", definition=definition.id)

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

    async def _load(
        self, engine: InferenceEngine, definition: TaskDefinition, file: ModelFile, prefer: Address | None
    ) -> None:
        async with self._loading.setdefault((id(engine), definition.model_hash), asyncio.Lock()):
            if engine.is_loaded(definition.model_hash):
                return
            await engine.load(definition.model_hash, await self._fetch_model(file, prefer))

    async def _fetch_model(self, file: ModelFile, prefer: Address | None) -> bytes:
        if file.size > self._max_bytes:
            raise InferenceFailed(
                f"model {file.cid} has {file.size} bytes; inference.max_loaded_bytes is {self._max_bytes}"
            )
        timeout = max(FETCH_TIMEOUT_SECONDS, file.size / SLOWEST_MODEL_BYTES_PER_SECOND)
        try:
            return await self._content.get(Cid(file.cid), max_bytes=file.size, timeout_seconds=timeout, prefer=prefer)
        except ContentUnavailable as error:
            raise ModelUnavailable(error.cid, error.causes) from None
        except (ContentTooLarge, ContentCorrupt, CodecError) as error:  # the last for a CID that is none
            raise ModelMismatch(f"model {file.cid}: {error}") from None


def model_hash_of(card: ModelCard) -> Digest:
    """What a task definition with this card has on chain."""
    return NO_MODEL if card.model is None else Digest(bytes.fromhex(card.model.sha256))


_SERVED = Fingerprint("service", "none", "none", "none")  # no engine of ours ran


async def _no_model(inputs: Tensors) -> Tensors:
    raise InferenceFailed("the card names no model: its answers come from a service or a source")


def _is_card_of(card: ModelCard, definition: TaskDefinition) -> bool:
    return model_hash_of(card) == definition.model_hash and card.method == definition.method
