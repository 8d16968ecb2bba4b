"""Which seeds may be performed and judged, and in which epoch."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.seeds import epoch_for, is_seed_known, needs_beacon
from shared.types import Digest
from tests.builders import EPOCH, roster_of, table_of
from tests.cards import make_card, make_text_card
from tests.cast import beacon_of

BEACON_CARD, FREE_CARDS = make_text_card(seed="beacon"), [make_text_card(seed="requester"), make_card()]
DIGESTS = st.binary(min_size=32, max_size=32).map(Digest)
ROSTER = replace(roster_of(), beacons={epoch: beacon_of(epoch) for epoch in (EPOCH - 2, EPOCH - 1, EPOCH)})


def test_a_card_says_whose_the_seed_is() -> None:
    assert needs_beacon(BEACON_CARD)
    assert not any(map(needs_beacon, FREE_CARDS))


@given(DIGESTS, st.lists(DIGESTS, max_size=2))
def test_a_beacon_is_known_and_nothing_else(seed: Digest, beacons: list[Digest]) -> None:
    assert is_seed_known(BEACON_CARD, seed, [*beacons, seed])
    assert is_seed_known(BEACON_CARD, seed, beacons) == (seed in beacons)


@given(DIGESTS, st.lists(DIGESTS, max_size=2))
def test_the_requester_chooses_where_the_card_leaves_it_to_it(seed: Digest, beacons: list[Digest]) -> None:
    assert all(is_seed_known(card, seed, beacons) for card in FREE_CARDS)


@pytest.mark.parametrize(
    ("seed_epoch", "expected"),
    # The tables of EPOCH - 1 and EPOCH are valid.
    [(EPOCH, EPOCH), (EPOCH - 1, EPOCH), (EPOCH - 2, EPOCH - 1), (EPOCH - 3, None), (EPOCH + 1, None)],
)
def test_a_task_info_names_the_newest_epoch_that_knows_its_seed(seed_epoch: int, expected: int | None) -> None:
    assert epoch_for(BEACON_CARD, beacon_of(seed_epoch), ROSTER) == expected
    assert [epoch_for(card, beacon_of(seed_epoch), ROSTER) for card in FREE_CARDS] == [EPOCH, EPOCH]


def test_without_grace_only_the_epoch_of_now_is_named() -> None:
    alone = replace(roster_of(tables=[table_of(EPOCH)]), beacons=ROSTER.beacons)
    assert epoch_for(BEACON_CARD, beacon_of(EPOCH - 1), alone) == EPOCH
    assert epoch_for(BEACON_CARD, beacon_of(EPOCH - 2), alone) is None


def test_without_a_beacon_no_seed_is_known() -> None:
    blind = roster_of()
    assert epoch_for(BEACON_CARD, Digest(bytes(32)), blind) is None
    assert epoch_for(FREE_CARDS[0], Digest(bytes(32)), blind) == EPOCH
