"""Reparse points: FSCTL_GET_REPARSE_POINT, FSCTL_SET_REPARSE_POINT, FSCTL_DELETE_REPARSE_POINT ([MS-FSA] 2.1.5.10.14, .37, .5).

A symbolic link that leads somewhere beneath the share becomes a symlink of the disk: what was just made for it, an empty file or directory,
gives way to it. All else is kept beside its file.
"""

from __future__ import annotations

from smbd.sharing import FileKey, OpenClaim, OpenRow
from smbd.sharing.values import OpenFlags
from smbd.smb2 import status
from smbd.smb2.constants import DELETE, FILE_NOTIFY_CHANGE_ATTRIBUTES, FILE_WRITE_ATTRIBUTES, FILE_WRITE_DATA
from smbd.smb2.fscc import reparse
from smbd.smb2.status import SmbError
from workers import access, changes
from workers.commands.close import settle
from workers.open import Open
from workers.request import Request
from workers.vfs.interface import Handle
from workers.vfs.links import target_of


def get_reparse_point(request: Request, data: memoryview, max_output: int) -> bytes | tuple[bytes, int]:
    """As much of the buffer as there is room for, its header at least."""
    handle = request.open.handle
    assert handle is not None
    found = handle.reparse() if handle.opened.reparse_tag or handle.info().reparse_tag else None
    if found is None:
        raise SmbError(status.NOT_A_REPARSE_POINT)
    if max_output < reparse.BUFFER.size:
        raise SmbError(status.BUFFER_TOO_SMALL)
    return (found, status.SUCCESS) if len(found) <= max_output else (found[:max_output], status.BUFFER_OVERFLOW)


def set_reparse_point(request: Request, data: memoryview, max_output: int) -> bytes:
    """Make the open file or directory a reparse point, or give the one it is other data."""
    handle = _changeable(request)
    existing = handle.reparse()
    tag = reparse.check(data, existing)
    _check_kind(request, handle, tag)
    buffer = bytes(data)
    target = None
    if tag == reparse.TAG_SYMLINK:
        path = handle.current_path() or handle.path
        target = target_of(reparse.parse_symlink(buffer), len(path.components) - 1)
    row = _sole(request) if handle.is_link or (target is not None and existing is None) else None
    if handle.is_link or row is not None:
        handle = _replace(request, row, target)
    if not handle.is_link:
        handle.set_reparse(buffer)
    changes.modified(request.worker, request.open, FILE_NOTIFY_CHANGE_ATTRIBUTES)
    return b""


def delete_reparse_point(request: Request, data: memoryview, max_output: int) -> bytes:
    """An empty file or directory remains."""
    handle = _changeable(request)
    existing = handle.reparse()
    reparse.check(data, existing, empty=True)
    if existing is None:
        raise SmbError(status.NOT_A_REPARSE_POINT)
    if handle.is_link:
        _replace(request, _sole(request), None)
    else:
        handle.set_reparse(None)
    changes.modified(request.worker, request.open, FILE_NOTIFY_CHANGE_ATTRIBUTES)
    return b""


def _changeable(request: Request) -> Handle:
    opened = request.open
    if not opened.granted & (FILE_WRITE_DATA | FILE_WRITE_ATTRIBUTES):
        raise SmbError(status.ACCESS_DENIED)
    handle = opened.handle
    assert handle is not None
    if handle.stream:
        raise SmbError(status.INVALID_PARAMETER)
    if not handle.path.components:
        raise SmbError(status.ACCESS_DENIED)  # the share's root
    return handle


def _check_kind(request: Request, handle: Handle, tag: int) -> None:
    """What may become which kind of reparse point: nothing that holds anything, where the point leads elsewhere."""
    vfs = request.tree.vfs
    assert vfs is not None
    if handle.directory:
        if not vfs.is_empty(handle):
            raise SmbError(status.DIRECTORY_NOT_EMPTY)
    elif tag == reparse.TAG_MOUNT_POINT:
        raise SmbError(status.NOT_A_DIRECTORY)
    elif tag == reparse.TAG_SYMLINK and handle.info().size:
        raise SmbError(status.IO_REPARSE_DATA_INVALID)


def _sole(request: Request) -> OpenRow | None:
    """The open's record, if its user may delete the file, nobody else has it open, and nothing is known of it that is this file's alone."""
    opened = request.open
    assert opened.key is not None
    assert opened.handle is not None
    if not (opened.granted | access.maximal(request.worker, request.tree, opened.handle)) & DELETE:
        return None
    rows = request.worker.sharing.opens_of(opened.key)
    if len(rows) != 1 or rows[0].flags & ~(OpenFlags.DIRECTORY | OpenFlags.EXACT) or rows[0].cache_state:
        return None
    return rows[0]


def _replace(request: Request, row: OpenRow | None, target: bytes | None) -> Handle:
    """Put a symlink, or with None an empty file, in the place of what is open; the open goes on with that."""
    opened, vfs, handle = request.open, request.tree.vfs, request.open.handle
    if row is None:
        raise SmbError(status.SHARING_VIOLATION)
    assert vfs is not None
    assert handle is not None
    made = vfs.replace(handle, target)
    try:
        _enter(request, opened, row, made)
    except BaseException:
        opened.handle = handle
        made.close()
        raise
    if opened.in_flight:
        opened.orphan = handle
    else:
        handle.close()
    return made


def _enter(request: Request, opened: Open, row: OpenRow, made: Handle) -> None:
    """The open's record is under its new file's key, then no longer under the old one's."""
    sharing, old = request.worker.sharing, opened.key
    assert old is not None
    key = FileKey(*made.key)
    opened.handle, opened.is_directory = made, False
    if key == old:
        return  # a link in a link's place may get its number
    claim = OpenClaim(
        row.file_id, row.access, row.share_access, row.path, row.share, row.user, row.session_id, row.tree_id, False, False,
        row.uid, row.gid, row.opened, deadline=request.worker.breaks.deadline(), exact=bool(row.flags & OpenFlags.EXACT),
    )  # fmt: skip
    request.worker.breaks.send(sharing.open(key, claim).notices)
    opened.key = key
    settle(request.worker, opened, old, sharing.close(old, opened.persistent))
