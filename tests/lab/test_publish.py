"""Published ports: what a browser of the user's own network would see of a host in a lab."""

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from lab.chain import REPOSITORY
from lab.fixtures import need
from lab.publish import listen

LAB = str(REPOSITORY / "scripts/lab")

# The inside of a demo: a web server in a host, published; it lives until standard input ends.
INSIDE = """
import asyncio, sys
from lab.lab import Lab
from lab.publish import published

async def main(fd):
    async with Lab.open() as lab:
        host = await lab.host("a")
        await host.run("sh", "-c", "mkdir /run/www; yes 0123456789 | head -c 3000000 > /run/www/f")
        server = await host.start(
            sys.executable, "-u", "-m", "http.server", "-d", "/run/www", "-b", str(host.ip4),
            "8080", name="web")
        await server.line("Serving")
        async with published(fd, str(host.ip4), 8080) as url:
            print(url, flush=True)
            await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
            await server.kill()
            print("server killed", flush=True)
            await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)

asyncio.run(main(int(sys.argv[1])))
"""


@pytest.fixture
def outside() -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    """A lab with a published web server: its URL, and its process."""
    tried = subprocess.run([LAB, "true"], capture_output=True, text=True, check=False)
    need(tried.returncode == 0, tried.stderr.strip())
    [listener] = listen(1)
    with listener:
        fd = listener.fileno()
        world = subprocess.Popen(
            [LAB, sys.executable, "-c", INSIDE, str(fd)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            pass_fds=(fd,),
            env=os.environ | {"PYTHONPATH": str(REPOSITORY / "tests")},
        )
    with world:
        assert world.stdout is not None
        yield world.stdout.readline().strip(), world
        world.terminate()


def test_a_host_is_reached_from_outside(outside: tuple[str, "subprocess.Popen[str]"]) -> None:
    """A URL of the user's own 127.0.0.1 leads to a server in a host, several times at once."""
    url, world = outside
    assert url.startswith("http://127.0.0.1:")
    answers = [urllib.request.urlopen(f"{url}/f", timeout=20) for _ in range(3)]
    for answer in answers:
        with answer:
            assert len(answer.read()) == 3_000_000
    with pytest.raises(urllib.error.HTTPError, match="404") as missing:
        urllib.request.urlopen(f"{url}/nothing", timeout=20)
    missing.value.close()
    assert world.poll() is None


def test_what_is_gone_is_gone_for_the_outside(
    outside: tuple[str, "subprocess.Popen[str]"],
) -> None:
    """A dead server closes the connection; after the lab's end the port refuses."""
    url, world = outside
    assert world.stdin is not None
    assert world.stdout is not None
    world.stdin.write("\n")
    world.stdin.flush()
    assert world.stdout.readline() == "server killed\n"
    with pytest.raises(OSError, match=r"closed connection|reset"):
        urllib.request.urlopen(url, timeout=20)
    world.kill()
    world.wait(20)
    host, port = url.removeprefix("http://").split(":")
    # The processes of a killed world end a moment after it, and their sockets with them.
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            socket.create_connection((host, int(port)), timeout=20).close()
        except ConnectionRefusedError:
            return
        except ConnectionResetError:
            continue  # in the queue of the dying socket
    pytest.fail("the port still accepts connections")
