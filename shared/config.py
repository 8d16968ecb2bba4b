"""Settings of a node: one TOML file, environment overrides, and nothing that is not declared here.

`POI_SECTION__KEY` in the environment wins over the file. Unknown names are refused, because a misspelt limit that is
silently ignored is no limit. Secrets are never settings: settings name the files that hold them.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeVar, get_type_hints
from urllib.parse import urlsplit

import msgspec

from shared import constants
from shared.config_rules import (
    CONTRACT,
    FILE,
    HOST,
    HOSTS,
    LISTEN,
    NETWORKS,
    OPTIONAL_FILE,
    PUBLIC_URL,
    SOURCES,
    URL,
    URLS,
    Rule,
    choice,
    choices,
    ids,
    integer,
    number,
)
from shared.errors import ConfigError
from shared.types import Address

ENVIRONMENT_PREFIX = "POI_"
SHOWN_CHARACTERS = 80  # of an offending value

MIB, GIB, TIB = 1 << 20, 1 << 30, 1 << 40

T = TypeVar("T", bound=msgspec.Struct)


# --- the settings --------------------------------------------------------------------------------
class NetworkConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Which network this node belongs to. There is no default: the wrong chain is worse than none."""

    chain_rpc: Annotated[str, URL]
    chain_id: Annotated[int, integer(1, 2**53 - 1)]  # EIP-2294's bound, within what every JSON reader keeps
    attestation_center: Annotated[Address, CONTRACT]
    task_escrow: Annotated[Address, CONTRACT]

    def __repr__(self) -> str:
        parts = urlsplit(self.chain_rpc)  # user, path and query may be an API key
        center, escrow = self.attestation_center.hex(), self.task_escrow.hex()
        rpc = f"{parts.scheme}://{parts.hostname}"
        return f"NetworkConfig(rpc of {rpc}, chain {self.chain_id}, center=0x{center}, escrow=0x{escrow})"


class NodeConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Where this node keeps things."""

    data_dir: Annotated[Path, FILE] = Path("data")
    keystore: Annotated[Path, FILE] = Path("keystore.json")
    password_file: Annotated[Path, FILE] = Path("password")


class P2pConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Gossip."""

    listen: Annotated[str, LISTEN] = "/ip4/0.0.0.0/tcp/9700"


class HttpConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The gateway, the API of the role, and the metrics."""

    host: Annotated[str, HOST] = "127.0.0.1"
    port: Annotated[int, integer(0, 65535)] = 8700
    public_url: Annotated[str, PUBLIC_URL] = ""

    @property
    def gateway_url(self) -> str:
        """What is registered as this operator's gateway; without a trailing slash."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return self.public_url or f"http://{host}:{self.port}"


class ContentConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What this node holds, and where else it looks."""

    store: Annotated[Literal["embedded", "kubo", "ipfshttpclient"], choice("embedded", "kubo", "ipfshttpclient")] = (
        "embedded"
    )
    max_bytes: Annotated[int, integer(64 * MIB, 16 * TIB, "bytes")] = 20 * GIB
    private_networks: Annotated[tuple[str, ...], NETWORKS] = ()
    sources: Annotated[tuple[str, ...], SOURCES] = ()
    kubo_url: Annotated[str, PUBLIC_URL] = ""
    kubo_auth_file: Annotated[Path | None, OPTIONAL_FILE] = None
    gateways: Annotated[tuple[str, ...], URLS] = ()
    eigenda_url: Annotated[str, PUBLIC_URL] = ""


PUBLISHERS = ("kubo", "pinning-service", "pinata", "filebase", "eigenda")


class PublishConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Where a performer's proofs go besides its own store. All are off until named in `to`."""

    to: Annotated[tuple[str, ...], choices(*PUBLISHERS)] = ()
    pinning_service_url: Annotated[str, PUBLIC_URL] = ""
    pinning_service_token_file: Annotated[Path | None, OPTIONAL_FILE] = None
    pinata_url: Annotated[str, PUBLIC_URL] = ""
    pinata_token_file: Annotated[Path | None, OPTIONAL_FILE] = None
    filebase_url: Annotated[str, PUBLIC_URL] = ""
    filebase_token_file: Annotated[Path | None, OPTIONAL_FILE] = None


class InferenceConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The engine. The keys of one kind of engine matter to that kind alone."""

    engine: Annotated[Literal["onnx", "genai", "openai"], choice("onnx", "genai", "openai")] = "onnx"
    provider: Annotated[Literal["cpu", "cuda"], choice("cpu", "cuda")] = "cpu"
    threads: Annotated[int, integer(0, 256, "threads")] = 0
    max_loaded_bytes: Annotated[int, integer(16 * MIB, TIB, "bytes")] = 4 * GIB
    genai_dir: Annotated[Path, FILE] = Path("genai")
    openai_url: Annotated[str, PUBLIC_URL] = ""
    openai_key_file: Annotated[Path | None, OPTIONAL_FILE] = None
    openai_style: Annotated[Literal["vllm", "openai", "llamacpp"], choice("vllm", "openai", "llamacpp")] = "vllm"


class ServicesConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Services and sources outside, for tasks of the methods `external` and `oracle`."""

    execution_url: Annotated[str, PUBLIC_URL] = ""
    validation_url: Annotated[str, PUBLIC_URL] = ""
    feed_hosts: Annotated[tuple[str, ...], HOSTS] = ()


class PerformerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The performer's limits."""

    max_open_tasks: Annotated[int, integer(1, constants.MAX_OPEN_TASKS, "tasks")] = constants.MAX_OPEN_TASKS
    definitions: Annotated[tuple[int, ...], ids(65535)] = ()
    models_dir: Annotated[Path, FILE] = Path("models")

    def serves(self, definition_id: int) -> bool:
        """An empty list serves every definition."""
        return not self.definitions or definition_id in self.definitions


class AttesterConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The attester's limits."""

    max_concurrent: Annotated[int, integer(1, 64, "tasks")] = constants.MAX_CONCURRENT_VERIFICATIONS


class AggregatorConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How the aggregator settles."""

    # A batch that waits longer might outlive its epoch's table.
    batch_seconds: Annotated[float, number(0.05, 600, "seconds")] = 2.0
    max_batch: Annotated[int, integer(1, constants.MAX_BATCH_SIZE, "certificates")] = constants.MAX_BATCH_SIZE
    max_fee_gwei: Annotated[float, number(0.001, 100_000, "gwei")] = 100.0


class LogConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What is written to standard error, and how."""

    level: Annotated[Literal["debug", "info", "warning", "error"], choice("debug", "info", "warning", "error")] = "info"
    format: Annotated[Literal["json", "console"], choice("json", "console")] = "json"


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """Every role reads the same file; a role's section matters to that role alone."""

    network: NetworkConfig
    node: NodeConfig = NodeConfig()
    p2p: P2pConfig = P2pConfig()
    http: HttpConfig = HttpConfig()
    content: ContentConfig = ContentConfig()
    publish: PublishConfig = PublishConfig()
    inference: InferenceConfig = InferenceConfig()
    services: ServicesConfig = ServicesConfig()
    performer: PerformerConfig = PerformerConfig()
    attester: AttesterConfig = AttesterConfig()
    aggregator: AggregatorConfig = AggregatorConfig()
    log: LogConfig = LogConfig()


@dataclass(frozen=True, slots=True)
class Setting:
    """One key, as declared above."""

    section: str
    key: str
    rule: Rule
    default: object  # msgspec.NODEFAULT when required

    @property
    def name(self) -> str:
        return f"{self.section}.{self.key}"

    @property
    def variable(self) -> str:
        return f"{ENVIRONMENT_PREFIX}{self.section}__{self.key}".upper()


SECTIONS: dict[str, type[msgspec.Struct]] = dict(get_type_hints(Config))


def _declared(section: str) -> list[Setting]:
    hints = get_type_hints(SECTIONS[section], include_extras=True)
    fields = msgspec.structs.fields(SECTIONS[section])
    return [Setting(section, field.name, hints[field.name].__metadata__[0], field.default) for field in fields]


SETTINGS: dict[str, Setting] = {setting.name: setting for section in SECTIONS for setting in _declared(section)}


# --- reading -------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class _Given:
    where: str  # for errors
    value: object


