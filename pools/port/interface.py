"""What a port is: the typed interface, one Protocol for each part of the machine.

Owns: the words that cross the border (``Stat``, ``Change``, ``Tree``, the poller's events) and the contracts. Pure: nothing here makes a
system call, so both ports and everything above may import it.

A port is a package with a module for each Protocol; mypy compares them in ``choice``. Descriptors that are returned belong to the caller
and are closed when the process executes another program. Failures leave as ``OSError`` with the system's errno; what a port cannot do at
all is EOPNOTSUPP, which callers already expect of file systems. Times are nanoseconds since 1970 or seconds of ``time.monotonic``: a timer
is a time-out of the poller.
"""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from signal import Signals
from socket import socket
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

# Events of a poller. The numbers are Linux's, so that its port has nothing to translate.
READABLE: Final = 0x001
WRITABLE: Final = 0x004
HANGUP: Final = 0x2018  # the other end is gone, or will send no more, or an error waits

# The errno of a file that has no such attribute; not every system has the word.
NO_ATTRIBUTE: Final[int] = getattr(errno, "ENODATA", errno.ENOENT)

# Of ``Stat.stx_attributes``: what is written to the file is compressed; a directory's: what is made in it begins so. It is Linux's number.
COMPRESSED: Final = 0x4

# What happened to a name (``Change.mask``). The numbers are inotify's, which fanotify shares.
ATTRIBUTES: Final = 0x4
CLOSE_WRITE: Final = 0x8
CREATED: Final = 0x100
DELETED: Final = 0x200
RENAMED: Final = 0x10000000
DIRECTORY: Final = 0x40000000


class Stat(NamedTuple):
    """struct statx: the widest of what systems tell. Times are (seconds, nanoseconds) pairs in sequence; the birth time is 0, 0 where the
    file system, or the port, knows none.
    """

    mask: int
    blksize: int
    stx_attributes: int
    nlink: int
    uid: int
    gid: int
    mode: int
    ino: int
    size: int
    blocks: int
    attributes_mask: int
    atime: int
    atime_ns: int
    btime: int
    btime_ns: int
    ctime: int
    ctime_ns: int
    mtime: int
    mtime_ns: int
    rdev_major: int
    rdev_minor: int
    dev_major: int
    dev_minor: int


class Place(NamedTuple):
    """Where a descriptor was found: the root it was opened beneath, and the path from there.

    A hint, never a proof: the port that needs it checks that the path still leads to the very file of the descriptor.
    """

    root: int
    path: bytes


class Change(NamedTuple):
    """One change on disk. ``mask`` holds the bits above; ``new_path`` is '' unless something was renamed."""

    mask: int
    path: str
    new_path: str = ""


class Tree(NamedTuple):
    """A directory to be watched, with what is beneath it if ``recursive``."""

    path: str
    recursive: bool


# --- memory ------------------------------------------------------------------------------------------------------


class ArenaMemory(Protocol):
    """Room of a fixed size for the slabs of one process: made before its fork, mapped after it, by that process alone."""

    def fileno(self) -> int:
        """The descriptor to keep over ``close_others``; -1 where there is none."""

    def map(self) -> None:
        """Make it usable in this process. Once more does nothing."""

    def commit(self, offset: int, length: int) -> tuple[memoryview, Callable[[], bool]]:
        """The range as writable bytes, and whether that view, or any slice made of it, still lives.

        OSError in ``NO_ROOM`` when the machine has no memory for it, where the system can say so; ValueError before ``map``.
        """

    def decommit(self, offset: int, length: int) -> None:
        """Give the memory of a committed range back. No view of it may live."""

    def committed_bytes(self) -> int:
        """What it costs now, as far as this process can know."""

    def close(self) -> None:
        """Give everything back. BufferError while views live. Once more does nothing."""


