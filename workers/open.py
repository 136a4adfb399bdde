"""Opens ([MS-SMB2] 3.3.1.10): a client's handle on a file, a directory, a stream or a pipe.

Owns: what one CREATE granted and the position of its directory enumeration.
Invariant: an Open in the table has a handle that is open and, unless it is a pipe or a glance, a record in the shared state;
``workers.commands.close.close_open`` is the one place that ends both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from smbd.sharing import FileKey, Opened
    from smbd.smb2.names import Path
    from workers.opening import Wish
    from workers.patience import Turns
    from workers.reliable import Durability
    from workers.session import Session
    from workers.tree import TreeConnect
    from workers.vfs.interface import FileInfo, Handle
    from workers.writetimes import Held


class Enumeration:
    """Where a QUERY_DIRECTORY stands: its pattern, what is still to come and the entry that did not fit."""

    __slots__ = ("entries", "large", "pattern", "pending", "started", "turns")

    def __init__(self, pattern: str, entries: Iterator[tuple[str, FileInfo]]) -> None:
        self.pattern = pattern
        self.entries = entries
        self.pending: tuple[str, FileInfo] | None = None
        self.started = False  # whether anything has been returned
        self.large = False  # to be read on a VFS thread
        self.turns: Turns | None = None  # of the pages asked for there: from the first of them on


class Open:
    """One row of the worker's open table."""

    __slots__ = (
        "cache",
        "channel_sequence",
        "counted_as",
        "dooms",
        "dooms_name",
        "durability",
        "ended",
        "enumeration",
        "glance",
        "granted",
        "handle",
        "held",
        "in_flight",
        "is_directory",
        "key",
        "left",
        "lock_sequences",
        "lock_waits",
        "locks",
        "mode",
        "notify",
        "orphan",
        "outstanding",
        "outstanding_before",
        "parent_key",
        "path",
        "persistent",
        "pipe",
        "pipe_name",
        "position",
        "quotas_from",
        "session",
        "sets_write_time",
        "told",
        "tree",
        "turn",
        "turns",
        "usual",
        "volatile",
        "write_through",
        "written",
    )

    def __init__(self, persistent: int, volatile: int, tree: TreeConnect) -> None:
        self.persistent = persistent
        self.volatile = volatile
        self.tree = tree
        self.session: Session = tree.session
        self.handle: Handle | None = None
        self.pipe: int | None = None  # the RPC service's name for it
        self.pipe_name = ""
        self.path: Path | None = None
        self.key: FileKey | None = None
        self.counted_as: FileKey | None = None  # the key under which the worker has counted it: a file may become another
        self.cache: Opened | None = None  # the oplock or lease as its CREATE was told; the shared state knows what became of it
        self.glance: Wish | None = None  # what its CREATE wished for, while it is not entered in the shared state: see opening.claim
        self.durability: Durability | None = None  # what its CREATE asked for beyond this connection; None: nothing
        self.parent_key = b""  # the lease key of its directory, as its client has named it
        self.held: Held | None = None  # while its file's write time is not told as it is: see workers.writetimes
        self.sets_write_time = False  # its client has, through it: then that stays
        self.written = False  # what a listing shows of it may be another at its close
        self.dooms = False  # it was this open that said that the file is to be deleted
        self.dooms_name = False  # and that its name goes when this open ends, whoever else has the file open
        self.granted = 0
        self.is_directory = False
        self.write_through = False
        self.in_flight = 0  # calls on VFS threads that use the handle: it is closed after the last of them
        self.orphan: Handle | None = None
        self.turns: Turns | None = None  # of requests that go on errands; None while there is none
        # Which channels its requests come by, and how many of them are under way: see workers.replay.
        self.channel_sequence = 0
        self.usual = 0
        self.turn = 1  # how often the sequence has changed
        self.outstanding = 0
        self.outstanding_before = 0  # of earlier turns
        self.lock_sequences: bytearray | None = None
        self.ended = False
        self.left = False  # its connection is lost; in the shared state it is its client's to reclaim
        self.lock_waits: set[int] = set()
        self.locks = 0  # byte ranges that it has locked, as far as this worker has seen them come
        self.told = False  # whether the kernel knows of its locks: see workers.rangelocks
        self.mode = 0
        self.position = 0
        self.quotas_from = 0  # the uid from which on a QUERY_INFO of quotas goes on
        self.enumeration: Enumeration | None = None
        self.notify: Notify | None = None


NOTIFY_ENTRY = 12  # [MS-FSCC] 2.7.1, before the name


class Notify:
    """Change notification of one directory Open ([MS-SMB2] 3.3.5.19): what is watched and what has come since it was last asked for."""

    __slots__ = ("bytes", "changes", "overflowed", "path", "room", "watch_id")

    def __init__(self, watch_id: int, path: str, room: int) -> None:
        self.watch_id = watch_id
        self.room = room  # bytes of changes that are kept; more than that has to be enumerated
        self.path = path  # as it was watched: the directory may be renamed meanwhile
        self.changes: list[tuple[int, str]] = []
        self.bytes = 0
        self.overflowed = False

    def add(self, action: int, name: str) -> None:
        """Remember a change; the same one twice in a row is one."""
        change = (action, name)
        if not self.changes or self.changes[-1] != change:
            self.changes.append(change)
            self.bytes += (NOTIFY_ENTRY + 2 * len(name) + 3) & ~3

    def overflow(self) -> None:
        """Too much for a client that does not ask: it will have to enumerate."""
        self.overflowed = True
        self.changes.clear()

    def take(self) -> tuple[list[tuple[int, str]], bool]:
        """What has come, and whether something was lost; both are forgotten here."""
        taken = self.changes, self.overflowed
        self.changes, self.overflowed, self.bytes = [], False, 0
        return taken
