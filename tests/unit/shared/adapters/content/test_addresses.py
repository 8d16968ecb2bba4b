"""Whom a node connects to on a stranger's word: the whole table of special addresses, and their disguises."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.adapters.content.addresses import AddressPolicy, AddressRefused, is_public

NAT64 = IPv6Network("64:ff9b::/96")
PUBLIC = [
    "1.1.1.1",
    "8.8.8.8",
    "9.255.255.255",
    "11.0.0.0",
    "100.63.255.255",
    "100.128.0.0",
    "126.255.255.255",
    "128.0.0.0",
    "169.253.255.255",
    "169.255.0.0",
    "172.15.255.255",
    "172.32.0.0",
    "191.255.255.255",
    "192.0.1.0",
    "192.0.3.0",
    "192.167.255.255",
    "192.169.0.0",
    "198.17.255.255",
    "198.20.0.0",
    "223.255.255.255",
    "2000::",
    "2001:200::1",
    "2001:4860:4860::8888",
    "2606:4700:4700::1111",
    "3ffe::1",
    "64:ff9b::8.8.8.8",
]
REFUSED = {
    "this host": ["0.0.0.0", "0.0.0.1", "0.255.255.255", "::"],
    "loopback": ["127.0.0.1", "127.0.0.0", "127.255.255.255", "::1"],
    "private": ["10.0.0.0", "10.255.255.255", "172.16.0.0", "172.31.255.255", "192.168.0.0", "192.168.255.255"],
    "unique local": ["fc00::", "fd00:ec2::254", "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"],
    "link-local": ["169.254.0.0", "169.254.169.254", "169.254.255.255", "fe80::1", "febf::"],
    "site-local": ["fec0::1"],
    "of a provider": ["100.64.0.0", "100.100.100.200", "100.127.255.255"],
    "of a cloud": ["168.63.129.16"],
    "multicast": ["224.0.0.1", "239.255.255.255", "ff02::1", "ff0e::1"],
    "broadcast and reserved": ["240.0.0.0", "255.255.255.255"],
    "documentation": ["192.0.2.1", "198.51.100.1", "203.0.113.1", "2001:db8::1", "3fff::1", "3fff:fff::1"],
    "benchmarks": ["198.18.0.0", "198.19.255.255", "2001:2::1"],
    "protocol assignments": ["192.0.0.1", "192.0.0.192", "192.88.99.1", "2001:1::1", "2001:10::1", "2001:1ff::1"],
    "discard, dummy, segments": ["100::1", "100:0:0:1::1", "5f00::1"],
    "not given out": ["4000::1", "1::1", "e000::1", "200::1"],
    "IPv4 in IPv6": ["::ffff:127.0.0.1", "::ffff:8.8.8.8", "::ffff:0:127.0.0.1", "::127.0.0.1", "::8.8.8.8"],
    "NAT64": ["64:ff9b::127.0.0.1", "64:ff9b::10.0.0.1", "64:ff9b::169.254.169.254", "64:ff9b:0:0:1::8.8.8.8"],
    "local NAT64": ["64:ff9b:1::8.8.8.8", "64:ff9b:1::10.0.0.1", "64:ff9b:1:ffff::"],
    "6to4": ["2002:7f00:1::", "2002:a00:1::1", "2002:808:808::1"],
    "Teredo": ["2001:0:4136:e378:8000:63bf:80ff:fffe", "2001::1"],
}
NO_ADDRESSES = ["", "localhost", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "127.0.0.1.", "[::1]", "1.2.3.4/32"]


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_connected_to(address):
    AddressPolicy().check(address)


@pytest.mark.parametrize("address", [address for group in REFUSED.values() for address in group])
def test_all_others_are_not(address):
    with pytest.raises(AddressRefused, match=r"put its network into content\.private_networks"):
        AddressPolicy().check(address)


@pytest.mark.parametrize("text", NO_ADDRESSES)
def test_what_is_no_address_in_its_usual_form_is_refused_whatever_is_allowed(text):
    with pytest.raises(AddressRefused, match="at no IP address"):
        AddressPolicy(["0.0.0.0/0", "::/0"]).check(text)


@pytest.mark.parametrize("text", ["2606:4700:4700::1111%eth0", "::1%lo", "fe80::1%" + "x" * 1000])
def test_an_interface_is_nothing_for_strangers_to_name(text):
    with pytest.raises(AddressRefused, match=r"^its address names an interface of this machine$"):
        AddressPolicy(["::/0"]).check(text)


def test_a_listed_network_is_allowed_and_nothing_beside_it():
    policy = AddressPolicy(["10.1.0.0/16", "fd00:1::/32"])
    for address in ("10.1.0.0", "10.1.255.255", "fd00:1::1", "8.8.8.8"):
        policy.check(address)
    for address in ("10.0.255.255", "10.2.0.0", "fd00:2::1", "127.0.0.1", "::ffff:10.1.0.1", "64:ff9b::10.1.0.1"):
        with pytest.raises(AddressRefused):
            policy.check(address)


@given(st.ip_addresses())
def test_nothing_is_public_that_python_calls_special(address):
    """Beside the well-known prefix of NAT64, which is judged by what is inside."""
    special = ("is_private", "is_multicast", "is_reserved", "is_loopback", "is_link_local", "is_unspecified")
    if is_public(address) and address not in NAT64:
        assert [name for name in special if getattr(address, name)] == []


@given(st.ip_addresses(v=4))
def test_through_nat64_an_address_is_what_it_is_without(address):
    through = ip_address(f"64:ff9b::{address}")
    assert isinstance(through, IPv6Address)
    assert isinstance(address, IPv4Address)
    assert is_public(through) == is_public(address)
