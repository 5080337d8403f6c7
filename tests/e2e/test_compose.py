"""Compose by itself, without `dstack-vpn deploy`: what a person with nothing but Docker does."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.engine import Engine, eventually, say
from e2e.mesh import V1, V2, Mesh


@pytest.fixture(params=[V1, V2])
def bare(
    request: pytest.FixtureRequest, engine: Engine, images: dict[str, str], tmp_path: Path
) -> Iterator[Mesh]:
    """A checkout in which nothing was done yet, for one version of Compose."""
    made = Mesh.check_out(engine, tmp_path, flavour=request.param, build_ca=None, settings=images)
    say(f"{made.project}: {request.param} up")
    yield made
    made.compose("--profile", "local-chain", "down", "--volumes", check=False)


def test_up_needs_nothing_to_be_set(bare: Mesh) -> None:
    """The profile local-chain alone makes a network that works, by IPv4 and by IPv6."""
    bare.compose("--profile", "local-chain", "up", "--detach", "--no-build")
    bare.fetches_again()
    for node in ("node-a", "node-b"):
        eventually(lambda: bare.ready(node), f"{node} is ready")  # noqa: B023
    _, addresses = bare.identity("node-a")
    ipv6 = next(a.partition("/")[0] for a in addresses if ":" in a)
    curl = ("curl", "-sS", "--max-time", "3", f"http://[{ipv6}]/")
    assert "Behind the mesh" in bare.inside("test-client", *curl).out
    # Docker's own health check agrees, within a few of its intervals.
    for service in ("node-a", "node-b", "test-client"):
        eventually(
            lambda: bare.inspect(service)["State"]["Health"]["Status"] == "healthy",  # noqa: B023
            f"the engine finds {service} healthy",
        )


def test_a_node_is_no_router(bare: Mesh) -> None:
    """What a member sends to a node ends there: its network forwards nothing."""
    bare.compose("up", "--detach", "--no-build", "node-a-net", "node-a")
    for version in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
        shown = bare.inside("node-a-net", "cat", f"/proc/sys/net/{version}").out
        assert shown.strip() == "0"
