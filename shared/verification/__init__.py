"""Verification methods (protocol §6), one a file, each with both halves: `prove` and `judge`."""

from __future__ import annotations

from collections.abc import Mapping

from shared.verification.batch_audit import BatchAudit
from shared.verification.exact import ExactHash
from shared.verification.method import Method
from shared.verification.sequential import SequentialText
from shared.verification.similarity import CosineSimilarity
from shared.verification.tensor import TensorDistance
from shared.verification.text import SeededText

METHODS: Mapping[str, Method] = {
    "batch-audit": BatchAudit(),
    "exact": ExactHash(),
    "sequential": SequentialText(),  # an attester puts one with a memory in its place
    "similarity": CosineSimilarity(),
    "tensor": TensorDistance(),
    "text": SeededText(),
}

__all__ = ["METHODS"]
