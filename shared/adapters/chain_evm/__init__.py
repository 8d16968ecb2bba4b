"""The chain through JSON-RPC: `EvmClient` asks one node, `Sender` sends one key's transactions; `EvmOperatorReader`,
`EvmSettlement`, `EvmCourt`, `EvmEscrow` and `EvmEpochs` speak with the five contracts, which `discover` finds.
Errors leave as those of `shared.errors`."""

from __future__ import annotations

import sys

import eth_account  # noqa: F401  # first, so that nothing below undoes the next line

# Under eth_account, py_ecc allows 100,000 nested calls in the whole process. A stranger's JSON or msgpack of so many
# brackets then ends it by a segmentation fault (json and msgspec alike), where 1,000 gives a RecursionError.
sys.setrecursionlimit(1000)

from shared.adapters.chain_evm.client import EvmClient  # noqa: E402
from shared.adapters.chain_evm.court import EvmCourt  # noqa: E402
from shared.adapters.chain_evm.discovery import discover  # noqa: E402
from shared.adapters.chain_evm.epochs import EvmEpochs  # noqa: E402
from shared.adapters.chain_evm.escrow import EvmEscrow  # noqa: E402
from shared.adapters.chain_evm.events import EventReader  # noqa: E402
from shared.adapters.chain_evm.history import History  # noqa: E402
from shared.adapters.chain_evm.reader import EvmOperatorReader  # noqa: E402
from shared.adapters.chain_evm.rewards import EvmRewards, Pool  # noqa: E402
from shared.adapters.chain_evm.sender import Sender  # noqa: E402
from shared.adapters.chain_evm.settlement import EvmSettlement  # noqa: E402
from shared.adapters.chain_evm.wire import Receipt  # noqa: E402

__all__ = [
    "EventReader",
    "EvmClient",
    "EvmCourt",
    "EvmEpochs",
    "EvmEscrow",
    "EvmOperatorReader",
    "EvmRewards",
    "EvmSettlement",
    "History",
    "Pool",
    "Receipt",
    "Sender",
    "discover",
]
