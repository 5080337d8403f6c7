"""A host with a device that the applier keeps, and how to give it orders; see members_driver.py."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dstack_vpn.mesh.keys import PrivateKey
from lab.host import Host
from lab.process import Process
from lab.waiting import PATIENCE, until
from mesh.build import ADDRESSES

DRIVER = Path(__file__).with_name("members_driver.py")
PATHS = f"{DRIVER.parents[2] / 'src'}:{DRIVER.parents[1]}"


@dataclass(frozen=True, slots=True)
class Member:
    """A member that lives; made by `start`."""

    host: Host
    token: int
    public_key: str
    driver: Process

    @classmethod
    async def start(cls, host: Host, token: int) -> "Member":
        """Start the driver of its device, which is made with the first order."""
        key = PrivateKey.generate()
        driver = await host.start(
            # The key in arguments is for tests only.
            sys.executable, DRIVER, str(token), key.reveal(), "/run/marker",
            name="members", env={"PYTHONPATH": PATHS, "PATH": "/usr/sbin:/usr/bin"},
        )  # fmt: skip
        return cls(host, token, key.public.text, driver)

    @property
    def address(self) -> str:
        """Its address in the mesh."""
        return str(ADDRESSES.hosts(self.token)[0].network_address)

    async def order(self, within: float = PATIENCE, **what: Any) -> Any:
        """Have the driver do something; what it told the device."""

        def done() -> list[str]:
            assert self.driver.running, self.driver.tail()
            lines = self.driver.output.rpartition("\n")[0].splitlines()
            return [line for line in lines if line.startswith("done ")]

        before = len(done())
        self.driver.say(json.dumps(what))
        said = await until(lambda: done()[before:], f"{self.driver.name} did it", within=within)
        return json.loads(said[0].removeprefix("done "))
