"""Whether this attester's own engine is fit to judge by a card: it runs the card's golden vectors before its first vote
and every hour (protocol §6). An unfit one would call honest performers liars; it abstains, and says what to look for.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import structlog

from attester.said import said_of
from shared.constants import (
    ABSTAIN_RETRY_MAX_SECONDS,
    FETCH_TIMEOUT_SECONDS,
    MAX_GOLDEN_BYTES,
    SELF_TEST_LIMIT_SECONDS,
    SELF_TEST_RETRY_SECONDS,
    SELF_TEST_SECONDS,
)
from shared.documents import ModelCard
from shared.errors import (
    CodecError,
    ContentCorrupt,
    ContentTooLarge,
    ContentUnavailable,
    InferenceFailed,
    InputMismatch,
    ModelMismatch,
    PoiError,
)
from shared.golden import GoldenVector, decode_golden
from shared.interfaces import ContentStore
from shared.keeping import CACHE
from shared.metrics import Metrics
from shared.model_library import READY_POLL_SECONDS, ModelLibrary, ModelUnavailable, ReadyModel
from shared.outputs import TensorOutput
from shared.reasons import AbstainReason
from shared.roster import Roster
from shared.types import Address, Cid, Fingerprint, TaskDefinition
from shared.verification import METHODS
from shared.verification.method import Measuring, Method, Work
from shared.verification.tensor import published_of
from shared.verification.zones import MOST_DEVIATION

log = structlog.get_logger(__name__)

LOOK_FOR: Final = (
    "TF32 switched on, an execution provider that quantises, a GPU that is silently missing, "
    "or another version of the runtime than the card was calibrated with"
)
RESTS: Final = (
    9.0  # times what a test took: whoever publishes a card that is slow, and fails, gets a tenth of an engine
)
NOBODY: Final = Address(bytes(20))  # performed the golden vectors


# --- the decision ------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of the last test on a card. `score` is the largest over its vectors, None where none was measured."""

    reason: AbstainReason | None  # None: fit
    score: float | None
    engine: Fingerprint | None
    ended_at: float  # seconds of the loop's clock
    took: float = 0.0  # seconds
    said: str = ""  # what showed the reason, for people; partly in strangers' words

    def is_due(self, now: float) -> bool:
        """Whether it says nothing of now any more."""
        return now >= self.ended_at + max(self._lasts_seconds(), RESTS * self.took)

    def _lasts_seconds(self) -> float:
        match self.reason:
            case None | AbstainReason.MODEL_MISMATCH:  # a file that is no golden file stays none
                return SELF_TEST_SECONDS
            case AbstainReason.SELF_TEST_FAILED:
                return SELF_TEST_RETRY_SECONDS
            case _:
                return ABSTAIN_RETRY_MAX_SECONDS


def limit_of(card: ModelCard) -> float:
    """The score up to which an engine is fit: exact means exact."""
    return 0.0 if card.profile.is_exact else MOST_DEVIATION


def largest(scores: Sequence[float]) -> float:
    """Where one is no number, there is no telling how large it is."""
    return math.inf if any(math.isnan(score) for score in scores) else max(scores)