class Memory(Protocol):
    """Shared memory, and the habits of the allocator."""

    @property
    def PAGE(self) -> int:
        """Bytes."""

    @property
    def NO_ROOM(self) -> frozenset[int]:
        """The errnos that mean: no memory, or no room where memory comes from."""

    def create_arena(self, size: int, likely_use: int) -> ArenaMemory:
        """``size`` bytes of address space, of which up to ``likely_use`` will be committed at once."""

    def create_shared_memory(self, size: int, likely_use: int) -> int:
        """A nameless sparse object of ``size`` bytes that children inherit; the descriptor."""

    def create_memory_file(self, path: str, size: int) -> int:
        """A new private sparse file of ``size`` bytes in place of what is at ``path``; the descriptor.

        What was there is unlinked, never written to: somebody may still have it mapped.
        """

    def map_shared(self, fd: int, size: int, *, offset: int = 0, writable: bool = True) -> mmap.mmap:
        """Map a range; left out of core dumps where that can be asked, because it holds what clients sent."""

    def commit(self, fd: int, offset: int, length: int) -> None:
        """Allocate the pages of a range now: ENOSPC here is an error to handle, at the first touch it would be SIGBUS."""

    def map_large_allocations(self) -> None:
        """Keep large blocks of memory out of the heap for good, in this process and its children, where the allocator can be told."""

    def share_one_heap(self) -> None:
        """Have all threads of this process allocate from one heap, where the allocator can be told."""

    def merge_memory(self) -> str:
        """Have pages of this process and its children that are alike merged; why that does not happen, or nothing."""


# --- events ------------------------------------------------------------------------------------------------------


class Poller(Protocol):
    """Level-triggered readiness of descriptors; ``poll`` takes seconds, None waits for ever."""

    @property
    def closed(self) -> bool: ...
    def register(self, fd: int, eventmask: int = ...) -> None: ...
    def modify(self, fd: int, eventmask: int) -> None: ...
    def unregister(self, fd: int) -> None: ...
    def poll(self, timeout: float | None = ..., maxevents: int = ...) -> list[tuple[int, int]]: ...
    def close(self) -> None: ...


class Polling(Protocol):
    """Waiting for many descriptors at once."""

    def poller(self) -> Poller:
        """An empty poller."""


# --- sockets -----------------------------------------------------------------------------------------------------


class Sockets(Protocol):
    """Descriptors over sockets, and payload that stays in the kernel on its way through one."""

    @property
    def KERNEL_FORMAT(self) -> bool:
        """Whether ``sendfile`` and the splices are more than EOPNOTSUPP."""

    @property
    def OPTIONS(self) -> Mapping[str, tuple[int, int]]:
        """By their names in `socket options`: level and number of what can be set here."""

    def record_pair(self) -> tuple[socket, socket]:
        """Two connected ends that keep record borders and order, both non-blocking."""

    def stream_pair(self) -> tuple[socket, socket]:
        """Two connected ends of a stream, both blocking."""

    def stream(self, family: int) -> socket:
        """A non-blocking TCP socket."""

    def listen_local(self, path: str) -> socket:
        """A non-blocking listener at a path in the file system, in the place of what was there, for this user (and root) alone."""

    def connect_local(self, path: str, timeout: float) -> socket:
        """A connection to one; each call on it takes at most ``timeout`` seconds. OSError when nobody listens or may not be asked."""

    def adopt(self, fd: int) -> socket:
        """A socket whose descriptor came by message, and is the object's from here on."""

    def host_name(self) -> str:
        """What this machine calls itself."""

    def interface_index(self, name: str, /) -> int:
        """The number of a network interface. OSError when there is none of that name."""

    def receive_queues(self, name: str) -> int:
        """How many queues a network interface spreads what it receives over; 1 where that is not known."""

    def send_record(self, sock: socket, parts: Sequence[bytes | memoryview], descriptors: Sequence[int] = ()) -> None:
        """Send one record whole, descriptors with it. BlockingIOError when there is no room now."""

    def receive_record(self, sock: socket, into: Sequence[memoryview | bytearray], limit: int = 0) -> tuple[int, tuple[int, ...], bool]:
        """Receive one record: (bytes, descriptors, truncated). 0 bytes is the end. BlockingIOError when there is none now.

        At most ``limit`` descriptors are taken; others are closed and the record counts as truncated.
        """

    def send_views(self, sock: socket, views: Sequence[memoryview], more: bool = False) -> int:
        """Send side by side what the socket takes: the bytes that left. BlockingIOError when it takes none.

        ``more``: the kernel may wait for what follows before it sends a short segment.
        """

    def progress(self, sock: socket) -> tuple[int, int, float]:
        """Bytes that a connected stream's peer has acknowledged, bytes that were given to the kernel and are not acknowledged, and the
        seconds after which it sends them again (1.0 where that is not known).

        (0, n, ...) where only the second is known, (0, -1, ...) where neither is.
        """

    def reset_at_close(self, sock: socket) -> None:
        """What is unsent, and what is not acknowledged, is forgotten when the socket is closed, and its peer hears so at once."""

    def sendfile(self, sock: int, file: int, offset: int, count: int, /) -> int:
        """Send a range of a file: the bytes that left, 0 at the file's end. EOPNOTSUPP: read it and send it."""

    def open_pipe(self, size: int) -> tuple[int, int, int]:
        """(reader, writer, capacity) of a non-blocking pipe of ``size`` bytes, or less where the system gives no more."""

    def splice_in(self, source: int, pipe: int, most: int) -> int:
        """Move up to ``most`` bytes from a socket into a pipe; 0 at the stream's end. BlockingIOError when there are none, or no room."""

    def splice_out(self, pipe: int, target: int, most: int, offset: int | None, more: bool) -> int:
        """Move up to ``most`` bytes from a pipe into a socket, or into a file at ``offset``."""

    def no_kernel_cipher(self) -> str:
        """Why the kernel would not encrypt for us. Empty when it would."""


