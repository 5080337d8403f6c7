"""Whether a UDP port is free for a device, found out before the device is told to take it.

wireguard-go closes its socket before it opens another one: told to take a port that somebody else
has, it would be left with none, and all sessions would stand still until it has its old one back.
"""

import contextlib
import errno
import os
import socket
from collections.abc import Callable

WhyTaken = Callable[[int], str | None]
"""Says of a port why no device could have it now; None where one could."""


def why_taken(port: int) -> str | None:
    """Try to take a port as a device does: for all addresses, of each family by itself.

    It is free again at once, so that somebody may still come first: a device may refuse it yet.

    Returns:
        The system's reason where the port is taken; None where it is free, and also where that
        cannot be found out, which is for the device to say.
    """
    with contextlib.ExitStack() as stack:
        for family in (socket.AF_INET, socket.AF_INET6):
            try:
                tried = stack.enter_context(socket.socket(family, socket.SOCK_DGRAM))
                if family == socket.AF_INET6:
                    tried.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                tried.bind(("", port))
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    return os.strerror(errno.EADDRINUSE)
    return None
