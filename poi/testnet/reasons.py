"""Why attesters voted against a lie, by the evidence that each reveals once the task is certified."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from poi.client import EvidenceRefused, reveal_evidence
from poi.evidence import opened
from shared.errors import CodecError
from shared.types import Digest

# An attester reveals nothing before it has seen the certificate, which comes to it by gossip.
REVEAL_SECONDS, PAUSE_SECONDS = 5.0, 0.1


async def reasons_of(attesters: Iterable[str], task_info_hash: Digest) -> frozenset[str]:
    """The codes of all votes against it that are revealed, by URLs of attesters; none of them within a few seconds
    gives an empty set. Only evidence that opens its commitment counts."""
    loop = asyncio.get_running_loop()
    end, urls = loop.time() + REVEAL_SECONDS, list(attesters)
    while True:
        found = await asyncio.gather(*(_reason(url, task_info_hash) for url in urls))
        reasons = frozenset(reason for reason in found if reason is not None)
        if reasons or loop.time() > end:
            return reasons
        await asyncio.sleep(PAUSE_SECONDS)


async def _reason(url: str, task_info_hash: Digest) -> str | None:
    try:
        revealed = opened(await reveal_evidence(url, task_info_hash), task_info_hash, None)
    except (EvidenceRefused, CodecError):
        return None
    evidence = revealed["evidence"]
    return str(evidence["reason"]) if evidence["verdict"] == "invalid" else None
