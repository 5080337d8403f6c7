"""The WireGuard device: the only part that touches one.

::

    backend.py    what a device can do for the reconciler, as a promise
    userspace.py  the promise kept by wireguard-go, a process of its own that outlives the agent
    claim.py      whose device it is: only ours is ever touched
    memory.py     the promise kept in memory, for tests
    uapi.py       pure: the text that wireguard-go is configured with
    channel.py    that text over its unix socket
    process.py    the process: starting, recognising and ending it, and no other
    marker.py     the note on disk by which a restarted agent knows its own device
    tun.py        why a process could not be started, as a sentence
    link.py       the interface: up, MTU, addresses, routes
    rtnetlink.py  reading an interface from the kernel
    routes.py     pure: does a range of ours overlap a route of the host
    command.py    the one place that runs iproute2
    conf.py       pure: the device as a wg-quick file
    conffile.py   private files, written atomically
"""
