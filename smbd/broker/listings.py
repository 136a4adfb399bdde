"""Listings that clients cache: who keeps one hears from the broker what no worker tells.

Owns: nothing but the time that a client has to answer. Invariant: nobody is waited for; a lease that is not given back in time is ended by
its holder's worker, as after any break.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic_ns

from pools.port import files
from smbd.sharing import Act, FileKey, Operation, Sharing
from smbd.sharing.messages import OPLOCK_BREAK, pack_break

Send = Callable[[int, int, bytes, int], None]
"""(slot, kind, payload, generation): a notice."""


class Listings:
    """Breaks of directory leases ([MS-FSA] 2.1.4.12). ``timeout``: seconds that a client has to acknowledge one."""

    def __init__(self, sharing: Sharing, send: Send, timeout: float) -> None:
        self.timeout = timeout
        self._sharing = sharing
        self._send = send

    def changed(self, directory: FileKey) -> None:
        """Something came to a directory, left it, or looks different in it."""
        if not self._sharing.caches_directories():
            return
        deadline = monotonic_ns() + int(self.timeout * 1e9)
        for notice in self._sharing.disturb(directory, Act(0, Operation.CHILD, deadline)).notices:
            self._send(notice.slot, OPLOCK_BREAK.number, pack_break(notice), notice.generation)

    def changed_at(self, path: str) -> None:
        """Likewise for a directory of which the path is known; one that is gone is cached by nobody."""
        if not self._sharing.caches_directories():
            return
        try:
            found = files.stat(path)
        except OSError:
            return
        self.changed(FileKey(found.st_dev, found.st_ino))
