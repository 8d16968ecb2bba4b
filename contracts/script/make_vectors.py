"""Write `tests/vectors/*.json`, or with `--check` compare them. What is in them: `tests/vectors/README.md`.

Everything is derived from fixed labels, so the files are the same on every run. Nothing is imported from `shared`: the
vectors have to be able to disagree with it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from eth_utils.crypto import keccak
from vector_certificates import certificate_vectors
from vector_curve import bls_vectors, public_key
from vector_deployment import ATTESTERS, DOMAINS, TABLES
from vector_json import Json, render
from vector_merkle import merkle_vectors
from vector_typed_data import digest, digest_vectors

VECTORS = Path(__file__).resolve().parents[2] / "tests" / "vectors"


def all_vectors() -> dict[str, Json]:
    """By file name."""
    operator = ATTESTERS[0].address
    possession = {"operator": operator, "keyHash": keccak(public_key(ATTESTERS[0].vote_secret))}
    return {
        "digests.json": digest_vectors(DOMAINS),
        "bls.json": bls_vectors(digest("KeyPossession", possession, TABLES), operator),
        "merkle.json": merkle_vectors(),
        "certificate.json": certificate_vectors(),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare with the committed files, write nothing")
    check: bool = parser.parse_args().check
    stale = 0
    for name, vectors in all_vectors().items():
        path, text = VECTORS / name, render(vectors)
        if not check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            print(f"{name}: {len(text)} bytes")
        elif not path.exists() or path.read_text() != text:
            print(f"{name} is not what this script makes; run it again", file=sys.stderr)
            stale += 1
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
