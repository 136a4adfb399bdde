"""Change notification from the kernel: fanotify with names for whole file systems, inotify for single directories.

Owns: the layouts of both interfaces' events, and in each source the kernel's descriptors and the directories registered with them.
Invariant: both sources speak of absolute paths on disk and of nothing else; who wants to know is not their business.
"""

from __future__ import annotations

import ctypes
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from struct import Struct
from typing import Final, NamedTuple

from pools.port.interface import ATTRIBUTES, CLOSE_WRITE, CREATED, DELETED, DIRECTORY, RENAMED, Change, Source, Tree

log = logging.getLogger("millpond.port")

DIRECTORIES: Final = 8192  # inotify watches at most; fs.inotify.max_user_watches is for all programs of the user

_MOVED_FROM: Final = 0x40  # inotify's own bits
_MOVED_TO: Final = 0x80
_IGNORED: Final = 0x8000

_FAN_CLOEXEC_NONBLOCK_NAMES: Final = 0x1 | 0x2 | 0x400 | 0x800  # FAN_REPORT_DIR_FID and FAN_REPORT_NAME
_FAN_MARK_ADD_FILESYSTEM: Final = 0x1 | 0x100
_FAN_MARK_FLUSH_FILESYSTEM: Final = 0x80 | 0x100
_FAN_MASK: Final = ATTRIBUTES | CLOSE_WRITE | CREATED | DELETED | RENAMED | DIRECTORY
_FAN_NAMES: Final = frozenset({2, 10, 12})  # FAN_EVENT_INFO_TYPE_DFID_NAME, ..._OLD_DFID_NAME, ..._NEW_DFID_NAME
_IN_FLAGS: Final = 0x80000 | 0x800  # IN_CLOEXEC and IN_NONBLOCK
_IN_MASK: Final = ATTRIBUTES | CLOSE_WRITE | _MOVED_FROM | _MOVED_TO | CREATED | DELETED | 0x01000000 | 0x02000000  # ONLYDIR, DONT_FOLLOW
_READ: Final = 65536
_AT_FDCWD: Final = -100

_METADATA: Final = Struct("=IBBHQii")  # struct fanotify_event_metadata
_INFO: Final = Struct("=BBH8sIi")  # struct fanotify_event_info_fid up to f_handle
_INOTIFY: Final = Struct("=iIII")  # struct inotify_event up to name
_HANDLE_AT: Final = 12  # where struct file_handle begins in an info record

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fanotify_mark.argtypes = [ctypes.c_int, ctypes.c_uint, ctypes.c_uint64, ctypes.c_int, ctypes.c_char_p]
_libc.inotify_add_watch.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_uint32]


class _Spot(NamedTuple):
    """A name in a directory; the directory as a kernel file handle (type and bytes as they lie in memory)."""

    handle: bytes
    name: bytes


class _FanotifyEvent(NamedTuple):
    """One change somewhere on a marked file system. A rename has two places, every other event one; an overflow none."""

    mask: int
    pid: int
    places: tuple[_Spot, ...]


class _InotifyEvent(NamedTuple):
    """One change in a watched directory. The two halves of a rename have the same ``cookie``."""

    watch: int
    mask: int
    cookie: int
    name: bytes


def _checked(result: int, path: str = "") -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    return result


