"""What the shared tables hold: keys, records and their bytes.

Owns: the layouts of every table and the values that cross the package's border. Pure: no database, no clock.
Invariant: a record is a layout followed by counted strings; reading one never depends on who wrote it.

A process is named by (slot, generation) everywhere; a pair whose generation is gone names nobody.
"""

from __future__ import annotations

from enum import IntEnum
from functools import lru_cache
from hashlib import blake2b
from struct import Struct
from typing import NamedTuple

from pools.layout import U8, U16, U32, U64, Layout, Raw16, Readable, WireError

BUCKETS = 4096
"""Shared words for locks, and as many for caches; a power of two."""

NOBODY = 0xFFFFFFFF
"""uid and gid where none is known."""


class FileKey(NamedTuple):
    """What opens and locks belong to: a stream of a file. ``stream`` is '' for the unnamed data stream and for directories."""

    dev: int
    ino: int
    stream: str = ""


class OpenFlags(IntEnum):
    """Bits that the tables keep of an open. CLOSING: its file is being deleted, the row stays as witness until that is done.

    Not an IntFlag: those take a microsecond for each ``&``.
    """

    DIRECTORY = 0x1
    DELETE_ON_CLOSE = 0x2
    CLOSING = 0x4


class Deletion(IntEnum):
    """What a close leaves to its caller to remove."""

    NOTHING = 0
    STREAM = 1
    FILE = 2


class CacheKind(IntEnum):
    """What an open's row says of caching: nothing, an oplock of its own, or a lease by the version its first open asked for."""

    NONE = 0
    OPLOCK = 1
    LEASE = 2
    LEASE_V2 = 3


class CacheClaim(NamedTuple):
    """The oplock or lease that a CREATE asks for: ``state`` as bits of [MS-SMB2] 2.2.13.2.8; an oplock needs neither GUID nor key.

    A lease without state still names its key: the open then belongs to it.
    """

    kind: int = 0
    state: int = 0
    epoch: int = 0
    client_guid: bytes = bytes(16)
    lease_key: bytes = bytes(16)


class OpenClaim(NamedTuple):
    """What a CREATE asks of the shared state. ``access`` is granted access, ``file_id`` unique within the worker's life.

    ``path`` is relative to the share's root, real names joined by '/', without the stream; '' is the root itself.
    ``waiter_id`` and ``deadline`` (ns of the monotonic clock) are for the breaks it may cause: whom to wake, and when to go on anyway;
    ``again``: it was answered with ``wait`` before. ``admitted``: ``may_look`` has let it in before, and it asks for no cache.
    """

    file_id: int
    access: int
    share_access: int
    path: str
    share: str = ""
    user: str = ""
    session_id: int = 0
    tree_id: int = 0
    delete_on_close: bool = False
    directory: bool = False
    uid: int = NOBODY
    gid: int = NOBODY
    opened: int = 0
    overwrite: bool = False
    cache: CacheClaim = CacheClaim()
    waiter_id: int = 0
    deadline: int = 0
    again: bool = False
    admitted: bool = False


class Notice(NamedTuple):
    """A break to tell the client of: by the worker (slot, generation), through its open ``file_id`` or any other of the lease.

    ``deadline`` is 0 where no acknowledgement is awaited.
    """

    slot: int
    generation: int
    file_id: int
    lease: bool
    lease_key: bytes
    epoch: int
    current: int
    state: int
    deadline: int


class Opened(NamedTuple):
    """The answer to an OpenClaim. ``wait``: the open is not recorded; the waiter is woken when it may try again.

    ``granted`` is what the client may cache now; ``breaking``: it has been told to give some of it back. ``notices`` are to be sent.
    """

    wait: bool
    kind: int = 0
    granted: int = 0
    epoch: int = 0
    breaking: bool = False
    notices: tuple[Notice, ...] = ()


class Disturbed(NamedTuple):
    """What an operation on an open file does to the caches of others. ``wait``: it is to go on when the waiter is woken."""

    wait: bool = False
    notices: tuple[Notice, ...] = ()


class Acknowledged(NamedTuple):
    """After an acknowledgement: what is left, whom to wake, and a further break, if there is one.

    ``accepted`` is False when more was claimed than the break allowed: an oplock is lost then ([MS-SMB2] 3.3.5.22.1).
    """

    accepted: bool
    state: int
    notices: tuple[Notice, ...]
    wake: tuple[Waiter, ...]


class OpenRow(NamedTuple):
    """One open as the table shows it (status, NetFileEnum, NetFileClose)."""

    key: FileKey
    slot: int
    generation: int
    file_id: int
    access: int
    share_access: int
    flags: int
    session_id: int
    tree_id: int
    opened: int
    uid: int
    gid: int
    share: str
    path: str
    user: str
    locks: int = 0
    cache_kind: int = 0
    cache_state: int = 0


