"""Renames and hard links: [MS-FSA] 2.1.5.15.6 (link), 2.1.5.15.11 (rename).

Owns: the checks on source, target and the directories between them. Invariant: a file that is open somewhere is never replaced, and a
directory with open files in it never moves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from smbd.sharing import FileKey, Operation
from smbd.sharing.rules import SHARED
from smbd.smb2 import status
from smbd.smb2.constants import DELETE, FILE_SHARE_WRITE
from smbd.smb2.names import Path, parse_stream, parse_text
from smbd.smb2.status import SmbError
from workers import access, changes

if TYPE_CHECKING:
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
    target = target_of(handle, wish.name)
    if not old.components and not old.stream:
        raise SmbError(status.ACCESS_DENIED)  # the share's root
    if not old.stream:
        _check_directories(request, opened, old, target)
        _check_target(request, opened.key, target, wish.replace)
    worker.breaks.require(request, Operation.RENAME)
    vfs.rename(handle, target, wish.replace)
    opened.path = handle.path
    if old.stream:
        changes.removed(worker, tree, old, False)
        changes.added(worker, tree, handle.path, False)
        return
    worker.sharing.rename(opened.key, "/".join(handle.path.components))
    changes.renamed(worker, tree, old, handle.path, opened.is_directory)


def target_of(handle: Handle, name: str) -> Path:
    """The new name: share-relative, or ":stream" within the same file."""
    if name.startswith(":"):
        stream, kind = parse_stream(name)
        if not handle.stream or not stream:
            raise SmbError(status.INVALID_PARAMETER)
        return Path(handle.path.components, stream, kind)
    target = parse_text(name)
    if handle.stream and not target.stream:
        raise SmbError(status.OBJECT_NAME_INVALID)
    if target.stream and not handle.stream:
        raise SmbError(status.OBJECT_NAME_INVALID)
    return target.base if not target.stream else target


def _check_directories(request: Request, opened: Open, old: Path, target: Path) -> None:
    """The directories must let the name go and come, and nobody may be about to delete or lock up the target's."""
    worker, tree = request.worker, request.tree
    vfs = tree.vfs
    assert vfs is not None
    if opened.is_directory and worker.sharing.opens_beneath(tree.share.name, "/".join(old.components)):
        raise SmbError(status.ACCESS_DENIED)
    parent = vfs.open(target.parent)
    try:
        access.check_add(worker, tree, parent, opened.is_directory)
        for row in worker.sharing.opens_of(FileKey(*parent.key)):
            # As if the directory were opened to add a file, sharing reading and writing but not deletion.
            if row.access & DELETE or (row.access & SHARED and not row.share_access & FILE_SHARE_WRITE):
                raise SmbError(status.SHARING_VIOLATION)
    finally:
        parent.close()


def _check_target(request: Request, key: FileKey, target: Path, replace: bool) -> None:
    worker, tree = request.worker, request.tree
    vfs = tree.vfs
    assert vfs is not None
    try:
        existing = vfs.open(target)
    except FileNotFoundError:
        return
    try:
        if FileKey(*existing.key) == key:
            return  # another case of its own name
        if not replace:
            raise SmbError(status.OBJECT_NAME_COLLISION)
        if existing.directory or worker.sharing.opens_of(FileKey(*existing.key)):
            raise SmbError(status.ACCESS_DENIED)
        access.check(worker, tree, existing, DELETE)
    finally:
        existing.close()


def link(request: Request, handle: Handle, wish: Rename) -> None:
    """Another name for an open file."""
    worker, tree = request.worker, request.tree
    vfs = tree.vfs
    assert vfs is not None
    target = parse_text(wish.name)
    if target.stream or handle.stream:
        raise SmbError(status.INVALID_PARAMETER)
    if handle.directory:
        raise SmbError(status.FILE_IS_A_DIRECTORY)
    parent = vfs.open(target.parent)
    try:
        access.check_add(worker, tree, parent, False)
    finally:
        parent.close()
    _check_target(request, FileKey(*handle.key), target, wish.replace)
    vfs.link(handle, target, wish.replace)
    changes.added(worker, tree, target, False)
