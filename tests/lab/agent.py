"""A node of dstack-vpn in a host: configured by environment, watched through its HTTP endpoints.

The node's files are below the host's /run, so they survive the host and can be read from outside
(`agent.directory`). Its endpoints are asked over the switch, as an operator would.
"""

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lab.host import Host
from lab.http import Answer, HttpError, get
from lab.process import Process
from lab.tunnel import Keys, WgPeer, wg_peers
from lab.waiting import PATIENCE, until

#: The one place that knows how a node is started.
COMMAND = (sys.executable, "-m", "dstack_vpn")

INSIDE = Path("/run/dstack-vpn")  #: the node's directory, as the node sees it
HTTP_PORT = 8080  #: every host has its own network, so all nodes can have the same port
PASSED_ON = ("PATH", "LANG", "PYTHONPATH", "COVERAGE_PROCESS_START", "COVERAGE_PROCESS_CONFIG")


class Agent:
    """A node, started and stopped at will; its files and its log stay."""

    def __init__(
        self,
        host: Host,
        node_id: str,
        *,
        keys: Keys,
        contract: str,
        rpc_url: str,
        endpoints: Mapping[str, str] | None = None,
        poll_interval: float = 0.05,
        sync_interval: int = 1000,
        interface: str = "wg0",
        listen_port: int = 51820,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        """Write its key file and put its environment together.

        Args:
            host: where it runs.
            node_id: its DNS label.
            keys: its WireGuard keys.
            contract: address of the membership contract.
            rpc_url: one URL, or several separated by commas.
            endpoints: static endpoints by node id, such as ``{"b": "10.99.0.3:51820"}``.
            poll_interval: seconds between looks at the head.
            sync_interval: milliseconds between full compares.
            interface: of its WireGuard device.
            listen_port: of its WireGuard device.
            settings: any other variables; they win over those above.
        """
        self.host = host
        self.node_id = node_id
        self.keys = keys
        self.interface = interface
        self.process: Process | None = None
        self.prefix: tuple[str, ...] = ()  #: words before the command, such as `setpriv …`
        self.directory = host.run_dir / "dstack-vpn"  #: the node's directory, seen from the lab
        self.directory.mkdir(exist_ok=True)
        key_file = self.directory / "private.key"
        key_file.touch(mode=0o600)
        key_file.write_text(keys.private + "\n")
        self.environment = {
            "NODE_ID": node_id,
            "NETWORK": "hardhat",
            "CONTRACT_ADDRESS": contract,
            "RPC_URL": rpc_url,
            "WIREGUARD_PRIVATE_KEY_FILE": str(INSIDE / "private.key"),
            "STATE_DIR": str(INSIDE / "state"),
            "HEALTH_CHECK_PORT": str(HTTP_PORT),
            "HEALTH_CHECK_HOST": str(host.ip4),
            "LOG_FORMAT": "json",
            "LOG_LEVEL": "debug",
            "WG_INTERFACE": interface,
            "LISTEN_PORT": str(listen_port),
            "POLL_INTERVAL": f"{poll_interval:g}",
            "SYNC_INTERVAL": str(sync_interval),
            "ENDPOINTS": ",".join(f"{name}={where}" for name, where in (endpoints or {}).items()),
            **(settings or {}),
        }

    # Its life

    async def start(self, *flags: str) -> None:
        """Start it, with flags of its command; `wait_ready` says when it passes traffic."""
        assert self.process is None or not self.process.running, f"{self.node_id} runs already"
        passed_on = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        home = {"HOME": "/run", "PYTHONUNBUFFERED": "1"}
        environment = passed_on | home | self.environment
        self.process = await self.host.start(
            *self.prefix, *COMMAND, *flags, name=self.node_id, env=environment
        )

    @property
    def running(self) -> Process:
        """Its process, which must have been started."""
        assert self.process is not None, f"{self.node_id} was never started"
        return self.process

    async def stop(self, within: float = PATIENCE) -> int:
        """SIGTERM, and wait for the exit code."""
        return await self.running.stop(within)

    async def kill(self) -> None:
        """SIGKILL; what it left running in the host, such as a WireGuard device, stays."""
        await self.running.kill()

    async def wait(self, within: float = PATIENCE) -> int:
        """Wait until it ends by itself; the exit code."""
        return await self.running.wait(within)

    async def close(self) -> None:
        """Kill it if it runs; what it left in the host goes with the host."""
        if self.process is not None:
            await self.process.kill()

    def rss(self) -> int:
        """Its resident memory in bytes, without that of processes it started."""
        return self.running.rss()

    # What it says

    @property
    def url(self) -> str:
        """Its HTTP endpoints, as the lab reaches them."""
        return f"http://{self.host.ip4}:{HTTP_PORT}"

    async def get(self, path: str, *, token: str | None = None, within: float = 5.0) -> Answer:
        """GET one of its endpoints."""
        headers: dict[bytes | str, bytes | str] = {}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        return await get(f"{self.url}{path}", headers=headers, within=within)

    async def health(self) -> dict[str, Any]:
        """What /health says, whatever its status code."""
        return await self._json("/health")

    async def stats(self) -> dict[str, Any]:
        """What /stats says."""
        return await self._json("/stats")

    async def config(self) -> dict[str, Any]:
        """What /config says."""
        return await self._json("/config")

    async def ready(self) -> dict[str, Any]:
        """What /ready says, whatever its status code."""
        return await self._json("/ready")

    async def _json(self, path: str) -> dict[str, Any]:
        parsed: dict[str, Any] = (await self.get(path)).json()
        return parsed

    async def is_ready(self) -> bool:
        """Whether /ready answers 200."""
        return (await self.get("/ready")).status == 200

    async def wait_ready(self, within: float = PATIENCE) -> None:
        """Wait until /ready answers 200; an agent that ends before fails with what it printed."""

        async def look() -> bool:
            if not self.running.running:
                raise AssertionError(f"{self.node_id} ended:\n{self.running.tail()}")
            return await self.is_ready()

        await until(look, f"{self.node_id} is ready", within=within, retry_on=(HttpError,))

    def log(self, event: str = "") -> list[dict[str, Any]]:
        """The lines that it logged since its last start, parsed; those of one event, if named."""
        lines = []
        for text in self.running.output.rpartition("\n")[0].splitlines():
            if text.startswith("{"):
                line: dict[str, Any] = json.loads(text)
                if event in ("", line.get("event")):
                    lines.append(line)
        return lines

    async def wg_peers(self) -> dict[str, WgPeer]:
        """The peers of its device, by public key, read from the device itself."""
        return await wg_peers(self.host, self.interface)
