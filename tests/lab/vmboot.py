"""What a virtual machine boots: modules of a kernel, and an initramfs that leads to our own files.

Pure but for reading the modules. The initramfs holds a static busybox, the modules in the order in
which they can be loaded, and a script that puts a writable layer in memory over the file system
that it is given (virtiofs, tag `host`) and goes on in there.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

#: What the tests use; nothing is loaded on demand, since a machine has no list of modules.
MODULES = (
    "virtio_pci", "virtiofs", "overlay",
    "wireguard", "tun", "veth", "bridge", "dummy",
    "nf_tables", "nft_ct", "nft_limit", "nft_reject_inet", "nft_chain_nat", "nft_masq", "nft_nat",
)  # fmt: skip

# The kernel's own messages go to ttyS0, what the command prints to ttyS1. switch_root, because a
# process in a mere chroot may not make user namespaces.
INIT = """#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t devtmpfs dev /dev
mount -t proc proc /proc
for module in /modules/*; do insmod "$module" || echo "vm: $module cannot be loaded"; done
mount -t virtiofs host /host
mount -t tmpfs layer /layer
mkdir /layer/upper /layer/work
mount -t overlay root -o lowerdir=/host,upperdir=/layer/upper,workdir=/layer/work /root
cd /root
mount -t proc proc proc
mount -t sysfs sys sys
mount --move /dev dev
mkdir -p dev/net dev/pts dev/shm
ln -s /proc/self/fd dev/fd
for name in stdin:0 stdout:1 stderr:2; do ln -s "fd/${name#*:}" "dev/${name%:*}"; done
[ -e dev/net/tun ] || mknod dev/net/tun c 10 200
mount -t devpts pts dev/pts
mount -t tmpfs shm dev/shm
mount -t tmpfs run run
while read -r directory; do
  mkdir -p "./$directory"
  mount --bind "/host/$directory" "./$directory"
done </shared
exec switch_root /root /bin/sh "$(head -n 1 /shared)/start" <dev/ttyS1 >dev/ttyS1 2>&1
"""

FILE, DIRECTORY = 0o100755, 0o040755


class Entry(NamedTuple):
    """A file of an archive."""

    name: str
    mode: int
    data: bytes = b""


def initramfs(
    busybox: bytes, modules: Mapping[str, Path], shared: Iterable[str], wanted: Iterable[str]
) -> bytes:
    """Make the archive that the kernel unpacks and starts.

    Args:
        busybox: a static one.
        modules: every module of the kernel by its name.
        shared: directories of the host that stay the host's; the first has the script `start`.
        wanted: modules to be loaded; what is built into the kernel may be named too.
    """
    directories = ("bin", "dev", "proc", "host", "layer", "root", "modules")
    return cpio(
        [
            *(Entry(name, DIRECTORY) for name in directories),
            Entry("bin/busybox", FILE, busybox),
            Entry("init", FILE, INIT.encode()),
            Entry("shared", FILE, "".join(f"{path}\n" for path in shared).encode()),
            *(
                Entry(f"modules/{number:03}-{name}.ko", FILE, modules[name].read_bytes())
                for number, name in enumerate(in_order(modules, wanted))
            ),
        ]
    )


def in_order(modules: Mapping[str, Path], wanted: Iterable[str]) -> list[str]:
    """Name the modules that are needed for these, each after what it rests on."""
    order: list[str] = []

    def need(name: str) -> None:
        if name in modules and name not in order:
            for other in depends(modules[name].read_bytes()):
                need(other)
            order.append(name)

    for name in wanted:
        need(name)
    return order


def depends(module: bytes) -> list[str]:
    """Read which modules this one rests on, from its section `.modinfo`."""
    found = re.search(rb"\0depends=([^\0]*)\0", module)
    names = found[1].decode().replace("-", "_") if found else ""
    return [name for name in names.split(",") if name]


def cpio(entries: Iterable[Entry]) -> bytes:
    """Pack files in the format "newc" (Linux, driver-api/early-userspace/buffer-format)."""
    archive = bytearray()
    for inode, (path, mode, data) in enumerate((*entries, Entry("TRAILER!!!", 0)), 1):
        name = path.encode() + b"\0"
        # inode, mode, uid, gid, links, mtime, size, four device numbers, length of name, checksum
        fields = (inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name), 0)
        archive += b"070701" + b"".join(b"%08x" % field for field in fields) + name
        archive += bytes(-len(archive) % 4) + data
        archive += bytes(-len(archive) % 4)
    return bytes(archive)


def modules_below(root: Path) -> dict[str, Path]:
    """Find every module below a directory, by its name in the kernel's spelling."""
    return {path.stem.replace("-", "_"): path for path in root.rglob("*.ko")}
