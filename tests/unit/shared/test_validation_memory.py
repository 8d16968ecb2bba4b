"""What the gossip checks remember: who repeats is ignored for a second, who forges silences nobody, and every memory is
bounded."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared import constants, validation
from shared.errors import Ignore, Reject
from shared.types import OperatorTable, TaskCertificate, Verdict
from shared.validation import CertificateChecker, SeenCache
from tests.builders import (
    AGGREGATOR,
    ATTESTERS,
    DOMAIN,
    NOW,
    STRANGER,
    TABLE,
    certificate,
    certificate_message,
    certificate_of,
    replace,
    ruling,
    task_info,
)
from tests.gossip_faults import FAULTS, MAKERS, OTHERS, REPEATED, RIVAL, Changes, Node

# --- repetitions and forgeries -------------------------------------------------------------------
REPEATING = [tag for tag, faults in FAULTS.items() if REPEATED in faults]


@pytest.mark.parametrize("tag", REPEATING)
def test_a_repetition_passes_after_a_while(tag: str) -> None:
    node, (origin, message) = Node(), MAKERS[tag]({})
    assert node.hears(origin, message) is None
    for later in (0.0, 0.001, constants.REPEAT_SECONDS * 0.999):
        node.clock.time = NOW + later
        assert node.hears(origin, message) == (Ignore, "repeated")
    node.clock.time = NOW + constants.REPEAT_SECONDS
    assert node.hears(origin, message) is None
    # What was refused did not put off the next one; what was accepted starts the time anew.
    node.clock.time += constants.REPEAT_SECONDS * 0.999
    assert node.hears(origin, message) == (Ignore, "repeated")


@pytest.mark.parametrize("tag", REPEATING)
def test_an_honest_publisher_always_passes(tag: str) -> None:
    node, (origin, message) = Node(), MAKERS[tag]({})
    for i in range(20):
        node.clock.time = NOW + i * constants.REPUBLISH_SECONDS * 0.75  # timers are not exact, nor are clocks
        assert node.hears(origin, message) is None


@pytest.mark.parametrize("tag", REPEATING)
def test_a_clock_that_was_set_back_silences_nobody(tag: str) -> None:
    node, (origin, message) = Node(), MAKERS[tag]({})
    assert node.hears(origin, message) is None
    node.clock.time = NOW - 30
    assert node.hears(origin, message) is None
    assert node.hears(origin, message) == (Ignore, "repeated")


FORGERIES: list[tuple[str, str, Changes]] = [
    ("task", "requester's signature", {"requester": STRANGER}),
    ("task", "performer's signature", {"performer": STRANGER}),
    ("certificate", "performer's signature", {"certificate": {"performer": RIVAL}}),
    ("certificate", "aggregate signature", {"message": {"signature": OTHERS.signature}}),
    ("certificate", "aggregate signature", {"message": {"signers": (0, 1, 2, 3)}}),
    ("vote", "attester", {"origin": ATTESTERS[1]}),
    ("abstain", "attester", {"origin": ATTESTERS[1]}),
    ("batch_vote", "attester", {"origin": ATTESTERS[1]}),
]


@pytest.mark.parametrize(("tag", "rule", "changes"), FORGERIES)
def test_a_forged_copy_does_not_silence_the_real_message(tag: str, rule: str, changes: Changes) -> None:
    node = Node()
    for _ in range(2):
        assert node.hears(*MAKERS[tag](changes)) == (Reject, rule)
    assert node.hears(*MAKERS[tag]({})) is None


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"verdict": Verdict.INVALID}, "aggregate signature"),
        ({"signers": (0, 1, 3)}, "aggregate signature"),
        ({"signature": OTHERS.signature}, "aggregate signature"),
        ({"performer_signature": OTHERS.performer_signature}, "performer's signature"),
    ],
)
def test_a_certificate_changed_in_one_field_is_no_repetition(changes: Changes, rule: str) -> None:
    """Were a changed copy ignored as one, who forwards it would pass for honest."""
    node = Node()
    assert node.hears(*MAKERS["certificate"]({})) is None
    assert node.hears(*MAKERS["certificate"]({"message": changes})) == (Reject, rule)


def test_forgeries_take_no_room() -> None:
    """Only what passed every check is remembered: refused messages cannot push out the accepted ones."""
    node = Node()
    for tag, _, changes in FORGERIES:
        node.hears(*MAKERS[tag](changes))
    caches = (node.rules._tasks, node.rules._votes, node.rules._certificates, node.rules._batches)
    assert [len(cache._accepted) for cache in caches] == [0, 0, 0, 0]


def test_what_is_remembered_of_a_certificate_is_small() -> None:
    node = Node()
    large = certificate(task_info(data=bytes(20_000)))
    assert node.hears(AGGREGATOR, certificate_message(large)) is None
    assert [len(key) for key in node.rules._certificates._accepted] == [32]  # type: ignore[arg-type]


# --- the caches ----------------------------------------------------------------------------------
def test_an_accepted_key_is_repeated_for_a_while() -> None:
    seen = SeenCache()
    assert not seen.is_repeated("a", NOW)
    seen.accept("a", NOW)
    assert seen.is_repeated("a", NOW)
    assert not seen.is_repeated("b", NOW)
    assert seen.is_repeated("a", NOW + constants.REPEAT_SECONDS * 0.99)
    assert not seen.is_repeated("a", NOW + constants.REPEAT_SECONDS)


def test_the_least_recently_accepted_key_goes_first() -> None:
    seen = SeenCache(size=2)
    for key in ("a", "b", "a", "c"):
        seen.accept(key, NOW)
    assert [key for key in "abc" if seen.is_repeated(key, NOW)] == ["a", "c"]


@given(st.lists(st.integers(0, 9)), st.integers(1, 5))
def test_as_many_keys_as_fit_are_remembered(keys: list[int], size: int) -> None:
    seen = SeenCache(size=size)
    for key in keys:
        seen.accept(key, NOW)
    recent = list(dict.fromkeys(reversed(keys)))[:size]
    assert {key for key in range(10) if seen.is_repeated(key, NOW)} == set(recent)
    assert len(seen._accepted) == len(recent)


def test_the_default_size_is_the_protocols() -> None:
    seen = SeenCache()
    for key in range(constants.SEEN_CACHE_SIZE + 1):
        seen.accept(key, NOW)
    assert len(seen._accepted) == constants.SEEN_CACHE_SIZE
    assert not seen.is_repeated(0, NOW)


class Counter:
    """Counts verifications, and does them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self._verify = validation.verify_certificate
        monkeypatch.setattr(validation, "verify_certificate", self)

    def __call__(self, domain: object, table: OperatorTable, certificate: TaskCertificate) -> None:
        self.count += 1
        self._verify(DOMAIN, table, certificate)


