"""How a role attends to a topic: message by message, so that one bad one never ends the duty."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import structlog

from shared.errors import PoiError
from shared.interfaces import Gossip, Received, Validator

log = structlog.get_logger(__name__)


async def attend(
    gossip: Gossip, topic: str, validate: Validator, handle: Callable[[Received], Awaitable[None]]
) -> None:
    """Subscribe and hand every validated message to `handle`, in order, until cancelled.

    `handle` must be quick; what takes long belongs into a task of its own. A fault in it is logged with its traceback,
    and costs that message alone.
    """
    async with gossip.subscribe(topic, validate) as received:
        async for message in received:
            try:
                await handle(message)
            except PoiError as error:
                log.warning("message not handled", topic=topic.rsplit("/", 1)[-1], reason=str(error))
            except Exception:
                log.exception("fault while handling a message", topic=topic.rsplit("/", 1)[-1])
