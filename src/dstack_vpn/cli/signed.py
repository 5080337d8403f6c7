"""What all commands that sign have in common: their options, the write, and how it is told."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dstack_vpn.chain.admin import MAX_FEE_GWEI, ContractAdmin, Receipt, calldata
from dstack_vpn.cli.options import PATIENCE, AsJson, EnvFile, Keystore, MaxFee, Patience
from dstack_vpn.cli.session import Named, Signing, find_node, write
from dstack_vpn.cli.show import plain, put, put_json

if TYPE_CHECKING:
    from eth_account.signers.local import LocalAccount


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a write came to."""

    text: str
    """One sentence for people."""
    receipt: Receipt
    facts: dict[str, Any] = field(default_factory=dict)
    """What scripts get beside the receipt."""


_OPTIONS: tuple[tuple[str, Any, Any], ...] = (
    ("env_file", EnvFile, None),
    ("keystore", Keystore, None),
    ("patience", Patience, PATIENCE),
    ("max_fee", MaxFee, MAX_FEE_GWEI),
    ("as_json", AsJson, False),
)


def signed(command: Callable[..., Outcome]) -> Callable[..., None]:
    """Give a command the options of a signed write, which it gets as its first argument.

    typer reads options from the signature, so the options take the place of that argument there.
    """

    @functools.wraps(command)
    def run(
        *,
        env_file: Path | None,
        keystore: Path | None,
        patience: float,
        max_fee: float,
        as_json: bool,
        **arguments: Any,
    ) -> None:
        signing = Signing(env_file=env_file, keystore=keystore, patience=patience, max_fee=max_fee)
        outcome = command(signing, **arguments)
        if as_json:
            receipt = outcome.receipt
            put_json(
                outcome.facts
                | {
                    "transaction": receipt.transaction,
                    "block": receipt.block,
                    "gasUsed": receipt.gas_used,
                }
            )
        else:
            put(plain(outcome.text))

    own = list(inspect.signature(command).parameters.values())[1:]
    common = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
        for name, kind, default in _OPTIONS
    ]
    parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own] + common
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    return run


def change(
    signing: Signing, node: str, signature: str, *arguments: object
) -> tuple[Named, Receipt]:
    """Make a change to the node that is meant; its token is the call's first argument."""
    found: list[Named] = []

    async def build(admin: ContractAdmin, _account: "LocalAccount") -> bytes:
        found.append(await find_node(admin, node))
        return calldata(signature, found[0].token_id, *arguments)

    receipt = write(signing, build)
    return found[0], receipt


def named(found: Named) -> str:
    """A node for people."""
    return f"{found.node_id} (token {found.token_id})"


def facts(found: Named, **more: Any) -> dict[str, Any]:
    """A node for scripts."""
    return {"nodeId": found.node_id, "tokenId": found.token_id, **more}
