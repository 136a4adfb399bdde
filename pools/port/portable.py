"""What every port has in common: calls that POSIX and Python's standard library offer everywhere.

Owns: nothing; each function is one call or a few. A hot path pays for no layer: where nothing of ours is needed around a call, the name
here is the very function.

Contracts are in ``interface``.
"""

from __future__ import annotations

import array
import ctypes
import errno
import fcntl
import mmap
import os
import resource
import shutil
import signal
import socket
import struct
import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from setproctitle import setproctitle, setthreadtitle

# --- memory ------------------------------------------------------------------------------------------------------

PAGE: Final = mmap.PAGESIZE
NO_ROOM: Final = frozenset({errno.ENOSPC, errno.ENOMEM, errno.EDQUOT})


def create_memory_file(path: str, size: int) -> int:
    """See ``interface.Memory``."""
    with suppress(FileNotFoundError):
        os.unlink(path)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    return sized(fd, size)


def sized(fd: int, size: int) -> int:
    """``fd``, now of ``size`` bytes; closed when that fails."""
    try:
        os.ftruncate(fd, size)
    except OSError:
        os.close(fd)
        raise
    return fd


def commit(fd: int, offset: int, length: int) -> None:
    """posix_fallocate(3)."""
    os.posix_fallocate(fd, offset, length)


def window(mapping: mmap.mmap, offset: int, length: int) -> tuple[memoryview, Callable[[], bool]]:
    """A range of a mapping as writable bytes, and whether the view, or any slice made of it, still lives."""
    # An exporter of the range's own: every view of it keeps it alive, so its end is the end of the last view.
    exporter = (ctypes.c_ubyte * length).from_buffer(mapping, offset)
    alive = weakref.ref(exporter)
    return memoryview(exporter).cast("B"), lambda: alive() is not None


# --- sockets -----------------------------------------------------------------------------------------------------

_LINGER_NOT: Final = struct.pack("ii", 1, 0)
_INT_BYTES: Final = 4
# What not every system has is left out of what can be configured, not an error of the import.
_OPTION_NAMES: Final = (
    ("IPPROTO_TCP", "TCP_NODELAY"), ("SOL_SOCKET", "SO_KEEPALIVE"), ("SOL_SOCKET", "SO_SNDBUF"), ("SOL_SOCKET", "SO_RCVBUF"),
    ("IPPROTO_TCP", "TCP_KEEPCNT"), ("IPPROTO_TCP", "TCP_KEEPIDLE"), ("IPPROTO_TCP", "TCP_KEEPINTVL"), ("IPPROTO_TCP", "TCP_USER_TIMEOUT"),
)  # fmt: skip
OPTIONS: Final[Mapping[str, tuple[int, int]]] = {
    name: (getattr(socket, level), getattr(socket, name)) for level, name in _OPTION_NAMES if hasattr(socket, name)
}

host_name = socket.gethostname
interface_index = socket.if_nametoindex


def record_pair() -> tuple[socket.socket, socket.socket]:
    """Two SOCK_SEQPACKET sockets: a record is a record, and the end of one side is an event at the other. A datagram pair has no end."""
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in ends:
        end.setblocking(False)
    return ends


def stream_pair() -> tuple[socket.socket, socket.socket]:
    """See ``interface.Sockets``."""
    return socket.socketpair()


def listen_local(path: str) -> socket.socket:
    """See ``interface.Sockets``. Made with its mode: changed afterwards, anybody could connect in between."""
    with suppress(FileNotFoundError):
        os.unlink(path)
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        made.bind(path)
        made.listen(64)
    except OSError:
        made.close()
        raise
    finally:
        os.umask(before)
    made.setblocking(False)
    return made


def connect_local(path: str, timeout: float) -> socket.socket:
    """See ``interface.Sockets``."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        made.settimeout(timeout)
        made.connect(path)
    except OSError:
        made.close()
        raise
    return made


def adopt(fd: int) -> socket.socket:
    """See ``interface.Sockets``."""
    return socket.socket(fileno=fd)


def reset_at_close(sock: socket.socket) -> None:
    """See ``interface.Sockets``."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)


