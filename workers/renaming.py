"""Renames and hard links: [MS-FSA] 2.1.5.15.6 (link), 2.1.5.15.11 (rename).

Owns: the checks on source, target and the directories between them. Invariant: a file that is open somewhere is never replaced, unless
POSIX semantics are asked for, and a directory with open files in it never moves; a stream's record has its new name before the disk has.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from smbd.sharing import FileKey, Operation
from smbd.sharing.caching import HANDLE
from smbd.sharing.rules import SHARED
from smbd.smb2 import status
from smbd.smb2.constants import DELETE, FILE_NOTIFY_CHANGE_LAST_WRITE, FILE_NOTIFY_CHANGE_SIZE, FILE_SHARE_WRITE
from smbd.smb2.names import EXACT, Path, fold, parse_posix, parse_stream, parse_text
from smbd.smb2.status import SmbError
from workers import access, changes, keeping
from workers.commands.close import wake

if TYPE_CHECKING:
    from smbd.sharing import OpenRow
    from smbd.smb2.fscc.change import Rename
    from workers.open import Open
    from workers.request import Request
    from workers.vfs.interface import Handle


def rename(request: Request, opened: Open, handle: Handle, wish: Rename) -> None:
    """Give the open file, directory or stream another name."""
    worker, tree = request.worker, request.tree
    vfs, old = tree.vfs, handle.path
    assert vfs is not None
    assert opened.key is not None
    if handle.stream:
        _rename_stream(request, opened, handle, wish)
        return
    target = target_of(handle, wish.name)
    if not old.components:
        raise SmbError(status.ACCESS_DENIED)  # the share's root
    _check_directories(request, opened, old, target)
    _check_target(request, opened.key, target, wish)
    worker.breaks.require(request, Operation.RENAME)
    vfs.rename(handle, target, wish.replace)
    opened.path = handle.path
    several = handle.info().links > 1 and not opened.is_directory  # by what is it open elsewhere: this name, or another that it has?
    worker.sharing.rename(opened.key, "/".join(handle.path.components), "/".join(old.components) if several else None)
    changes.renamed(worker, opened, old, handle.path)


def target_of(handle: Handle, name: str) -> Path:
    """The new name of a file, relative to the share. Of a file itself no stream is made."""
    if handle.path.type == EXACT:
        return parse_posix(name)
    if name.startswith(":"):
        raise SmbError(status.INVALID_PARAMETER)
    target = parse_text(name)
    if target.stream:
        raise SmbError(status.OBJECT_NAME_INVALID)
    return target


def _rename_stream(request: Request, opened: Open, handle: Handle, wish: Rename) -> None:
    """[MS-FSA] 2.1.5.15.11.1. A stream that others have open too keeps its name, by which they know it: SHARING_VIOLATION.

    The record moves first: nobody who comes under either name misses the open. Whatever fails then moves it back.
    """
    worker, old, key = request.worker, handle.path, opened.key
    assert key is not None
    if not wish.name.startswith(":"):
        _refuse_path(request, opened, handle, wish.name)
    stream = parse_stream(wish.name)
    if fold(stream) == fold(handle.stream):
        return
    if not (stream or wish.replace):
        raise SmbError(status.OBJECT_NAME_COLLISION)  # every file has that one
    worker.breaks.require(request, Operation.RENAME)
    waiting = worker.sharing.rename_stream(key, opened.persistent, stream)
    opened.key = key._replace(stream=stream)
    try:
        _move(request, opened, handle, stream, wish.replace)
    except (OSError, SmbError):
        worker.sharing.rename_stream(opened.key, opened.persistent, key.stream, undo=True)
        opened.key = key
        raise
    wake(worker, waiting)
    changes.removed(worker, request.tree, old, opened)
    assert opened.path is not None
    if stream:
        changes.added(worker, request.tree, opened.path, opened)
    else:
        changes.altered(worker, opened, FILE_NOTIFY_CHANGE_SIZE | FILE_NOTIFY_CHANGE_LAST_WRITE)
    if keeping.is_kept(opened):
        keeping.tell_keeper(worker, opened)


def _refuse_path(request: Request, opened: Open, handle: Handle, name: str) -> NoReturn:
    """[MS-FSA] 2.1.5.15.11: the directory that a path names is opened first; a name in it has no colon."""
    target = parse_text(name)
    if target.components:
        _check_directories(request, opened, handle.path, target)
    raise SmbError(status.OBJECT_NAME_INVALID)


def _move(request: Request, opened: Open, handle: Handle, stream: str, replace: bool) -> None:
    """On the disk. In the place of the unnamed stream the open goes on with the file itself."""
    vfs = request.tree.vfs
    assert vfs is not None
    if stream:
        vfs.rename(handle, handle.path._replace(stream=stream), replace)
        opened.path = handle.path
        return
    made = vfs.absorb(handle)
    opened.handle, opened.path = made, made.path
    if opened.in_flight:
        opened.orphan = handle
    else:
        handle.close()


def _check_directories(request: Request, opened: Open, old: Path, target: Path) -> None:
    """The directories must let the name go and come, and nobody may be about to delete or lock up the target's."""
    worker, tree = request.worker, request.tree
    vfs = tree.vfs
    assert vfs is not None
    if opened.is_directory:
        _check_beneath(request, "/".join(old.components))
    parent = vfs.open(target.parent)
    try:
        access.check_add(worker, tree, parent, opened.is_directory)
        key = FileKey(*parent.key)
        if any(_keeps_closed(row) for row in worker.sharing.opens_of(key)):
            worker.breaks.require(request, Operation.SHARING_VIOLATION, key)
            raise SmbError(status.SHARING_VIOLATION)
    finally:
        parent.close()


