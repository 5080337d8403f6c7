"""Every exception that leaves the module it was raised in, in one tree.

::

    DstackVpnError
    ├── UserError                 a mistake of the user: one sentence, exit code 2
    │   ├── SettingError          a setting is missing or malformed
    │   ├── SettingsError         several are; one sentence for each
    │   ├── WrongChainError       the RPC endpoint or the contract is not what was configured
    │   └── HostError             this machine does not allow what is needed
    ├── ChainError                what a provider said cannot be used; the next poll may do better
    │   ├── ProviderError         no usable answer at all (timeout, refused, rate limit, garbage)
    │   ├── BadAnswerError        an answer that a check refutes
    │   └── DisagreementError     providers that contradict each other
    ├── DeviceError               the WireGuard device or its link refused a change
    └── StoreError                the state on disk could not be written

`UserError` is permanent: repeating does not help, the process ends. The others are temporary: the
loop reports them, keeps what it has, and tries again.
"""

from collections.abc import Sequence


class DstackVpnError(Exception):
    """Something went wrong in dstack-vpn."""

    exit_code = 1

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or self.__doc__)

    @property
    def sentences(self) -> tuple[str, ...]:
        """What is to be told, each on a line of its own."""
        return (" ".join(str(self).split()),)


class UserError(DstackVpnError):
    """A mistake of the user, said in one sentence; the command ends with exit code 2."""

    exit_code = 2


class SettingError(UserError):
    """A setting is missing or malformed."""

    def __init__(self, setting: str, problem: str, accepted: str) -> None:
        """Name the setting, what was wrong with it, and what is accepted."""
        super().__init__(f"{setting} {problem}; accepted: {accepted}")
        self.setting = setting


class SettingsError(UserError):
    """Several things are missing or malformed."""

    def __init__(self, errors: Sequence[UserError]) -> None:
        """Take what is wrong, each with a sentence of its own."""
        super().__init__("\n".join(str(error) for error in errors))
        self.errors = tuple(errors)

    @property
    def sentences(self) -> tuple[str, ...]:
        """Those of all errors."""
        return tuple(sentence for error in self.errors for sentence in error.sentences)


class WrongChainError(UserError):
    """The RPC endpoint or the contract is not what was configured."""


class HostError(UserError):
    """This machine does not allow what is needed."""


class ChainError(DstackVpnError):
    """What the chain said cannot be used."""


class ProviderError(ChainError):
    """A provider gave no usable answer."""

    def __init__(
        self,
        provider: str,
        problem: str,
        *,
        retry_after: float | None = None,
        code: int | None = None,
    ) -> None:
        """Name the provider (never its URL, which may carry a key) and what happened.

        Args:
            provider: host and number, such as ``rpc.example#1``.
            problem: what happened, in words.
            retry_after: seconds the provider asked us to wait, if it did.
            code: the JSON-RPC error code, if there was one.
        """
        super().__init__(f"{provider}: {problem}")
        self.provider = provider
        self.retry_after = retry_after
        self.code = code


class BadAnswerError(ChainError):
    """An answer that a check refutes."""

    def __init__(self, check: str, problem: str) -> None:
        """Name the check that failed (a metric label) and what it found."""
        super().__init__(f"{check}: {problem}")
        self.check = check


class DisagreementError(ChainError):
    """Providers contradict each other."""


class DeviceError(DstackVpnError):
    """The WireGuard device or its link refused a change."""


class StoreError(DstackVpnError):
    """The state could not be written; the agent goes on and tries again."""