class Closed(NamedTuple):
    """What a close means for the file. ``last``: no live open of this stream remains. ``wake``: who waited for its locks or its cache.

    ``delete`` other than NOTHING: the caller removes the stream or the file, in the name of ``uid``/``gid``, then calls ``finish_delete``;
    until then everybody else hears DELETE_PENDING. The file stays open meanwhile, so that its inode is not used again.
    """

    last: bool
    delete: Deletion
    uid: int
    gid: int
    wake: tuple[Waiter, ...]


class Range(NamedTuple):
    """A byte range to lock or unlock; ``exclusive`` is ignored by unlock."""

    offset: int
    length: int
    exclusive: bool = True


class Lock(NamedTuple):
    """One byte-range lock as the table shows it."""

    slot: int
    generation: int
    file_id: int
    offset: int
    length: int
    exclusive: int


class Waiter(NamedTuple):
    """A lock or an open that waits, to be woken by LOCK_WAKE at (slot, generation)."""

    slot: int
    generation: int
    waiter_id: int


class Unlocked(NamedTuple):
    """``complete`` is False when some range was not locked: RANGE_NOT_LOCKED is due, after waking."""

    complete: bool
    wake: tuple[Waiter, ...]


class Watcher(NamedTuple):
    """A CHANGE_NOTIFY that a change concerns; ``name`` is the changed name relative to the watched directory, joined by '/'."""

    slot: int
    generation: int
    watch_id: int
    filter: int
    name: str


class SessionRecord(NamedTuple):
    """A session as status, srvsvc and previous-session lookup see it."""

    session_id: int
    slot: int
    generation: int
    dialect: int
    started: int
    flags: int
    signing: int
    cipher: int
    uid: int
    gid: int
    client_guid: bytes
    user: str
    domain: str
    sid: str
    client: str
    machine: str


class TreeRecord(NamedTuple):
    """A tree connect as status and NetConnectionEnum see it."""

    session_id: int
    tree_id: int
    slot: int
    generation: int
    connected: int
    flags: int
    share: str


class Doomed(NamedTuple):
    """A dead process's last open left this to be deleted: ``path`` beneath ``share``, only if ``key`` still fits. Then ``finish_sweep``."""

    delete: Deletion
    key: FileKey
    slot: int
    generation: int
    file_id: int
    share: str
    path: str
    uid: int
    gid: int


class Swept(NamedTuple):
    """What a sweep removed, and what is left to do: delete ``doomed``, wake ``wake``."""

    opens: int
    locks: int
    sessions: int
    trees: int
    watchers: int
    doomed: tuple[Doomed, ...]
    wake: tuple[Waiter, ...]


# ---- layouts of the tables -------------------------------------------------------------------------------------------------------------


class StreamKey(NamedTuple):
    """Key of files, and prefix of opens and waiters; ``stream`` is 0 for the unnamed stream, else a hash."""

    dev: U64
    ino: U64
    stream: U64


class FileState(NamedTuple):
    """Value of ``files``: the sums of a stream's opens, so that a check needs no walk.

    ``opens`` counts the opens whose access takes part in sharing; ``handles`` all of them. The two ``named_`` sums are kept in the
    unnamed stream's record, for the named streams of the same file. ``cached`` opens cache something, ``exclusive`` ones writes;
    ``contended`` is 1 while a write may disturb a cache and the shared word says so.
    """

    handles: U32 = 0
    opens: U32 = 0
    readers: U32 = 0
    writers: U32 = 0
    deleters: U32 = 0
    shared_read: U32 = 0
    shared_write: U32 = 0
    shared_delete: U32 = 0
    named_handles: U32 = 0
    named_undeletable: U32 = 0
    delete_pending: U32 = 0
    delete_uid: U32 = NOBODY
    delete_gid: U32 = NOBODY
    cached: U32 = 0
    exclusive: U32 = 0
    contended: U32 = 0


class OpenKey(NamedTuple):
    """Key of ``opens``."""

    dev: U64
    ino: U64
    stream: U64
    slot: U32
    generation: U32
    file_id: U64


class OwnerKey(NamedTuple):
    """The end of a key of ``opens``: whose open it is."""

    slot: U32
    generation: U32
    file_id: U64


class OpenState(NamedTuple):
    """Value of ``opens``; share, path, stream and user follow.

    ``cache`` is the state of its oplock or lease; of a lease every row says the same. ``breaking`` 1: the client was told to go down to
    ``requested`` and is to acknowledge that before ``deadline``; ``required`` is what may be left in the end.
    """

    session_id: U64
    opened: U64
    tree_id: U32
    access: U32
    share_access: U32
    flags: U32
    uid: U32
    gid: U32
    kind: U8
    cache: U8
    breaking: U8
    requested: U8
    required: U8
    reserved: U8
    epoch: U16
    deadline: U64
    client_guid: Raw16
    lease_key: Raw16


class LockKey(NamedTuple):
    """Key of ``locks``. The bucket comes first, so that one look tells whether any file of a bucket has locks."""

    bucket: U16
    dev: U64
    ino: U64
    stream: U64


