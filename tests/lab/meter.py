"""The two ends of a packet stream, run inside hosts: `meter.py send|receive ...`; see traffic.py.

A packet is its number and the time of sending, each 8 bytes big-endian, and zeroes where it is to
be larger. CLOCK_MONOTONIC is one
clock for all namespaces, so that times of both ends can be compared. The receiver's stamp is taken
when it reads the packet: on a busy machine too late by the scheduler's delay, never too early.

Both ends end when their standard input does, and then print a line of JSON; the receiver prints one
for each line on its standard input too. Standard library only: it starts in 20 ms.
"""

import json
import select
import socket
import struct
import sys
import time
from contextlib import suppress

PACKET = struct.Struct("!QQ")
BUFFER = 4 << 20
SO_RCVBUFFORCE = 33  # <asm-generic/socket.h>; Python does not name it


def family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def send(address: str, port: int, rate: float, size: int) -> None:
    """Send at a fixed rate; whoever was held up catches up, so that the count stays exact."""
    out = socket.socket(family(address), socket.SOCK_DGRAM)
    target = (address, port)
    rest = bytes(size - PACKET.size)
    began = time.monotonic()
    sent = refused = 0
    print("sending", flush=True)
    while True:
        due = int((time.monotonic() - began) * rate) + 1
        while sent < due:
            try:
                out.sendto(PACKET.pack(sent, time.monotonic_ns()) + rest, target)
            except OSError:  # no route, no device: a lost packet whose loss the sender was told
                refused += 1
            sent += 1
        # Sleeping in select, to the next packet's time: the end of standard input wakes us.
        pause = began + sent / rate - time.monotonic()
        if select.select([sys.stdin], [], [], max(pause, 0))[0] and not sys.stdin.readline():
            break
    ended = time.monotonic()
    print(
        json.dumps({"sent": sent, "refused": refused, "began": began, "ended": ended}), flush=True
    )


class Received:
    """What has arrived."""

    def __init__(self) -> None:
        self.count = self.duplicates = self.reordered = 0
        self.highest = -1
        self.first = self.last = self.last_sent = 0.0
        self.longest_gap = self.gap_began = self.worst_delay = 0.0
        self.seen = bytearray()

    def take(self, packet: bytes) -> None:
        """Count a packet."""
        number, sent_ns = PACKET.unpack_from(packet)
        now_ns = time.monotonic_ns()
        now = now_ns / 1e9
        if number >= len(self.seen):
            self.seen.extend(bytes(number + 4096 - len(self.seen)))
        if self.seen[number]:
            self.duplicates += 1
            return
        self.seen[number] = 1
        self.reordered += number < self.highest
        self.highest = max(self.highest, number)
        if self.count and now - self.last > self.longest_gap:
            self.longest_gap, self.gap_began = now - self.last, self.last
        self.count += 1
        self.first = self.first or now
        self.last, self.last_sent = now, sent_ns / 1e9
        self.worst_delay = max(self.worst_delay, (now_ns - sent_ns) / 1e9)

    def report(self) -> str:
        """All figures as a line of JSON."""
        return json.dumps({name: value for name, value in vars(self).items() if name != "seen"})


def receive(address: str) -> None:
    """Print the port, then count what comes."""
    into = socket.socket(family(address), socket.SOCK_DGRAM)
    with suppress(PermissionError):  # only true root may go past net.core.rmem_max
        into.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER)
    into.bind((address, 0))
    into.setblocking(False)
    print("port", into.getsockname()[1], flush=True)
    received = Received()
    while True:
        ready = select.select([into, sys.stdin], [], [])[0]
        if into in ready:
            with suppress(BlockingIOError):
                while True:
                    received.take(into.recv(2048))
        if sys.stdin in ready:
            ended = not sys.stdin.readline()
            print(received.report(), flush=True)
            if ended:
                return


if __name__ == "__main__":
    if sys.argv[1] == "send":
        send(sys.argv[2], int(sys.argv[3]), float(sys.argv[4]), int(sys.argv[5]))
    else:
        receive(sys.argv[2])
