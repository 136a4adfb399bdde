"""What the shared state tells its callers and is told by them.

Owns: the values that cross the package's border. Pure: no database, no clock, no bytes.

A process is named by (slot, generation) everywhere; a pair whose generation is gone names nobody.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

NOBODY = 0xFFFFFFFF
"""uid and gid where none is known."""

DISCONNECTED = 0xFFFFFFFF
"""The slot, of generation 0, under which an open stands whose connection is lost. It counts as alive: the scavenger ends it."""

NO_GUID = bytes(16)


class FileKey(NamedTuple):
    """What opens and locks belong to: a stream of a file. ``stream`` is '' for the unnamed data stream and for directories."""

    dev: int
    ino: int
    stream: str = ""


class OpenFlags(IntEnum):
    """Bits that the tables keep of an open. CLOSING: its file is being deleted, the row stays as witness until that is done.

    NAMED: it has a row in ``durables``, by which its client finds it again; LASTING: it outlives its connection and its process.
    NO_LEVEL_II: its oplock ends when it is broken. EXACT: its path is a name of the POSIX extensions.
    Not an IntFlag: those take a microsecond for each ``&``.
    """

    DIRECTORY = 0x1
    DELETE_ON_CLOSE = 0x2
    CLOSING = 0x4
    NAMED = 0x8
    LASTING = 0x10
    NO_LEVEL_II = 0x20
    EXACT = 0x40


class Lasting(IntEnum):
    """Bits of what an open survives: [MS-SMB2] 3.3.1.10, Open.IsDurable, IsResilient, IsPersistent."""

    DURABLE = 0x1
    RESILIENT = 0x2
    PERSISTENT = 0x4


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

    A lease without state still names its key: the open then belongs to it. ``parent_key`` is the lease key of the directory, empty when
    the client named none; ``directory_state`` is what it may cache should it open a directory, -1 where directories have no leases.
    ``whole``: an oplock that nothing is to be left of when it is broken.
    """

    kind: int = 0
    state: int = 0
    epoch: int = 0
    client_guid: bytes = bytes(16)
    lease_key: bytes = bytes(16)
    parent_key: bytes = b""
    directory_state: int = -1
    whole: bool = False


class DurableClaim(NamedTuple):
    """What an open is to survive, and the names by which its client finds it again; a GUID of zeros is none.

    ``lasting``: bits of ``Lasting``; DURABLE is granted with handle caching only, PERSISTENT without. ``timeout``: ms for which it is kept
    without a connection. ``birth``: the file's own time of birth, by which it is told from a later one with its inode. ``options`` and
    ``action``: CreateOptions and CreateAction. ``sid``: of the session's user; ``version`` of the context that asked, 1 or 2;
    ``app_high`` and ``app_low``: 2.2.13.2.15, zeros for none. ``root``: of a persistent open the share's folder, as it was for its client.
    """

    lasting: int = 0
    version: int = 0
    timeout: int = 0
    client_guid: bytes = NO_GUID
    create_guid: bytes = NO_GUID
    app_instance: bytes = NO_GUID
    app_high: int = 0
    app_low: int = 0
    sid: str = ""
    birth: int = 0
    options: int = 0
    action: int = 0
    root: str = ""


class Parting(NamedTuple):
    """What only the worker knows of an open, and whoever reclaims it needs: FileModeInformation, FilePositionInformation.

    ``sequences``: Open.LockSequenceArray ([MS-SMB2] 3.3.1.10), a byte for each index from 1: 0, or the number + 1.
    ``allocation``: bytes that the client has asked to be kept for the file; 0: none.
    """

    mode: int = 0
    position: int = 0
    sequences: bytes = bytes(64)
    allocation: int = 0


class OpenClaim(NamedTuple):
    """What a CREATE asks of the shared state. ``access`` is granted access, ``file_id`` unique within the worker's life.

    ``path`` is relative to the share's root, real names joined by '/', without the stream; '' is the root itself.
    ``waiter_id`` and ``deadline`` (ns of the monotonic clock) are for the breaks it may cause: whom to wake, and when to go on anyway;
    ``again``: it was answered with ``wait`` before. ``admitted``: ``may_look`` has let it in before, and it asks for no cache.
    ``allocation``: bytes that the stream occupies.
    ``durable``: None for an open that ends with its connection and has no names. ``exact``: see ``OpenFlags``.
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
    allocation: int = 0
    durable: DurableClaim | None = None
    exact: bool = False


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
    ``lasting``: bits of ``Lasting``, what the open survives. ``doomed``: a disconnected open gave way; the janitor is to delete its file.
    """

    wait: bool
    kind: int = 0
    granted: int = 0
    epoch: int = 0
    breaking: bool = False
    notices: tuple[Notice, ...] = ()
    lasting: int = 0
    doomed: bool = False


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
    lease_key: bytes = NO_GUID


class Durable(NamedTuple):
    """An open by one of its names, with what it survives in ``claim.lasting``.

    ``connected``: a process has it. Otherwise it may be reclaimed until ``deadline``, ns of the monotonic clock.
    """

    row: OpenRow
    claim: DurableClaim
    parting: Parting
    connected: bool
    deadline: int


class Claimant(NamedTuple):
    """Who reclaims an open: the session and the tree connect that it belongs to from now on."""

    session_id: int
    tree_id: int
    user: str = ""


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
    """``ranges``: so many were, fewer than were asked for if the next was not locked. RANGE_NOT_LOCKED is due then, after waking."""

    ranges: int
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


class ChannelRecord(NamedTuple):
    """A connection of a session, as status sees it: between which addresses, since when (FILETIME), and whether it was bound.

    ``number`` is its worker's for the connection. Addresses are empty where there are none.
    """

    session_id: int
    number: int
    slot: int
    generation: int
    since: int
    bound: int
    client: str
    server: str


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
    """What a sweep removed or made nobody's, and what is left to do: delete ``doomed``, wake ``wake``."""

    opens: int = 0
    locks: int = 0
    sessions: int = 0
    trees: int = 0
    watchers: int = 0
    doomed: tuple[Doomed, ...] = ()
    wake: tuple[Waiter, ...] = ()
