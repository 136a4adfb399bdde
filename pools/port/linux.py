"""The Linux port: what the pools and the queue ask of the machine.

Owns: shared memory, descriptors over sockets, event polling and process helpers, as thin typed functions.
Invariant: nothing here keeps state; whoever calls owns every descriptor that is returned. Descriptors are close-on-exec.
"""

from __future__ import annotations

import array
import ctypes
import errno
import fcntl
import mmap
import os
import select
import signal
import socket
import weakref
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Final, Protocol

import posix_ipc
from setproctitle import setproctitle

PAGE: Final = mmap.PAGESIZE
KERNEL_FORMAT: Final = True  # sendfile and splice are here
# Plain numbers: to join two members of an enumeration takes as long as a small send.
PLAIN_SENDS: Final = int(socket.MSG_NOSIGNAL | socket.MSG_DONTWAIT)
SENDS_WITH_MORE: Final = PLAIN_SENDS | int(socket.MSG_MORE)

# Calls that need nothing of ours around them: the very functions, so that a hot path pays for no layer.
close = os.close
preadv = os.preadv
pwrite = os.pwrite
read = os.read
readv = os.readv
sendfile = os.sendfile
write = os.write

READABLE: Final = select.EPOLLIN
WRITABLE: Final = select.EPOLLOUT
HANGUP: Final = select.EPOLLHUP | select.EPOLLERR | select.EPOLLRDHUP

# What the kernel answers when there is no memory or no room on a tmpfs.
NO_ROOM: Final = frozenset({errno.ENOSPC, errno.ENOMEM, errno.EDQUOT})

_SHARED_MEMORY_DIRECTORY: Final = "/dev/shm"
_PR_SET_PDEATHSIG: Final = 1
_INT_BYTES: Final = 4
_M_MMAP_THRESHOLD: Final = -3
_PR_SET_MEMORY_MERGE: Final = 67  # Linux 6.4
_MERGING: Final = "/sys/kernel/mm/ksm/run"
_MMAP_THRESHOLD: Final = 128 << 10  # glibc's own value at the start of a process
_libc = ctypes.CDLL(None, use_errno=True)


class Poller(Protocol):
    """Level-triggered readiness of descriptors; ``poll`` takes seconds, None waits for ever."""

    @property
    def closed(self) -> bool: ...
    def register(self, fd: int, eventmask: int = ...) -> None: ...
    def modify(self, fd: int, eventmask: int) -> None: ...
    def unregister(self, fd: int) -> None: ...
    def poll(self, timeout: float | None = ..., maxevents: int = ...) -> list[tuple[int, int]]: ...
    def close(self) -> None: ...


# --- shared memory -----------------------------------------------------------------------------------------------


def create_shared_memory(size: int, likely_use: int) -> int:
    """A nameless sparse object of ``size`` bytes, of which up to ``likely_use`` will be committed; the descriptor.

    POSIX shared memory, unlinked before anyone else can open it. A memfd where /dev/shm is absent, closed to us or
    has no room for ``likely_use``: containers often mount 64 MiB there.
    """
    fd = _posix_shared_memory() if _room_for(likely_use) else None
    if fd is None:
        fd = os.memfd_create("millpond", os.MFD_CLOEXEC)
    try:
        os.ftruncate(fd, size)
    except OSError:
        os.close(fd)
        raise
    return fd


def _room_for(likely_use: int) -> bool:
    try:
        room = os.statvfs(_SHARED_MEMORY_DIRECTORY)
    except OSError:
        return False
    return room.f_bavail * room.f_frsize >= likely_use


def _posix_shared_memory() -> int | None:
    try:
        memory = posix_ipc.SharedMemory(None, posix_ipc.O_CREX, mode=0o600, size=0)
    except (posix_ipc.Error, OSError):
        return None
    memory.unlink()
    fd: int = memory.fd
    os.set_inheritable(fd, False)
    return fd


def create_memory_file(path: str, size: int) -> int:
    """A new private sparse file of ``size`` bytes in place of what is at ``path``; the descriptor.

    What was there is unlinked, never written to: somebody may still have it mapped.
    """
    with suppress(FileNotFoundError):
        os.unlink(path)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        os.ftruncate(fd, size)
    except OSError:
        os.close(fd)
        raise
    return fd


def map_shared(fd: int, size: int, *, offset: int = 0, writable: bool = True) -> mmap.mmap:
    """Map a range; left out of core dumps, because it holds what clients sent."""
    protection = mmap.PROT_READ | mmap.PROT_WRITE if writable else mmap.PROT_READ
    mapping = mmap.mmap(fd, size, mmap.MAP_SHARED, protection, offset=offset)
    mapping.madvise(mmap.MADV_DONTDUMP)
    return mapping


def window(mapping: mmap.mmap, offset: int, length: int) -> tuple[memoryview, Callable[[], bool]]:
    """A range of a mapping as writable bytes, and whether the view, or any slice made of it, still lives."""
    # An exporter of the range's own: every view of it keeps it alive, so its end is the end of the last view.
    exporter = (ctypes.c_ubyte * length).from_buffer(mapping, offset)
    alive = weakref.ref(exporter)
    return memoryview(exporter).cast("B"), lambda: alive() is not None


def commit(fd: int, offset: int, length: int) -> None:
    """Allocate the pages of a range now: ENOSPC here is an error to handle, at the first touch it would be SIGBUS."""
    os.posix_fallocate(fd, offset, length)


