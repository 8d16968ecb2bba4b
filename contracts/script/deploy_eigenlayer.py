"""Puts a network on a chain whose operators' stake lies in EigenLayer.

Deploys the tables, the EigenLayerSource in the OperatorRegistry's place, center, escrow and court, and joins them. The
AVS account then has three calls to make to the AllocationManager: its metadata, the source as its registrar, and the
operator set with the source as its slasher. With `--as-avs` the deploying key is the AVS and makes them; else they are
printed for whoever holds the AVS (a multisignature, say), with the addresses, as JSON.

    python3 contracts/script/deploy_eigenlayer.py --chain-rpc https://… --keystore deployer.json --password-file … \\
        --allocation-manager 0x… --delegation-manager 0x… --avs 0x… --operator-set 1 --strategy 0x… \\
        --metadata-uri https://… --vault 0x…
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from eth_utils.abi import function_signature_to_4byte_selector

from shared import log
from shared.adapters import deploy
from shared.adapters.chain_evm import EvmClient, Sender
from shared.adapters.chain_evm.abi import Abi, center_abi, court_abi, encode, escrow_abi, load, tables_abi
from shared.adapters.chain_evm.wire import quantity
from shared.adapters.signers import LocalIdentitySigner
from shared.adapters.terms import Deployment
from shared.config import LogConfig
from shared.crypto import keystore
from shared.errors import ChainUnavailable, ConfigError, PoiError
from shared.types import Address

ADDRESS_BYTES = 20
COIN = Address(bytes(ADDRESS_BYTES))  # as token: the chain's own coin
MAX_STRATEGIES = 16
BLOCK_SECONDS = 12  # Ethereum's least time between two blocks


@dataclass(frozen=True, slots=True, kw_only=True)
class EigenLayerTerms:
    """What the contracts are deployed with, for ever; they check the bounds themselves."""

    allocation_manager: Address
    delegation_manager: Address
    avs: Address
    operator_set: int
    strategies: tuple[Address, ...]
    metadata_uri: str
    vault: Address
    owner: Address | None = None  # None: who deploys
    minimum_stake: int = 10**18  # in shares
    power_unit: int = 10**15
    unbonding_seconds: int = 13 * 24 * 3600  # with epoch and grace it has to stay below 14 days
    block_seconds: int = BLOCK_SECONDS
    epoch_seconds: int = 3600
    grace_seconds: int = 3600
    longest_dispute_seconds: int = 7 * 24 * 3600
    veto_delay_seconds: int = 12 * 3600
    refund_delay_seconds: int = 24 * 3600
    change_delay_seconds: int = 2 * 24 * 3600
    token: Address = COIN  # fees are paid in it
    burns: bool = False  # slashed stake is burnt, instead of sent to the vault


@dataclass(frozen=True, slots=True)
class AvsCall:
    """One that only the AVS account can make."""

    what: str
    to: Address
    data: bytes


async def deploy_eigenlayer(sender: Sender, terms: EigenLayerTerms) -> Deployment:
    """The five contracts, joined; `registry` is the EigenLayerSource. Raises `Reverted` for terms that do not fit
    EigenLayer's delays."""
    client = sender.client
    chain_id = quantity(await client.request("eth_chainId"))
    await client.require_network(chain_id, [terms.allocation_manager, terms.delegation_manager])
    owned = (terms.owner or sender.address, terms.change_delay_seconds)
    tables, _ = await _create(sender, tables_abi(), terms.epoch_seconds, terms.grace_seconds)
    source, _ = await _create(sender, source_abi(), _settings(tables, terms), *owned)
    center, block = await _create(sender, center_abi(), tables, source, *owned)
    escrow, _ = await _create(sender, escrow_abi(), center, terms.token, terms.refund_delay_seconds, *owned)
    disputes = (terms.vault, terms.veto_delay_seconds, terms.longest_dispute_seconds)
    court, _ = await _create(sender, court_abi(), center, *disputes, *owned)
    await _tell(sender, tables, tables_abi().call_data("setSource", source))
    await _tell(sender, source, source_abi().call_data("setCourt", court))
    await _tell(sender, center, center_abi().call_data("setCourt", court))
    return Deployment(
        chain_id=chain_id, tables=tables, registry=source, center=center, escrow=escrow, court=court, block=block
    )


