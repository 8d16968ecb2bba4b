"""What a setting may be. Every number has both bounds, and every rule says in words what it takes."""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from shared.constants import MAX_SOURCE_CHARACTERS, MAX_SOURCES
from shared.types import Address

MAX_URL_CHARACTERS = 2048
MAX_IDS = 1024
MAX_URLS = 16  # each costs a fetch its turn when nobody has the content


@dataclass(frozen=True, slots=True)
class Rule:
    """`expected` completes "expected …"; `parse` takes what TOML gave and raises ValueError or TypeError."""

    expected: str
    parse: Callable[[Any], object]
    is_text: bool = True  # an environment variable is taken as it is, else read as a TOML value
    is_shown: bool = True  # in errors


def integer(low: int, high: int, unit: str = "") -> Rule:
    """Both bounds are allowed."""

    def parse(value: Any) -> int:
        if type(value) is not int or not low <= value <= high:  # a bool is an int to Python
            raise ValueError
        return value

    return Rule(f"an integer from {low} to {high}{unit and f' {unit}'}", parse, is_text=False)


def number(low: float, high: float, unit: str) -> Rule:
    """Both bounds are allowed; neither NaN nor infinity is a number here."""

    def parse(value: Any) -> float:
        if type(value) not in (int, float) or not math.isfinite(value) or not low <= value <= high:
            raise ValueError
        return float(value)

    return Rule(f"a number from {low} to {high} {unit}", parse, is_text=False)


def choice(*values: str) -> Rule:
    """One of a few words."""

    def parse(value: Any) -> str:
        return values[values.index(value)]

    return Rule("one of " + ", ".join(f'"{value}"' for value in values), parse)


def choices(*values: str) -> Rule:
    """Some of a few words."""

    def parse(value: Any) -> tuple[str, ...]:
        if not isinstance(value, list) or len(set(value)) != len(value) or not set(value) <= set(values):
            raise ValueError
        return tuple(value)

    return Rule("a list of some of " + ", ".join(f'"{value}"' for value in values), parse, is_text=False)


def ids(high: int) -> Rule:
    """A list of distinct integers from 0 to `high`."""

    def parse(value: Any) -> tuple[int, ...]:
        if not isinstance(value, list) or len(value) > MAX_IDS or len(set(value)) != len(value):
            raise ValueError
        if any(type(item) is not int or not 0 <= item <= high for item in value):
            raise ValueError
        return tuple(value)

    return Rule(f"a list of at most {MAX_IDS} different integers from 0 to {high}", parse, is_text=False)


def _parse_url(value: Any) -> str:
    parts = urlsplit(value)
    is_plain = not parts.fragment and not re.search(r"\s", value) and len(value) <= MAX_URL_CHARACTERS
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0 or not is_plain:
        raise ValueError
    return str(value)


def _parse_public_url(value: Any) -> str:
    if value == "":
        return ""
    if urlsplit(value).query or urlsplit(value).username is not None:
        raise ValueError
    return _parse_url(value).rstrip("/")


def _parse_address(value: Any) -> Address:
    from eth_utils.address import is_checksum_address

    digits = re.fullmatch(r"0x([0-9a-fA-F]{40})", value)
    if digits is None or int(value, 16) == 0:
        raise ValueError
    if digits[1] not in (digits[1].lower(), digits[1].upper()) and not is_checksum_address(value):
        raise ValueError  # EIP-55: the capitals say that a digit is wrong
    return Address(bytes.fromhex(digits[1]))


def _parse_listen(value: Any) -> str:
    found = re.fullmatch(r"/ip([46])/([0-9a-fA-F.:]+)/tcp/(\d{1,5})", value)
    if found is None or ipaddress.ip_address(found[2]).version != int(found[1]) or int(found[3]) > 65535:
        raise ValueError
    return str(value)


def _parse_host(value: Any) -> str:
    if not re.fullmatch(r"[0-9A-Za-z.:-]{1,253}", value):
        raise ValueError
    return str(value)


def _parse_hosts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > MAX_IDS or len(set(value)) != len(value):
        raise ValueError
    return tuple(_parse_host(host) for host in value)


def _parse_urls(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > MAX_URLS or len(set(value)) != len(value) or "" in value:
        raise ValueError
    return tuple(_parse_public_url(url) for url in value)


def _parse_networks(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > MAX_IDS or len(set(value)) != len(value):
        raise ValueError
    return tuple(str(ipaddress.ip_network(network)) for network in value)


def _parse_sources(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > MAX_SOURCES or len(set(value)) != len(value):
        raise ValueError
    return tuple(_parse_source(source) for source in value)


def _parse_source(value: Any) -> str:
    if len(value) > MAX_SOURCE_CHARACTERS:
        raise ValueError
    if value.startswith("/"):
        if not re.fullmatch(r"/(?:ip4|ip6|dns|dns4|dns6)/[0-9A-Za-z.:-]+(?:/[0-9A-Za-z.-]+)+", value):
            raise ValueError
        return str(value)
    return _parse_public_url(value or None)


def _parse_path(value: Any) -> Path:
    if not value or "\0" in value:
        raise ValueError
    return Path(value).expanduser()


def _parse_optional_path(value: Any) -> Path | None:
    return None if value in ("", None) else _parse_path(value)


URL = Rule("an http or https URL", _parse_url, is_shown=False)  # RPC addresses often hold an API key
PUBLIC_URL = Rule('an http or https URL without user, query and fragment, or ""', _parse_public_url, is_shown=False)
CONTRACT = Rule("a contract's address (0x and 40 hex digits, not zero, EIP-55 capitals right if any)", _parse_address)
LISTEN = Rule("a multiaddr like /ip4/0.0.0.0/tcp/9700, port 0 to 65535", _parse_listen)
HOST = Rule("an IP address or a host name", _parse_host)
HOSTS = Rule(
    f"a list of at most {MAX_IDS} different hosts, with :PORT unless it is the scheme's own",
    _parse_hosts,
    is_text=False,
)
URLS = Rule(
    f"a list of at most {MAX_URLS} different http or https URLs without user, query and fragment",
    _parse_urls,
    is_text=False,
    is_shown=False,
)
NETWORKS = Rule(
    f"a list of at most {MAX_IDS} different networks like 10.0.0.0/8 or fd00::/8", _parse_networks, is_text=False
)
SOURCES = Rule(
    f"a list of at most {MAX_SOURCES} different URLs or multiaddrs of at most {MAX_SOURCE_CHARACTERS} characters",
    _parse_sources,
    is_text=False,
)
FILE = Rule("a path", _parse_path)
OPTIONAL_FILE = Rule('a path, or ""', _parse_optional_path)
