"""This node's WireGuard key: from a variable, from a 0600 file, or made at the first start.

The key is the node's identity in the mesh: its public half must stand on the node's token.
"""

import os
import stat
from pathlib import Path

from dstack_vpn.config import Settings
from dstack_vpn.errors import HostError, SettingError
from dstack_vpn.mesh.keys import PrivateKey
from dstack_vpn.variables import KEY_FILE_VARIABLE

ACCEPTED = "44 characters of base64, as `dstack-vpn keys generate` or `wg genkey` make them"


def load_identity(settings: Settings, *, create: bool = True) -> PrivateKey:
    """Load the key, or make one when none was configured and the default file is absent.

    Args:
        settings: say where the key is.
        create: False never writes; the made key is then forgotten (for a dry run).

    Raises:
        SettingError: malformed key, unreadable file, or a file that others can read.
        HostError: the state directory cannot be written.
    """
    if settings.wireguard_key is not None:
        return _parse("WIREGUARD_PRIVATE_KEY", settings.wireguard_key)
    path = settings.wireguard_key_file
    if not path.exists():
        if path != settings.default_key_file:
            accepted = "a file of mode 0600; `dstack-vpn keys generate --out FILE` makes one"
            raise SettingError(KEY_FILE_VARIABLE, f"names no file ({path})", accepted)
        key = PrivateKey.generate()
        if create:
            write_key_file(path, key)
        return key
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o077:
            problem = f"names {path}, which others can read or write (mode {mode:04o})"
            raise SettingError(KEY_FILE_VARIABLE, problem, f"mode 0600; try: chmod 600 {path}")
        text = path.read_text(encoding="ascii").strip()
    except UnicodeDecodeError:
        raise SettingError(KEY_FILE_VARIABLE, "holds no text key", ACCEPTED) from None
    except OSError as error:
        problem = f"cannot be read ({path}: {error.strerror})"
        raise SettingError(KEY_FILE_VARIABLE, problem, "a readable file of mode 0600") from None
    return _parse(KEY_FILE_VARIABLE, text)


def write_key_file(path: Path, key: PrivateKey, *, overwrite: bool = False) -> None:
    """Write a private key, mode 0600, its directory 0700; never over another key by accident.

    Raises:
        HostError: the file exists and `overwrite` is off, or it cannot be written.
    """
    exclusive = 0 if overwrite else os.O_EXCL
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | exclusive, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            os.fchmod(descriptor, 0o600)
            file.write(key.reveal() + "\n")
            file.flush()
            os.fsync(descriptor)
    except OSError as error:
        raise HostError(f"the key file {path} cannot be written: {error.strerror}") from None


def _parse(setting: str, text: str) -> PrivateKey:
    try:
        return PrivateKey.parse(text)
    except ValueError:
        raise SettingError(setting, "holds no WireGuard private key", ACCEPTED) from None