def stream(family: int) -> socket.socket:
    """See ``interface.Sockets``."""
    made = socket.socket(family, socket.SOCK_STREAM)
    made.setblocking(False)
    return made


def rights(descriptors: Sequence[int]) -> list[tuple[int, int, array.array[int]]]:
    """The ancillary data that carries descriptors."""
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []


def room_for_rights(limit: int) -> int:
    """Bytes of ancillary data in which ``limit`` descriptors arrive."""
    return socket.CMSG_SPACE(limit * _INT_BYTES) if limit else 0


def arrived(ancillary: Iterable[tuple[int, int, bytes]], limit: int, flags: int) -> tuple[tuple[int, ...], bool]:
    """(descriptors, truncated) of a record that came with this ancillary data."""
    descriptors = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(data[: len(data) - len(data) % _INT_BYTES])
    # CMSG_SPACE rounds up to 8 bytes, so the kernel may put one more into the padding than was asked for.
    for extra in descriptors[limit:]:
        os.close(extra)
    truncated = bool(flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC)) or len(descriptors) > limit
    return tuple(descriptors[:limit]), truncated


# --- processes ---------------------------------------------------------------------------------------------------

_STACK: Final = 1 << 20
fork = os.fork
exit_now = os._exit
kill = os.kill
own_pid = os.getpid
own_thread = threading.get_native_id
set_umask = os.umask


