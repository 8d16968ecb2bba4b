"""The list of reasons is complete, and its document is the list."""

from __future__ import annotations

import re
from pathlib import Path

from shared.reasons import MEANING, AbstainReason, InvalidReason, SourceFault

DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "reasons.md"


def test_every_reason_has_a_meaning() -> None:
    assert list(MEANING) == [*InvalidReason, *AbstainReason, *SourceFault]
    for meaning in MEANING.values():
        assert re.fullmatch(r"[A-Z].+\.", meaning)


def test_a_code_says_one_thing() -> None:
    assert not set(InvalidReason) & set(AbstainReason)
    assert not set(SourceFault) & {*InvalidReason, *AbstainReason}
    assert len(set(MEANING.values())) == len(MEANING)


def test_codes_are_words_with_underscores() -> None:
    # They are labels of metrics and text in messages.
    for reason in MEANING:
        assert re.fullmatch(r"[a-z]+(_[a-z]+)*", reason.value)
        assert reason.value == reason.name.lower()


def test_the_document_has_every_reason_in_order() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (invalid|abstain) \| (.+) \|$", DOCUMENT.read_text(), re.MULTILINE)
    expected = [
        (reason.value, "invalid" if isinstance(reason, InvalidReason) else "abstain", MEANING[reason])
        for reason in (*InvalidReason, *AbstainReason)
    ]
    assert rows == expected


def test_the_document_has_every_fault_of_a_source_in_order() -> None:
    rows = re.findall(r"^\| `(\w+)` \| ([A-Z].+) \|$", DOCUMENT.read_text(), re.MULTILINE)
    assert rows == [(fault.value, MEANING[fault]) for fault in SourceFault]
