"""Asks a node how it is: ``python -m dstack_vpn.probe [PATH]``, the health check of the image.

Standard library only: it runs every few seconds in every container, beside the agent. Prints the
answer; the exit code is 0 when the node answered with success, else 1. PATH is ``/ready`` unless
said otherwise. The port is the node's own (HEALTH_CHECK_PORT), on the loopback or where
HEALTH_CHECK_HOST says.
"""

import http.client
import os
import sys
from collections.abc import Mapping, Sequence

TIMEOUT = 3.0
"""Seconds; the health check of the image gives up a second later."""

_ALL = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - nothing is bound
"""Where a server that binds all addresses is found."""


def main(arguments: Sequence[str], environ: Mapping[str, str] = os.environ) -> int:
    """Ask once; the exit code."""
    path = arguments[0] if arguments else "/ready"
    host = environ.get("HEALTH_CHECK_HOST", "").strip()
    port = environ.get("HEALTH_CHECK_PORT", "").strip() or "8080"
    connection = http.client.HTTPConnection(_ALL.get(host, host), int(port), timeout=TIMEOUT)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        text = answer.read().decode("utf-8", "replace")
    except (OSError, http.client.HTTPException) as error:
        sys.stderr.write(f"the node does not answer at port {port}: {error}\n")
        return 1
    finally:
        connection.close()
    sys.stdout.write(text + "\n")
    return 0 if answer.status < 400 else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
