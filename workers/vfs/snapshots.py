"""Previous versions: a share's snapshots beside what is (``vfs objects = shadow_copy2`` or ``snapper``).

Owns: the descriptors of the snapshots that are in use, and what their directories held when last looked at. Invariants: a path whose first
component is a token leads into that snapshot and never out of it (each is a ``PosixVfs`` with its own root); nothing in one is changed. Who
may read what there, the files' own permissions and descriptors say, as they were: only the way to the directory that the administrator has
named, and to the share's root in its snapshots, is root's to go.

On a slow share several threads ask at once: what is found out is found out by one at a time.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from hashlib import blake2b
from typing import Final, NamedTuple

from pools.port import files
from pools.port.interface import Quota
from smbd.config.shadow import Shadow
from smbd.smb2 import status
from smbd.smb2.names import Match, Path
from smbd.smb2.status import SmbError
from workers import identity
from workers.vfs import snapnames
from workers.vfs.interface import FileInfo, FsInfo, Handle, LinkMet, NewFile, Sight
from workers.vfs.posix import PosixVfs
from workers.vfs.readonly import ReadOnlyHandle, Snapshot, refuse
from workers.vfs.resolver import READ, join

MOST: Final = 4096  # snapshots of one directory that are told of: the newest
_MOST_NAMES: Final = 16384  # names of a directory that are looked at
_FRESH: Final = 2.0  # seconds for which a directory's snapshots are what they were
_INFO_BYTES: Final = 65536  # of a file that has some hundred
_IDLE: Final = 3.0  # seconds for which one stays open after its last use
_KEPT: Final = 8  # snapshots that stay open though nobody uses them
_DIRECTORIES: Final = 32  # whose snapshots are remembered
_NOT_THERE: Final = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EXDEV)


class _Place(NamedTuple):
    """A directory that may hold snapshots. ``root``: what of a snapshot in it serves as its root; ``skipped`` components of the path that
    is asked for lie above that. ``trusted``: the administrator named it, so that root may go there for a user.
    """

    directory: int
    root: bytes
    skipped: int
    trusted: bool


class _Listed(NamedTuple):
    """The snapshots of one directory: time -> name on the disk."""

    names: dict[int, str]
    until: float


class SnapshotVfs:
    """See ``interface.Vfs``: what is, as the file system below has it, and what was."""

    __slots__ = ("_above", "_clock", "_ended", "_infos", "_listed", "_mount", "_open", "_path", "_read", "_shadow", "_turn", "below")

    def __init__(self, below: PosixVfs, path: str, shadow: Shadow, clock: Callable[[], float] = time.monotonic) -> None:
        """``path``: the share's root, as ``below`` has opened it. Takes ``below`` over."""
        self.below = below
        self._path = os.path.normpath(path)
        self._shadow = shadow
        self._clock = clock
        self._read = snapnames.reader(shadow)
        self._listed: dict[tuple[int, int], _Listed] = {}
        self._infos: dict[str, int] = {}
        self._open: dict[tuple[int, int, int, bytes], Snapshot] = {}
        self._turn = threading.RLock()
        self._ended = False
        mount = self._mount = shadow.mountpoint or (_mount_point(self._path) if not shadow.cross_mounts else "/")
        self._above = _inside(self._path, shadow.basedir or mount) if shadow.share_path is None else os.fsencode(shadow.share_path)

    # Where snapshots are

    def _places(self, components: tuple[str, ...]) -> Iterator[_Place]:
        """The directories that may hold snapshots of a path, the nearest first. Each descriptor is closed when the next is asked for."""
        if not self._shadow.everywhere:
            yield from _trusted(self._mount, self._shadow.snapdir, self._above)
            if self._shadow.snapdir.startswith("/"):
                return
        yield from self._places_in_share(components if self._shadow.everywhere else ())
        if self._shadow.everywhere:
            yield from self._places_above()

    def _places_in_share(self, components: tuple[str, ...]) -> Iterator[_Place]:
        """Where the user can go himself; a name must be spelt as it is on the disk."""
        snapdir = os.fsencode(self._shadow.snapdir)
        for depth in range(len(components), -1, -1):
            above = "/".join(components[:depth]).encode()
            try:
                fd = files.open_beneath(self.below.root.fd, join(above, snapdir), READ | os.O_DIRECTORY)
            except OSError:
                continue
            try:
                yield _Place(fd, b"", depth, False)
            finally:
                files.close(fd)

    def _places_above(self) -> Iterator[_Place]:
        """From the share's root up to the mount point."""
        between = self._above.split(b"/") if self._above else []
        for height in range(1, len(between) + 1):
            top = os.path.normpath(os.path.join(self._path, *[".."] * height))
            yield from _trusted(top, self._shadow.snapdir, b"/".join(between[-height:]))

    def _names(self, place: _Place, wanted: int | None = None) -> dict[int, str]:
        """The snapshots that a directory holds. One that is wanted and not known is looked for anew."""
        st = files.fstat(place.directory)
        key = (st.st_dev, st.st_ino)
        known = self._listed.get(key)
        if known is None or self._clock() >= known.until or (wanted is not None and wanted not in known.names):
            if len(self._listed) >= _DIRECTORIES:
                self._listed.clear()
            if len(self._infos) > _MOST_NAMES:
                self._infos.clear()
            with _rights(place):
                known = _Listed(self._list(place.directory), self._clock() + _FRESH)
            self._listed[key] = known
        return known.names

    def _list(self, directory: int) -> dict[int, str]:
        found: dict[int, str] = {}
        for name in sorted(files.listdir(directory)[:_MOST_NAMES]):
            seconds = self._read_info(directory, name) if self._shadow.snapper else self._read(name)
            if seconds is not None:
                found.setdefault(seconds, f"{name}/snapshot" if self._shadow.snapper else name)
        return {seconds: found[seconds] for seconds in sorted(found, reverse=True)[:MOST]}

    def _read_info(self, directory: int, name: str) -> int | None:
        """When snapper made a snapshot. It numbers them, and uses no number again."""
        if not name.isascii() or not name.isdigit():
            return None
        known = self._infos.get(name)
        if known is None:
            try:
                fd = files.open_beneath(directory, f"{name}/info.xml".encode(), READ)
            except OSError:
                return None  # it comes, or goes
            try:
                known = snapnames.seconds_of_info(files.read(fd, _INFO_BYTES))
            finally:
                files.close(fd)
            if known is not None:
                self._infos[name] = known
        return known

    def snapshots(self, handle: Handle) -> list[str]:
        path = handle.path if snapnames.moment(handle.path) is None else snapnames.within(handle.path)
        found: dict[int, None] = {}
        with self._turn:
            for place in self._places(path.components if handle.directory else path.components[:-1]):
                found.update(dict.fromkeys(self._names(place)))
        times = list(found)[:MOST]
        if self._shadow.sort in ("asc", "desc"):
            times.sort(reverse=self._shadow.sort == "desc")
        return [snapnames.token(seconds) for seconds in times]

    # Into one

    def _enter(self, path: Path, seconds: int) -> tuple[Snapshot, int]:
        """The snapshot that a canonical path leads into, and how many components behind the token lie above its root.

        OBJECT_NAME_NOT_FOUND: there is none of that time, or no client is to see what the path leads through.
        """
        if self.below.root.conceals(snapnames.within(path)):
            raise SmbError(status.OBJECT_NAME_NOT_FOUND)
        with self._turn:
            for place in self._places(path.components[1:]):
                name = self._names(place, seconds).get(seconds)
                snapshot = None if name is None else self._mounted(place, seconds, os.fsencode(name))
                if snapshot is not None:
                    snapshot.uses += 1
                    return snapshot, place.skipped
        raise SmbError(status.OBJECT_NAME_NOT_FOUND)

    def _mounted(self, place: _Place, seconds: int, name: bytes) -> Snapshot | None:
        """The snapshot ``name``, opened at its root. None: it has gone, or the share was not in it yet."""
        st = files.fstat(place.directory)
        key = (st.st_dev, st.st_ino, seconds, place.root)
        known = self._open.pop(key, None)
        if known is None:
            # The dot: what is mounted when it is looked into (ZFS) is not when it is only named.
            inside = b"/".join(part for part in (name, place.root, b".") if part)
            try:
                with _rights(place):
                    fd = files.open_beneath(place.directory, inside, files.PATH_ONLY | os.O_DIRECTORY)
            except OSError as error:
                if error.errno in _NOT_THERE:
                    return None
                raise
            salt = int.from_bytes(blake2b(name, digest_size=8).digest(), "little")
            vfs = PosixVfs(fd, self.below.root.settings)
            known = Snapshot(vfs, snapnames.token(seconds), salt, shown=self._shadow.fix_inodes)
        self._open[key] = known  # what was used last is last
        self._trim(_KEPT)
        return known

    def _trim(self, kept: int) -> None:
        newest = next(reversed(self._open.values()), None)
        for key, snapshot in list(self._open.items()):
            if len(self._open) <= kept:
                break
            if not snapshot.uses and (snapshot is not newest or not kept):
                self._open.pop(key).vfs.close()

    def _leave(self, snapshot: Snapshot) -> None:
        with self._turn:
            snapshot.uses -= 1
            snapshot.left = self._clock()
            self._trim(0 if self._ended else _KEPT)

    def tidy(self) -> None:
        """A snapshot that is open cannot be destroyed, on some file systems: those that nobody uses any more are let go."""
        if not self._turn.acquire(blocking=False):
            return  # somebody is finding one
        try:
            before = self._clock() - _IDLE
            for key, snapshot in list(self._open.items()):
                if not snapshot.uses and snapshot.left <= before:
                    self._open.pop(key).vfs.close()
        finally:
            self._turn.release()

    # What is asked of a file system

    def open(self, path: Path, itself: bool = False) -> Handle:
        asked, path = path, snapnames.canonical(path)
        seconds = snapnames.moment(path)
        if seconds is None:
            return self.below.open(path, itself)
        snapshot, skipped = self._enter(path, seconds)
        above, inner = path.components[: skipped + 1], path.components[skipped + 1 :]
        try:
            handle = snapshot.vfs.open(path._replace(components=inner), itself)
        except LinkMet as met:
            self._leave(snapshot)
            raise LinkMet(snapnames.depth_as_asked(asked, len(above) + met.depth), met.data) from met
        except BaseException:
            self._leave(snapshot)
            raise
        return ReadOnlyHandle(handle, handle.path._replace(components=above + handle.path.components), snapshot, self._leave)

    def look(self, path: Path) -> Sight | None:
        return None if snapnames.moment(snapnames.canonical(path)) is not None else self.below.look(path)

    def create(self, path: Path, new: NewFile, parent: Handle | None = None) -> Handle:
        self._must_be_now(path, parent)
        return self.below.create(path, new, parent)

    def rename(self, handle: Handle, target: Path, replace: bool) -> None:
        self._must_be_now(target, handle)
        self.below.rename(handle, target, replace)

    def absorb(self, handle: Handle) -> Handle:
        self._must_be_now(handle.path, handle)
        return self.below.absorb(handle)

    def link(self, handle: Handle, target: Path, replace: bool) -> None:
        self._must_be_now(target, handle)
        self.below.link(handle, target, replace)

    def replace(self, handle: Handle, target: bytes | None) -> Handle:
        self._must_be_now(handle.path, handle)
        return self.below.replace(handle, target)

    def quota(self, uid: int) -> Quota | None:
        return self.below.quota(uid)

    def quotas(self, first: int) -> list[tuple[int, Quota]]:
        return self.below.quotas(first)

    def set_quota(self, uid: int, soft: int, hard: int) -> None:
        self.below.set_quota(uid, soft, hard)

    def unlink(self, handle: Handle) -> None:
        self._must_be_now(handle.path, handle)
        self.below.unlink(handle)

    def _must_be_now(self, path: Path, handle: Handle | None) -> None:
        if (handle is not None and handle.read_only) or snapnames.moment(snapnames.canonical(path)) is not None:
            refuse()

    def scan(self, handle: Handle, names_only: bool = False, match: Match | None = None) -> Iterator[tuple[str, FileInfo]]:
        if not isinstance(handle, ReadOnlyHandle):
            return self.below.scan(handle, names_only, match)
        snapshot = handle.snapshot
        return ((name, snapshot.info(info)) for name, info in snapshot.vfs.scan(handle.below, names_only, match))

    def is_large(self, handle: Handle) -> bool:
        return self.below.is_large(handle)

    def is_empty(self, handle: Handle) -> bool:
        return self.below.is_empty(handle.below if isinstance(handle, ReadOnlyHandle) else handle)

    def fs_info(self) -> FsInfo:
        return self.below.fs_info()

    def close(self) -> None:
        with self._turn:
            self._ended = True
            self._trim(0)
        self.below.close()


