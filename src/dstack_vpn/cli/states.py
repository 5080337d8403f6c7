"""Where a node has its configuration file and the earlier states, for the command line."""

from dataclasses import dataclass
from pathlib import Path

from dstack_vpn.config import read_setting
from dstack_vpn.errors import HostError, UserError
from dstack_vpn.wireguard.backups import BACKUPS_DIRECTORY, Backup, Backups, text_of
from dstack_vpn.wireguard.conftext import Conf, read_conf


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a node has its configuration file and the earlier states."""

    state_dir: Path
    file: Path
    backups: Backups

    @classmethod
    def find(cls, env_file: Path | None) -> "Place":
        """By the settings.

        Raises:
            SettingError: one of them is malformed.
        """
        state_dir: Path = read_setting("STATE_DIR", env_file)
        interface: str = read_setting("WG_INTERFACE", env_file)
        file: Path | None = read_setting("WG_CONFIG_FILE", env_file)
        return cls(
            state_dir=state_dir,
            file=file or state_dir / f"{interface}.conf",
            backups=Backups(state_dir / BACKUPS_DIRECTORY),
        )

    def states(self) -> tuple[Backup, ...]:
        """All states, the newest last.

        Raises:
            HostError: we may not look.
        """
        try:
            return self.backups.states()
        except OSError as error:
            raise unreadable(self.backups.directory, error) from None

    def state(self, number: int) -> Backup:
        """One state.

        Raises:
            UserError: there is none of that number.
        """
        states = self.states()
        for state in states:
            if state.number == number:
                return state
        has = f"{states[0].number} to {states[-1].number}, see" if states else "none so far, see"
        raise UserError(
            f"STATE {number} is not in {self.backups.directory}; accepted: {has} dstack-vpn config"
            " list"
        )

    def read(self, number: int | None) -> "Shown":
        """A state, or for None what is in force.

        Raises:
            UserError: there is none.
        """
        if number is not None:
            state = self.state(number)
            return Shown.of(f"state {number}", state.path)
        return Shown.of("in force", self.file)


@dataclass(frozen=True, slots=True)
class Shown:
    """A file that was read."""

    name: str
    path: Path
    text: str
    conf: Conf

    @classmethod
    def of(cls, name: str, path: Path) -> "Shown":
        """Read a file.

        Raises:
            UserError: there is none.
        """
        text = read_file(path)
        return cls(name, path, text, read_conf(text))


def read_file(path: Path) -> str:
    """The text of a configuration file.

    Raises:
        UserError: there is none, or we may not look.
    """
    try:
        return text_of(path)
    except FileNotFoundError:
        raise UserError(
            f"there is no {path}; accepted: the STATE_DIR and WG_CONFIG_FILE of a node that is"
            " running"
        ) from None
    except OSError as error:
        raise unreadable(path, error) from None


def unreadable(path: Path, error: OSError) -> HostError:
    """What is said where we may not look."""
    return HostError(
        f"{path} cannot be read ({error.strerror}); accepted: one that this process can read"
    )