# --- processes ---------------------------------------------------------------------------------------------------


class Processes(Protocol):
    """Processes, threads and signals."""

    def fork(self) -> int:
        """0 in the child. The caller holds back signals and leaves the child through ``exit_now``."""

    def exit_now(self, code: int) -> None:
        """End this process without any clean-up of the interpreter's. Does not return."""

    def reap(self) -> Iterator[tuple[int, int]]:
        """(pid, wait status) of every child that has ended; never blocks."""

    def wait(self, pid: int) -> int:
        """The wait status of that child, when it has ended."""

    def ended(self, status: int) -> tuple[int, int, bool]:
        """A wait status read: (exit code, or 0; the signal that killed it, or 0; whether a core was written)."""

    def kill(self, pid: int, number: int, /) -> None:
        """Send a signal."""

    def watched(self, pid: int) -> AbstractContextManager[Callable[[float], bool]]:
        """A process that need not be a child: a function that waits so many seconds for its end, and says whether it has come.

        ProcessLookupError when it is gone already.
        """

    def own_pid(self) -> int:
        """This process's number."""

    def hold_signals(self, numbers: Iterable[int]) -> set[int]:
        """Keep signals waiting; what was held before, for ``release_signals``."""

    def release_signals(self, held: Iterable[int]) -> None:
        """From here on just these are held."""

    def on_signals(self, handlers: Mapping[Signals, Any]) -> Mapping[Signals, Any]:
        """Set handlers (SIG_DFL and SIG_IGN are some, too); what they were before, to be set again."""

    def wake_by_signals(self, fd: int) -> int:
        """Have the interpreter write each signal's number to ``fd``, -1 for none; what it was before."""

    def close_others(self, keep: Iterable[int]) -> None:
        """Close every descriptor above 2 that is not in ``keep``: a fork inherits what belongs to other clients."""

    def raise_descriptor_limit(self) -> None:
        """As many as the hard limit gives; a system that refuses is no error."""

    def descriptor_limit(self) -> int:
        """How many descriptors this process may have: each is a smaller number."""

    def set_umask(self, mask: int, /) -> int:
        """Of this process; what it was before."""

    def set_title(self, title: str) -> None:
        """What ps shows for this process."""

    def own_thread(self) -> int:
        """The system's number of the calling thread."""

    def name_thread(self, words: str) -> None:
        """What top shows for the calling thread, where threads have names; a few bytes of it."""

    def start_thread(self, name: str, call: Callable[[], None]) -> Callable[[float], bool]:
        """A thread that does not hold up the end of the process. What is returned waits so many seconds: whether it has ended."""

    def claimed(self) -> float:
        """Seconds for which the calling thread has had a processor since it began, or has waited for one where the system counts that.

        ``OSError`` where no descriptor is left to look with.
        """

    def physical_memory(self) -> int:
        """Bytes of this machine."""


class Sandbox(Protocol):
    """What a process gives up for good."""

    def die_with_parent(self, parent: int) -> None:
        """End with ``parent``, where the kernel can be asked for that; ends at once when it already has.

        It only backs up what every loop does first: end when the hub's socket closes.
        """

    def write_no_core(self) -> None:
        """No core files of this process: they would hold its secrets."""


# --- files -------------------------------------------------------------------------------------------------------


