"""From a task definition on chain to a model that runs: card by CID, model by CID, both held to the chain's hash.

A card's profile picks the engine; the float64 reference of a model is loaded when a judgement first asks for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import structlog

from shared.audit_library import AuditLibrary
from shared.constants import FETCH_TIMEOUT_SECONDS, MAX_CARD_BYTES, MAX_MODEL_BYTES
from shared.documents import ModelCard, decode_card
from shared.errors import (
    CodecError,
    ContentCorrupt,
    ContentError,
    ContentTooLarge,
    ContentUnavailable,
    InferenceFailed,
    ModelMismatch,
    PoiError,
)
from shared.interfaces import ContentStore, InferenceEngine, Tensors
from shared.keeping import CACHE
from shared.model_card import ModelFile
from shared.model_files import ModelFiles
from shared.profiles import Profile
from shared.roster import Roster
from shared.tries import Tries
from shared.types import Address, Cid, Digest, Fingerprint, TaskDefinition
from shared.verification.method import Compute, Forward

NO_MODEL = Digest(bytes(32))  # the model hash of a definition whose answers come from a service or a source
READY_POLL_SECONDS = 1.0
READY_RETRY_MAX_SECONDS = 60.0  # from a second on, doubled each time: a task that cannot wait asks for itself
MAX_READYING = 4  # definitions at once: one that is served by drops keeps a quarter of the others waiting
TOUCH_SECONDS = 3600.0

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


Touch = Callable[[Collection[Cid]], Awaitable[None]]
"""Stamps files that are held as just used: see `shared.keeping`. Raises `ContentError`."""


class ModelLibrary:
    """Fetches, checks and loads models, each once an engine. `engines` has one for each profile that this node can
    compute in, `reference` computes any model in float64, `audits` takes models apart for the method `batch-audit`. A
    model of more than `max_bytes` is not fetched: no engine would load it. For `source_of` see `ModelFiles`."""

    def __init__(
        self,
        *,
        content: ContentStore,
        engines: Mapping[Profile, InferenceEngine],
        reference: InferenceEngine,
        audits: AuditLibrary | None = None,
        max_bytes: int = MAX_MODEL_BYTES,
        touch: Touch | None = None,
        source_of: Callable[[Cid], str | None] = lambda _: None,
    ) -> None:
        self._content, self._engines, self._reference, self._audits = content, engines, reference, audits
        self._max_bytes = min(max_bytes, MAX_MODEL_BYTES)
        self._files, self._touch = ModelFiles(content, source_of), touch
        self._cards: dict[Cid, ModelCard] = {}
        self._loading: dict[tuple[int, Digest], asyncio.Lock] = {}
        self.ready_ids: set[int] = set()  # definitions whose model was loaded at least once
        self._troubles: dict[_Kind, str] = {}  # the kind of the last one
        self._one_load = asyncio.Semaphore(1)  # of those that nobody waits for: a load takes its model's size twice

    async def ready(self, definition: TaskDefinition, *, prefer: Address | None = None) -> ReadyModel:
        """Raises `CardUnavailable`, `ModelUnavailable`, `ModelMismatch` when card or model are not what the chain says,
        and the engine's errors."""
        card = await self.card(definition, prefer=prefer)
        if card.model is None:
            return ReadyModel(card, definition.card_cid, NO_MODEL, Compute(_no_model, _no_model), lambda: _SERVED)
        engine = self._engine_of(card, definition)
        await self._load(engine, definition, card.model, prefer)
        audit = None
        if card.method == "batch-audit" and self._audits is not None:
            fetch = partial(self._read_model, card.model, definition.model_hash, prefer)
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

    def _engine_of(self, card: ModelCard, definition: TaskDefinition) -> InferenceEngine:
        engine = self._engines.get(card.profile)
        if engine is None:
            raise InferenceFailed(f"this node has no engine for profile {card.profile} of card {definition.card_cid}")
        return engine

    def fetching(self) -> list[dict[str, Any]]:
        """For `/health`: models on their way."""
        return [{"cid": each.cid, "bytes": each.bytes, "size": each.size} for each in self._files.under_way()]

    def _forward(
        self, engine: InferenceEngine, definition: TaskDefinition, model: ModelFile, prefer: Address | None
    ) -> Forward:
        async def run(inputs: Tensors) -> Tensors:
            if not engine.is_loaded(definition.model_hash):  # a first use, or pushed out by another model meanwhile
                await self._load(engine, definition, model, prefer)
            return await engine.run(definition.model_hash, inputs)

        return run

    # --- keeping ready -------------------------------------------------------------------------------
    async def keep_ready(self, roster: Callable[[], Roster]) -> None:
        """Load every definition's model as soon as somebody serves it, so that the first task need not wait for it; and
        keep the files of those that are ready from being the first to go. Until cancelled."""
        tries: Tries[_Kind, TaskDefinition] = Tries(
            self._try_ready,
            at_once=MAX_READYING,
            first_pause=READY_POLL_SECONDS,
            longest_pause=READY_RETRY_MAX_SECONDS,
        )
        now = asyncio.get_running_loop().time
        touch_at = now()
        try:
            while True:
                kinds = {_kind(definition): definition for definition in roster().definitions.values()}
                for number, *_ in await tries.follow(kinds):  # a reorg took it back
                    self.ready_ids.discard(number)
                if self._touch is not None and now() >= touch_at:
                    touch_at = now() + TOUCH_SECONDS
                    await self._touch_ready(self._touch, kinds.values())
                await asyncio.sleep(READY_POLL_SECONDS)
        finally:
            await tries.end()

    async def _try_ready(self, definition: TaskDefinition) -> bool:
        """Whether it is over: ready, or never what the chain says."""
        try:
            await self._bring(definition)
            async with self._one_load:
                await self.ready(definition)
        except PoiError as error:
            if self._is_news(definition, error):
                log.info("model not ready", definition=definition.id, reason=str(error))
            return isinstance(error, ModelMismatch)
        except Exception as error:  # anybody may define a task: no definition is to end the node
            if self._is_news(definition, error):
                log.exception("fault while making a model ready", definition=definition.id)
            return False
        self.ready_ids.add(definition.id)
        log.info("model ready", definition=definition.id, name=definition.name)
        return True

    def _is_news(self, definition: TaskDefinition, error: Exception) -> bool:
        """What is said once, and not every time; another kind of trouble is news."""
        former = self._troubles.get(_kind(definition))
        self._troubles[_kind(definition)] = type(error).__name__
        return former != type(error).__name__

    async def _bring(self, definition: TaskDefinition) -> None:
        """Card and model to this disk. Raises as `ready`."""
        card = await self.card(definition)
        if card.model is not None and not self._engine_of(card, definition).is_loaded(definition.model_hash):
            self._require_room(card.model)
            with _model_errors(card.model):
                await self._files.bring(card.model, definition.model_hash, None)

    async def _touch_ready(self, touch: Touch, definitions: Collection[TaskDefinition]) -> None:
        """An engine that has a model loaded does not read its file, for weeks perhaps: it would look unused, and be
        fetched whole after the next start. Served by us, it also is the next node's source."""
        roots = set[Cid]()
        for definition in definitions:
            card = self.known_card(definition)
            if definition.id in self.ready_ids and not definition.is_paused and card is not None:
                roots |= {definition.card_cid}
                roots |= {Cid(file.cid) for file in (card.model, card.golden) if file is not None}
        try:
            await touch(roots)
        except ContentError as error:
            log.warning("the files of ready models are not marked as used", reason=str(error))

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
                cid, max_bytes=MAX_CARD_BYTES, timeout_seconds=FETCH_TIMEOUT_SECONDS, prefer=prefer, keep_until=CACHE
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
            await engine.load(definition.model_hash, await self._read_model(file, definition.model_hash, prefer))

    async def _read_model(self, file: ModelFile, model_hash: Digest, prefer: Address | None) -> bytes:
        """To this disk first: a fetch may take hours, and holds nothing in memory meanwhile."""
        self._require_room(file)
        with _model_errors(file):
            await self._files.bring(file, model_hash, prefer)
            return await self._files.read(file, model_hash, prefer)

    def _require_room(self, file: ModelFile) -> None:
        if file.size > self._max_bytes:
            raise InferenceFailed(
                f"model {file.cid} has {file.size} bytes; inference.max_loaded_bytes is {self._max_bytes}"
            )


_Kind = tuple[int, Cid, Digest, str]
"""What a definition is: under its id, a reorg may put another."""


def _kind(definition: TaskDefinition) -> _Kind:
    return definition.id, definition.card_cid, definition.model_hash, definition.method


@contextmanager
def _model_errors(file: ModelFile) -> Iterator[None]:
    """Whatever kept a model from being read, but a lie, as `ModelUnavailable`."""
    try:
        yield
    except ContentUnavailable as error:
        raise ModelUnavailable(error.cid, error.causes) from None
    except ContentError as error:
        raise ModelUnavailable(file.cid, {"local store": str(error)}) from None


def model_hash_of(card: ModelCard) -> Digest:
    """What a task definition with this card has on chain."""
    return NO_MODEL if card.model is None else Digest(bytes.fromhex(card.model.sha256))


_SERVED = Fingerprint("service", "none", "none", "none")  # no engine of ours ran


async def _no_model(inputs: Tensors) -> Tensors:
    raise InferenceFailed("the card names no model: its answers come from a service or a source")


def _is_card_of(card: ModelCard, definition: TaskDefinition) -> bool:
    return model_hash_of(card) == definition.model_hash and card.method == definition.method
