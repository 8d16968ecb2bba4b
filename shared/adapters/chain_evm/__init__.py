"""The chain through JSON-RPC: `EvmClient` asks one node, `Sender` sends one key's transactions, `EvmOperatorReader` and
`EvmSettlement` speak with the two contracts. Errors leave as those of `shared.errors`."""

from __future__ import annotations

from shared.adapters.chain_evm.client import EvmClient
from shared.adapters.chain_evm.events import EventReader
from shared.adapters.chain_evm.reader import EvmOperatorReader
from shared.adapters.chain_evm.sender import Sender
from shared.adapters.chain_evm.settlement import EvmSettlement
from shared.adapters.chain_evm.wire import Receipt

__all__ = ["EventReader", "EvmClient", "EvmOperatorReader", "EvmSettlement", "Receipt", "Sender"]
