"""The verses of the King James Bible: what the models of language are trained on.

The corpus is the text of the Debian package `bible-kjv-text` (in the public domain), one verse a line:

    apt-get install bible-kjv && bible -f gen1:1-rev22:21 > kjv.txt
"""

from __future__ import annotations

import hashlib
from pathlib import Path

CORPUS_SHA256 = "cd45f0c9cedab8e4439bd6486c8952c77cc8b0ecc5d1f6ae3513f2039f47229d"
HELD_OUT_EVERY = 50


def read_verses(path: Path) -> tuple[list[bytes], list[bytes]]:
    """(verses to train on, each fiftieth verse, held out), without their references. Refuses another text than the one
    that the scripts were made for."""
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != CORPUS_SHA256:
        raise SystemExit(f"{path} is not the text of bible-kjv-text 4.38: its SHA-256 differs")
    verses = [line.split(b" ", 1)[1] for line in data.splitlines()]
    return [verse for i, verse in enumerate(verses) if i % HELD_OUT_EVERY], verses[::HELD_OUT_EVERY]
