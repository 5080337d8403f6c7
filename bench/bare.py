"""What the floors run in a host: the outward acts of an agent, without an agent.

    bare.py boot INTERFACE ADDRESS RPC_HOST:PORT HTTP_ADDRESS:PORT CONFIG
        make the device if it is not there (and give it CONFIG, a UAPI request), ask the chain once,
        and answer 200 to every HTTP request
    bare.py follow INTERFACE RPC_HOST:PORT CONTRACT REMOVE ADD
        at each log of the contract, pushed over a WebSocket, ask the chain for the contract's
        checkpoint at that block, and give the device REMOVE and ADD (UAPI requests) in turn
    bare.py poll INTERVAL INTERFACE RPC_HOST:PORT CONTRACT REMOVE ADD
        the same, but for that it asks over HTTP every INTERVAL seconds whether the contract is in
        another state than before
    bare.py answer HTTP_ADDRESS:PORT FILE
        an asyncio server that answers FILE, a whole HTTP response, to every request
    bare.py idle
        an asyncio loop that waits

CONFIG, REMOVE and ADD are files: everything is known before, and nothing is checked or remembered.
Standard library only, blocking sockets, no import that is not used: it starts in 20 ms.
"""

import json
import os
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

TEXT, CLOSED = 1, 8  # RFC 6455, section 5.2: opcodes
CHECKPOINT = "0xc2c4c5c1"  # the selector of checkpoint()


def address_of(text: str) -> tuple[str, int]:
    """The parts of HOST:PORT."""
    host, _, port = text.rpartition(":")
    return host, int(port)


def uapi(interface: str) -> socket.socket | None:
    """A connection to a device; None when there is none."""
    device = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        device.connect(f"/var/run/wireguard/{interface}.sock")
    except OSError:
        device.close()
        return None
    return device


def ask(device: socket.socket, request: bytes) -> bytes:
    """One request to a device and its answer."""
    device.sendall(request)
    answer = b""
    while not answer.endswith(b"\n\n"):
        answer += device.recv(1 << 18)
    return answer


def boot(interface: str, address: str, rpc: str, http: str, config: str) -> None:
    """Do what /ready waits for, and answer it."""
    device = uapi(interface)
    if device is None:
        environment = {"PATH": os.environ["PATH"], "WG_PROCESS_FOREGROUND": "1"}
        subprocess.Popen(
            ["wireguard-go", "-f", interface],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        while (device := uapi(interface)) is None:
            time.sleep(0.001)
        lines = f"address replace {address} dev {interface}\nlink set {interface} up\n"
        subprocess.run(["ip", "-batch", "-"], input=lines, text=True, check=True)
        assert ask(device, Path(config).read_bytes()) == b"errno=0\n\n"
    else:
        ask(device, b"get=1\n\n")
    with socket.create_connection(address_of(rpc)) as chain:
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "eth_blockNumber", "params": []})
        head = f"POST / HTTP/1.1\r\nHost: {rpc}\r\nContent-Type: application/json\r\n"
        chain.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
        assert b" 200 " in chain.recv(1 << 16)
    with socket.create_server(address_of(http)) as listener:
        while True:
            with listener.accept()[0] as client:
                client.recv(1 << 16)
                client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")


