"""`make demo`: shows a whole network of dstack-vpn work on this machine, in about half a minute.

Takes no arguments. This is only the outside: it enters a private world (`scripts/lab`), where the
package `demo/` plays the story; nothing of it can be seen from outside or outlives the command.
With KEEP=1 in the environment the network stays up at the end until Ctrl-C. For that, sockets on
127.0.0.1 are opened here and handed in, since a socket stays in the network in which it was made.
Standard library only.
"""

import os
import shutil
import socket
import sys
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parents[1]
PUBLISHED = 5  #: four nodes and the chain
NEEDED = ("ip", "wg", "wireguard-go", "ping", "nsenter", "unshare")


def main() -> NoReturn:
    """Become the inside of a world, or say in a sentence why not."""
    if len(sys.argv) > 1:
        refuse("usage: [KEEP=1] make demo (it takes no arguments)")
    # sbin is often not on a user's PATH though its programs are there.
    os.environ["PATH"] = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    missing = [command for command in NEEDED if shutil.which(command) is None]
    if missing:
        refuse(f"demo: not installed: {', '.join(missing)}; `make demo` installs them")
    os.environ["PYTHONPATH"] = f"{ROOT}:{ROOT / 'tests'}"
    sockets = []
    if os.environ.get("KEEP", "") not in ("", "0"):
        sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(PUBLISHED)]
    for opened in sockets:
        opened.set_inheritable(True)
    descriptors = [str(opened.fileno()) for opened in sockets]
    lab = str(ROOT / "scripts/lab")
    os.execv(lab, [lab, sys.executable, "-m", "demo", *descriptors])


def refuse(sentence: str) -> NoReturn:
    """End with what the user has to know."""
    print(sentence, file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