def reap() -> Iterator[tuple[int, int]]:
    """See ``interface.Processes``."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        yield pid, status


def wait(pid: int) -> int:
    """See ``interface.Processes``."""
    return os.waitpid(pid, 0)[1]


def ended(status: int) -> tuple[int, int, bool]:
    """See ``interface.Processes``."""
    if os.WIFSIGNALED(status):
        return 0, os.WTERMSIG(status), os.WCOREDUMP(status)
    return os.WEXITSTATUS(status), 0, False


def hold_signals(numbers: Iterable[int]) -> set[int]:
    """See ``interface.Processes``."""
    return set(signal.pthread_sigmask(signal.SIG_BLOCK, numbers))


def release_signals(held: Iterable[int]) -> None:
    """See ``interface.Processes``."""
    signal.pthread_sigmask(signal.SIG_SETMASK, held)


def on_signals(handlers: Mapping[signal.Signals, Any]) -> Mapping[signal.Signals, Any]:
    """See ``interface.Processes``."""
    return {number: signal.signal(number, handler) for number, handler in handlers.items()}


def wake_by_signals(fd: int) -> int:
    """A number that finds no room is dropped without a word: the one before it wakes the loop as well."""
    return signal.set_wakeup_fd(fd, warn_on_full_buffer=False)


def close_others(keep: Iterable[int]) -> None:
    """See ``interface.Processes``."""
    low = 3
    for fd in sorted(set(keep)):
        if fd >= low:
            os.closerange(low, fd)
            low = fd + 1
    os.closerange(low, os.sysconf("SC_OPEN_MAX"))


def raise_descriptor_limit() -> None:
    """See ``interface.Processes``."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def descriptor_limit() -> int:
    """See ``interface.Processes``."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft


def set_title(title: str) -> None:
    """See ``interface.Processes``."""
    setproctitle(title)


def name_thread(words: str) -> None:
    """See ``interface.Processes``. Elsewhere than on Linux it does nothing."""
    setthreadtitle(words)


def start_thread(name: str, call: Callable[[], None]) -> Callable[[float], bool]:
    """See ``interface.Processes``."""
    # Address space; our deepest calls take a fraction. Beneath the size of a huge page, so that none is made of a stack.
    threading.stack_size(_STACK)
    thread = threading.Thread(target=call, name=name, daemon=True)
    thread.start()

    def over(seconds: float) -> bool:
        thread.join(seconds)
        return not thread.is_alive()

    return over


def physical_memory() -> int:
    """See ``interface.Processes``."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def write_no_core() -> None:
    """See ``interface.Sandbox``."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


# --- credentials -------------------------------------------------------------------------------------------------

effective_uid = os.geteuid
groups_of = os.getgrouplist
_INVALID: Final = 0xFFFFFFFF


def check_id(number: int) -> None:
    """4294967295 is -1 to the kernel: "keep", which here would mean root."""
    if not 0 <= number < _INVALID:
        raise OSError(errno.EINVAL, f"{number} is no user's or group's id")


def effective() -> tuple[int, int, tuple[int, ...]]:
    """See ``interface.Credentials``."""
    return os.geteuid(), os.getegid(), tuple(os.getgroups())


def real() -> tuple[int, int]:
    """See ``interface.Credentials``."""
    return os.getuid(), os.getgid()


# --- files -------------------------------------------------------------------------------------------------------

close = os.close
dup = os.dup
fstat = os.fstat
fsync = os.fsync
listdir = os.listdir
pread = os.pread
preadv = os.preadv
pwrite = os.pwrite
read = os.read
readv = os.readv
scandir = os.scandir
stat = os.stat
truncate = os.ftruncate
write = os.write

link_path = os.link
move_path = os.replace
remove_path = os.unlink
remove_tree = shutil.rmtree


def open(path: str | bytes | os.PathLike[str], flags: int, mode: int = 0o600) -> int:
    """See ``interface.Files``."""
    return os.open(path, flags | os.O_CLOEXEC, mode)


def lock(fd: int, *, shared: bool = False, wait: bool = False) -> None:
    """flock(2)."""
    fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))


def unlock(fd: int) -> None:
    """flock(2)."""
    fcntl.flock(fd, fcntl.LOCK_UN)


def mkdir(directory: int, name: bytes, mode: int) -> None:
    """See ``interface.Files``."""
    os.mkdir(name, mode, dir_fd=directory)


def remove(directory: int, name: bytes, *, is_directory: bool = False) -> None:
    """See ``interface.Files``."""
    (os.rmdir if is_directory else os.unlink)(name, dir_fd=directory)


def link(source: int, name: bytes, target: int, new_name: bytes) -> None:
    """See ``interface.Files``."""
    os.link(name, new_name, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)


def symlink(target: bytes, directory: int, name: bytes) -> None:
    """See ``interface.Files``."""
    os.symlink(target, name, dir_fd=directory)


def read_link(directory: int, name: bytes) -> bytes:
    """See ``interface.Files``."""
    return os.readlink(name, dir_fd=directory)


def set_link_times(directory: int, name: bytes, access_ns: int | None, modification_ns: int | None) -> None:
    """The time that is to stay is set as it was a moment ago."""
    found = os.stat(name, dir_fd=directory, follow_symlinks=False)
    access_ns = found.st_atime_ns if access_ns is None else access_ns
    modification_ns = found.st_mtime_ns if modification_ns is None else modification_ns
    os.utime(name, ns=(access_ns, modification_ns), dir_fd=directory, follow_symlinks=False)


def sync_directory(path: str | os.PathLike[str]) -> None:
    """See ``interface.Files``."""
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def may_access_path(path: str | os.PathLike[str], mode: int) -> bool:
    """See ``interface.Files``."""
    return os.access(path, mode, effective_ids=True)


def reserve(fd: int, size: int) -> None:
    """posix_fallocate(3) from the start on."""
    if size:
        os.posix_fallocate(fd, 0, size)


def data_ranges(fd: int, offset: int, length: int, limit: int) -> list[tuple[int, int]]:
    """SEEK_DATA and SEEK_HOLE, which POSIX has since 2024 and some systems have not."""
    if not hasattr(os, "SEEK_DATA"):
        return [(offset, length)]
    ranges: list[tuple[int, int]] = []
    end = offset + length
    while offset < end and len(ranges) < limit:
        try:
            start = os.lseek(fd, offset, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole up to the end of file
                break
            raise
        if start >= end:
            break
        stop = min(os.lseek(fd, start, os.SEEK_HOLE), end)
        ranges.append((start, stop - start))
        offset = stop
    return ranges