def load(path: Path, environ: Mapping[str, str] | None = None) -> Config:
    """The file's settings under the environment's. Raises `ConfigError` naming the setting and what it may be."""
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist; start from a copy of config.example.toml") from None
    except OSError as error:
        raise ConfigError(f"read {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from None
    return parse(tables, base=path.parent, environ=os.environ if environ is None else environ, source=str(path))


def parse(
    tables: Mapping[str, object], *, base: Path, environ: Mapping[str, str] | None = None, source: str = "settings"
) -> Config:
    """As `load`, from what is already in memory; relative paths are relative to `base`."""
    given = _from_tables(tables, source) | _from_environment(environ or {})
    base = base.absolute()
    sections = {section: _section(kind, section, given, base) for section, kind in SECTIONS.items()}
    config = msgspec.convert(sections, Config)
    _check_gateway(config.http)
    _check_engine(config.inference)
    _check_content(config.content)
    _check_publish(config)
    return config


def _from_tables(tables: Mapping[str, object], source: str) -> dict[str, _Given]:
    given: dict[str, _Given] = {}
    for section, table in tables.items():
        if section not in SECTIONS:
            hint = _nearest(section, list(SECTIONS))
            raise ConfigError(f"{source}: section [{section}] is unknown; did you mean [{hint}]?")
        if not isinstance(table, Mapping):
            raise ConfigError(f"{source}: {section}: expected a section [{section}], got {_shown(table)}")
        for key, value in table.items():
            name = f"{section}.{key}"
            if name not in SETTINGS:
                raise ConfigError(f"{source}: {name} is unknown; did you mean {_nearest_setting(section, key).name}?")
            given[name] = _Given(f"{source}: {name}", value)
    return given


def _from_environment(environ: Mapping[str, str]) -> dict[str, _Given]:
    given: dict[str, _Given] = {}
    for variable, text in environ.items():
        # Only the double underscore is ours: Kubernetes makes POI_HTTP_PORT for a service called poi-http.
        section, separator, key = variable.removeprefix(ENVIRONMENT_PREFIX).lower().partition("__")
        if not variable.startswith(ENVIRONMENT_PREFIX) or not separator:
            continue
        setting = SETTINGS.get(f"{section}.{key}")
        if setting is None or setting.variable != variable:
            hint = _nearest_setting(section, key).variable
            raise ConfigError(f"environment: {variable} is unknown; did you mean {hint}?")
        given[setting.name] = _Given(f"environment: {variable}", text if setting.rule.is_text else _toml_value(text))
    return given


def _section(kind: type[T], section: str, given: Mapping[str, _Given], base: Path) -> T:
    return kind(**{setting.key: _value(setting, given, base) for setting in _declared(section)})


def _value(setting: Setting, given: Mapping[str, _Given], base: Path) -> object:
    if setting.name in given:
        value = _parsed(setting.rule, given[setting.name])
    elif setting.default is msgspec.NODEFAULT:
        raise ConfigError(f"{setting.name} is missing: set it or {setting.variable} to {setting.rule.expected}")
    else:
        value = setting.default
    return base / value if isinstance(value, Path) else value


def _parsed(rule: Rule, given: _Given) -> object:
    try:
        return rule.parse(given.value)
    except (ValueError, TypeError, AttributeError, RuntimeError):
        # AttributeError: text was expected. RuntimeError: `~` without a home folder.
        got = f", got {_shown(given.value)}" if rule.is_shown else ""
        raise ConfigError(f"{given.where}: expected {rule.expected}{got}") from None


def _check_gateway(http: HttpConfig) -> None:
    if not http.public_url and http.host in ("0.0.0.0", "::"):  # noqa: S104
        raise ConfigError(
            f"http.public_url is missing: nobody can reach this node's gateway at {http.host}, "
            "so say under which URL it is reached from outside"
        )


def _check_engine(inference: InferenceConfig) -> None:
    if inference.engine == "openai" and not inference.openai_url:
        raise ConfigError('inference.openai_url is missing: the engine is "openai", so say where its server is')


def _check_content(content: ContentConfig) -> None:
    if content.store != "embedded" and not content.kubo_url:
        raise ConfigError(
            f'content.kubo_url is missing: the store is "{content.store}", so say where the RPC API of its node is, '
            "as http://127.0.0.1:5001"
        )


def _check_publish(config: Config) -> None:
    """What a service in `publish.to` cannot do without."""
    publish = config.publish
    needs: dict[str, dict[str, object]] = {
        "kubo": {"content.kubo_url": config.content.kubo_url},
        "pinning-service": {
            "content.kubo_url": config.content.kubo_url,
            "publish.pinning_service_url": publish.pinning_service_url,
            "publish.pinning_service_token_file": publish.pinning_service_token_file,
        },
        "pinata": {"publish.pinata_url": publish.pinata_url, "publish.pinata_token_file": publish.pinata_token_file},
        "filebase": {
            "publish.filebase_url": publish.filebase_url,
            "publish.filebase_token_file": publish.filebase_token_file,
        },
        "eigenda": {"content.eigenda_url": config.content.eigenda_url},
    }
    for service in publish.to:
        for name, value in needs[service].items():
            if not value:
                raise ConfigError(f'{name} is missing: publish.to has "{service}", which needs it')


def _toml_value(text: str) -> object:
    """A number or a list; text that is neither stays text, for the error to show."""
    try:
        table = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return table["value"] if len(table) == 1 else text


def _nearest_setting(section: str, key: str) -> Setting:
    """The right key in the wrong section comes first, then whatever is spelt most alike."""
    same_key = [setting for setting in SETTINGS.values() if setting.key == key]
    return same_key[0] if same_key else SETTINGS[_nearest(f"{section}.{key}", list(SETTINGS))]


def _nearest(name: str, known: list[str]) -> str:
    return difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}…"


__all__ = ["SETTINGS", "Config", "Setting", "load", "parse"]