class Attributes(Protocol):
    """Extended attributes of the files beneath one root.

    ``fd`` may be a descriptor that only names its file. Absence is None, an errno only where the caller must tell why.
    """

    def get(self, fd: int, name: str) -> bytes | None:
        """One attribute; None when there is none or the file system keeps none. PermissionError when it is not the caller's to see."""

    def small(self, fd: int, name: bytes) -> bytes | None:
        """As ``get`` for a readable descriptor and a value of at most 256 bytes; absence, the usual answer, costs no exception."""

    def at(self, directory: int, name: bytes, attribute: bytes) -> bytes | None:
        """A small attribute of a name in a directory (symlinks are themselves); None for absent, unreadable or gone. Never an exception: a
        listing asks it of every entry.
        """

    def names(self, fd: int) -> list[str]:
        """Of all attributes, those included that only root may read. EOPNOTSUPP where the file system keeps none."""

    def set(self, fd: int, name: str, value: bytes) -> None:
        """Make or replace one. ENOSPC, E2BIG or ERANGE when there is no room for it."""

    def remove(self, fd: int, name: str) -> None:
        """OSError with ``NO_ATTRIBUTE`` when there is none."""

    def fresh(self, fd: int) -> None:
        """This file was made just now: whatever is known under its number was another file's."""

    def gone(self, key: tuple[int, int]) -> None:
        """The file (device, inode) has lost its last name."""


class Quota(NamedTuple):
    """What a user has on a file system, and may have, in bytes. ``soft``: he is warned; ``hard``: he gets no more; 0: no limit."""

    used: int
    soft: int
    hard: int


