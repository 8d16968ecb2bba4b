"""Which seeds a request may name (protocol §6): text is sampled with noise that nobody could have chosen."""

from __future__ import annotations

from collections.abc import Collection

from shared.model_card import ModelCard
from shared.roster import Roster
from shared.types import Digest


def needs_beacon(card: ModelCard) -> bool:
    """Whether a request's seed must be a beacon of the chain's, and is not the requester's to choose."""
    return card.text is not None and card.text.seed == "beacon"


def is_seed_known(card: ModelCard, seed: Digest, beacons: Collection[Digest]) -> bool:
    """Whether a task with this seed may be performed and judged. `beacons` are those of the epoch that its task info
    names and of the epoch before it: a roll must not undo what was signed a moment earlier."""
    return not needs_beacon(card) or seed in beacons


def epoch_for(card: ModelCard, seed: Digest, roster: Roster) -> int | None:
    """The epoch that a task info names: the newest in which attesters know the seed, since rolls may have come while
    the task waited. None when its votes could not settle in any."""
    epochs = sorted({roster.epoch, *roster.tables}, reverse=True)
    return next((epoch for epoch in epochs if is_seed_known(card, seed, roster.beacons_for(epoch))), None)
