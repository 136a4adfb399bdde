"""Images of persistent opens on disk: an LMDB environment of its own, in the state directory.

Owns: its files. Invariants: one process has it open; a write is on the disk when it returns, all of it or nothing; what cannot be read is
never an error of the server.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from pathlib import Path

import lmdb

from smbd.sharing.records import FILE_ID_KEY

SIZE = 64 << 20
"""Bytes of address space, and the most that it takes on the disk: about 60,000 opens."""


class Vault:
    """``OSError`` when it cannot be opened or made."""

    def __init__(self, directory: str) -> None:
        Path(directory).mkdir(0o700, parents=True, exist_ok=True)
        try:
            self._environment = lmdb.open(directory, map_size=SIZE, mode=0o600, max_readers=4, max_dbs=0)
        except lmdb.Error as error:
            raise OSError(errno.EIO, f"cannot keep persistent opens: {error}", directory) from error

    def images(self) -> dict[int, bytes]:
        """What is kept, by FileId.Persistent."""
        with self._environment.begin() as transaction:
            return {FILE_ID_KEY.unpack(key).file_id: value for key, value in transaction.cursor() if len(key) == FILE_ID_KEY.size}

    def write(self, changes: Mapping[int, bytes | None]) -> None:
        """Keep these images, and no longer those that are None; it is on the disk afterwards. ``OSError``: nothing has changed."""
        try:
            with self._environment.begin(write=True) as transaction:
                for file_id, image in changes.items():
                    if image is None:
                        transaction.delete(FILE_ID_KEY.pack(file_id))
                    else:
                        transaction.put(FILE_ID_KEY.pack(file_id), image)
        except lmdb.Error as error:
            raise OSError(errno.ENOSPC, str(error)) from error

    def close(self) -> None:
        """Let go of it."""
        self._environment.close()
