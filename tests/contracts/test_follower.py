"""The history and the page hashes can be computed by whoever has the log and an ABI coder."""

from collections.abc import Callable
from typing import Any

from .conftest import Anvil


def test_independent_follower_arrives_at_the_checkpoint(
    anvil: Anvil, client: Callable[[str, str], Any]
) -> None:
    """Folding `NodeChanged` alone gives the history, the members and the pages of the contract."""
    report = client("ethers_follower.mjs", anvil.deploy())
    assert report["folded"] == report["reported"]
    assert report["reported"]["revision"] == 12
    assert report["reported"]["memberCount"] == 1
