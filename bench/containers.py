"""`python -m bench.containers [--quick] [--json]`: what a node costs as a container.

Needs a Docker engine, and so runs outside of the lab; `make bench` runs it after the others where
there is one, and adds its lines to bench/results.json. The network is that of docker-compose.yml
with its own chain, in a project of its own, removed at the end.
"""

import argparse
import asyncio
import itertools
import json
import sys
import tempfile
import time
import uuid
from base64 import b64decode
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench import RESULTS, ROOT
from bench.entry import Entry, Result, Samples, save, table
from dstack_vpn.deploy.containers import parse_time
from e2e.engine import Engine, certificates, open_engine, say
from e2e.mesh import V2, Mesh
from lab.http import HttpError, get
from lab.waiting import until

PATIENCE = 60.0
RIGHTS = (
    "--cap-drop",
    "ALL",
    "--cap-add",
    "NET_ADMIN",
    "--device",
    "/dev/net/tun",
    "--tmpfs",
    "/run",
)
STATE = "/var/lib/dstack-vpn"
PARTS = ("engine", "interpreter", "chain", "device")
"""What a start consists of, in this order."""


@dataclass(slots=True)
class Containers:
    """A deployed network, and containers without an agent in the place of one of its nodes."""

    mesh: Mesh
    quick: bool
    files: Path

    def rounds(self, full: int) -> range:
        """So many rounds."""
        return range(2 if self.quick else full)

    @property
    def image(self) -> str:
        """The image of the nodes."""
        return self.mesh.settings["DSTACK_VPN_IMAGE"]

    @property
    def ready_url(self) -> str:
        """Where whoever is in the place of node-a is asked."""
        return f"http://127.0.0.1:{self.mesh.settings['NODE_A_HEALTH_PORT']}/ready"

    def docker(self, *words: str) -> str:
        """Run ``docker``."""
        return self.mesh.engine.docker(*words).out.strip()

    @contextmanager
    def container(self, *words: str) -> Iterator[str]:
        """A container that is made, and removed at the end."""
        made = self.docker("create", *words)
        try:
            yield made
        finally:
            self.docker("rm", "--force", made)

    async def start(self, container: str) -> float:
        """Start a container; seconds from before the command to /ready answering 200."""
        began = time.monotonic()
        starting = await asyncio.create_subprocess_exec(
            "docker", "start", container, env=self.mesh.engine.environ,
            stdout=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        await until(self._ready, "it is ready", within=PATIENCE)
        took = time.monotonic() - began
        await starting.wait()
        return took

    async def _ready(self) -> bool:
        try:
            return (await get(self.ready_url)).status == 200
        except HttpError:
            return False

    def note_parts(self, samples: Samples, asked: float) -> None:
        """Note what the last start of node-a was made of, from the engine's and its own stamps.

        Args:
            samples: where to note it.
            asked: when the start was ordered, seconds since 1970.
        """
        node = self.mesh.container("node-a")
        started = parse_time(self.docker("inspect", "-f", "{{.State.StartedAt}}", node))
        stamps: dict[str, float] = {}
        log = self.mesh.engine.docker("logs", "--since", f"{asked:.6f}", node).text
        for line in log.splitlines():
            if line.startswith("{"):
                told = json.loads(line)
                stamps.setdefault(told["event"], parse_time(told["timestamp"]))
        own = [stamps[e] for e in ("bridge.started", "chain.snapshot", "cycle.applied")]
        steps = itertools.pairwise((asked, started, *own))
        for name, (before, after) in zip(PARTS, steps, strict=True):
            samples.parts.setdefault(name, []).append(max(0.0, after - before))

    def memory(self, container: str) -> float:
        """Memory of a container without the page cache, in MB, as the engine tells it."""
        shown = self.docker("stats", "--no-stream", "--format", "{{.MemUsage}}", container).split()[
            0
        ]
        unit = next(u for u in ("GiB", "MiB", "KiB", "kB", "MB", "B") if shown.endswith(u))
        factor = {"GiB": 2**30, "MiB": 2**20, "KiB": 2**10, "MB": 1e6, "kB": 1e3, "B": 1}[unit]
        return float(shown.removesuffix(unit)) * factor / 1e6


async def container_ready(bench: Containers) -> Samples:
    """From `docker start` to /ready, for a node that has its key and nothing else, with 1 peer.

    Image, contract and chain are there. The clock starts before the command and stops when
    /ready, asked all the time at the published port, answers 200. The floor is the script of the
    other starts in a container with the same rights, in the same network: start Python, start
    wireguard-go, give it address, key and peer, ask the chain once, answer HTTP. The parts are
    the engine (command to main process), the interpreter (to the agent's first line, imports and
    settings included), the chain (to the verified membership) and the device (to the plan being
    applied).
    """
    samples = Samples()
    node = bench.mesh.container("node-a")
    network = f"container:{bench.mesh.container('node-a-net')}"
    (bench.files / "config").write_text(_config(bench))
    words = (
        "--network", network, *RIGHTS, "-v", f"{ROOT / 'bench/bare.py'}:/bare.py:ro",
        "-v", f"{bench.files / 'config'}:/config:ro", "--entrypoint", "/usr/bin/tini", bench.image,
        "--", "python", "-I", "-S", "/bare.py", "boot", "wg0", "10.213.0.1/16", "chain:8545",
        "0.0.0.0:8080", "/config",
    )  # fmt: skip
    volume = f"{bench.mesh.project}_node-a-state:{STATE}"
    for number in bench.rounds(12):
        bench.docker("stop", node)
        with bench.container(*words) as bare:
            samples.floors.append(await bench.start(bare))
        bench.docker("run", "--rm", "-v", volume, bench.image, "state", "forget")
        asked = time.time()
        samples.values.append(await bench.start(node))
        bench.note_parts(samples, asked)
        say(f"round {number + 1}: {samples.values[-1]:.3g} s, floor {samples.floors[-1]:.3g} s")
    return samples


async def container_memory(bench: Containers) -> Samples:
    """Memory of a node's container over a bare one's, at rest with 1 peer; the budget is 60 MB.

    Agent, wireguard-go and tini, as the engine tells it without the page cache, less what a
    container of the same image with the same rights takes that only sleeps. The floor is the same
    Python with an asyncio loop that waits, in such a container, less the same.
    """
    samples = Samples()
    init = ("--entrypoint", "/usr/bin/tini")
    idle = ("--", "python", "-I", "-S", "/bare.py", "idle")
    mount = ("-v", f"{ROOT / 'bench/bare.py'}:/bare.py:ro")
    with (
        bench.container(*RIGHTS, *init, bench.image, "--", "sleep", "infinity") as bare,
        bench.container(*RIGHTS, *mount, *init, bench.image, *idle) as floor,
    ):
        for container in (bare, floor):
            bench.docker("start", container)
        for _ in bench.rounds(10):
            sleeping = bench.memory(bare)
            samples.values.append(bench.memory(bench.mesh.container("node-a")) - sleeping)
            samples.floors.append(bench.memory(floor) - sleeping)
    return samples


ENTRIES: tuple[Entry[Containers], ...] = (
    Entry("container_ready_s", "s", container_ready, 3),
    Entry("container_mb", "MB", container_memory, 1),
)


def _config(bench: Containers) -> str:
    """What the bare device is given: its port, a key, and the one peer."""
    peer = bench.mesh.facts("node-a", "/wireguard")["peers"][0]
    private = bench.mesh.inside("node-a", "cat", f"{STATE}/wireguard.key").out
    return (
        f"set=1\nprivate_key={b64decode(private).hex()}\nlisten_port=51820\n"
        f"public_key={b64decode(peer['publicKey']).hex()}\nendpoint={peer['endpoint']}\n"
        f"allowed_ip={peer['allowedIps'][0]}\n\n"
    )


def main(arguments: Sequence[str]) -> int:
    """Measure all of it; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.containers", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few rounds: it works, no more")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    asked = parser.parse_args(arguments)
    with open_engine() as engine, tempfile.TemporaryDirectory(prefix="dstack-vpn-bench-") as made:
        results = asyncio.run(measure(engine, Path(made), quick=asked.quick))
    text = save(results, RESULTS)
    print(text if asked.json else table(results), end="")
    return 0


async def measure(engine: Engine, directory: Path, *, quick: bool) -> list[Result]:
    """Deploy a network, measure in it, and remove it."""
    place = directory / f"bench{uuid.uuid4().hex[:6]}"
    place.mkdir()
    mesh = Mesh.check_out(engine, place, flavour=V2, build_ca=certificates(directory))
    say("building the images and deploying a network")
    try:
        mesh.deploy("deploy", "--no-keeper")
        bench = Containers(mesh, quick, directory)
        return [Result.of(entry, await entry.measure(bench)) for entry in ENTRIES]
    finally:
        mesh.remove()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