def avs_calls(terms: EigenLayerTerms, source: Address) -> list[AvsCall]:
    """What the AVS has to say to the AllocationManager, in this order, before anybody can register."""
    sets = [(terms.operator_set, sorted(terms.strategies), source)]
    kind, avs = "(uint32,address[],address)[]", terms.avs
    metadata = _call_data("updateAVSMetadataURI(address,string)", avs, terms.metadata_uri)
    registrar = _call_data("setAVSRegistrar(address,address)", avs, source)
    if terms.burns:
        create = _call_data(f"createOperatorSets(address,{kind})", avs, sets)
    else:
        create = _call_data(f"createRedistributingOperatorSets(address,{kind},address[])", avs, sets, [terms.vault])
    named = {"updateAVSMetadataURI": metadata, "setAVSRegistrar": registrar, "create the operator set": create}
    return [AvsCall(what, terms.allocation_manager, data) for what, data in named.items()]


async def join_eigenlayer(sender: Sender, terms: EigenLayerTerms, source: Address) -> None:
    """Makes the AVS's calls. Raises `ConfigError` when the sender is not the AVS."""
    if sender.address != terms.avs:
        raise ConfigError(f"--as-avs: the key is 0x{sender.address.hex()}; expected the AVS 0x{terms.avs.hex()}")
    for call in avs_calls(terms, source):
        await _tell(sender, call.to, call.data)


def source_abi() -> Abi:
    """The EigenLayerSource's."""
    return load("EigenLayerSource")


def _settings(tables: Address, terms: EigenLayerTerms) -> tuple[Any, ...]:
    return (
        tables,
        terms.allocation_manager,
        terms.delegation_manager,
        terms.avs,
        terms.operator_set,
        sorted(terms.strategies),
        terms.minimum_stake,
        terms.power_unit,
        terms.unbonding_seconds,
        terms.block_seconds,
        COIN,
    )


def _call_data(signature: str, *arguments: Any) -> bytes:
    return function_signature_to_4byte_selector(signature) + encode(_types(signature), arguments)


def _types(signature: str) -> list[str]:
    """A signature's parameters, tuples whole."""
    types, depth, start = [], 0, signature.index("(") + 1
    for position in range(start, len(signature) - 1):
        depth += {"(": 1, ")": -1}.get(signature[position], 0)
        if signature[position] == "," and depth == 0:
            types.append(signature[start:position])
            start = position + 1
    return [*types, signature[start:-1]]


async def _create(sender: Sender, abi: Abi, *arguments: Any) -> tuple[Address, int]:
    data = abi.creation_data(*arguments)
    receipt = await sender.confirm(await sender.send(None, data), deploy.CONFIRM_SECONDS)
    if receipt.contract is None:
        raise ChainUnavailable("the node's receipt of a contract's creation names no contract")
    return receipt.contract, receipt.block


async def _tell(sender: Sender, contract: Address, data: bytes) -> None:
    await sender.confirm(await sender.send(contract, data), deploy.CONFIRM_SECONDS)


# --- command line --------------------------------------------------------------------------------
def main(arguments: Sequence[str] | None = None) -> int:
    given = _parser().parse_args(arguments)
    log.configure(LogConfig(level="warning"), "deployer", "-")  # to standard error: the answer is JSON
    try:
        asyncio.run(_run(given))
    except PoiError as error:
        print(f"deploy_eigenlayer: {error}", file=sys.stderr)
        return 1
    return 0


async def _run(given: argparse.Namespace) -> None:
    terms = _terms(given)
    keys = keystore.load(given.keystore, keystore.read_password(given.password_file))
    if given.as_avs and keys.address != terms.avs:
        raise ConfigError(f"--as-avs: the key is 0x{keys.address.hex()}; expected the AVS 0x{terms.avs.hex()}")
    async with EvmClient(given.chain_rpc) as client:
        chain_id = quantity(await client.request("eth_chainId"))
        async with Sender(client, LocalIdentitySigner(keys.operator), chain_id) as sender:
            deployment = await deploy_eigenlayer(sender, terms)
            print(json.dumps(_report(deployment, terms, given.as_avs), indent=2), flush=True)
            if given.as_avs:
                await join_eigenlayer(sender, terms, deployment.registry)


