"""A disk that answers when it is told to: a file system in this process, through /dev/fuse and nothing else. Run as root.

Usage: ``python -m tests.process.slow_disk DIRECTORY``. Mounts a small file system in memory at DIRECTORY and says "mounted"; it has a file,
``file`` of 64 KiB of 'x', and whatever is made there. Standard input takes commands: ``hold OPERATION...`` keeps such requests waiting from
then on ("hold" alone: none), and says "held"; ``go`` answers what was kept and keeps nothing more. "asked OPERATION" is said whenever a
request has to wait. A request whose process is killed meanwhile is given up. Unmounts when standard input ends.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

SIZE = 1 << 16
ROOT = 1
MNT_DETACH = 2
# Operations of the FUSE protocol (include/uapi/linux/fuse.h).
NAMES = {
    1: "LOOKUP", 2: "FORGET", 3: "GETATTR", 4: "SETATTR", 8: "MKNOD", 9: "MKDIR", 10: "UNLINK", 11: "RMDIR", 12: "RENAME", 14: "OPEN",
    15: "READ", 16: "WRITE", 17: "STATFS", 18: "RELEASE", 20: "FSYNC", 25: "FLUSH", 26: "INIT", 27: "OPENDIR", 28: "READDIR",
    29: "RELEASEDIR", 30: "FSYNCDIR", 35: "CREATE", 36: "INTERRUPT", 42: "BATCH_FORGET", 45: "RENAME2",
}  # fmt: skip
NO_ANSWER = ("FORGET", "BATCH_FORGET")
FATTR_SIZE = 8
RENAME_NOREPLACE = 1

_IN = struct.Struct("<IIQQIIII")  # struct fuse_in_header
_OUT = struct.Struct("<IiQ")  # struct fuse_out_header
_ATTRIBUTES = struct.Struct("<QQQQQQIIIIIIIIII")
_ENTRY = struct.Struct("<QQQQII")  # nothing is valid for longer than the answer: the kernel asks again each time
_ATTR_OUT = struct.Struct("<QII")
_OPENED = struct.Struct("<QII")
_RANGE = struct.Struct("<QQI")  # of READ and WRITE: fh, offset, size
_WRITE_DATA = 40  # behind struct fuse_write_in
_DIRENT = struct.Struct("<QQII")


@dataclass
class Node:
    """A file, or a directory when it has ``names``."""

    number: int
    content: bytearray = field(default_factory=bytearray)
    names: dict[str, int] | None = None
    owner: tuple[int, int] = (0, 0)
    changed: int = field(default_factory=lambda: int(time.time()))

    @property
    def mode(self) -> int:
        return stat.S_IFREG | 0o666 if self.names is None else stat.S_IFDIR | 0o777

    def attributes(self) -> bytes:
        """struct fuse_attr."""
        size, now = len(self.content), self.changed
        return _ATTRIBUTES.pack(self.number, size, (size + 511) // 512, now, now, now, 0, 0, 0, self.mode, 1, *self.owner, 0, 4096, 0)


class Disk:
    """Answers requests from /dev/fuse, except those of the operations that are held."""

    def __init__(self, device: int) -> None:
        self.device = device
        self.asking = 0, 0  # uid and gid
        self.nodes = {ROOT: Node(ROOT, names={})}
        self.make(self.nodes[ROOT], "file").content += b"x" * SIZE
        self.held: set[str] = set()
        self.kept: dict[int, tuple[str, int, bytes]] = {}
        self.turn = threading.Lock()

    def serve(self) -> None:
        """Until the file system is unmounted."""
        while True:
            try:
                request = os.read(self.device, 1 << 18)
            except OSError as error:
                if error.errno in (errno.EINTR, errno.ENOENT):
                    continue
                return
            _, operation, unique, node, uid, gid, *_ = _IN.unpack_from(request)
            with self.turn:
                self.asking = uid, gid
                self.take(NAMES.get(operation, str(operation)), unique, node, request[_IN.size :])

    def take(self, name: str, unique: int, node: int, body: bytes) -> None:
        """One request: answered, or kept."""
        if name == "INTERRUPT":
            gone = struct.unpack_from("<Q", body)[0]
            if self.kept.pop(gone, None) is not None:
                self.answer(gone, -errno.EINTR, b"")
        elif name in self.held:
            self.kept[unique] = name, node, body
            print(f"asked {name}", flush=True)
        elif name not in NO_ANSWER:
            self.carry_out(name, unique, node, body)

    def hold(self, operations: set[str]) -> None:
        """Keep such requests waiting."""
        with self.turn:
            self.held = operations

    def go(self) -> None:
        """Answer everything, from here on too."""
        with self.turn:
            self.held = set()
            for unique, request in sorted(self.kept.items()):
                self.carry_out(request[0], unique, *request[1:])
            self.kept = {}

    def carry_out(self, name: str, unique: int, number: int, body: bytes) -> None:
        """Do what is asked, and answer."""
        call: Callable[[Node, bytes], bytes] | None = getattr(self, f"do_{name.lower()}", None)
        node = self.nodes.get(number)
        try:
            if call is None:
                raise OSError(errno.ENOSYS, name)
            self.answer(unique, 0, call(node or self.nodes[ROOT], body))
        except OSError as error:
            self.answer(unique, -(error.errno or errno.EIO), b"")

    def answer(self, unique: int, error: int, body: bytes) -> None:
        try:
            os.write(self.device, _OUT.pack(_OUT.size + len(body), error, unique) + body)
        except OSError:
            return  # the reader was killed meanwhile

    # what it can do

    def make(self, directory: Node, name: str, *, is_directory: bool = False) -> Node:
        """A new file or directory."""
        made = Node(max(self.nodes) + 1, names={} if is_directory else None, owner=self.asking)
        self.nodes[made.number] = made
        self.names(directory)[name] = made.number
        return made

    def names(self, directory: Node) -> dict[str, int]:
        if directory.names is None:
            raise OSError(errno.ENOTDIR, "")
        return directory.names

    def entry(self, node: Node) -> bytes:
        return _ENTRY.pack(node.number, 0, 0, 0, 0, 0) + node.attributes()

    def do_init(self, _node: Node, _body: bytes) -> bytes:
        return struct.pack("<IIIIHHIIHHI", 7, 31, 0, 0, 16, 12, 1 << 16, 1, 16, 0, 0).ljust(64, b"\0")

    def do_lookup(self, node: Node, body: bytes) -> bytes:
        number = self.names(node).get(text(body))
        if number is None:
            raise OSError(errno.ENOENT, "")
        return self.entry(self.nodes[number])

    def do_getattr(self, node: Node, _body: bytes) -> bytes:
        return _ATTR_OUT.pack(0, 0, 0) + node.attributes()

    def do_setattr(self, node: Node, body: bytes) -> bytes:
        valid, _, _, size = struct.unpack_from("<IIQQ", body)
        if valid & FATTR_SIZE:
            node.content = node.content[:size].ljust(size, b"\0")
        return self.do_getattr(node, body)

    def do_mkdir(self, node: Node, body: bytes) -> bytes:
        return self.entry(self.make(node, text(body[8:]), is_directory=True))

    def do_create(self, node: Node, body: bytes) -> bytes:
        return self.entry(self.make(node, text(body[16:]))) + self.do_open(node, body)

    def do_unlink(self, node: Node, body: bytes) -> bytes:
        self.names(node).pop(text(body))
        return b""

    do_rmdir = do_unlink

    def do_rename(self, node: Node, body: bytes) -> bytes:
        return self.rename(node, struct.unpack_from("<Q", body)[0], 0, body[8:])

    def do_rename2(self, node: Node, body: bytes) -> bytes:
        target, flags, _ = struct.unpack_from("<QII", body)
        return self.rename(node, target, flags, body[16:])

    def rename(self, node: Node, target: int, flags: int, both: bytes) -> bytes:
        old, new = (part.decode() for part in both.split(b"\0")[:2])
        names = self.names(self.nodes[target])
        if flags & RENAME_NOREPLACE and new in names:
            raise OSError(errno.EEXIST, new)
        names[new] = self.names(node).pop(old)
        return b""

    def do_open(self, _node: Node, _body: bytes) -> bytes:
        return _OPENED.pack(1, 0, 0)

    do_opendir = do_open

    def do_read(self, node: Node, body: bytes) -> bytes:
        _, offset, size = _RANGE.unpack_from(body)
        return bytes(node.content[offset : offset + size])

    def do_write(self, node: Node, body: bytes) -> bytes:
        _, offset, size = _RANGE.unpack_from(body)
        node.content = node.content.ljust(offset, b"\0")
        node.content[offset : offset + size] = body[_WRITE_DATA:][:size]
        return struct.pack("<II", size, 0)

    def do_readdir(self, node: Node, body: bytes) -> bytes:
        _, offset, size = _RANGE.unpack_from(body)
        found = b""
        for at, (name, number) in enumerate(list(self.names(node).items())[offset:], offset + 1):
            raw = name.encode()
            found += _DIRENT.pack(number, at, len(raw), self.nodes[number].mode >> 12) + raw + bytes(-len(raw) % 8)
        return found[:size]

    def do_statfs(self, _node: Node, _body: bytes) -> bytes:
        return struct.pack("<QQQQQIIII", 1000, 500, 500, 10, 5, 4096, 255, 4096, 0).ljust(80, b"\0")

    def do_flush(self, _node: Node, _body: bytes) -> bytes:
        return b""

    do_fsync = do_fsyncdir = do_release = do_releasedir = do_flush


def text(body: bytes) -> str:
    """A name, and the NUL behind it."""
    return body.split(b"\0")[0].decode()


def main() -> int:
    """Mount, serve, unmount."""
    mount = os.fsencode(sys.argv[1])
    libc = ctypes.CDLL(None, use_errno=True)
    device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other"
    if libc.mount(b"slow", mount, b"fuse.slow", 6, options.encode()):
        print(f"cannot mount: {os.strerror(ctypes.get_errno())}", flush=True)
        return 1
    disk = Disk(device)
    threading.Thread(target=disk.serve, daemon=True).start()
    print("mounted", flush=True)
    try:
        for line in sys.stdin:
            word, *operations = line.split()
            if word == "go":
                disk.go()
            else:
                disk.hold(set(operations))
                print("held", flush=True)
    finally:
        disk.go()
        libc.umount2(mount, MNT_DETACH)
    return 0


if __name__ == "__main__":
    sys.exit(main())
