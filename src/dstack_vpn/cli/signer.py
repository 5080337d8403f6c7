"""The account that signs: a private key from a variable or a file, or an encrypted key file.

Never from the command line, which other processes can read. The key's text goes into no message.
"""

import getpass
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from dstack_vpn.config import read_variables, why_unreadable
from dstack_vpn.errors import SettingError
from dstack_vpn.identity import check_private
from dstack_vpn.variables import Variable

if TYPE_CHECKING:
    from eth_account.signers.local import LocalAccount

KEY = Variable(
    name="CONTRACT_PRIVATE_KEY",
    field="contract_private_key",
    parse=str,
    accepted="an Ethereum private key: 64 hex digits, with or without 0x",
    meaning=(
        "Key of the account that signs changes to the contract; only the command line needs one."
        " Better is CONTRACT_PRIVATE_KEY_FILE, a file of mode 0600."
    ),
    secret=True,
)
KEYSTORE = Variable(
    name="CONTRACT_KEYSTORE",
    field="contract_keystore",
    parse=Path,
    accepted="the path of an encrypted key file (Web3 Secret Storage, version 3)",
    meaning="The same, encrypted with a password; --keystore comes before it.",
)
PASSWORD_FILE = Variable(
    name="CONTRACT_KEYSTORE_PASSWORD_FILE",
    field="contract_keystore_password_file",
    parse=Path,
    accepted="the path of a file of mode 0600",
    meaning="File with the password of the key file; without one it is asked for.",
)
VARIABLES = (KEY, KEYSTORE, PASSWORD_FILE)
"""What writes need beside the settings of a node."""

_KEY_FILE = f"{KEY.name}_FILE"


def load_account(env_file: Path | None, keystore: Path | None) -> "LocalAccount":
    """Find the account that signs.

    Args:
        env_file: where variables are looked for too, after the process's own.
        keystore: an encrypted key file, which comes before everything else.

    Raises:
        SettingError: there is none, or it cannot be used.
    """
    values = read_variables(env_file=env_file)
    given = {name: values.get(name, "").strip() for name in (KEY.name, _KEY_FILE, KEYSTORE.name)}
    if keystore is not None:
        return _decrypt("--keystore", keystore, values)
    chosen = [name for name, text in given.items() if text]
    if not chosen:
        raise SettingError(
            KEY.name,
            "is missing, and a change to the contract must be signed",
            f"{KEY.accepted}; or {_KEY_FILE}, or --keystore FILE",
        )
    if len(chosen) > 1:
        raise SettingError(" and ".join(chosen), "are set together", "one of them")
    name = chosen[0]
    if name == KEYSTORE.name:
        return _decrypt(name, Path(given[name]), values)
    text = given[name] if name == KEY.name else _read_private(name, Path(given[name]), KEY.accepted)
    return _account(name, text)


def _account(setting: str, text: str) -> "LocalAccount":
    digits = text.removeprefix("0x")
    try:
        raw = bytes.fromhex(digits) if digits.isascii() and len(digits) == 64 else b""
        return _from_key(raw)
    except Exception:  # noqa: BLE001 - whatever the library says of a key may quote it
        raise SettingError(setting, "holds no usable private key", KEY.accepted) from None


def _decrypt(setting: str, path: Path, values: dict[str, str]) -> "LocalAccount":
    from eth_account import Account  # noqa: PLC0415 - late, as below

    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        problem = f"cannot be read ({path}: {error.strerror})"
        raise SettingError(setting, problem, KEYSTORE.accepted) from None
    except ValueError:
        raise SettingError(setting, f"names no key file ({path})", KEYSTORE.accepted) from None
    password = _password(path, values)
    try:
        return _from_key(Account.decrypt(content, password))
    except Exception as error:  # noqa: BLE001 - a malformed file can fail there in many ways
        if "MAC" in str(error):
            problem, accepted = f"does not open {path}", "the one it was encrypted with"
            raise SettingError("the password", problem, accepted) from None
        raise SettingError(setting, f"names no key file ({path})", KEYSTORE.accepted) from None


def _from_key(raw: bytes) -> "LocalAccount":
    from eth_account import Account  # noqa: PLC0415 - a second of imports, for writes only

    account: LocalAccount = Account.from_key(raw)
    return account


def _password(path: Path, values: dict[str, str]) -> str:
    if file := values.get(PASSWORD_FILE.name, "").strip():
        return _read_private(PASSWORD_FILE.name, Path(file), PASSWORD_FILE.accepted)
    if not sys.stdin.isatty():
        problem = "is missing, and there is no terminal to ask for the password"
        raise SettingError(PASSWORD_FILE.name, problem, PASSWORD_FILE.accepted)
    return getpass.getpass(f"Password of {path}: ")


def _read_private(setting: str, path: Path, accepted: str) -> str:
    try:
        check_private(setting, path)
        return path.read_text(encoding="utf-8").strip()
    except UnicodeDecodeError:
        raise SettingError(setting, f"holds no text ({path})", accepted) from None
    except (OSError, ValueError) as error:
        problem = f"cannot be read ({path}: {why_unreadable(error, 'no path')})"
        raise SettingError(setting, problem, accepted) from None