def _open_fanotify() -> int:
    """A fanotify group that reports names; PermissionError without CAP_SYS_ADMIN, OSError where the kernel is too old."""
    return _checked(_libc.fanotify_init(_FAN_CLOEXEC_NONBLOCK_NAMES, os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_LARGEFILE", 0)))


def _mark_filesystem(group: int, path: str) -> None:
    """Report changes on the file system that ``path`` lies on; OSError where it cannot (no stable handles, no FAN_RENAME)."""
    _checked(_libc.fanotify_mark(group, _FAN_MARK_ADD_FILESYSTEM, _FAN_MASK, _AT_FDCWD, os.fsencode(path)), path)


def _unmark_filesystems(group: int) -> None:
    """Report nothing any more."""
    _checked(_libc.fanotify_mark(group, _FAN_MARK_FLUSH_FILESYSTEM, 0, _AT_FDCWD, None))


def _fanotify_events(group: int) -> list[_FanotifyEvent]:
    """What happened; empty when nothing has."""
    try:
        data = os.read(group, _READ)
    except BlockingIOError:
        return []
    return list(_fanotify_parse(data))


def _fanotify_parse(data: bytes) -> Iterator[_FanotifyEvent]:
    at = 0
    while at + _METADATA.size <= len(data):
        length, _, _, head, mask, fd, pid = _METADATA.unpack_from(data, at)
        if fd >= 0:
            os.close(fd)
        yield _FanotifyEvent(mask, pid, tuple(_spots(data[at + head : at + length])))
        at += length


def _spots(records: bytes) -> Iterator[_Spot]:
    at = 0
    while at + _INFO.size <= len(records):
        kind, _, length, _, handle_bytes, _ = _INFO.unpack_from(records, at)
        if kind in _FAN_NAMES:
            handle_end = at + _INFO.size + handle_bytes
            yield _Spot(records[at + _HANDLE_AT : handle_end], records[handle_end : at + length].split(b"\0", 1)[0])
        at += length


def _handle_path(mount: int, handle: bytes) -> bytes:
    """Where the directory of a ``_Spot`` is now, on the file system of the descriptor ``mount``. FileNotFoundError when it is gone."""
    fd = _checked(_libc.open_by_handle_at(mount, ctypes.create_string_buffer(handle, len(handle)), os.O_PATH | os.O_CLOEXEC))
    try:
        return os.readlink(os.fsencode(f"/proc/self/fd/{fd}"))
    finally:
        os.close(fd)


def _open_inotify() -> int:
    """An inotify instance; OSError when the user has too many."""
    return _checked(_libc.inotify_init1(_IN_FLAGS))


def _watch_directory(instance: int, path: str) -> int:
    """Watch one directory; the watch's number. OSError when it is gone or there are too many."""
    return _checked(_libc.inotify_add_watch(instance, os.fsencode(path), _IN_MASK), path)


def _unwatch_directory(instance: int, watch: int) -> None:
    """End a watch; one that ended by itself is no error."""
    _libc.inotify_rm_watch(instance, watch)


def _inotify_events(instance: int) -> list[_InotifyEvent]:
    """What happened; empty when nothing has."""
    try:
        data = os.read(instance, _READ)
    except BlockingIOError:
        return []
    found = []
    at = 0
    while at + _INOTIFY.size <= len(data):
        watch, mask, cookie, length = _INOTIFY.unpack_from(data, at)
        at += _INOTIFY.size
        found.append(_InotifyEvent(watch, mask, cookie, data[at : at + length].split(b"\0", 1)[0]))
        at += length
    return found


class Fanotify:
    """Needs CAP_SYS_ADMIN. One mark a file system; what happens elsewhere on it is dropped by the watcher."""

    exact = True
    period = 0.0

    def __init__(self, own: Callable[[], frozenset[int]]) -> None:
        self._group = _open_fanotify()
        self._own = own
        self._mounts: dict[int, int] = {}

    def fileno(self) -> int:
        """See ``interface.Source``."""
        return self._group

    def cover(self, trees: set[Tree]) -> None:
        """Mark the file systems of the trees. OSError when one cannot be marked."""
        if not trees:
            _unmark_filesystems(self._group)
            self._forget_mounts()
        for tree in trees:
            self._mark(tree.path)

    def _mark(self, path: str) -> None:
        try:
            mount = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            return
        device = os.fstat(mount).st_dev
        if device in self._mounts:
            os.close(mount)
            return
        try:
            _mark_filesystem(self._group, path)
        except OSError:
            os.close(mount)
            raise
        self._mounts[device] = mount

    def changes(self) -> list[Change]:
        """What others did. What this server's own processes did is told by them."""
        own = self._own()
        return [change for event in _fanotify_events(self._group) if event.pid not in own for change in self._change(event)]

    def _change(self, event: _FanotifyEvent) -> Iterable[Change]:
        paths = [path for path in (self._path(place) for place in event.places) if path]
        if len(paths) == len(event.places) and paths:
            yield Change(event.mask, paths[0], paths[1] if len(paths) > 1 else "")

    def _path(self, place: _Spot) -> str:
        for mount in self._mounts.values():
            try:
                directory = _handle_path(mount, place.handle)
            except OSError:
                continue  # gone meanwhile, or a handle of another file system
            return os.fsdecode(directory.rstrip(b"/") + b"/" + place.name)
        return ""

    def close(self) -> None:
        """Give everything back."""
        self._forget_mounts()
        os.close(self._group)

    def _forget_mounts(self) -> None:
        for mount in self._mounts.values():
            os.close(mount)
        self._mounts.clear()


class Inotify:
    """For everyone else: one instance, a watch for each directory. It cannot tell who made a change."""

    exact = False
    period = 0.0

    def __init__(self) -> None:
        self._instance = _open_inotify()
        self._directories: dict[int, tuple[str, bool]] = {}
        self._numbers: dict[str, int] = {}
        self._full = False

    def fileno(self) -> int:
        """See ``interface.Source``."""
        return self._instance

    def cover(self, trees: set[Tree]) -> None:
        """Watch exactly these."""
        wanted: dict[str, bool] = {}
        for tree in sorted(trees):
            for path in _beneath(tree) if tree.recursive else (tree.path,):
                wanted[path] = wanted.get(path, False) or tree.recursive
        for path in set(self._numbers) - set(wanted):
            number = self._numbers.pop(path)
            self._directories.pop(number, None)
            _unwatch_directory(self._instance, number)
        for path, recursive in wanted.items():
            self._watch(path, recursive)

    def _watch(self, path: str, recursive: bool) -> None:
        if len(self._numbers) >= DIRECTORIES:
            if not self._full:
                log.warning("more than %d directories are watched: changes made outside the server go unnoticed in some", DIRECTORIES)
            self._full = True
            return
        try:
            number = _watch_directory(self._instance, path)
        except OSError:
            return  # it is gone, or the user's watches are used up: workers' own changes are told all the same
        self._numbers[path] = number
        self._directories[number] = (path, recursive)

    def changes(self) -> list[Change]:
        """What happened, whoever did it."""
        found: list[Change] = []
        moved: dict[int, int] = {}
        for event in _inotify_events(self._instance):
            if event.mask & _IGNORED:
                path, _ = self._directories.pop(event.watch, ("", False))
                self._numbers.pop(path, None)
            elif event.watch in self._directories:
                self._one(event, found, moved)
        return found

    def _one(self, event: _InotifyEvent, found: list[Change], moved: dict[int, int]) -> None:
        directory, recursive = self._directories[event.watch]
        path = os.path.join(directory, os.fsdecode(event.name))
        if recursive and event.mask & DIRECTORY and event.mask & (CREATED | _MOVED_TO):
            for beneath in _beneath(Tree(path, True)):
                self._watch(beneath, True)
        if event.mask & _MOVED_FROM:
            moved[event.cookie] = len(found)
            found.append(Change(event.mask ^ _MOVED_FROM | DELETED, path))
        elif event.mask & _MOVED_TO and event.cookie in moved:
            at = moved.pop(event.cookie)
            found[at] = Change(found[at].mask ^ DELETED | RENAMED, found[at].path, path)
        elif event.mask & _MOVED_TO:
            found.append(Change(event.mask ^ _MOVED_TO | CREATED, path))
        else:
            found.append(Change(event.mask, path))

    def close(self) -> None:
        """Give the instance back, and all watches with it."""
        os.close(self._instance)


def _beneath(tree: Tree) -> Iterable[str]:
    """The tree's directories, itself included; symbolic links are not followed."""
    for count, (path, _, _) in enumerate(os.walk(tree.path)):
        if count >= DIRECTORIES:
            return
        yield path


def sources(own: Callable[[], frozenset[int]]) -> Sequence[Callable[[], Source]]:
    """See ``interface.Watching``: fanotify, which says who it was, and inotify where that is not ours to have."""
    return (lambda: Fanotify(own), Inotify)
