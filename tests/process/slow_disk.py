"""A disk that answers when it is told to: a file system in this process, through /dev/fuse and nothing else. Run as root.

Usage: ``python -m tests.process.slow_disk DIRECTORY``. Mounts one file, ``file`` of 64 KiB of 'x', at DIRECTORY and says "mounted"; says
"asked" when somebody reads it; answers every read once a line has come on standard input; unmounts when that ends.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys
import threading

SIZE = 1 << 16
ROOT, FILE = 1, 2
MNT_DETACH = 2

# Operations of the FUSE protocol (include/uapi/linux/fuse.h).
LOOKUP, FORGET, GETATTR, OPEN, READ, STATFS, RELEASE, FLUSH, INIT, OPENDIR, RELEASEDIR = 1, 2, 3, 14, 15, 17, 18, 25, 26, 27, 29
NO_ANSWER = (FORGET, 36, 42)  # INTERRUPT and BATCH_FORGET

_IN = struct.Struct("<IIQQIIII")  # struct fuse_in_header
_OUT = struct.Struct("<IiQ")  # struct fuse_out_header


def attributes(node: int) -> bytes:
    """struct fuse_attr."""
    mode = 0o40755 if node == ROOT else 0o100644
    return struct.pack("<QQQQQQIIIIIIIIII", node, SIZE, 128, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)


class Disk:
    """Answers requests from /dev/fuse; reads wait for ``go``."""

    def __init__(self, device: int) -> None:
        self.device = device
        self.go = threading.Event()

    def serve(self) -> None:
        """Until the file system is unmounted."""
        while True:
            try:
                request = os.read(self.device, 1 << 18)
            except OSError as error:
                if error.errno in (errno.EINTR, errno.ENOENT):
                    continue
                return
            _, operation, unique, node, *_ = _IN.unpack_from(request)
            if operation == READ:
                print("asked", flush=True)
                threading.Thread(target=self.read, args=(unique, request), daemon=True).start()
            elif operation not in NO_ANSWER:
                self.answer(unique, *self.result(operation, node, request[_IN.size :]))

    def result(self, operation: int, node: int, body: bytes) -> tuple[int, bytes]:
        """(error, answer)."""
        if operation == INIT:
            return 0, struct.pack("<IIIIHHIIHHI", 7, 31, 0, 0, 16, 12, 1 << 16, 1, 16, 0, 0).ljust(64, b"\0")
        if operation == LOOKUP:
            if body.rstrip(b"\0") != b"file":
                return -errno.ENOENT, b""
            return 0, struct.pack("<QQQQII", FILE, 0, 60, 60, 0, 0) + attributes(FILE)
        if operation == GETATTR:
            return 0, struct.pack("<QII", 60, 0, 0) + attributes(node)
        if operation in (OPEN, OPENDIR):
            return 0, struct.pack("<QII", 1, 0, 0)
        if operation == STATFS:
            return 0, struct.pack("<QQQQQIIII", 1000, 500, 500, 10, 5, 4096, 255, 4096, 0).ljust(80, b"\0")
        return (0, b"") if operation in (RELEASE, FLUSH, RELEASEDIR) else (-errno.ENOSYS, b"")

    def read(self, unique: int, request: bytes) -> None:
        """One READ, when the disk may."""
        self.go.wait(60)
        _, offset, size = struct.unpack_from("<QQI", request, _IN.size)
        self.answer(unique, 0, b"x" * max(0, min(size, SIZE - offset)))

    def answer(self, unique: int, error: int, body: bytes) -> None:
        try:
            os.write(self.device, _OUT.pack(_OUT.size + len(body), error, unique) + body)
        except OSError:
            return  # the reader was killed meanwhile


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
        for _ in sys.stdin:
            disk.go.set()
    finally:
        disk.go.set()
        libc.umount2(mount, MNT_DETACH)
    return 0


if __name__ == "__main__":
    sys.exit(main())