def _keeps_closed(row: OpenRow) -> bool:
    """Whether an open of a directory stands against adding a file: as if that opened it, sharing reading and writing but not deletion."""
    return bool(row.access & DELETE or (row.access & SHARED and not row.share_access & FILE_SHARE_WRITE))


def _check_beneath(request: Request, path: str) -> None:
    """[MS-FSA] 2.1.4.2: nothing in the directory ``path`` may be open. Whoever caches handles there is asked to close them, one by one.

    One that is open and is nobody's to close, one that was opened meanwhile, and one that its client keeps: ACCESS_DENIED.
    """
    found = request.worker.sharing.opens_beneath(request.tree.share.name, path)
    if request.beneath is None:
        request.beneath = frozenset(row[1:4] for row in found)
    for row in found:
        if row[1:4] not in request.beneath or not row.cache_state & HANDLE:
            raise SmbError(status.ACCESS_DENIED)
    for row in found:
        request.worker.breaks.require(request, Operation.RENAME, row.key)
    if found:
        raise SmbError(status.ACCESS_DENIED)


def _check_target(request: Request, key: FileKey, target: Path, wish: Rename) -> None:
    """With POSIX semantics ([MS-FSCC] 2.4.43) a file that is open loses its name all the same."""
    worker, tree = request.worker, request.tree
    vfs = tree.vfs
    assert vfs is not None
    try:
        existing = vfs.open(target, target.type == EXACT)
    except FileNotFoundError:
        return
    try:
        other = FileKey(*existing.key)
        if other == key:
            return  # another case of its own name
        if not wish.replace:
            raise SmbError(status.OBJECT_NAME_COLLISION)
        if existing.directory:
            raise SmbError(status.ACCESS_DENIED)
        if not wish.posix and worker.sharing.opens_of(other):
            worker.breaks.require(request, Operation.RENAME, other)
            raise SmbError(status.ACCESS_DENIED)
        access.check(worker, tree, existing, DELETE)
    finally:
        existing.close()


def link(request: Request, opened: Open, handle: Handle, wish: Rename) -> None:
    """Another name for an open file."""
    worker, tree = request.worker, request.tree
    vfs = tree.vfs
    assert vfs is not None
    target = target_of(handle, wish.name) if handle.path.type == EXACT else parse_text(wish.name)
    if target.stream or handle.stream:
        raise SmbError(status.INVALID_PARAMETER)
    if handle.directory:
        raise SmbError(status.FILE_IS_A_DIRECTORY)
    parent = vfs.open(target.parent)
    try:
        access.check_add(worker, tree, parent, False)
    finally:
        parent.close()
    _check_target(request, FileKey(*handle.key), target, wish)
    vfs.link(handle, target, wish.replace)
    changes.added(worker, tree, target, opened)
