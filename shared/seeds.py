"""Which seeds a request may name (protocol §6): text is sampled with noise that nobody could have chosen."""

from __future__ import annotations

from collections.abc import Collection

from shared.model_card import ModelCard
from shared.types import Digest


def needs_beacon(card: ModelCard) -> bool:
    """Whether a request's seed must be a beacon of the chain's, and is not the requester's to choose."""
    return card.text is not None and card.text.seed == "beacon"


def is_seed_known(card: ModelCard, seed: Digest, beacons: Collection[Digest]) -> bool:
    """Whether a task with this seed may be performed and judged. `beacons` are those of the epoch that its task info
    names and of the epoch before it: a roll must not undo what was signed a moment earlier."""
    return not needs_beacon(card) or seed in beacons