def _trusted(above: str, snapdir: str, root: bytes) -> Iterator[_Place]:
    """A directory of the administrator's choice; nothing where it is not there. What lies beneath a share may be anybody's: root follows no
    symlink there.
    """
    try:
        with identity.as_root():
            fd = _open_snapdir(above, snapdir)
    except OSError as error:
        if error.errno not in _NOT_THERE:
            raise
        return
    try:
        yield _Place(fd, root, 0, True)
    finally:
        files.close(fd)


def _open_snapdir(above: str, snapdir: str) -> int:
    if snapdir.startswith("/"):
        return files.open(snapdir, READ | os.O_DIRECTORY)
    base = files.open(above, files.PATH_ONLY | os.O_DIRECTORY)
    try:
        return files.open_beneath(base, os.fsencode(snapdir), READ | os.O_DIRECTORY)
    finally:
        files.close(base)


def _rights(place: _Place) -> AbstractContextManager[None]:
    return identity.as_root() if place.trusted else nullcontext()


def _mount_point(path: str) -> str:
    """The root of the file system that holds ``path``."""
    device = files.stat(path).st_dev
    while path != "/" and files.stat(os.path.dirname(path)).st_dev == device:
        path = os.path.dirname(path)
    return path


def _inside(path: str, directory: str) -> bytes:
    """``path`` relative to a directory it lies in; b'' where it does not."""
    relative = os.path.relpath(path, directory)
    return b"" if relative == "." or relative.startswith("..") else os.fsencode(relative)
