"""The abstraction layer: the chosen port's functions under one name.

``from pools import port`` and call ``port.commit(...)``. Nothing above this package calls os, select, fcntl or ctypes
for these things directly. Files and credentials have modules of their own beside this one.
"""

from pools.port.linux import (
    HANGUP,
    NO_ROOM,
    PAGE,
    READABLE,
    WRITABLE,
    Poller,
    close_others,
    commit,
    committed_bytes,
    create_memory_file,
    create_shared_memory,
    decommit,
    die_with_parent,
    map_large_allocations,
    map_shared,
    poller,
    receive_record,
    record_pair,
    send_record,
    set_title,
    window,
)

__all__ = [
    "HANGUP",
    "NO_ROOM",
    "PAGE",
    "READABLE",
    "WRITABLE",
    "Poller",
    "close_others",
    "commit",
    "committed_bytes",
    "create_memory_file",
    "create_shared_memory",
    "decommit",
    "die_with_parent",
    "map_large_allocations",
    "map_shared",
    "poller",
    "receive_record",
    "record_pair",
    "send_record",
    "set_title",
    "window",
]
