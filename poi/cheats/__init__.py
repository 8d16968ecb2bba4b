"""Performers that cheat, each in one way. Calibration, the testnet and the detection bench try checks on them."""

from __future__ import annotations
