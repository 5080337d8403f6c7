"""``dstack-vpn keys``: WireGuard keys, as ``wg genkey`` and ``wg pubkey`` make and read them."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from dstack_vpn.cli.options import AsJson, Commands, examples
from dstack_vpn.cli.show import put, put_json
from dstack_vpn.errors import HostError, SettingError
from dstack_vpn.identity import ACCEPTED, write_key_file
from dstack_vpn.mesh.keys import PrivateKey


def generate(
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Write the private key there, mode 0600."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make a key pair. Only the public key is printed when the private one goes to a file."""
    key = PrivateKey.generate()
    if out is not None:
        if out.exists() and not force:
            raise HostError(f"--out {out} exists; accepted: a new file, or --force to overwrite it")
        write_key_file(out, key, overwrite=force)
    shown = {"publicKey": key.public.text}
    if out is None:
        shown = {"privateKey": key.reveal()} | shown
    if as_json:
        put_json(shown)
    elif out is None:
        put(f"private {key.reveal()}")
        put(f"public  {key.public}")
    else:
        put(key.public.text)


def public(
    file: Annotated[
        Path | None,
        typer.Option("--file", metavar="FILE", help="Read the private key there, not from stdin."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print the public key of a private one. That is read from stdin or a file."""
    source = "stdin" if file is None else "--file"
    try:
        text = sys.stdin.read(1024) if file is None else file.read_text(encoding="ascii")
    except UnicodeDecodeError:
        text = ""
    except OSError as error:
        problem = f"cannot be read ({file}: {error.strerror})"
        raise SettingError(source, problem, "a readable file") from None
    try:
        key = PrivateKey.parse(text.strip()).public
    except ValueError:
        raise SettingError(source, "holds no WireGuard private key", ACCEPTED) from None
    if as_json:
        put_json({"publicKey": key.text})
    else:
        put(key.text)


COMMANDS: Commands = {
    "generate": (
        generate,
        examples(
            "dstack-vpn keys generate --out node-a.key     prints the public key",
            "dstack-vpn keys generate                      prints both keys",
        ),
    ),
    "public": (
        public,
        examples("dstack-vpn keys public --file node-a.key", "dstack-vpn keys public < node-a.key"),
    ),
}
