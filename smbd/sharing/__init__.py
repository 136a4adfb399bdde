"""Shared file state: opens, byte-range locks, watches, sessions and tree connects of all processes, in LMDB on tmpfs.

Owns: the package's public names. Invariant: see README.md: no transaction outlives a call.
"""

from __future__ import annotations

from smbd.sharing.caches import Act
from smbd.sharing.caching import Operation
from smbd.sharing.store import Environment, prepare, wipe
from smbd.sharing.sweep import Sharing
from smbd.sharing.values import (
    DISCONNECTED,
    NO_GUID,
    NOBODY,
    Acknowledged,
    CacheClaim,
    CacheKind,
    ChannelRecord,
    Claimant,
    Closed,
    Deletion,
    Disturbed,
    Doomed,
    Durable,
    DurableClaim,
    FileKey,
    Lasting,
    Lock,
    Notice,
    OpenClaim,
    Opened,
    OpenFlags,
    OpenRow,
    Parting,
    Range,
    SessionRecord,
    Swept,
    TreeRecord,
    Unlocked,
    Waiter,
    Watcher,
)

__all__ = [
    "DISCONNECTED",
    "NOBODY",
    "NO_GUID",
    "Acknowledged",
    "Act",
    "CacheClaim",
    "CacheKind",
    "ChannelRecord",
    "Claimant",
    "Closed",
    "Deletion",
    "Disturbed",
    "Doomed",
    "Durable",
    "DurableClaim",
    "Environment",
    "FileKey",
    "Lasting",
    "Lock",
    "Notice",
    "OpenClaim",
    "OpenFlags",
    "OpenRow",
    "Opened",
    "Operation",
    "Parting",
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
