"""Amounts of coin and moments as people write and read them; exact, to the wei."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation

from shared.errors import ConfigError
from shared.types import Address

WEI_DIGITS = 18
ETHER = 10**WEI_DIGITS
MAX_ETHER = 10**10  # beyond the coin of any chain
LATEST_SHOWN = 253402300799  # the end of the year 9999; the chain's own bound is 2^64


def wei(text: str, what: str) -> int:
    """From ether with a decimal point. Raises `ConfigError`: an amount is never rounded."""
    try:
        amount = Decimal(text)
    except InvalidOperation:
        raise _wrong(text, what, "expected ether, like 0.25") from None
    if not amount.is_finite() or not 0 < amount <= MAX_ETHER:
        raise _wrong(text, what, f"expected more than 0 and at most {MAX_ETHER:,} ether")
    exponent = amount.as_tuple().exponent
    if isinstance(exponent, int) and exponent < -WEI_DIGITS:
        raise _wrong(text, what, f"expected at most {WEI_DIGITS} digits after the point")
    return int(amount.scaleb(WEI_DIGITS))


def ether(amount_wei: int) -> str:
    """With every digit there is, and none that says nothing."""
    whole, part = divmod(abs(amount_wei), ETHER)
    digits = f"{part:0{WEI_DIGITS}d}".rstrip("0")
    sign = "-" if amount_wei < 0 else ""
    return f"{sign}{whole}.{digits}" if digits else f"{sign}{whole}"


def moment(unix_seconds: int) -> str:
    """In UTC."""
    if unix_seconds > LATEST_SHOWN:
        return "never"
    return datetime.fromtimestamp(unix_seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def account(text: str, what: str) -> Address:
    """Raises `ConfigError`."""
    try:
        data = bytes.fromhex(text.removeprefix("0x"))
    except ValueError:
        data = b""
    if len(data) != 20 or not text.startswith("0x"):
        raise _wrong(text, what, "expected an address: 0x and 40 hexadecimal digits")
    return Address(data)


def _wrong(text: str, what: str, expected: str) -> ConfigError:
    return ConfigError(f"{what} is {text[:80]!r}; {expected}")