def decommit(mapping: mmap.mmap, offset: int, length: int) -> None:
    """Give the pages of a range back to the machine; the range reads as zeros."""
    mapping.madvise(mmap.MADV_REMOVE, offset, length)


def committed_bytes(fd: int) -> int:
    """How much memory the object takes now."""
    return os.fstat(fd).st_blocks * 512


# --- sockets -----------------------------------------------------------------------------------------------------


def record_pair() -> tuple[socket.socket, socket.socket]:
    """Two connected ends that keep record borders and order, both non-blocking."""
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in ends:
        end.setblocking(False)
    return ends


def send_record(sock: socket.socket, parts: Sequence[bytes | memoryview], descriptors: Sequence[int] = ()) -> None:
    """Send one record whole, descriptors with it. BlockingIOError when there is no room now."""
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
    sock.sendmsg(parts, ancillary, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)


def receive_record(sock: socket.socket, into: Sequence[memoryview | bytearray], limit: int = 0) -> tuple[int, tuple[int, ...], bool]:
    """Receive one record: (bytes, descriptors, truncated). 0 bytes is the end. BlockingIOError when there is none now.

    At most ``limit`` descriptors are taken; the kernel closes the others and the record counts as truncated.
    """
    room = socket.CMSG_SPACE(limit * _INT_BYTES) if limit else 0
    size, ancillary, flags, _ = sock.recvmsg_into(into, room, socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC)
    descriptors = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(data[: len(data) - len(data) % _INT_BYTES])
    # CMSG_SPACE rounds up to 8 bytes, so the kernel may put one more into the padding than was asked for.
    for extra in descriptors[limit:]:
        os.close(extra)
    truncated = bool(flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC)) or len(descriptors) > limit
    return size, tuple(descriptors[:limit]), truncated


def send_views(sock: socket.socket, views: Sequence[memoryview], more: bool = False) -> int:
    """Send side by side what the socket takes: the bytes that left. BlockingIOError when it takes none.

    ``more``: the kernel may wait for what follows before it sends a short segment.
    """
    return sock.sendmsg(views, (), SENDS_WITH_MORE if more else PLAIN_SENDS)


# --- pipes: payload that stays in the kernel ----------------------------------------------------------------------


def open_pipe(size: int) -> tuple[int, int, int]:
    """(reader, writer, capacity) of a non-blocking pipe of ``size`` bytes, or less where the user has too many pages in pipes."""
    reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    with suppress(OSError):
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, size)
    return reader, writer, fcntl.fcntl(writer, fcntl.F_GETPIPE_SZ)


def splice_in(source: int, pipe: int, most: int) -> int:
    """Move up to ``most`` bytes from a socket into a pipe; 0 at the stream's end. BlockingIOError when there are none, or no room."""
    return os.splice(source, pipe, most, flags=os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK)


def splice_out(pipe: int, target: int, most: int, offset: int | None, more: bool) -> int:
    """Move up to ``most`` bytes from a pipe into a socket, or into a file at ``offset``."""
    flags = os.SPLICE_F_MOVE | (os.SPLICE_F_MORE if more else 0)
    return os.splice(pipe, target, most, offset_dst=offset, flags=flags)


def no_kernel_cipher() -> str:
    """Why the kernel would not encrypt for us: what its AF_ALG sockets say to AES-GCM. Empty when it would."""
    try:
        with socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET) as probe:
            probe.bind(("aead", "gcm(aes)"))
    except (AttributeError, OSError) as error:
        return getattr(error, "strerror", None) or str(error)
    return ""


def poller() -> Poller:
    """An empty poller."""
    return select.epoll(flags=select.EPOLL_CLOEXEC)


# --- processes ---------------------------------------------------------------------------------------------------


def die_with_parent(parent: int) -> None:
    """Ask for SIGKILL when ``parent`` ends; ends at once when it already did.

    The kernel forgets this when the process changes its effective or file-system ids (prctl(2)), so it only backs up
    what every loop does first: end when the hub's socket closes.
    """
    if _libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def set_title(title: str) -> None:
    """What ps shows for this process."""
    setproctitle(title)


def map_large_allocations() -> None:
    """Keep large blocks of memory out of the heap for good, in this process and its children (mallopt(3), M_MMAP_THRESHOLD).

    Left alone, glibc raises its threshold when such a block is freed. A zeroed block of megabytes that is hardly used, as LMDB asks for,
    then comes out of the heap and is written to from end to end.
    """
    mallopt = getattr(_libc, "mallopt", None)  # glibc's own: other libraries have no such habit
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _MMAP_THRESHOLD)


def merge_memory() -> str:
    """Let the kernel merge pages of this process and its children that are alike (KSM); why it does not, or nothing.

    Children share most of the master's pages until they count a reference in them; many hold the same again soon after.
    """
    if _libc.prctl(_PR_SET_MEMORY_MERGE, 1, 0, 0, 0) != 0:
        return f"this kernel does not take the request ({os.strerror(ctypes.get_errno())})"
    try:
        with open(_MERGING, encoding="ascii") as state:
            return "" if state.read().strip() == "1" else f"the kernel's merging is off: echo 1 >{_MERGING}"
    except OSError as error:
        return f"{_MERGING}: {error.strerror}"


def close_others(keep: Iterable[int]) -> None:
    """Close every descriptor above 2 that is not in ``keep``: a fork inherits what belongs to other clients."""
    low = 3
    for fd in sorted(set(keep)):
        if fd >= low:
            os.closerange(low, fd)
            low = fd + 1
    os.closerange(low, os.sysconf("SC_OPEN_MAX"))