class Files(Protocol):
    """Operations on files. A name beside a directory's descriptor is a single component, never a path, unless it says so."""

    @property
    def WARM(self) -> int:
        """The flag of ``preadv``."""

    @property
    def PATH_ONLY(self) -> int:
        """For ``open_beneath`` and ``open``: a descriptor that need only name the file, not read it. 0 where there is no such thing: such a
        descriptor then reads, and what may not be read cannot be opened.
        """

    # Opening

    def open(self, path: str | bytes | os.PathLike[str], flags: int, mode: int = 0o600) -> int:
        """open(2) by a path of our own, not of a client."""

    def open_beneath(self, root: int, path: bytes, flags: int, mode: int = 0, follow: bool = False) -> int:
        """Open a path of any length beneath ``root``. Whatever symlinks, '..' and renames meanwhile, the result lies beneath it.

        ELOOP for a symlink unless ``follow``; EXDEV where the path, or a symlink on it, leads out.
        """

    def reopen(self, fd: int, flags: int, place: Place) -> int:
        """The very file of ``fd`` once more, with other flags and the caller's rights of this moment."""

    def where(self, fd: int, place: Place) -> bytes | None:
        """The path from ``place.root`` to the file as it is now, free of symlinks; b'' is the root. None:
        outside, deleted, or not found.
        """

    def may_access(self, fd: int, mode: int, place: Place) -> bool:
        """Whether the caller, with its rights of this moment, may do what ``os.access`` calls ``mode``."""

    # Descriptors

    def close(self, fd: int, /) -> None:
        """Once: the number is somebody else's soon."""

    def dup(self, fd: int, /) -> int:
        """Another descriptor of the same opening."""

    def read(self, fd: int, length: int, /) -> bytes:
        """From where the descriptor stands."""

    def readv(self, fd: int, buffers: Sequence[WriteableBuffer], /) -> int:
        """From where the descriptor stands."""

    def write(self, fd: int, data: ReadableBuffer, /) -> int:
        """Where the descriptor stands."""

    def pread(self, fd: int, length: int, offset: int, /) -> bytes:
        """Less at the end of file."""

    def preadv(self, fd: int, buffers: Sequence[WriteableBuffer], offset: int, flags: int = 0, /) -> int:
        """Less at the end of file. ``WARM``: of what is in memory; BlockingIOError, or less, where a disk would be asked, EOPNOTSUPP where
        nobody can tell.
        """

    def is_cached(self, fd: int, offset: int, length: int) -> bool | None:
        """Whether each page of a range is in memory, or on its way there; None where the system does not say."""

    def pwrite(self, fd: int, data: ReadableBuffer, offset: int, /) -> int:
        """The bytes that were written."""

    def fsync(self, fd: int, /) -> None:
        """On the disk when this returns."""

    def truncate(self, fd: int, length: int, /) -> None:
        """Cut, or extend by a hole."""

    def fstat(self, fd: int, /) -> os.stat_result:
        """As Python has it: cheaper than ``stat_fd`` where the size is all that is wanted."""

    def lock(self, fd: int, *, shared: bool = False, wait: bool = False) -> None:
        """An advisory lock on the whole file, this opening's. BlockingIOError when another has it, unless ``wait``."""

    def unlock(self, fd: int) -> None:
        """Before its descriptors are closed."""

    def lock_range(self, fd: int, offset: int, length: int, *, exclusive: bool) -> None:
        """An advisory lock of this opening on a part of the file, in place of what it has there; every program that asks sees it.

        BlockingIOError when it conflicts with somebody else's. EOPNOTSUPP where only whole processes have such locks.
        """

    def unlock_range(self, fd: int, offset: int, length: int) -> None:
        """Nothing of this opening is locked there any more."""

    # What a file is

    def stat(self, path: str | bytes | os.PathLike[str]) -> os.stat_result:
        """By a path of our own."""

    def stat_fd(self, fd: int) -> Stat:
        """Of an open descriptor."""

    def stat_at(self, directory: int, name: bytes) -> Stat:
        """Of a name in a directory; a symlink is itself."""

    def chmod(self, fd: int, mode: int) -> None:
        """The owner's right, or root's."""

    def chown(self, fd: int, uid: int, gid: int) -> None:
        """-1 leaves one alone."""

    def set_times(self, fd: int, access_ns: int | None, modification_ns: int | None) -> None:
        """None leaves a time alone."""

    def in_memory(self, device: int) -> bool:
        """Whether a device number is that of a file system that is memory and never waits for anything. It is not asked."""

    def asks_others(self, path: str) -> bool:
        """Whether the file system at ``path`` asks a process or another machine, and may wait for ever for the answer. It is not asked."""

    def may_wait(self) -> None:
        """The calling thread is there to wait for slow disks: no call that it makes keeps other threads from running."""

    def volume(self, fd: int) -> os.statvfs_result:
        """Of the file system that the file lies on."""

    def quota(self, fd: int, uid: int) -> Quota | None:
        """A user's on the file system of ``fd``; None where it has no quotas. PermissionError: somebody else's, asked for without root."""

    def next_quota(self, fd: int, uid: int) -> tuple[int, Quota] | None:
        """The first user from ``uid`` on of whom there is one; None: nobody, or the file system does not say. For root."""

    def set_quota(self, fd: int, uid: int, soft: int, hard: int) -> None:
        """Limits in bytes, 0 for none; rounded up to what the file system counts in. For root. EOPNOTSUPP where there are no quotas."""

    def attributes(self, root: int, as_root: Callable[[], AbstractContextManager[None]]) -> Attributes:
        """The extended attributes beneath a root. ``as_root``: how to act as root for a moment, for a port that keeps them itself."""

    # Names

    def mkdir(self, directory: int, name: bytes, mode: int) -> None:
        """FileExistsError for any name that is there."""

    def remove(self, directory: int, name: bytes, *, is_directory: bool = False) -> None:
        """Remove a name; a directory must be empty."""

    def link(self, source: int, name: bytes, target: int, new_name: bytes) -> None:
        """A hard link; a symlink is not followed."""

    def symlink(self, target: bytes, directory: int, name: bytes) -> None:
        """symlinkat(2): FileExistsError where there is something of this name."""

    def read_link(self, directory: int, name: bytes) -> bytes:
        """readlinkat(2): EINVAL where the name is no symlink."""

    def pin_link(self, directory: int, name: bytes) -> int:
        """A descriptor that only keeps a symlink's inode from being another file's once its name is gone; -1 where there is none such."""

    def set_link_times(self, directory: int, name: bytes, access_ns: int | None, modification_ns: int | None) -> None:
        """utimensat(2) of the symlink itself; None leaves a time alone."""

    def rename(self, source: int, name: bytes, target: int, new_name: bytes, *, replace: bool) -> None:
        """FileExistsError when there is something and ``replace`` is not given; whether that check and the renaming are one step is the
        file system's affair.
        """

    def listdir(self, directory: int) -> list[str]:
        """Names, in no order."""

    def scandir(self, directory: int) -> AbstractContextManager[Iterator[os.DirEntry[str]]]:
        """Entries, one after the other, from where the descriptor stands."""

    def scan(self, directory: int) -> AbstractContextManager[Iterator[os.DirEntry[str]]]:
        """All entries, one after the other, through an opening of its own, which goes when this is let go of: who else reads from the
        descriptor neither moves it nor is moved. Through the descriptor's own where the caller may not open the directory any more.
        """

    # Paths of our own: configuration, state, databases

    def remove_path(self, path: str | os.PathLike[str]) -> None:
        """A file."""

    def remove_tree(self, path: str | os.PathLike[str], ignore_errors: bool = False) -> None:
        """A directory and all beneath; symlinks are not followed."""

    def move_path(self, old: str | os.PathLike[str], new: str | os.PathLike[str]) -> None:
        """In one step, in place of what was there."""

    def link_path(self, old: str | os.PathLike[str], new: str | os.PathLike[str]) -> None:
        """FileExistsError when the name is taken: of several who make a file, one wins."""

    def sync_directory(self, path: str | os.PathLike[str]) -> None:
        """What was renamed in it stays so through a loss of power."""

    def may_access_path(self, path: str | os.PathLike[str], mode: int) -> bool:
        """With the effective ids."""

    # Blocks

    def preallocate(self, fd: int, size: int) -> None:
        """Reserve blocks up to ``size``; the size stays. EOPNOTSUPP where that cannot be."""

    def reserve(self, fd: int, size: int) -> None:
        """Make the file ``size`` bytes long, all of it allocated."""

    def punch_hole(self, fd: int, offset: int, length: int) -> None:
        """Deallocates; reads as zeroes; the size stays. EOPNOTSUPP: write zeroes."""

    def zero_range(self, fd: int, offset: int, length: int) -> None:
        """Zeroes that stay allocated; the size stays. EOPNOTSUPP: write zeroes."""

    def data_ranges(self, fd: int, offset: int, length: int, limit: int) -> list[tuple[int, int]]:
        """(offset, length) of what is allocated in the window, at most ``limit`` pairs. One whole range where holes are not told apart."""

    def copy_range(self, source: int, target: int, count: int, source_offset: int, target_offset: int) -> int:
        """Copy inside the kernel, sharing blocks where the file system can: the bytes copied, 0 at the
        source's end. EOPNOTSUPP: by hand.
        """

    def may_share_blocks(self, fd: int) -> bool:
        """Whether the file system is of a kind whose files can share blocks. A volume of such a kind may still refuse."""

    def clone_range(self, source: int, target: int, count: int, source_offset: int, target_offset: int) -> None:
        """Let the target's range be the source's blocks, all of it or nothing. EOPNOTSUPP, EXDEV: they cannot share; EINVAL: what was asked
        for is not whole blocks, or lies beyond the source's end.
        """

    def may_compress(self, fd: int) -> bool:
        """Whether the file system is of a kind that compresses single files, when it is asked to."""

    def set_compressed(self, fd: int, on: bool) -> None:
        """Whether what is written from now on is compressed; of a directory: whether what is made in it begins so. The owner's right, or
        root's. EOPNOTSUPP where that cannot be.
        """


