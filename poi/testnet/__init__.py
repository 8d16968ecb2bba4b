"""A whole network on this machine: a chain, every role in its own process, honest tasks, and lies that are caught."""

from __future__ import annotations

from poi.testnet.command import main

__all__ = ["main"]
