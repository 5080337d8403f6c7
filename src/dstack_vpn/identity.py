"""This node's WireGuard key: from a variable, from a 0600 file, or made at the first start.

The key is the node's identity in the mesh: its public half must stand on the node's token.
"""

import contextlib
import os
import stat
from pathlib import Path

from dstack_vpn.config import Settings, why_unreadable
from dstack_vpn.errors import HostError, SettingError
from dstack_vpn.mesh.keys import PrivateKey
from dstack_vpn.variables import KEY_FILE_VARIABLE

MOUNTED_SECRETS = Path("/run/secrets")
"""Where Docker, Swarm and Compose mount secrets, with a mode of the engine's choice (mostly 0444).
Whoever could read them there is inside of the container already."""
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
    text = _read(settings.wireguard_key_file)
    if text is None:
        return _first_start(settings, create=create)
    return _parse(KEY_FILE_VARIABLE, text)


def _read(path: Path) -> str | None:
    """The text of a key file that only its owner can read; None when there is no file."""
    try:
        check_private(KEY_FILE_VARIABLE, path)
        return path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return None
    except UnicodeDecodeError:
        raise SettingError(KEY_FILE_VARIABLE, "holds no text key", ACCEPTED) from None
    except (OSError, ValueError) as error:
        problem = f"cannot be read ({_shown(path)}{why_unreadable(error, 'no path')})"
        raise SettingError(KEY_FILE_VARIABLE, problem, "a readable file of mode 0600") from None


def check_private(setting: str, path: Path, *, mounted: Path = MOUNTED_SECRETS) -> None:
    """Refuse a file with a secret that others than its owner can get at.

    Args:
        setting: that names the file.
        path: of the file.
        mounted: directory whose files may have any mode. What a link there leads to must lie there
            too, as it does where Kubernetes links a name to the newest version.

    Raises:
        SettingError: they can.
        OSError: there is no such file, or we may not look.
    """
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077 and not path.resolve().is_relative_to(mounted.resolve()):
        problem = f"names {path}, which others can read or write (mode {mode:04o})"
        raise SettingError(setting, problem, f"mode 0600; try: chmod 600 {path}")


def _first_start(settings: Settings, *, create: bool) -> PrivateKey:
    path = settings.wireguard_key_file
    if path != settings.default_key_file:
        accepted = "a file of mode 0600; `dstack-vpn keys generate --out FILE` makes one"
        problem = f"names no file ({_shown(path)}not found)"
        raise SettingError(KEY_FILE_VARIABLE, problem, accepted)
    key = PrivateKey.generate()
    if create:
        try:
            write_key_file(path, key)
        except HostError:
            # Another process that has this volume may have been faster: then its key is the node's.
            if (text := _read(path)) is None:
                raise
            return _parse(KEY_FILE_VARIABLE, text)
    return key


def _shown(path: Path) -> str:
    """The path for an error sentence, unless it looks like a key put where its path belongs."""
    return f"{path}: " if path.is_absolute() and not str(path).endswith("=") else ""


def write_key_file(path: Path, key: PrivateKey, *, overwrite: bool = False) -> None:
    """Write a private key, mode 0600, its directory 0700; never over another key by accident.

    Raises:
        HostError: the file exists and `overwrite` is off, or it cannot be written.
    """
    # Under another name first: a full disk or a kill leaves no half key, and no old key is lost.
    # By chance, for the processes of containers that share a volume have the same numbers. (What
    # `tempfile` does; that would load much into an agent which makes one file in its life.)
    draft = path.with_name(f".{path.name}.{os.urandom(16).hex()}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            os.fchmod(descriptor, 0o600)
            file.write(key.reveal() + "\n")
            file.flush()
            os.fsync(descriptor)
        if overwrite:
            draft.replace(path)
        else:
            path.hardlink_to(draft)
    except OSError as error:
        raise HostError(f"the key file {path} cannot be written: {error.strerror}") from None
    finally:
        with contextlib.suppress(OSError):
            draft.unlink()


def _parse(setting: str, text: str) -> PrivateKey:
    try:
        return PrivateKey.parse(text)
    except ValueError:
        raise SettingError(setting, "holds no WireGuard private key", ACCEPTED) from None
