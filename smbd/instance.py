"""One instance per lock directory: the lock file, the pid file, and the state on tmpfs that belongs to a running server only.

Owns: ``millpond.lock`` in the lock directory. Invariant: the state below the lock directory is wiped only by who holds the lock, before
the first fork.
"""

from __future__ import annotations

import os
from pathlib import Path

from pools.port import files, processes


class StartError(Exception):
    """The server cannot start; the text names the thing and the way out, in one line."""


LOCK_FILE = "millpond.lock"
PID_FILE = "millpond.pid"


def make_directory(path: Path, mode: int) -> None:
    """``path`` with all its parents; ``StartError`` names it when that is not possible."""
    try:
        path.mkdir(parents=True, exist_ok=True, mode=mode)
    except OSError as error:
        raise StartError(f"{path}: cannot make this directory ({error.strerror}); create it or configure another") from error


class Instance:
    """The lock, held from ``acquire`` until the process ends: the kernel gives it back however that happens."""

    __slots__ = ("_lock", "directory", "pid_file")

    def __init__(self, lock_directory: Path, pid_directory: Path) -> None:
        self.directory = lock_directory
        self.pid_file = pid_directory / PID_FILE
        self._lock = -1

    def acquire(self) -> None:
        """Take the lock, or ``StartError`` naming the process that has it."""
        make_directory(self.directory, 0o755)
        path = self.directory / LOCK_FILE
        try:
            lock = files.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW)
        except OSError as error:
            raise StartError(f"{path}: cannot open the lock file ({error.strerror}); check the owner of `lock directory`") from error
        try:
            files.lock(lock)
        except BlockingIOError:
            holder = files.pread(lock, 32, 0).decode("ascii", "replace").strip() or "unknown"
            files.close(lock)
            raise StartError(
                f"millpond already runs in {self.directory} as process {holder}; "
                "`millpond stop` ends it, another --port (of `serve`) or `lock directory` keeps both"
            ) from None
        files.truncate(lock, 0)
        files.pwrite(lock, f"{processes.own_pid()}\n".encode(), 0)
        self._lock = lock

    def wipe(self, *names: str) -> None:
        """Remove what an earlier instance left behind: files or directories by name below the lock directory."""
        if self._lock < 0:
            raise AssertionError("the state is wiped only by who holds the lock")
        for name in names:
            path = self.directory / name
            if path.is_dir() and not path.is_symlink():
                files.remove_tree(path)
            else:
                path.unlink(missing_ok=True)

    def write_pid(self) -> None:
        """Tell scripts who is the master. Replaced atomically: a reader never sees half a number."""
        make_directory(self.pid_file.parent, 0o755)
        fresh = self.pid_file.with_suffix(".new")
        try:
            fresh.write_text(f"{processes.own_pid()}\n", encoding="ascii")
            fresh.replace(self.pid_file)
        except OSError as error:
            raise StartError(f"{self.pid_file}: cannot write the pid file ({error.strerror}); check `pid directory`") from error

    def release(self) -> None:
        """End of the server: no pid file, and the lock is free. The lock file stays: without it two instances could lock two files."""
        self.pid_file.unlink(missing_ok=True)
        if self._lock >= 0:
            files.truncate(self._lock, 0)
            files.close(self._lock)
            self._lock = -1
