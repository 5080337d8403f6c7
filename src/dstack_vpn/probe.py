"""Asks a node how it is: ``python -m dstack_vpn.probe [PATH]``, the health check of the image.

Standard library only: it runs every few seconds in every container, beside the agent. Prints the
answer; the exit code is 0 when the node answered with success, else 1. PATH is ``/ready`` unless
said otherwise. The port is the node's own (HEALTH_CHECK_PORT), on the loopback or where
HEALTH_CHECK_HOST says.
"""

import contextlib
import http.client
import os
import sys
from collections.abc import Mapping, Sequence

TIMEOUT = 3.0
"""Seconds; the health check of the image gives up a second later."""

REACHED_AT = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - nothing is bound
"""Where a server that binds all addresses is found."""


def main(
    arguments: Sequence[str],
    environ: Mapping[str, str] = os.environ,
    *,
    timeout: float = TIMEOUT,
) -> int:
    """Ask once; the exit code."""
    path = arguments[0] if arguments else "/ready"
    host = environ.get("HEALTH_CHECK_HOST", "").strip()
    port = environ.get("HEALTH_CHECK_PORT", "").strip() or "8080"
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) < 65536):
        sys.stderr.write(f"HEALTH_CHECK_PORT is {port[:20]!a}; accepted: a port up to 65535\n")
        return 1
    try:
        connection = http.client.HTTPConnection(
            REACHED_AT.get(host, host), int(port), timeout=timeout
        )
        with contextlib.closing(connection):
            connection.request("GET", path)
            answer = connection.getresponse()
            text = answer.read().decode("utf-8", "replace")
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = " ".join(str(error).split())
        sys.stderr.write(f"the node does not answer at port {port}: {reason}\n")
        return 1
    sys.stdout.write(text + "\n")
    return 0 if answer.status == http.client.OK else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
