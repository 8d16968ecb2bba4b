"""Settings: the example is the documentation, every bound holds, and every error says what to do."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared import config
from shared.config import SETTINGS, Config, Setting
from shared.errors import ConfigError

ROOT = Path(__file__).resolve().parents[3]
EXAMPLE = ROOT / "config.example.toml"
REQUIRED = {
    "network.chain_rpc": "http://127.0.0.1:8545",
    "network.chain_id": 31337,
    "network.attestation_center": "0x" + "11" * 20,
    "network.task_escrow": "0x" + "22" * 20,
}


def tables(changes: dict[str, Any] | None = None) -> dict[str, dict[str, Any]]:
    """The least that is accepted, changed; None takes a key away."""
    result: dict[str, dict[str, Any]] = {}
    for name, value in (REQUIRED | (changes or {})).items():
        section, key = name.split(".")
        if value is not None:
            result.setdefault(section, {})[key] = value
    return result


def parse(changes: dict[str, Any] | None = None, **environ: str) -> Config:
    return config.parse(tables(changes), base=Path("/base"), environ=environ)


def value_of(parsed: Config, name: str) -> Any:
    section, key = name.split(".")
    return getattr(getattr(parsed, section), key)


# --- the example ---------------------------------------------------------------------------------
def comments() -> dict[str, str]:
    """The comment above each key of the example, lines joined."""
    found: dict[str, str] = {}
    section, comment = "", ""
    for line in EXAMPLE.read_text().splitlines():
        if header := re.fullmatch(r"\[(\w+)\]", line):
            section = header[1]
        elif line.startswith("#"):
            comment += line.removeprefix("#")
        elif key := re.match(r"(\w+) = ", line):
            found[f"{section}.{key[1]}"] = comment.strip()
        if not line.startswith("#"):
            comment = ""
    return found


def test_the_example_has_every_key_and_no_other() -> None:
    written = [f"{section}.{key}" for section, table in tomllib.loads(EXAMPLE.read_text()).items() for key in table]
    assert written == list(SETTINGS)


def test_the_examples_values_are_the_defaults() -> None:
    example = config.load(EXAMPLE, {})
    minimal = config.parse(tables(), base=EXAMPLE.parent)
    assert example == minimal


def test_the_keys_without_a_default_are_those_marked_required() -> None:
    assert {name for name, s in SETTINGS.items() if s.default is msgspec.NODEFAULT} == set(REQUIRED)
    # public_url depends on another key, and says so in a sentence of its own.
    assert {name for name, text in comments().items() if "Required." in text} == set(REQUIRED)


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=lambda s: s.name)
def test_the_example_says_what_each_key_takes_and_defaults_to(setting: Setting) -> None:
    comment = comments()[setting.name]
    if re.search("integer|number|one of|list|multiaddr", setting.rule.expected):
        assert setting.rule.expected in comment
    if setting.default is not msgspec.NODEFAULT:
        literal = next(line for line in EXAMPLE.read_text().splitlines() if line.startswith(f"{setting.key} = "))
        assert f"Default {literal.partition(' = ')[2]}" in comment


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=lambda s: s.name)
def test_a_default_obeys_its_own_rule(setting: Setting) -> None:
    if setting.default is not msgspec.NODEFAULT:
        raw = str(setting.default) if isinstance(setting.default, Path) else setting.default
        raw = list(raw) if isinstance(raw, tuple) else raw
        assert setting.rule.parse(raw) == setting.default


# --- what is taken -------------------------------------------------------------------------------
GOOD = [
    ("network.chain_rpc", "https://user:key@rpc.example/v3/abc?x=1", "https://user:key@rpc.example/v3/abc?x=1"),
    ("network.chain_id", 2**53 - 1, 2**53 - 1),
    ("network.attestation_center", "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed", None),
    ("network.attestation_center", "0x" + "AB" * 20, bytes([0xAB] * 20)),
    ("node.data_dir", "elsewhere/data", Path("/base/elsewhere/data")),
    ("node.data_dir", "/absolute", Path("/absolute")),
    ("node.keystore", "../keys/k.json", Path("/base/../keys/k.json")),
    ("p2p.listen", "/ip6/::/tcp/0", "/ip6/::/tcp/0"),
    ("http.port", 0, 0),
    ("http.public_url", "https://node.example/", "https://node.example"),
    ("content.store", "embedded", "embedded"),
    ("content.private_networks", ["127.0.0.0/8", "fd00::/8"], ("127.0.0.0/8", "fd00::/8")),
    ("content.sources", ["http://a:1/x/", "/dns4/a/tcp/4001/p2p/b"], ("http://a:1/x", "/dns4/a/tcp/4001/p2p/b")),
    ("content.kubo_url", "http://127.0.0.1:5001/", "http://127.0.0.1:5001"),
    ("content.kubo_auth_file", "auth", Path("/base/auth")),
    ("content.gateways", ["https://a", "https://b/"], ("https://a", "https://b")),
    ("content.eigenda_url", "http://127.0.0.1:3100", "http://127.0.0.1:3100"),
    ("publish.to", [], ()),
    ("publish.pinning_service_url", "https://pins.example/psa", "https://pins.example/psa"),
    ("publish.pinning_service_token_file", "token", Path("/base/token")),
    ("publish.pinata_url", "https://pins.example", "https://pins.example"),
    ("publish.pinata_token_file", "token", Path("/base/token")),
    ("publish.filebase_url", "https://pins.example", "https://pins.example"),
    ("publish.filebase_token_file", "token", Path("/base/token")),
    ("inference.engine", "genai", "genai"),
    ("inference.provider", "cuda", "cuda"),
    ("inference.openai_url", "http://127.0.0.1:8000/", "http://127.0.0.1:8000"),
    ("inference.openai_key_file", "key", Path("/base/key")),
    ("inference.openai_key_file", "", None),
    ("inference.openai_style", "llamacpp", "llamacpp"),
    ("performer.definitions", [0, 7, 65535], (0, 7, 65535)),
    ("services.execution_url", "http://127.0.0.1:4003/task/execute/", "http://127.0.0.1:4003/task/execute"),
    ("services.feed_hosts", ["api.example.org", "127.0.0.1:8080"], ("api.example.org", "127.0.0.1:8080")),
    ("aggregator.batch_seconds", 1, 1.0),
    ("log.format", "console", "console"),
]


@pytest.mark.parametrize(("name", "raw", "expected"), GOOD, ids=lambda value: str(value)[:32])
def test_a_value_in_range_is_taken(name: str, raw: Any, expected: Any) -> None:
    got = value_of(parse({name: raw}), name)
    is_address = expected is None and raw.startswith("0x")
    assert got == (bytes.fromhex(raw[2:]) if is_address else expected)


@pytest.mark.parametrize("store", ["kubo", "ipfshttpclient"])
def test_a_store_elsewhere_needs_its_url(store: str) -> None:
    with pytest.raises(ConfigError, match=r"^content\.kubo_url is missing"):
        parse({"content.store": store})
    assert parse({"content.store": store, "content.kubo_url": "http://a"}).content.store == store


NEEDS = {
    "kubo": ["content.kubo_url"],
    "pinning-service": ["content.kubo_url", "publish.pinning_service_url", "publish.pinning_service_token_file"],
    "pinata": ["publish.pinata_url", "publish.pinata_token_file"],
    "filebase": ["publish.filebase_url", "publish.filebase_token_file"],
    "eigenda": ["content.eigenda_url"],
}


@pytest.mark.parametrize("service", NEEDS)
def test_a_service_to_publish_to_needs_its_settings(service: str) -> None:
    given = dict.fromkeys(NEEDS[service], "http://a")
    assert parse({"publish.to": [service], **given}).publish.to == (service,)
    for missing in given:
        with pytest.raises(ConfigError, match=rf'^{missing} is missing: publish.to has "{service}"'):
            parse({"publish.to": [service], **given, missing: None})


def test_an_engine_behind_a_url_needs_the_url() -> None:
    with pytest.raises(ConfigError, match=r"^inference\.openai_url is missing"):
        parse({"inference.engine": "openai"})
    assert parse({"inference.engine": "openai", "inference.openai_url": "http://a"}).inference.engine == "openai"


def test_a_home_folder_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    assert parse({"node.data_dir": "~/poi"}).node.data_dir == Path("/home/somebody/poi")


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    path = tmp_path / "folder" / "config.toml"
    path.write_text(EXAMPLE.read_text())
    node = config.load(path, {"POI_NODE__PASSWORD_FILE": "secret"}).node
    assert node.data_dir == tmp_path / "folder" / "data"
    assert node.keystore == tmp_path / "folder" / "keystore.json"
    assert node.password_file == tmp_path / "folder" / "secret"


def test_the_gateway_is_the_public_url_or_the_address() -> None:
    assert parse().http.gateway_url == "http://127.0.0.1:8700"
    assert parse({"http.host": "::1", "http.port": 1}).http.gateway_url == "http://[::1]:1"
    assert parse({"http.host": "0.0.0.0", "http.public_url": "http://a/"}).http.gateway_url == "http://a"


def test_an_empty_list_of_definitions_serves_all() -> None:
    assert parse().performer.serves(5)
    chosen = parse({"performer.definitions": [3]}).performer
    assert chosen.serves(3)
    assert not chosen.serves(5)


def test_a_config_is_frozen() -> None:
    with pytest.raises(AttributeError):
        parse().http.port = 1  # type: ignore[misc]


# --- what is refused -----------------------------------------------------------------------------
BAD = [
    ("network.chain_rpc", "ftp://node", "expected an http or https URL"),
    ("network.chain_rpc", "http://", "expected an http or https URL"),
    ("network.chain_rpc", "http://host:99999", "expected an http or https URL"),
    ("network.chain_rpc", 8545, "expected an http or https URL"),
    ("network.chain_id", 0, "expected an integer from 1 to 9007199254740991, got 0"),
    ("network.chain_id", "1", "expected an integer from 1 to 9007199254740991, got '1'"),
    ("network.chain_id", True, "expected an integer from 1 to 9007199254740991, got True"),
    ("network.attestation_center", "0x" + "00" * 20, "not zero"),
    ("network.attestation_center", "11" * 20, "0x and 40 hex digits"),
    ("network.task_escrow", "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAeD", "EIP-55 capitals right"),
    ("network.task_escrow", 7, "expected a contract's address"),
    ("node.data_dir", "", "expected a path, got ''"),
    ("performer.models_dir", "", "expected a path, got ''"),
    ("node.keystore", "a\0b", "expected a path"),
    ("node.password_file", 1, "expected a path, got 1"),
    ("p2p.listen", "/ip4/0.0.0.0/udp/9700", "expected a multiaddr like /ip4/0.0.0.0/tcp/9700, port 0 to 65535"),
    ("p2p.listen", "/ip4/0.0.0.0/tcp/65536", "expected a multiaddr"),
    ("p2p.listen", "/ip4/::/tcp/1", "expected a multiaddr"),
    ("p2p.listen", "/ip4/999.0.0.1/tcp/1", "expected a multiaddr"),
    ("http.host", "a host", "expected an IP address or a host name, got 'a host'"),
    ("http.port", 65536, "expected an integer from 0 to 65535, got 65536"),
    ("http.port", -1, "expected an integer from 0 to 65535, got -1"),
    ("http.public_url", "http://a/?key=1", "without user, query and fragment"),
    ("http.public_url", "http://user@a/", "without user, query and fragment"),
    ("http.public_url", "node.example", "expected an http or https URL"),
    ("content.max_bytes", 64 * 2**20 - 1, "expected an integer from 67108864 to 17592186044416 bytes, got 67108863"),
    ("content.max_bytes", 2**44 + 1, "expected an integer from 67108864 to 17592186044416 bytes"),
    ("content.store", "s3", 'expected one of "embedded", "kubo", "ipfshttpclient", got \'s3\''),
    ("content.private_networks", ["10.0.0.1/8"], "different networks like 10.0.0.0/8"),
    ("content.private_networks", "10.0.0.0/8", "expected a list"),
    ("content.sources", ["a"], "different URLs or multiaddrs"),
    ("content.sources", ["/ip4/1.2.3.4"], "different URLs or multiaddrs"),
    ("content.sources", ["http://a/" + "a" * 250], "of at most 256 characters"),
    ("content.sources", [f"http://a/{n}" for n in range(9)], "at most 8 different"),
    ("content.kubo_url", "http://user@a", "without user, query and fragment"),
    ("content.kubo_auth_file", "a\0b", 'expected a path, or "", got'),
    ("content.gateways", [""], "different http or https URLs"),
    ("content.gateways", ["https://a?key=b"], "without user, query and fragment"),
    ("content.gateways", [f"http://a/{n}" for n in range(17)], "at most 16 different"),
    ("content.eigenda_url", "a:3100", "expected an http or https URL"),
    ("publish.to", ["s3"], 'expected a list of some of "kubo"'),
    ("publish.to", "kubo", 'expected a list of some of "kubo"'),
    ("publish.to", ["kubo", "kubo"], 'expected a list of some of "kubo"'),
    ("publish.pinning_service_url", "ftp://a", "expected an http or https URL"),
    ("publish.pinning_service_token_file", "a\0b", 'expected a path, or "", got'),
    ("publish.pinata_url", "ftp://a", "expected an http or https URL"),
    ("publish.pinata_token_file", "a\0b", 'expected a path, or "", got'),
    ("publish.filebase_url", "ftp://a", "expected an http or https URL"),
    ("publish.filebase_token_file", "a\0b", 'expected a path, or "", got'),
    ("inference.engine", "tensorrt", 'expected one of "onnx", "genai", "openai", got \'tensorrt\''),
    ("inference.genai_dir", "", "expected a path, got ''"),
    ("inference.openai_url", "ftp://server", "expected an http or https URL"),
    ("inference.openai_key_file", "a\0b", 'expected a path, or "", got'),
    ("inference.openai_style", "tgi", 'expected one of "vllm", "openai", "llamacpp", got \'tgi\''),
    ("inference.provider", "tpu", 'expected one of "cpu", "cuda", got \'tpu\''),
    ("inference.threads", 257, "expected an integer from 0 to 256 threads, got 257"),
    ("inference.max_loaded_bytes", 1e9, "expected an integer from 16777216 to 1099511627776 bytes"),
    ("performer.max_open_tasks", 1025, "expected an integer from 1 to 1024 tasks, got 1025"),
    ("services.execution_url", "ftp://service", "an http or https URL"),
    ("services.validation_url", "http://user@service", "an http or https URL"),
    ("services.feed_hosts", "api.example.org", "expected a list"),
    ("services.feed_hosts", ["https://api.example.org"], "different hosts"),
    ("services.feed_hosts", ["a", "a"], "different hosts"),
    ("performer.definitions", [65536], "different integers from 0 to 65535"),
    ("performer.definitions", [1, 1], "different integers"),
    ("performer.definitions", list(range(1025)), "at most 1024"),
    ("performer.definitions", [[1]], "different integers"),
    ("performer.definitions", 1, "expected a list"),
    ("attester.max_concurrent", 0, "expected an integer from 1 to 64 tasks, got 0"),
    ("aggregator.batch_seconds", 0.049, "expected a number from 0.05 to 600 seconds, got 0.049"),
    ("aggregator.batch_seconds", float("nan"), "expected a number from 0.05 to 600 seconds, got nan"),
    ("aggregator.batch_seconds", float("inf"), "expected a number from 0.05 to 600 seconds, got inf"),
    ("aggregator.batch_seconds", True, "expected a number"),
    ("aggregator.max_batch", 129, "expected an integer from 1 to 128 certificates, got 129"),
    ("aggregator.max_fee_gwei", 0, "expected a number from 0.001 to 100000 gwei, got 0"),
    ("log.level", "INFO", 'expected one of "debug", "info", "warning", "error", got \'INFO\''),
    ("log.format", ["json"], 'expected one of "json", "console"'),
]


@pytest.mark.parametrize(("name", "raw", "message"), BAD, ids=lambda value: str(value)[:32])
def test_a_value_out_of_range_is_refused_with_the_range(name: str, raw: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse({name: raw})
    assert str(caught.value).startswith(f"settings: {name}: expected ")
    assert message in str(caught.value)


def test_every_setting_has_a_bad_value_above() -> None:
    assert {name for name, _, _ in BAD} == set(SETTINGS)


@pytest.mark.parametrize("name", REQUIRED)
def test_a_missing_setting_is_named_with_its_variable(name: str) -> None:
    with pytest.raises(ConfigError, match=f"^{name} is missing: set it or {SETTINGS[name].variable} to "):
        parse({name: None})


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("network.chain_rcp", "network.chain_rpc"),
        ("http.prot", "http.port"),
        ("http.max_bytes", "content.max_bytes"),  # the right key in the wrong section
        ("node.port", "http.port"),
        ("log.zzz", "log."),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest(name: str, suggestion: str) -> None:
    with pytest.raises(ConfigError, match=f"^settings: {name} is unknown; did you mean {suggestion}"):
        parse({name: 1})


def test_an_unknown_section_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"section \[aggregater\] is unknown; did you mean \[aggregator\]\?"):
        parse({"aggregater.max_batch": 1})


def test_a_key_outside_any_section_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"http: expected a section \[http\], got 8700"):
        config.parse({"http": 8700}, base=Path())


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_a_gateway_that_nobody_can_reach_is_refused(host: str) -> None:
    with pytest.raises(ConfigError, match=r"http.public_url is missing: nobody can reach"):
        parse({"http.host": host})


def test_an_api_key_is_never_shown() -> None:
    with pytest.raises(ConfigError) as caught:
        parse({"network.chain_rpc": "wss://rpc.example/SECRET"})
    assert "SECRET" not in str(caught.value)
    shown = repr(parse({"network.chain_rpc": "https://SECRET:SECRET@rpc.example/SECRET?SECRET"}))
    assert "SECRET" not in shown
    assert "https://rpc.example" in shown


def test_an_error_shows_a_bounded_value() -> None:
    with pytest.raises(ConfigError) as caught:
        parse({"log.level": "x" * 10_000})
    assert len(str(caught.value)) < 250


# --- the environment -----------------------------------------------------------------------------
def test_the_environment_wins_over_the_file() -> None:
    parsed = parse(
        {"http.port": 1},
        POI_HTTP__PORT="8701",
        POI_LOG__LEVEL="debug",
        POI_PERFORMER__DEFINITIONS="[1, 2]",
        POI_AGGREGATOR__BATCH_SECONDS="0.5",
        POI_NETWORK__CHAIN_RPC="http://elsewhere:1",
    )
    assert parsed.http.port == 8701
    assert parsed.log.level == "debug"
    assert parsed.performer.definitions == (1, 2)
    assert parsed.aggregator.batch_seconds == 0.5
    assert parsed.network.chain_rpc == "http://elsewhere:1"


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_can_come_from_the_environment(name: str) -> None:
    literal = tomllib.loads(EXAMPLE.read_text())
    section, key = name.split(".")
    environ = {SETTINGS[name].variable: str(literal[section][key])}
    parsed = config.parse(tables({name: None}), base=EXAMPLE.parent, environ=environ)
    assert value_of(parsed, name) == value_of(config.load(EXAMPLE, {}), name)


@pytest.mark.parametrize("text", ["", "abc", "99999", "1\nx = 2", "[1]", "true", "8700.0"])
def test_a_bad_variable_is_named(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^environment: POI_HTTP__PORT: expected an integer from 0 to 65535, got "):
        parse(POI_HTTP__PORT=text)


@pytest.mark.parametrize(
    ("variable", "suggestion"),
    [("POI_HTTP__PROT", "POI_HTTP__PORT"), ("POI_HTPP__PORT", "POI_HTTP__PORT"), ("POI_http__port", "POI_HTTP__PORT")],
)
def test_an_unknown_variable_is_refused_with_the_nearest(variable: str, suggestion: str) -> None:
    with pytest.raises(ConfigError, match=f"^environment: {variable} is unknown; did you mean {suggestion}"):
        config.parse(tables(), base=Path(), environ={variable: "1"})


def test_variables_of_others_are_let_be() -> None:
    # The second is what Kubernetes sets for a service called poi-http.
    assert parse(PATH="/bin", POI_HTTP_PORT="tcp://10.0.0.1:80", OTHER__KEY="1") == parse()


# --- the file ------------------------------------------------------------------------------------
def test_a_missing_file_points_to_the_example(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"does not exist; start from a copy of config\.example\.toml"):
        config.load(tmp_path / "config.toml", {})


@pytest.mark.parametrize("data", [b"[network", b"a = 1\na = 2\n", b"\xff"])
def test_a_file_that_is_not_toml_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=r"config\.toml is not TOML: "):
        config.load(path, {})


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"read .*: Is a directory"):
        config.load(tmp_path, {})


toml_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(deadline=None)
@given(st.sampled_from(sorted(SETTINGS)), toml_values.filter(lambda value: value is not None))
def test_any_value_is_taken_or_refused_by_name(name: str, value: Any) -> None:
    said = ""
    try:
        parse({name: value})
    except ConfigError as error:
        said = str(error)
    assert not said or f"{name}: expected " in said or "http.public_url" in said


def test_reading_settings_imports_nothing_heavy() -> None:
    check = (
        "import sys, shared.config; print(*{'web3', 'libp2p', 'trio', 'eth_account', 'onnxruntime'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == ""
