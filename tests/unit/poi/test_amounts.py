"""What people type and read: amounts, accounts, moments, and refusals."""

from __future__ import annotations

from pathlib import Path

import pytest

from poi import fees
from poi.advice import explained
from poi.amounts import account, ether, moment, wei
from shared.crypto.ecdsa import SecretKey
from shared.errors import ConfigError, Reverted

ETHER = 10**18


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("1", ETHER),
        ("32.5", 325 * ETHER // 10),
        ("0.000000000000000001", 1),
        ("1e-18", 1),
        ("123456789.000000000000000001", 123456789 * ETHER + 1),
    ],
)
def test_ether_is_read_to_the_wei(text: str, amount: int) -> None:
    assert wei(text, "--amount") == amount
    assert wei(ether(amount), "--amount") == amount


@pytest.mark.parametrize(
    "text", ["", "0", "-1", "nan", "inf", "1e11", "1e999999", "ten", "1,5", "0.0000000000000000001"]
)
def test_what_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^--amount is .*; expected "):
        wei(text, "--amount")


@pytest.mark.parametrize(
    ("amount", "text"),
    [(0, "0"), (1, "0.000000000000000001"), (ETHER, "1"), (15 * ETHER // 10, "1.5"), (-1, "-0.000000000000000001")],
)
def test_ether_is_shown_with_every_digit(amount: int, text: str) -> None:
    assert ether(amount) == text


def test_an_account_is_0x_and_40_digits() -> None:
    assert account("0x" + "0a" * 20, "ADDRESS") == b"\x0a" * 20
    for text in ("0a" * 20, "0x" + "0a" * 19, "0x" + "0a" * 21, "0x" + "zz" * 20, ""):
        with pytest.raises(ConfigError, match="expected an address"):
            account(text, "ADDRESS")


def test_a_moment_that_no_calendar_has_is_shown_too() -> None:
    assert moment(1_700_000_000) == "2023-11-14 22:13:20 UTC"
    assert moment(2**64 - 1) == "never"


def test_a_refusal_says_what_to_do() -> None:
    error = explained(Reverted("StillBonded", ("0xabc", 1_700_000_000)))
    assert (error.name, error.arguments) == ("StillBonded", ("0xabc", 1_700_000_000))
    assert str(error) == (
        "the contract refused (StillBonded): the stake is bound until 2023-11-14 22:13:20 UTC; try again then"
    )


@pytest.mark.parametrize("error", [Reverted("SomethingNew", (1,)), Reverted("StillBonded", ())])
def test_a_refusal_that_nobody_foresaw_is_shown_as_it_is(error: Reverted) -> None:
    assert explained(error) is error


# --- keys of requesters ----------------------------------------------------------------------------
def test_a_requesters_key_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "requester.key"
    fees.write_key(path, b"\x07" * 32)
    assert path.stat().st_mode & 0o077 == 0
    assert fees.read_key(path).address == SecretKey(b"\x07" * 32).address
    path.write_text("0x" + "07" * 32)
    assert fees.read_key(path).address == SecretKey(b"\x07" * 32).address


@pytest.mark.parametrize("content", [b"", b"07" * 31, b"00" * 32, b"\xff" * 64, b"{}"])
def test_a_file_that_is_no_key_is_refused_and_not_shown(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "requester.key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(ConfigError) as caught:
        fees.read_key(path)
    assert str(caught.value) == f"key file {path}: expected 64 hexadecimal digits, the requester's secret key"


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "requester.key"
    fees.write_key(path, b"\x07" * 32)
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        fees.read_key(path)
