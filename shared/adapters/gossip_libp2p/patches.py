"""The places where libp2p 0.8.1 names a class instead of taking it as an argument: replaced process-wide, once.

Everything else is a subclass. `tests/unit/shared/adapters/test_gossip_pinned.py` fails when an upgrade moves what is
replaced or overridden.
"""

from __future__ import annotations

import logging
from importlib.metadata import version

from libp2p.network.connection import swarm_connection
from libp2p.pubsub import pubsub
from libp2p.stream_muxer import muxer_multistream
from libp2p.stream_muxer.yamux import yamux

from shared.adapters.gossip_libp2p import limits
from shared.adapters.gossip_libp2p.muxer import BoundedYamux, CreditedStream
from shared.adapters.gossip_libp2p.router import PeerQueue
from shared.errors import ConfigError

SUPPORTED_VERSION = "0.8.1"


def install() -> None:
    """Idempotent. Raises `ConfigError` on another libp2p than the one that was read line by line."""
    found = version("libp2p")
    if found != SUPPORTED_VERSION:
        raise ConfigError(f"libp2p {found} is installed; the hardening here is for {SUPPORTED_VERSION}")
    setattr(pubsub, "RpcQueue", PeerQueue)  # D4  # noqa: B010
    setattr(muxer_multistream, "Yamux", BoundedYamux)  # D19, D20: it ignores the class that is registered  # noqa: B010
    setattr(yamux, "YamuxStream", CreditedStream)  # D13  # noqa: B010
    setattr(yamux, "MAX_WINDOW_SIZE", limits.STREAM_WINDOW_BYTES)  # D19: also the largest frame it reads  # noqa: B010
    # D16: writes to the root logger, which installs a handler on stderr when there is none.
    setattr(swarm_connection, "logging", logging.getLogger("libp2p.network.connection"))  # noqa: B010