class WebSocket:
    """As much of RFC 6455 as a talk with a local node takes: whole, short messages."""

    def __init__(self, where: str) -> None:
        self._sock = socket.create_connection(address_of(where))
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._got = b""
        self._sock.sendall(
            f"GET / HTTP/1.1\r\nHost: {where}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
            "\r\n".encode()
        )
        while b"\r\n\r\n" not in self._got:
            self._more()
        head, _, self._got = self._got.partition(b"\r\n\r\n")
        assert b" 101 " in head, head

    def _more(self) -> None:
        part = self._sock.recv(1 << 16)
        if not part:
            raise ConnectionError("the node hung up")
        self._got += part

    def _take(self, count: int) -> bytes:
        while len(self._got) < count:
            self._more()
        taken, self._got = self._got[:count], self._got[count:]
        return taken

    def send(self, method: str, *params: Any) -> None:
        """Send a JSON-RPC call; its mask is zero, which a client may choose."""
        call = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        body = json.dumps(call).encode()
        size = len(body)
        length = bytes([0x80 | size]) if size < 126 else b"\xfe" + struct.pack("!H", size)
        self._sock.sendall(bytes([0x80 | TEXT]) + length + bytes(4) + body)

    def receive(self) -> dict[str, Any]:
        """The next message."""
        while True:
            opcode, size = self._take(2)
            if size == 126:
                [size] = struct.unpack("!H", self._take(2))
            elif size == 127:
                [size] = struct.unpack("!Q", self._take(8))
            body = self._take(size)
            if opcode & 0xF == TEXT:
                message: dict[str, Any] = json.loads(body)
                return message
            assert opcode & 0xF != CLOSED, "the node said goodbye"


def follow(interface: str, rpc: str, contract: str, remove: str, add: str) -> None:
    """Act on each log of the contract."""
    changes = [Path(remove).read_bytes(), Path(add).read_bytes()]
    device = uapi(interface)
    assert device is not None, f"{interface} is not there"
    chain = WebSocket(rpc)
    chain.send("eth_subscribe", "logs", {"address": contract})
    assert "result" in chain.receive()
    print("following", flush=True)
    last = ""
    while True:
        message = chain.receive()
        block = message["params"]["result"]["blockHash"]
        if block == last:  # a write may log more than one event
            continue
        last = block
        call = {"to": contract, "data": CHECKPOINT}
        chain.send("eth_call", call, {"blockHash": block})
        while "params" in (answer := chain.receive()):
            pass
        assert "result" in answer, answer
        assert ask(device, changes[0]) == b"errno=0\n\n"
        print("done", flush=True)
        changes.reverse()


def poll(interval: float, interface: str, rpc: str, contract: str, *files: str) -> None:
    """Act on each change of the contract's state, looked for again and again."""
    changes = [Path(file).read_bytes() for file in files]
    device = uapi(interface)
    assert device is not None, f"{interface} is not there"
    params = [{"to": contract, "data": CHECKPOINT}, "latest"]
    call = {"jsonrpc": "2.0", "id": 1, "method": "eth_call", "params": params}
    body = json.dumps(call)
    head = f"POST / HTTP/1.1\r\nHost: {rpc}\r\nContent-Type: application/json\r\n"
    request = f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode()
    last = b""
    with socket.create_connection(address_of(rpc)) as chain:
        while True:
            chain.sendall(request)
            answer = chain.recv(1 << 16).rpartition(b"\r\n\r\n")[2]
            assert b'"result"' in answer, answer
            if not last:
                print("following", flush=True)
            elif answer != last:
                assert ask(device, changes[0]) == b"errno=0\n\n"
                changes.reverse()
            last = answer
            time.sleep(interval)


def answer(where: str, file: str) -> None:
    """Answer the same to everybody."""
    import asyncio  # noqa: PLC0415 - the others do not pay for it

    response = Path(file).read_bytes()

    class Answer(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            self._transport = transport

        def data_received(self, _: bytes) -> None:  # a request that fits into one packet
            self._transport.write(response)
            self._transport.close()

    async def serve() -> None:
        server = await asyncio.get_running_loop().create_server(Answer, *address_of(where))
        print("answering", flush=True)
        await server.serve_forever()

    asyncio.run(serve())


def idle() -> None:
    """Wait, in an event loop."""
    import asyncio  # noqa: PLC0415 - the others do not pay for it

    async def wait() -> None:
        print("waiting", flush=True)
        await asyncio.Event().wait()

    asyncio.run(wait())


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["boot", interface, address, rpc, http, config]:
            boot(interface, address, rpc, http, config)
        case ["follow", interface, rpc, contract, remove, add]:
            follow(interface, rpc, contract, remove, add)
        case ["poll", interval, interface, rpc, contract, remove, add]:
            poll(float(interval), interface, rpc, contract, remove, add)
        case ["answer", where, file]:
            answer(where, file)
        case _:
            idle()
