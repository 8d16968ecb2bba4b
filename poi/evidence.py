"""`poi evidence …`: what an attester's vote rests on, and whether that is what it was committed to."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import msgspec

from poi.client import reveal_evidence
from shared.errors import CodecError, ConfigError
from shared.evidence import Opening, check_commitment, decode_evidence
from shared.json_forms import FieldError, from_hex
from shared.types import Address, Digest


def show(url: str, task_info_hash: str, commitment: str | None) -> str:
    """JSON for people: the evidence, and the commitment that it opens. `commitment` is the one that the vote quoted;
    without it the attester's own word is taken for it. Raises `EvidenceRefused`, `CodecError`, `ConfigError`."""
    info_hash = _digest(task_info_hash, "TASK_INFO_HASH")
    quoted = None if commitment is None else _digest(commitment, "--commitment")
    opening = asyncio.run(reveal_evidence(url, info_hash))
    return json.dumps(opened(opening, info_hash, quoted), indent=2)


def opened(opening: Opening, info_hash: Digest, quoted: Digest | None) -> dict[str, Any]:
    """Raises `CodecError` for an opening that does not open the commitment, or that is of another one than `quoted`."""
    commitment = Digest(from_hex(opening.commitment, "commitment", 32))
    if quoted not in (None, commitment):
        raise CodecError(f"evidence: it opens {opening.commitment}, which is not what the vote quoted")
    data = opening.evidence.encode(errors="surrogatepass")
    operator = Address(from_hex(decode_evidence(data).attester, "attester", 20))
    salt = from_hex(opening.salt, "salt", 32)
    check_commitment(commitment, salt, data, operator=operator, task_info_hash=info_hash)
    return {"commitment": opening.commitment, "evidence": msgspec.json.decode(data), "salt": opening.salt}


def _digest(text: str, name: str) -> Digest:
    try:
        return Digest(from_hex(text, name, 32))
    except FieldError as error:
        raise ConfigError(str(error)) from None
