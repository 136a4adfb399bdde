"""Shared file state: opens, byte-range locks, watches, sessions and tree connects of all processes, in LMDB on tmpfs.

Owns: the package's public names. Invariant: see README.md: no transaction outlives a call.
"""

from __future__ import annotations

from smbd.sharing.records import (
    NOBODY,
    Closed,
    Deletion,
    Doomed,
    FileKey,
    Lock,
    OpenClaim,
    OpenFlags,
    OpenRow,
    Range,
    SessionRecord,
    Swept,
    TreeRecord,
    Unlocked,
    Waiter,
    Watcher,
)
from smbd.sharing.store import prepare, wipe
from smbd.sharing.sweep import Sharing

__all__ = [
    "NOBODY",
    "Closed",
    "Deletion",
    "Doomed",
    "FileKey",
    "Lock",
    "OpenClaim",
    "OpenFlags",
    "OpenRow",
    "Range",
    "SessionRecord",
    "Sharing",
    "Swept",
    "TreeRecord",
    "Unlocked",
    "Waiter",
    "Watcher",
    "prepare",
    "wipe",
]
