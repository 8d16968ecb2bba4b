"""Whom of strangers' hosts this node connects to: public unicast addresses, and the networks that its operator lists.

Whoever registers a gateway chooses what every other node connects to: a service behind the other's firewall, the
metadata of its cloud, its own loopback. IANA's registries of special addresses are written out here, for what Python
calls global changes with its version, and is judged there by an address's outer form alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

_REFUSED_IPV4 = [
    IPv4Network(text)
    for text in (
        "0.0.0.0/8",  # this host: Linux connects to itself
        "10.0.0.0/8",
        "100.64.0.0/10",  # a provider's own (RFC 6598), some clouds' metadata among it
        "127.0.0.0/8",
        "168.63.129.16/32",  # public by its form, and the inside of its cloud for every machine there
        "169.254.0.0/16",  # link-local: the other clouds' metadata
        "172.16.0.0/12",
        "192.0.0.0/24",  # protocol assignments
        "192.0.2.0/24",  # documentation, as 198.51.100.0/24 and 203.0.113.0/24
        "192.88.99.0/24",  # relays of 6to4
        "192.168.0.0/16",
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and broadcast
    )
]
_UNICAST_IPV6 = IPv6Network("2000::/3")  # all that was ever given out; the rest is private, special or of the future
_REFUSED_IPV6 = [
    IPv6Network(text)
    for text in (
        "2001::/23",  # protocol assignments: Teredo, benchmarks, ORCHID, the rest anycast
        "2001:db8::/32",  # documentation, as 3fff::/20
        "2002::/16",  # 6to4: an IPv4 address inside
        "3fff::/20",
    )
]
# NAT64 (RFC 6052): the network itself leads it to the IPv4 address in the last 32 bits. The prefixes in 64:ff9b:1::/48
# are for local use and may lead anywhere.
_NAT64 = IPv6Network("64:ff9b::/96")


class AddressRefused(OSError):
    """An `OSError`, as all that keeps a connection from being made, so that the libraries between pass it on."""


class AddressPolicy:
    """`private_networks`: what is allowed beside public addresses, like 10.0.0.0/8 or fd00::/8."""

    def __init__(self, private_networks: Iterable[str] = ()) -> None:
        self._allowed = [ip_network(network) for network in private_networks]

    def check(self, address: str) -> None:
        """Raises `AddressRefused`, also for a text that is no IP address: something else would resolve it again."""
        try:
            parsed = ip_address(address)
        except ValueError:
            raise AddressRefused("its host is at no IP address in its usual form") from None
        if isinstance(parsed, IPv6Address) and parsed.scope_id is not None:
            raise AddressRefused("its address names an interface of this machine")
        if not is_public(parsed) and not any(parsed in network for network in self._allowed):
            raise AddressRefused(
                f"{parsed} is no public address; put its network into content.private_networks to fetch from there"
            )


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Whether it may be some machine's anywhere in the internet, and nothing nearer by another way."""
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _REFUSED_IPV4)
    if address in _NAT64:
        return is_public(IPv4Address(int(address) & 0xFFFFFFFF))
    return address in _UNICAST_IPV6 and not any(address in network for network in _REFUSED_IPV6)
