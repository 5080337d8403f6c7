"""The WireGuard device: the only part that touches one.

::

    backend.py    what a device can do for the reconciler, as a promise
    choose.py     who keeps it here: the kernel, or wireguard-go
    memory.py     the promise kept in memory, for tests

    kernel.py       the promise kept by Linux itself
    kernelclaim.py  whose device of the kernel it is: only ours is ever touched
    wgnetlink.py    pure: the messages that it is configured with
    genetlink.py    those messages over their socket

    userspace.py  the promise kept by wireguard-go, a process of its own that outlives the agent
    claim.py      whose device it is: only ours is ever touched
    uapi.py       pure: the text that wireguard-go is configured with
    channel.py    that text over its unix socket
    process.py    the process: starting, recognising and ending it, and no other
    marker.py     the note on disk by which a restarted agent knows its own device
    tun.py        why a process could not be started, as a sentence

    guardian.py   the agent's side of the guard, which acts when the agent is dead
    guard.py      the guard, a small process of its own that outlives the agent
    lease.py      what both know of each other: until when the peers may stay
    cutoff.py     all peers off a device at once
    pids.py       which process has a pid, without an event loop

    link.py       the interface: up, MTU, addresses, routes
    rtnetlink.py  reading an interface from the kernel
    netlink.py    what all netlink messages have in common
    routes.py     pure: does a range of ours overlap a route of the host
    command.py    the one place that runs iproute2
    conf.py       pure: the device as a wg-quick file
    conffile.py   private files, written atomically
"""
