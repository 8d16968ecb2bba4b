"""Performers that cheat, each in one way. Calibration, the testnet and the detection bench try checks on them."""

from __future__ import annotations

from poi.cheats.catalogue import CHEATS
from poi.cheats.cheat import Cheat, Forwards
from poi.cheats.graph import NotApplicable
from poi.cheats.others import OtherModels

__all__ = ["CHEATS", "Cheat", "Forwards", "NotApplicable", "OtherModels"]
