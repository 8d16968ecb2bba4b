"""Makes `sampler.json`: the seeded sampler of protocol §6 in plain Python, without a line of `shared/` or of numpy.

python tests/vectors/sampler.py            write the file
python tests/vectors/sampler.py --check    compare with the one that is there
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import sys
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_suffix(".json")
MASK = (1 << 64) - 1


def philox(key: int, count: int) -> list[int]:
    """Philox4x64-10 (Salmon et al., 2011): `count` words of 64 bits, the first block with the counter 1."""
    words: list[int] = []
    for counter in range(1, count // 4 + 2):
        c, k = [counter, 0, 0, 0], [key & MASK, key >> 64]
        for _ in range(10):
            left, right = 0xD2E7470EE14C6C93 * c[0], 0xCA5A826395121157 * c[2]
            c = [(right >> 64) ^ c[1] ^ k[0], right & MASK, (left >> 64) ^ c[3] ^ k[1], left & MASK]
            k = [(k[0] + 0x9E3779B97F4A7C15) & MASK, (k[1] + 0xBB67AE8584CAA73B) & MASK]
        words += c
    return words[:count]


def words_of(task_id: bytes, position: int, count: int) -> list[int]:
    digest = hashlib.sha256(task_id + position.to_bytes(8, "big")).digest()
    return philox(int.from_bytes(digest[:16], "big"), count)


def gumbel(word: int) -> float:
    return -math.log(-math.log(((word >> 11) + 0.5) * 2.0**-53))


def pick(logits: list[float], noise: list[float], temperature: float, top_k: int, banned: int) -> int:
    allowed = [token for token in range(len(logits)) if token != banned]
    if temperature == 0:
        return max(allowed, key=lambda token: (logits[token], -token))
    least = sorted((logits[token] for token in allowed), reverse=True)[top_k - 1] if 0 < top_k < len(allowed) else None
    kept = [token for token in allowed if least is None or logits[token] >= least]
    return max(kept, key=lambda token: (logits[token] + temperature * noise[token], -token))


def vector(rng: random.Random, size: int, temperature: float, top_k: int) -> dict[str, Any]:
    task_id = rng.randbytes(32)
    position = rng.choice([0, 1, 63, 4095, 1 << 40])
    logits = [rng.randint(-64, 64) / 8 for _ in range(size)]  # exact in float32
    banned = rng.randrange(size)
    words = words_of(task_id, position, size)
    return {
        "taskId": f"0x{task_id.hex()}",
        "position": str(position),
        "temperature": temperature,
        "topK": str(top_k),
        "banned": str(banned),
        "logits": logits,
        "words": [f"0x{word:016x}" for word in words],
        "noise": [gumbel(word) for word in words],
        "token": str(pick(logits, [gumbel(word) for word in words], temperature, top_k, banned)),
    }


def vectors() -> list[dict[str, Any]]:
    rng = random.Random("the sampler's vectors")
    settings = [(0.0, 0), (0.01, 0), (0.8, 0), (0.8, 1), (0.8, 3), (0.8, 40), (1.0, 5), (10.0, 0), (10.0, 7)]
    return [vector(rng, size, *each) for each in settings for size in (2, 9, 20)]


def main() -> int:
    data = json.dumps(vectors(), indent=1) + "\n"
    if "--check" in sys.argv[1:]:
        return 0 if FILE.read_text() == data else 1
    FILE.write_text(data)
    return 0


if __name__ == "__main__":
    sys.exit(main())
