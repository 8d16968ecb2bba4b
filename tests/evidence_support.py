"""Evidence of nobody's vote, for tests of what is committed to and shown."""

from __future__ import annotations

from typing import Any

import msgspec

from shared.evidence import Evidence
from shared.types import Address, Digest, Fingerprint
from tests.toy_model import OUTPUT

OPERATOR, INFO_HASH = Address(bytes([1]) * 20), Digest(bytes([3]) * 32)
SECRET, SALT = bytes([5]) * 32, bytes([6]) * 32


def evidence(**changes: Any) -> Evidence:
    """Of a valid vote of `OPERATOR` on `INFO_HASH`."""
    honest = Evidence(
        task_info_hash=f"0x{INFO_HASH.hex()}",
        task_id="0x" + "07" * 32,
        attester=f"0x{OPERATOR.hex()}",
        card_cid="bafkrei",
        method="tensor",
        verdict="valid",
        reason=None,
        score=0.125,
        statistics={"distance of scores": 0.125},
        is_refereed=False,
        engine=Fingerprint("onnxruntime", "1.24", "CPUExecutionProvider", "cpu"),
        recomputed=OUTPUT,
    )
    return msgspec.structs.replace(honest, **changes)