def test_a_certificate_is_verified_once(monkeypatch: pytest.MonkeyPatch) -> None:
    counter, checker = Counter(monkeypatch), CertificateChecker(DOMAIN)
    for _ in range(3):
        checker.check(certificate(), TABLE)
    assert counter.count == 1


def test_a_repeated_certificate_is_not_verified_again(monkeypatch: pytest.MonkeyPatch) -> None:
    counter, node = Counter(monkeypatch), Node()
    for _ in range(3):
        node.hears(AGGREGATOR, certificate_message())
    assert counter.count == 1


def test_a_refused_certificate_is_never_taken_for_verified() -> None:
    checker, forged = CertificateChecker(DOMAIN), replace(certificate(), signature=OTHERS.signature)
    for _ in range(2):
        assert ruling(checker.check, forged, TABLE) == (Reject, "aggregate signature")
    assert ruling(checker.check, certificate(), TABLE) is None


def test_what_differs_in_one_field_is_verified_by_itself() -> None:
    checker, honest = CertificateChecker(DOMAIN), certificate()
    checker.check(honest, TABLE)
    for changed in (
        replace(honest, verdict=Verdict.INVALID),
        replace(honest, signers=(0, 1, 3)),
        replace(honest, signature=OTHERS.signature),
        replace(honest, performer_signature=OTHERS.performer_signature),
        replace(honest, task_info=replace(honest.task_info, data=b"")),
    ):
        found = ruling(checker.check, changed, TABLE)
        assert found is not None
        assert found[0] is Reject


def test_the_checker_forgets_the_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "MAX_POOLED_TASKS", 2)
    counter, checker = Counter(monkeypatch), CertificateChecker(DOMAIN)
    for nonce in (1, 2, 3):
        checker.check(certificate_of(nonce), TABLE)
    assert (counter.count, len(checker._passed)) == (3, 2)
    checker.check(certificate_of(3), TABLE)
    assert counter.count == 3
    checker.check(certificate_of(1), TABLE)
    assert counter.count == 4
