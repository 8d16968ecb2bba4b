"""Rolling epochs: anyone may, when it is due; the aggregators see to it that somebody does when it changes anything."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from aggregator.turns import is_stale, patience, place_of
from shared.constants import ROSTER_POLL_SECONDS
from shared.errors import ChainUnavailable, PoiError, Reverted
from shared.interfaces import Clock, Epochs, Settlement
from shared.roster import Roster
from shared.types import Address

log = structlog.get_logger(__name__)

CONFIRM_SECONDS = 60.0
RETRY_SECONDS = 30.0


class EpochKeeper:
    """Rolls a stale table as soon as the contract lets anybody."""

    def __init__(
        self,
        *,
        address: Address,
        roster: Callable[[], Roster],
        epochs: Epochs,
        settlement: Settlement,
        clock: Clock,
    ) -> None:
        self._address, self._roster, self._epochs = address, roster, epochs
        self._settlement, self._clock = settlement, clock
        self._power_unit: int | None = None  # never changes
        self._seen_due: float | None = None  # since when a roll is due and would change anything; unix seconds

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(ROSTER_POLL_SECONDS)
            try:
                if await self._is_to_roll():
                    await self._roll()
            except Reverted as error:  # somebody else was faster
                log.info("epoch not rolled", reason=str(error))
                await asyncio.sleep(RETRY_SECONDS)
            except PoiError as error:
                log.warning("epoch not rolled yet", reason=str(error))
                await asyncio.sleep(RETRY_SECONDS)

    async def _is_to_roll(self) -> bool:
        """Whether this aggregator should now: it is due, it would change the table, and those before it had time."""
        roster = self._roster()
        if not await self._is_due(roster):
            self._seen_due = None
            return False
        # Those before it have their time from here on: the contract may have allowed a roll long before the table got
        # stale, and all would roll at once.
        if self._seen_due is None:
            self._seen_due = self._clock.now()
        place = place_of(self._address, roster.epoch, roster.operators)
        return self._clock.now() >= self._seen_due + patience(place)

    async def _is_due(self, roster: Roster) -> bool:
        if self._power_unit is None:
            self._power_unit = await self._epochs.power_unit()
        table = roster.tables.get(roster.epoch)
        if table is None or not is_stale(table, roster.operators, self._power_unit):
            return False
        return self._clock.now() >= await self._epochs.rollable_at()

    async def _roll(self) -> None:
        tx_hash = await self._epochs.roll()
        try:
            await self._settlement.confirm(tx_hash, CONFIRM_SECONDS)
        except ChainUnavailable as error:
            log.warning("the roll is not confirmed yet", reason=str(error))
            return
        log.info("epoch rolled", former=self._roster().epoch)
        await asyncio.sleep(ROSTER_POLL_SECONDS)  # until the roster has seen it
