"""Arguments to values."""

import pytest
from eth_utils.address import to_checksum_address
from hypothesis import given
from hypothesis import strategies as st

from dstack_vpn.chain.checksum import to_checksum
from dstack_vpn.cli.parse import parse_address, parse_node_ref, parse_time
from dstack_vpn.errors import SettingError

NOW = 1_700_000_000.9


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("never", 0),
        ("+90s", 1_700_000_090),
        ("+2w", 1_701_209_600),
        ("1800000000", 1_800_000_000),
        ("2030-01-31", 1_896_048_000),
        ("2030-01-31T12:00:00Z", 1_896_091_200),
        ("2030-01-31T12:00:00+02:00", 1_896_084_000),
    ],
)
def test_times(text: str, seconds: int) -> None:
    """A moment can be said in four ways; without a zone it is UTC."""
    assert parse_time("--until", text, now=NOW) == seconds


@pytest.mark.parametrize(
    "text", ["", "0", "-5", "+5", "+5y", "1e9", "٣", "1960-01-01", "18446744073709551616"]
)
def test_times_that_are_none(text: str) -> None:
    """Anything else names the option and what it takes."""
    with pytest.raises(SettingError, match=r"^--until is .*; accepted: never"):
        parse_time("--until", text, now=NOW)


@given(st.binary(min_size=20, max_size=20))
def test_checksums_are_those_of_eip_55(raw: bytes) -> None:
    """Our few lines write what the Ethereum library writes."""
    assert to_checksum("0x" + raw.hex()) == to_checksum_address(raw)


def test_addresses() -> None:
    """One case is taken as it is; mixed case must be right."""
    right = "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266"
    for text in (right, right.lower(), "0x" + right[2:].upper()):
        assert parse_address("--to", text) == right.lower()
    with pytest.raises(SettingError, match="typing error"):
        parse_address("--to", right.replace("Fb", "fb"))


@pytest.mark.parametrize(
    ("text", "name", "number"),
    [
        ("node-a", "node-a", None),
        ("7", "7", 7),
        ("#7", None, 7),
        ("#node-a", None, None),
        ("\u0667", "\u0667", None),
        ("9" * 77, "9" * 77, 10**77 - 1),
        ("9" * 78, "9" * 78, None),
    ],
)
def test_a_node_by_its_name_or_its_token(text: str, name: str | None, number: int | None) -> None:
    """Digits may be either, after # they are a token id, and none is past what a token id holds."""
    assert parse_node_ref(text) == (name, number)
