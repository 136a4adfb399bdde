"""Shared file state: opens, byte-range locks, watches, sessions and tree connects of all processes, in LMDB on tmpfs.

Owns: the package's public names. Invariant: see README.md: no transaction outlives a call.
"""

from __future__ import annotations

from smbd.sharing.caches import Act
from smbd.sharing.caching import Operation
from smbd.sharing.store import Environment, prepare, wipe
from smbd.sharing.sweep import Sharing
from smbd.sharing.values import (
    NOBODY,
    Acknowledged,
    CacheClaim,
    CacheKind,
    Closed,
    Deletion,
    Disturbed,
    Doomed,
    FileKey,
    Lock,
    Notice,
    OpenClaim,
    Opened,
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

__all__ = [
    "NOBODY",
    "Acknowledged",
    "Act",
    "CacheClaim",
    "CacheKind",
    "Closed",
    "Deletion",
    "Disturbed",
    "Doomed",
    "Environment",
    "FileKey",
    "Lock",
    "Notice",
    "OpenClaim",
    "OpenFlags",
    "OpenRow",
    "Opened",
    "Operation",
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
