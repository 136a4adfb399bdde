"""Images of persistent opens on disk: an LMDB environment of its own, in the state directory.

Owns: its files. Invariants: one process has it open; a write is on the disk when it returns, all of it or nothing; what cannot be read is
never an error of the server; a disk that is full, at any moment, ends nothing and breaks nothing: it is tried again.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from pathlib import Path

import lmdb

from pools.port import files
from smbd.sharing.records import FILE_ID_KEY
from smbd.sharing.store import DATA, LOCK

SIZE = 64 << 20
"""Bytes of address space, and the most that it takes on the disk: about 60,000 opens."""


LOCK_SIZE = 8192
"""Bytes of LMDB's lock file. It takes the size that it finds; its 4 readers need less."""
LEAST = 2 * 4096
"""Bytes of a data file that has its first two pages."""


class Vault:
    """``OSError`` when it cannot be opened or made."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self._environment: lmdb.Environment | None = _open(directory)

    def _opened(self) -> lmdb.Environment:
        if self._environment is None:
            self._environment = _open(self.directory)
        return self._environment

    def images(self) -> dict[int, bytes]:
        """What is kept, by FileId.Persistent. ``OSError``: it cannot be read."""
        try:
            with self._opened().begin() as transaction:
                return {FILE_ID_KEY.unpack(key).file_id: value for key, value in transaction.cursor() if len(key) == FILE_ID_KEY.size}
        except lmdb.Error as error:
            self.close()
            raise OSError(errno.EIO, str(error), self.directory) from error

    def write(self, changes: Mapping[int, bytes | None]) -> None:
        """Keep these images, and no longer those that are None; it is on the disk afterwards. ``OSError``: nothing has changed."""
        try:
            with self._opened().begin(write=True) as transaction:
                for file_id, image in changes.items():
                    if image is None:
                        transaction.delete(FILE_ID_KEY.pack(file_id))
                    else:
                        transaction.put(FILE_ID_KEY.pack(file_id), image)
        except lmdb.Error as error:
            self.close()  # LMDB takes one whose first pages it could not write for broken, until it is opened again
            raise OSError(errno.ENOSPC, str(error)) from error

    def close(self) -> None:
        """Let go of it; who asks for something afterwards opens it again."""
        if self._environment is not None:
            self._environment.close()
            self._environment = None


def _open(directory: str) -> lmdb.Environment:
    try:
        Path(directory).mkdir(0o700, parents=True, exist_ok=True)
        _reserve_lock(os.path.join(directory, LOCK))
        _forget_stillborn(directory)
        return lmdb.open(directory, map_size=SIZE, mode=0o600, max_readers=4, max_dbs=0)
    except lmdb.Error as error:
        raise OSError(errno.EIO, str(error), directory) from error


def _reserve_lock(path: str) -> None:
    """LMDB only gives it a length, and then writes through a mapping: a SIGBUS where the disk has no room for that."""
    descriptor = files.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        files.reserve(descriptor, LOCK_SIZE)
    finally:
        files.close(descriptor)


def _forget_stillborn(directory: str) -> None:
    """A data file that was made on a full disk lacks some of its first pages: LMDB takes it for broken, and it never held anything."""
    data = Path(directory, DATA)
    if data.exists() and data.stat().st_size < LEAST:
        data.unlink()
