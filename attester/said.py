"""What kept an attester from checking, in words for its log; votes, abstentions and evidence have the code alone."""

from __future__ import annotations

from shared.errors import ContentUnavailable, PoiError

MAX_SAID_CHARACTERS = 512  # of each try: what half a dozen sources say; strangers write it, and many there may be


def said_of(error: PoiError) -> str:
    """Of content that is unavailable, what each source said, in the order of asking."""
    if isinstance(error, ContentUnavailable):
        told = "; ".join(f"{source}: {cause}" for source, cause in error.causes.items())
        return f"{error.cid}: {told or 'no source is known'}"[:MAX_SAID_CHARACTERS]
    return str(error)[:MAX_SAID_CHARACTERS]