class Source(Protocol):
    """News of changes on disk, whoever made them."""

    @property
    def exact(self) -> bool:
        """Whether changes by this server's own processes are left out already."""

    @property
    def period(self) -> float:
        """Seconds after which ``changes`` is to be asked again; 0: whenever ``fileno`` is readable."""

    def fileno(self) -> int:
        """For the poller; -1 where there is nothing to wait for."""

    def cover(self, trees: set[Tree]) -> None:
        """Watch exactly these. OSError when one of them cannot be watched this way at all."""

    def changes(self) -> list[Change]:
        """What happened since it was asked last."""

    def close(self) -> None:
        """Give everything back."""


class Watching(Protocol):
    """Change notification."""

    def sources(self, own: Callable[[], frozenset[int]]) -> Sequence[Callable[[], Source]]:
        """Ways to hear of changes, the best first; opening one raises OSError where it cannot be had. ``own``: this server's processes."""


class Credentials(Protocol):
    """Who the caller is, and who it can be."""

    @property
    def PER_THREAD(self) -> bool:
        """Whether a change concerns the calling thread alone. Where it does not, nothing may run on another thread that depends on it."""

    def can_switch(self) -> bool:
        """Whether this process may act as others: it started as root."""

    def set_effective_uid(self, uid: int) -> None:
        """Groups stay as they are. EINVAL for a number that is nobody's."""

    def set_effective(self, uid: int, gid: int, groups: tuple[int, ...]) -> None:
        """All three. Passes through root, which alone may set groups; on failure the caller is root or the new user, never a mixture with
        the old one's groups and the new one's id.
        """

    def effective(self) -> tuple[int, int, tuple[int, ...]]:
        """(uid, gid, supplementary groups)."""

    def effective_uid(self) -> int:
        """0 is root."""

    def real(self) -> tuple[int, int]:
        """(uid, gid) of who started the process."""

    def groups_of(self, name: str, gid: int) -> list[int]:
        """All groups of a user of the system's database, ``gid``, the primary one, among them."""