class BucketPrefix(NamedTuple):
    """Prefix of ``locks``: all files of one bucket."""

    bucket: U16


class LockState(NamedTuple):
    """One element of the value of ``locks``."""

    slot: U32
    generation: U32
    file_id: U64
    offset: U64
    length: U64
    exclusive: U64


class LeaseKey(NamedTuple):
    """Key of ``leases``, whose value is the stream's key: a client uses a lease key for one stream at a time."""

    client_guid: Raw16
    lease_key: Raw16


class WaiterKey(NamedTuple):
    """Key of ``waiters``; ``sequence`` grows, so that the oldest comes first."""

    dev: U64
    ino: U64
    stream: U64
    sequence: U64


class WaiterState(NamedTuple):
    """Value of ``waiters``."""

    slot: U32
    generation: U32
    waiter_id: U64
    file_id: U64


class WatchKey(NamedTuple):
    """Key of ``watchers``: a hash of share and directory, then the watcher."""

    directory: Raw16
    slot: U32
    generation: U32
    watch_id: U64


class WatchState(NamedTuple):
    """Value of ``watchers``; share and path follow."""

    filter: U32
    recursive: U32


class SessionKey(NamedTuple):
    """Key of ``sessions``."""

    session_id: U64


class SessionState(NamedTuple):
    """Value of ``sessions``; user, domain, sid, client and machine follow."""

    slot: U32
    generation: U32
    dialect: U16
    flags: U16
    signing: U16
    cipher: U16
    started: U64
    uid: U32
    gid: U32
    client_guid: Raw16


class TreeKey(NamedTuple):
    """Key of ``trees``."""

    session_id: U64
    tree_id: U32


class TreeState(NamedTuple):
    """Value of ``trees``; the share's name follows."""

    slot: U32
    generation: U32
    connected: U64
    flags: U32
    reserved: U32


class Counted(NamedTuple):
    """Length of the string that follows."""

    length: U16


STREAM_KEY = Layout(StreamKey)
FILE_STATE = Layout(FileState)
OPEN_KEY = Layout(OpenKey)
OWNER_KEY = Layout(OwnerKey)
OPEN_STATE = Layout(OpenState)
LOCK_KEY = Layout(LockKey)
BUCKET_PREFIX = Layout(BucketPrefix)
LOCK_STATE = Layout(LockState)
LEASE_KEY = Layout(LeaseKey)
WAITER_KEY = Layout(WaiterKey)
WAITER_STATE = Layout(WaiterState)
WATCH_KEY = Layout(WatchKey)
WATCH_STATE = Layout(WatchState)
SESSION_KEY = Layout(SessionKey)
SESSION_STATE = Layout(SessionState)
TREE_KEY = Layout(TreeKey)
TREE_STATE = Layout(TreeState)
COUNTED = Layout(Counted)

LOCK_ROW = Struct("<IIQQQQ")
"""``LockState`` once more, for walking a file's locks as plain tuples: four times faster, and a database file can have thousands."""


def stream_number(stream: str) -> int:
    """0 for the unnamed stream, else a number that names compare by: without case, as in MS-FSA."""
    if not stream:
        return 0
    digest = blake2b(stream.casefold().encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little") or 1


def stream_key(key: FileKey) -> bytes:
    """Key of ``files``; prefix of ``opens`` and ``waiters``."""
    return STREAM_KEY.pack(key.dev, key.ino, stream_number(key.stream))


def lock_bucket(dev: int, ino: int) -> int:
    """Which shared word tells whether a file may have locks."""
    return (ino ^ dev * 31) % BUCKETS


def lock_key(key: FileKey) -> bytes:
    """Key of ``locks``."""
    return LOCK_KEY.pack(lock_bucket(key.dev, key.ino), key.dev, key.ino, stream_number(key.stream))


def pack_strings(*strings: str) -> bytes:
    """Counted UTF-8 strings, in order; lone surrogates (names that are no UTF-8) survive. Longer than 65535 bytes is a bug."""
    return b"".join([_counted(text) for text in strings])


@lru_cache(maxsize=256)
def _counted(text: str) -> bytes:
    """One of them. Remembered: the names of shares and users come again and again, and paths often."""
    raw = text.encode("utf-8", "surrogatepass")
    return COUNTED.pack(len(raw)) + raw


def unpack_strings(buf: Readable, offset: int, count: int) -> list[str]:
    """``count`` counted strings from ``offset`` on; ``WireError`` when the record ends early."""
    found: list[str] = []
    for _ in range(count):
        length = COUNTED.unpack(buf, offset).length
        offset += COUNTED.size
        if offset + length > len(buf):
            raise WireError(f"string of {length} bytes in a record of {len(buf)}")
        try:
            found.append(str(buf[offset : offset + length], "utf-8", "surrogatepass"))
        except UnicodeDecodeError as error:
            raise WireError("string is not UTF-8") from error
        offset += length
    return found