# --- the service -------------------------------------------------------------------------------------
class SelfTest:
    """One node's tests, by card. Safe to ask from many tasks: a card is never tested twice at once."""

    def __init__(
        self, *, content: ContentStore, methods: Mapping[str, Method] = METHODS, metrics: Metrics | None = None
    ) -> None:
        self._content, self._methods = content, methods
        self._metrics = metrics or Metrics("attester")
        self._outcomes: dict[Cid, Outcome] = {}
        self._locks: dict[Cid, asyncio.Lock] = {}

    async def check(self, model: ReadyModel, *, prefer: Address | None = None) -> AbstainReason | None:
        """Why this node must abstain from what the card judges; None when it is fit. Tests when that is due; while
        somebody else does, what the last test said stands, and before the first one everybody waits. Never raises for
        what a network, a file or an engine does."""
        lock, outcome = self._locks.setdefault(model.card_cid, asyncio.Lock()), self._outcomes.get(model.card_cid)
        if lock.locked() and outcome is not None:
            return outcome.reason
        async with lock:
            outcome = self._outcomes.get(model.card_cid)
            if outcome is None or outcome.is_due(_now()):
                former, outcome = outcome, await self._test(model, prefer)
                self._outcomes[model.card_cid] = outcome
                self._tell(model, former, outcome)
            return outcome.reason

    async def keep_fresh(self, roster: Callable[[], Roster], library: ModelLibrary) -> None:
        """Tests on the card of each definition whose model is ready, so that the first task need not wait for it, and
        again when it is due. Until cancelled."""
        while True:
            for definition in list(roster().definitions.values()):
                if definition.id in library.ready_ids and self._is_due(definition):
                    with contextlib.suppress(PoiError):  # the model went away; the next task on it says why
                        await self.check(await library.ready(definition))
            await asyncio.sleep(READY_POLL_SECONDS)

    def has_tested(self, card_cid: Cid) -> bool:
        """Whether it knows of the card how its test went, or that there is none."""
        return card_cid in self._outcomes

    def view(self) -> list[dict[str, Any]]:
        """For `/health`: each card that was tested, or should have been, and how it went."""
        return [
            {
                "cardCid": cid,
                "isFit": outcome.reason is None,
                "reason": outcome.reason,
                "score": outcome.score if outcome.score is not None and math.isfinite(outcome.score) else None,
                "engine": str(outcome.engine) if outcome.engine is not None else None,
                "secondsAgo": round(_now() - outcome.ended_at),
            }
            for cid, outcome in self._outcomes.items()
            if outcome != _untested(outcome.ended_at)
        ]

    def _is_due(self, definition: TaskDefinition) -> bool:
        outcome = self._outcomes.get(definition.card_cid)
        return outcome is None or outcome.is_due(_now())

    async def _test(self, model: ReadyModel, prefer: Address | None) -> Outcome:
        """A card without vectors, or whose method measures nothing, has nothing to be tested on."""
        method = self._methods.get(model.card.method)
        if model.card.golden is None or not isinstance(method, Measuring):
            return _untested(_now())
        started = _now()
        try:
            vectors = await self._vectors(model.card, Cid(model.card.golden.cid), prefer)
            started = _now()
            async with asyncio.timeout(SELF_TEST_LIMIT_SECONDS):
                score = largest([await _deviation(method, model, vector) for vector in vectors])
            is_fit = score <= limit_of(model.card)
            return Outcome(
                None if is_fit else AbstainReason.SELF_TEST_FAILED, score, model.fingerprint(), _now(), _now() - started
            )
        except ModelUnavailable as error:  # pushed out by another model, and nobody serves it any more
            return Outcome(AbstainReason.MODEL_UNAVAILABLE, None, None, _now(), said=said_of(error))
        except ContentUnavailable as error:
            return Outcome(AbstainReason.CARD_UNAVAILABLE, None, None, _now(), said=said_of(error))
        except (ContentTooLarge, ContentCorrupt, CodecError, ModelMismatch) as error:
            return Outcome(AbstainReason.MODEL_MISMATCH, None, None, _now(), said=said_of(error))
        except (InferenceFailed, InputMismatch, TimeoutError):
            return Outcome(AbstainReason.ENGINE_FAILED, None, None, _now(), _now() - started)
        except Exception:  # anybody may publish a card: none is to end the duty
            log.exception("fault while testing", card=model.card_cid)
            return Outcome(AbstainReason.INTERNAL, None, None, _now())

    async def _vectors(self, card: ModelCard, cid: Cid, prefer: Address | None) -> tuple[GoldenVector, ...]:
        data = await self._content.get(
            cid,
            max_bytes=MAX_GOLDEN_BYTES,
            timeout_seconds=FETCH_TIMEOUT_SECONDS,
            prefer=prefer,
            keep_until=CACHE,
        )
        return decode_golden(card, data)

    def _tell(self, model: ReadyModel, former: Outcome | None, outcome: Outcome) -> None:
        """Each change once: a test that fails for hours is one line."""
        if outcome == _untested(outcome.ended_at):
            return
        self._metrics.self_tests.add(result=_RESULTS.get(outcome.reason, "impossible"))
        unfit = [each for each in self._outcomes.values() if each.reason is AbstainReason.SELF_TEST_FAILED]
        self._metrics.unfit_cards.set(len(unfit))
        if former is not None and former.reason is outcome.reason:
            return
        said = {"card": model.card_cid, "name": model.card.name, "engine": str(outcome.engine)}
        match outcome.reason:
            case None:
                log.info("self-test passed", **said, score=outcome.score)
            case AbstainReason.SELF_TEST_FAILED:
                log.error(
                    "self-test failed: abstaining from this card's tasks until it passes",
                    **said,
                    score=outcome.score,
                    limit=limit_of(model.card),
                    look_for=LOOK_FOR,
                )
            case _:
                log.warning(
                    "self-test not possible: abstaining from this card's tasks",
                    **said,
                    reason=outcome.reason,
                    said=outcome.said,
                )


_RESULTS: Final[Mapping[AbstainReason | None, str]] = {None: "passed", AbstainReason.SELF_TEST_FAILED: "failed"}


def _untested(now: float) -> Outcome:
    """Of a card on which there is nothing to test: it keeps nobody from anything, and says nothing of the engine."""
    return Outcome(reason=None, score=None, engine=None, ended_at=now)


async def _deviation(method: Measuring, model: ReadyModel, vector: GoldenVector) -> float:
    """Raises `CodecError` for a vector whose output is not of the card's form. Of a batch audit's the outputs are
    enough: what its layers give is held to the published ones, never to another engine's."""
    work = Work(vector.task_id, NOBODY, model.card, vector.document, vector.parameters)
    if isinstance(vector.output, TensorOutput):
        is_fit = published_of(model.card, vector.output) is not None
    else:
        is_fit = method.fault(work, vector.output) is None
    if not is_fit:
        raise CodecError("golden vectors: an output is not what the card says")
    return (await method.measure(work, vector.output, model.compute.run)).score


def _now() -> float:
    return asyncio.get_running_loop().time()
