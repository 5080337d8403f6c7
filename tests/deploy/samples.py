"""Containers for the tests: as the engine describes them, and as they are parsed."""

from typing import Any

from hypothesis import strategies as st

from dstack_vpn.deploy.containers import Container

NOW = 1_700_000_000.0
"""Seconds since 1970."""
PROBE_CHECK = ("python", "-I", "-m", "dstack_vpn.probe")


def container(service: str = "node-a", **facts: Any) -> Container:
    """A container that runs, and has done so for an hour, unless told otherwise."""
    usual: dict[str, Any] = {
        "id": f"{service}-id",
        "name": f"vpn-{service}-1",
        "service": service,
        "project": "vpn",
        "one_off": False,
        "state": "running",
        "exit_code": 0,
        "error": "",
        "started_at": NOW - 3600,
        "finished_at": 0.0,
        "network_of": "",
        "policy": "unless-stopped",
        "restarts": 0,
        "check": (),
    }
    return Container(**usual | facts)


def ended(service: str = "node-a", code: int = 0, **facts: Any) -> Container:
    """A container whose process has ended."""
    return container(service, **{"state": "exited", "exit_code": code} | facts)


def inspected(
    service: str = "node-a",
    *,
    state: dict[str, Any] | None = None,
    host: dict[str, Any] | None = None,
    config: dict[str, Any] | None = None,
    **top: Any,
) -> dict[str, Any]:
    """What ``docker inspect`` says of a container of a Compose project, as far as anybody reads it.

    Args:
        service: of the Compose file.
        state: what is other in State; so `host` in HostConfig and `config` in Config.
        host: see there.
        config: see there.
        top: what is other at the top.
    """
    described: dict[str, Any] = {
        "Id": f"{service}-id",
        "Created": "2023-11-14T21:13:19.123456789Z",
        "Path": "/usr/bin/tini",
        "Args": ["--", "dstack-vpn", "up", "--exit-by-signal"],
        "State": {
            "Status": "running",
            "Running": True,
            "Paused": False,
            "Restarting": False,
            "OOMKilled": False,
            "Dead": False,
            "Pid": 4711,
            "ExitCode": 0,
            "Error": "",
            "StartedAt": "2023-11-14T21:13:20.5Z",
            "FinishedAt": "0001-01-01T00:00:00Z",
            **(state or {}),
        },
        "Image": "sha256:1",
        "Name": f"/vpn-{service}-1",
        "RestartCount": 0,
        "HostConfig": {
            "NetworkMode": "vpn_underlay",
            "RestartPolicy": {"Name": "unless-stopped", "MaximumRetryCount": 0},
            "Privileged": False,
            **(host or {}),
        },
        "Config": {
            "Hostname": f"{service}-id",
            "Env": ["NODE_ID=node-a"],
            "Labels": {
                "com.docker.compose.config-hash": "5e1f",
                "com.docker.compose.container-number": "1",
                "com.docker.compose.oneoff": "False",
                "com.docker.compose.project": "vpn",
                "com.docker.compose.service": service,
            },
            **(config or {}),
        },
        "NetworkSettings": {"Ports": {}},
    }
    return described | top


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)
"""Anything that JSON can say, and a bit more."""
