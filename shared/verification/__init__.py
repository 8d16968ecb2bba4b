"""Verification methods (protocol §6), one a file, each with both halves: `prove` and `verify`."""

from __future__ import annotations

from collections.abc import Mapping

from shared.verification.exact import Exact
from shared.verification.method import Method
from shared.verification.tensor import TensorDistance
from shared.verification.text import SeededText

METHODS: Mapping[str, Method] = {"exact": Exact(), "tensor": TensorDistance(), "text": SeededText()}

__all__ = ["METHODS"]
