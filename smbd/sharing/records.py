"""What the shared tables hold: keys, records and their bytes.

Owns: the layouts of every table. Pure: no database, no clock.
Invariant: a record is a layout followed by counted strings; reading one never depends on who wrote it.
"""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2b
from struct import Struct
from typing import NamedTuple

from pools.layout import U8, U16, U32, U64, Layout, Raw16, Raw64, Readable, WireError
from smbd.sharing.values import NOBODY, FileKey

BUCKETS = 4096
"""Shared words for locks, and as many for caches; a power of two."""


class StreamKey(NamedTuple):
    """Key of files, and prefix of opens and waiters; ``stream`` is 0 for the unnamed stream, else a hash."""

    dev: U64
    ino: U64
    stream: U64


class FileState(NamedTuple):
    """Value of ``files``: the sums of a stream's opens, so that a check needs no walk.

    ``opens`` counts the opens whose access takes part in sharing; ``handles`` all of them. The two ``named_`` sums are kept in the
    unnamed stream's record, for the named streams of the same file. ``cached`` opens cache something, ``exclusive`` ones writes;
    ``contended`` is 1 while a write may disturb a cache and the shared word says so. ``lasting`` opens outlive their processes.
    ``directory`` is 1 for a directory.
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
    lasting: U32 = 0
    directory: U32 = 0


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


class FileIdKey(NamedTuple):
    """Key of ``durables``, and value of ``guids``: FileId.Persistent."""

    file_id: U64


class DurableState(NamedTuple):
    """Value of ``durables``; the user's SID and the share's folder follow.

    The first five fields and the key of this row are the key of its row in ``opens``. ``deadline`` is 0 while a process has
    it. The other fields are those of ``DurableClaim`` and ``Parting``.
    """

    dev: U64
    ino: U64
    stream: U64
    slot: U32
    generation: U32
    lasting: U32
    version: U32
    timeout: U64
    deadline: U64
    birth: U64
    options: U32
    action: U32
    mode: U32
    position: U64
    allocation: U64
    app_high: U64
    app_low: U64
    client_guid: Raw16
    create_guid: Raw16
    app_instance: Raw16
    sequences: Raw64


class GuidKey(NamedTuple):
    """Key of ``guids``: the CreateGuid of a client's CREATE."""

    client_guid: Raw16
    create_guid: Raw16


class AppKey(NamedTuple):
    """Key of ``apps``: AppInstanceId, of which there may be several opens."""

    app_instance: Raw16
    file_id: U64


class LostState(NamedTuple):
    """Value of ``lost``, whose keys are the deadlines of disconnected opens, big-endian, and their FileIds: since when, and whose."""

    since: U64
    user: Raw16


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


class ToldTime(NamedTuple):
    """Value of ``times``, whose keys are those of ``opens`` without the stream: the write time that clients are told of the file."""

    told: U64


class SessionKey(NamedTuple):
    """Key of ``sessions``."""

    session_id: U64


class ClientKey(NamedTuple):
    """Key of ``clients``, which finds a client's sessions; the value is empty."""

    client_guid: Raw16
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


class ChannelKey(NamedTuple):
    """Key of ``channels``; ``number`` is its worker's for the connection."""

    session_id: U64
    number: U64


class ChannelState(NamedTuple):
    """Value of ``channels``; the client's address and the server's follow. ``bound`` is 0 for that which the session was set up on."""

    slot: U32
    generation: U32
    since: U64
    bound: U32


class Counted(NamedTuple):
    """Length of the string that follows."""

    length: U16


STREAM_KEY = Layout(StreamKey)
FILE_STATE = Layout(FileState)
OPEN_KEY = Layout(OpenKey)
OWNER_KEY = Layout(OwnerKey)
OPEN_STATE = Layout(OpenState)
FILE_ID_KEY = Layout(FileIdKey)
DURABLE_STATE = Layout(DurableState)
GUID_KEY = Layout(GuidKey)
APP_KEY = Layout(AppKey)
LOST_STATE = Layout(LostState)
LOCK_KEY = Layout(LockKey)
BUCKET_PREFIX = Layout(BucketPrefix)
LOCK_STATE = Layout(LockState)
LEASE_KEY = Layout(LeaseKey)
WAITER_KEY = Layout(WaiterKey)
WAITER_STATE = Layout(WaiterState)
WATCH_KEY = Layout(WatchKey)
WATCH_STATE = Layout(WatchState)
TOLD_TIME = Layout(ToldTime)
SESSION_KEY = Layout(SessionKey)
CLIENT_KEY = Layout(ClientKey)
SESSION_STATE = Layout(SessionState)
TREE_KEY = Layout(TreeKey)
TREE_STATE = Layout(TreeState)
CHANNEL_KEY = Layout(ChannelKey)
CHANNEL_STATE = Layout(ChannelState)
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
