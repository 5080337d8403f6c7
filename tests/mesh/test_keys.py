"""Keys: one canonical text for 32 bytes, and a private key that never shows itself."""

import base64
import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstack_vpn.mesh.keys import PrivateKey, PublicKey, decode_base64_key

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"

raw_keys = st.binary(min_size=32, max_size=32).filter(any)

# RFC 7748, section 6.1: private and public keys of Alice and of Bob.
RFC_7748 = [
    (
        "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a",
        "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a",
    ),
    (
        "5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb",
        "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f",
    ),
]


def aliases(text: str) -> list[str]:
    """The four texts that decode to the same key, the canonical one first."""
    place = ALPHABET.index(text[42])
    return [text[:42] + ALPHABET[place + spare] + "=" for spare in range(4)]


@given(raw_keys)
def test_round_trip(raw: bytes) -> None:
    """A key survives being written and read, as text and as hex."""
    key = PublicKey(raw)
    assert PublicKey.parse(key.text) == key
    assert str(key) == key.text
    assert key.hex == raw.hex()


@given(raw_keys)
def test_aliases_are_refused(raw: bytes) -> None:
    """Of the four base64 texts of one key, only the canonical one is a key."""
    canonical, *others = aliases(PublicKey(raw).text)
    assert {base64.b64decode(text) for text in [canonical, *others]} == {raw}
    assert decode_base64_key(canonical) == raw
    for other in others:
        with pytest.raises(ValueError, match="canonical base64"):
            PublicKey.parse(other)
        with pytest.raises(ValueError, match="canonical base64"):
            PrivateKey.parse(other)


@given(st.text())
def test_any_text_is_a_key_or_a_value_error(text: str) -> None:
    """Hostile text gives a key whose text it is, or ValueError, and nothing else."""
    try:
        key = PublicKey.parse(text)
    except ValueError:
        return
    assert key.text == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "A" * 43,
        base64.b64encode(b"k" * 31).decode(),
        base64.b64encode(b"k" * 33).decode(),
        base64.urlsafe_b64encode(b"\xff" * 32).decode(),
        base64.b64encode(b"k" * 32).decode() + "\n",
        " " + base64.b64encode(b"k" * 32).decode(),
        base64.b64encode(b"k" * 32).decode().rstrip("="),
        "é" * 44,
    ],
)
def test_what_is_no_key(text: str) -> None:
    """Wrong length, wrong alphabet and stray white space are refused, not repaired."""
    with pytest.raises(ValueError, match="WireGuard key"):
        PublicKey.parse(text)


def test_zero_is_no_key() -> None:
    """The key of zeroes, which the contract stores for "none", is never a key."""
    zeroes = base64.b64encode(bytes(32)).decode()
    for parse in (PublicKey.parse, PrivateKey.parse):
        with pytest.raises(ValueError, match="zero"):
            parse(zeroes)


@pytest.mark.parametrize(("private", "public"), RFC_7748)
def test_public_key_of_rfc_7748(private: str, public: str) -> None:
    """The public key is the one that RFC 7748 derives."""
    assert PrivateKey(bytes.fromhex(private)).public.hex == public


def test_generated_keys_are_clamped() -> None:
    """A made key is clamped as Curve25519 asks, so that every tool derives one public key."""
    keys = [PrivateKey.generate() for _ in range(50)]
    assert len({k.raw for k in keys}) == 50
    assert {0} == {k.raw[0] & 7 for k in keys}
    assert {64} == {k.raw[31] & 192 for k in keys}


@given(raw_keys)
def test_private_key_never_shows_itself(raw: bytes) -> None:
    """Neither repr, str nor format of a private key holds it; only `reveal` does."""
    key = PrivateKey(raw)
    shown = f"{key!r} {key} {[key]} { ({'key': key}) }"
    assert repr(key) == "PrivateKey()"
    for secret in (key.reveal(), raw.hex(), repr(raw)[2:-1]):
        assert secret not in shown
    assert PrivateKey.parse(key.reveal()) == key


@given(raw_keys, st.sampled_from(["longer", "shorter", "alias", "letters"]))
def test_errors_never_quote_a_private_key(raw: bytes, how: str) -> None:
    """A private key with a typing mistake is refused without being quoted, traceback included."""
    text = PrivateKey(raw).reveal()
    wrong = {
        "longer": text + "A",
        "shorter": text[:-2],
        "alias": aliases(text)[1],
        "letters": text[:20] + "*" + text[21:],
    }[how]
    with pytest.raises(ValueError, match="WireGuard") as caught:
        PrivateKey.parse(wrong)
    told = "".join(traceback.format_exception(caught.value))
    assert text[:12] not in told
    assert wrong not in told


def test_keys_are_ordered_by_their_bytes() -> None:
    """Sorting by key is the same on every node, whatever base64 says."""
    raws = sorted(bytes([first]) + b"k" * 31 for first in (0, 1, 62, 63, 104, 252, 255))
    assert [k.raw for k in sorted(PublicKey(raw) for raw in reversed(raws))] == raws
