"""The command line: ``dstack-vpn``. `main` is the console script.

A command is a thin function: it reads its arguments (`parse`), asks the chain or signs (`session`,
`signer`) and shows what came of it (`show`). Mistakes are one sentence each on stderr, never
a traceback: exit code 2 for the user's, 1 for what a provider or the device did not do.
"""

import io
import os
import sys

from dstack_vpn.errors import DstackVpnError


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns its exit code."""
    _prepare_streams()
    # Late, so that the error tree above is all that a mere import of this package loads.
    from dstack_vpn.cli.app import run  # noqa: PLC0415

    try:
        return run(sys.argv[1:] if arguments is None else arguments)
    except DstackVpnError as error:
        return _fail(error.exit_code, *error.sentences)
    except KeyboardInterrupt:
        return _fail(130, "interrupted")
    except BrokenPipeError:
        # Whoever read our output has gone; Python would complain once more when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _prepare_streams() -> None:
    """Give every command streams that it can use, whatever its caller closed or cannot show."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:  # closed, as by >&-
            descriptor = os.open(os.devnull, os.O_RDWR)
            # It has taken the place of the closed one; programs that we run need it as well.
            os.set_inheritable(descriptor, descriptor <= 2)
            setattr(sys, name, os.fdopen(descriptor, mode, encoding="utf-8"))
        elif mode == "w" and isinstance(stream, io.TextIOWrapper):
            # What the locale cannot show, such as a name on a token, is no reason to fail.
            stream.reconfigure(errors="backslashreplace")


def _fail(code: int, *sentences: str) -> int:
    sys.stderr.writelines(f"dstack-vpn: {sentence}\n" for sentence in sentences)
    return code