def _report(deployment: Deployment, terms: EigenLayerTerms, is_avs: bool) -> dict[str, Any]:
    """Printed before the AVS's calls: should one of them fail, the addresses are known."""
    found = {
        name: f"0x{value.hex()}" if isinstance(value, bytes) else value for name, value in asdict(deployment).items()
    }
    calls = [] if is_avs else avs_calls(terms, deployment.registry)
    found["avs_calls"] = [
        {"what": call.what, "from": f"0x{terms.avs.hex()}", "to": f"0x{call.to.hex()}", "data": f"0x{call.data.hex()}"}
        for call in calls
    ]
    return found


def _terms(given: argparse.Namespace) -> EigenLayerTerms:
    if len(set(given.strategies)) != len(given.strategies) or len(given.strategies) > MAX_STRATEGIES:
        raise ConfigError(f"--strategy: expected at most {MAX_STRATEGIES} different ones, got {len(given.strategies)}")
    names = EigenLayerTerms.__dataclass_fields__
    values = {name: getattr(given, name) for name in names if getattr(given, name, None) is not None}
    return EigenLayerTerms(**values | {"strategies": tuple(given.strategies)})


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    needed = parser.add_argument_group("needed")
    needed.add_argument("--chain-rpc", required=True, metavar="URL", help="JSON-RPC of the chain")
    needed.add_argument("--keystore", required=True, type=Path, help="the deploying key: a keystore of `poi key new`")
    needed.add_argument("--password-file", required=True, type=Path)
    needed.add_argument("--allocation-manager", required=True, type=_address, metavar="ADDRESS")
    needed.add_argument("--delegation-manager", required=True, type=_address, metavar="ADDRESS")
    needed.add_argument("--avs", required=True, type=_address, metavar="ADDRESS", help="the account that is the AVS")
    needed.add_argument("--operator-set", required=True, type=int, metavar="ID", help="of the set to be created")
    needed.add_argument(
        "--strategy", required=True, action="append", dest="strategies", type=_address, metavar="ADDRESS",
        help="whose shares are stake; repeat it for more, which should be worth alike",
    )  # fmt: skip
    needed.add_argument("--metadata-uri", required=True, metavar="URI", help="the AVS's description")
    needed.add_argument("--vault", required=True, type=_address, metavar="ADDRESS", help="gets what is slashed")
    chosen = parser.add_argument_group("can be chosen")
    chosen.add_argument("--owner", type=_address, metavar="ADDRESS", help="of the contracts; else who deploys")
    chosen.add_argument("--token", type=_address, metavar="ADDRESS", help="for fees; else the chain's own coin")
    chosen.add_argument("--burns", action="store_true", help="burn what is slashed, instead of sending it to the vault")
    chosen.add_argument("--as-avs", action="store_true", help="the deploying key is the AVS: make its calls too")
    defaults = EigenLayerTerms.__dataclass_fields__
    for name, help_ in _NUMBERS.items():
        usual = defaults[name].default
        chosen.add_argument(
            f"--{name.replace('_', '-')}", type=int, default=usual, metavar="N", help=f"{help_} (default: {usual})"
        )
    return parser


_NUMBERS = {
    "minimum_stake": "slashable shares that an operator needs",
    "power_unit": "shares that make one unit of voting power",
    "unbonding_seconds": "the longest dispute there may be; with epoch and grace below EigenLayer's deallocation delay",
    "block_seconds": "the least time between two blocks",
    "epoch_seconds": "between two rolls of the tables",
    "grace_seconds": "a table is valid after it was superseded",
    "longest_dispute_seconds": "a definition's longest dispute window",
    "veto_delay_seconds": "a guardian's veto waits",
    "refund_delay_seconds": "a requester waits for its deposit",
    "change_delay_seconds": "between a setting's announcement and its change",
}


def _address(text: str) -> Address:
    try:
        raw = bytes.fromhex(text.removeprefix("0x"))
    except ValueError:
        raw = b""
    if len(raw) != ADDRESS_BYTES:
        raise argparse.ArgumentTypeError(f"expected 0x and {2 * ADDRESS_BYTES} hexadecimal digits, got {text!r}")
    return Address(raw)


if __name__ == "__main__":
    sys.exit(main())
