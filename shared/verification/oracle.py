"""Method `oracle`: values of a public source, fetched by the performer and again by each attester.

The card fixes the source and which of its values count; the performer publishes those alone, as canonical JSON. Numbers
may drift between two fetches, by as much as the card tolerates; everything else must be the same. Values that were
fetched too long ago to compare, or that lie between the zones, are left undecided: a price that moved is no lie.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from urllib.parse import quote

import msgspec
from jsonpointer import EndOfList, JsonPointer, JsonPointerException

from shared.canonical import encode_canonical
from shared.card_parts import Feed
from shared.documents import JsonOutput, Output
from shared.errors import InferenceFailed, ServiceFailed
from shared.interfaces import Caller, Clock
from shared.reasons import AbstainReason, InvalidReason
from shared.verification.method import Compute, Judgement, Measurement, Work, abstain
from shared.verification.served import json_fault, json_output, read_answer
from shared.verification.zones import INVALID_ABOVE, VALID_UP_TO, judgement_of

LARGEST = 1e300


class Oracle:
    """See `Method`."""

    def __init__(self, *, caller: Caller, clock: Clock) -> None:
        self._caller, self._clock = caller, clock

    async def prove(self, work: Work, compute: Compute) -> Output:
        """Raises `InferenceFailed` when the source does not answer with what the card selects."""
        try:
            return json_output(await self._fetch(work), self._clock.now(), "the source")
        except ServiceFailed as error:
            raise InferenceFailed(str(error)) from None

    def fault(self, work: Work, output: Output) -> InvalidReason | None:
        fault = json_fault(output)
        if fault is not None or not isinstance(output, JsonOutput):
            return fault or InvalidReason.OUTPUT_MALFORMED
        published = msgspec.json.decode(output.body)
        is_whole = isinstance(published, dict) and set(published) == set(feed_of(work).select)
        return None if is_whole else InvalidReason.OUTPUT_MALFORMED

    async def judge(self, work: Work, output: Output, compute: Compute) -> Judgement:
        if not isinstance(output, JsonOutput):
            raise TypeError(f"{type(output).__name__} is no JSON, which `fault` keeps out")
        if abs(self._clock.now() - output.made_at) > feed_of(work).max_age_seconds:
            return abstain(AbstainReason.UNDECIDED)
        try:
            measured = measure(feed_of(work), msgspec.json.decode(output.body), await self._fetch(work))
        except ServiceFailed:  # also where the source has more than a proof may hold
            return abstain(AbstainReason.SOURCE_UNAVAILABLE)
        if VALID_UP_TO < measured.score <= INVALID_ABOVE:
            return abstain(AbstainReason.UNDECIDED, measured.score)
        return judgement_of(measured)

    async def _fetch(self, work: Work) -> dict[str, object]:
        """The selected values by their pointers."""
        feed = feed_of(work)
        url = feed.url
        for name, value in work.parameters.query.items():
            url = url.replace(f"{{{name}}}", quote(value, safe=""))
        answer = read_answer(await self._caller.get(url, timeout_seconds=feed.timeout_seconds), "the source")
        return {pointer: _select(answer, pointer) for pointer in feed.select}


def measure(feed: Feed, published: Mapping[str, object], fetched: Mapping[str, object]) -> Measurement:
    """The largest difference of a number over what the card tolerates; infinite where anything else differs.

    Raises `ServiceFailed` where more was fetched than a proof may hold."""
    scores = {pointer: _distance(feed, published[pointer], value) for pointer, value in fetched.items()}
    return Measurement(
        score=max(scores.values()),
        reason=InvalidReason.VALUE_DIFFERS,
        statistics={f"distance of {pointer}": score for pointer, score in scores.items()},
        recomputed=json_output(dict(fetched), 0, "the source"),
    )


def _distance(feed: Feed, published: object, fetched: object) -> float:
    if not _is_number(published) or not _is_number(fetched):
        # As JSON, which keeps true apart from 1, within lists and objects too; Python does not.
        return 0.0 if encode_canonical(published) == encode_canonical(fetched) else math.inf
    one, other = float(published), float(fetched)  # type: ignore[arg-type]  # numbers, as just seen
    tolerance = feed.absolute + feed.relative * abs(other)
    difference = abs(one - other)
    if difference == 0:
        return 0.0
    return difference / tolerance if tolerance > 0 else math.inf


def _is_number(value: object) -> bool:
    """That a float can hold: JSON's integers have no end."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST


def _select(answer: object, pointer: str) -> object:
    try:
        found = JsonPointer(pointer).resolve(answer)
    except (JsonPointerException, TypeError, ValueError) as error:
        raise ServiceFailed(f"the source's answer has nothing at {pointer}: {error}") from None
    if isinstance(found, EndOfList):  # `-` in a pointer: what is behind an array's last value
        raise ServiceFailed(f"the source's answer has nothing at {pointer}")
    return found


def feed_of(work: Work) -> Feed:
    if work.card.feed is None:
        raise TypeError("the card has no feed, which `check_card` keeps out")
    return work.card.feed
