"""SET_INFO: [MS-SMB2] 2.2.39, 3.3.5.21. Renames and links are ``workers.renaming``."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from smbd.sharing import Operation
from smbd.smb2 import status
from smbd.smb2.constants import (
    ACCESS_SYSTEM_SECURITY,
    DACL_SECURITY_INFORMATION,
    DELETE,
    FILE_ATTRIBUTE_DIRECTORY,
    FILE_ATTRIBUTE_READONLY,
    FILE_ATTRIBUTE_TEMPORARY,
    FILE_DELETE_ON_CLOSE,
    FILE_NOTIFY_CHANGE_ATTRIBUTES,
    FILE_NOTIFY_CHANGE_CREATION,
    FILE_NOTIFY_CHANGE_EA,
    FILE_NOTIFY_CHANGE_LAST_ACCESS,
    FILE_NOTIFY_CHANGE_LAST_WRITE,
    FILE_NOTIFY_CHANGE_SECURITY,
    FILE_NOTIFY_CHANGE_SIZE,
    FILE_WRITE_ATTRIBUTES,
    FILE_WRITE_DATA,
    FILE_WRITE_EA,
    GROUP_SECURITY_INFORMATION,
    INFO_FILE,
    INFO_FILESYSTEM,
    INFO_QUOTA,
    INFO_SECURITY,
    OWNER_SECURITY_INFORMATION,
    SACL_SECURITY_INFORMATION,
    WRITE_DAC,
    WRITE_OWNER,
)
from smbd.smb2.dtyp import SecurityDescriptor, mapped
from smbd.smb2.dtyp.descriptor import DACL_AUTO_INHERIT_REQ, DACL_AUTO_INHERITED
from smbd.smb2.fscc import change, lists, query
from smbd.smb2.header import HEADER_SIZE
from smbd.smb2.messages.info import SET_INFO_REQUEST, SET_INFO_RESPONSE, SET_INFO_RESPONSE_STRUCTURE_SIZE, SetInfoRequest
from smbd.smb2.status import SmbError
from workers import access, changes, renaming, writetimes
from workers.breaks import Blocked, until_free
from workers.commands import quota
from workers.open import Open
from workers.request import Answer, Request
from workers.vfs.interface import Handle

RESPONSE = SET_INFO_RESPONSE.pack(SET_INFO_RESPONSE_STRUCTURE_SIZE)
BUFFER_MINIMUM = HEADER_SIZE + SET_INFO_REQUEST.size
LARGEST_FILE = 0x7FFFFFFFFFFF0000
Setter = Callable[[Request, Open, Handle, memoryview, int], None]


def set_info(request: Request, body: SetInfoRequest) -> bytes | Coroutine[Any, None, bytes | Answer]:
    """Change what is open, by one information class."""
    if body.buffer_length > request.worker.max_transact:
        raise SmbError(status.INVALID_PARAMETER)
    request.check_charge(body.buffer_length)
    data = request.variable(body.buffer_offset, body.buffer_length, BUFFER_MINIMUM)
    opened = request.open
    if opened.pipe is not None:
        return _set_pipe(body)
    handle = opened.handle
    assert handle is not None
    if body.info_type == INFO_FILE:
        setter = SETTERS.get(body.file_info_class)
        if setter is None:
            known = body.file_info_class in query.MINIMUM
            raise SmbError(status.NOT_SUPPORTED if known else status.INVALID_INFO_CLASS)
        if handle.read_only and body.file_info_class not in OF_THE_OPEN:
            raise SmbError(status.MEDIA_WRITE_PROTECTED)
        try:
            setter(request, opened, handle, data, body.file_info_class)
        except Blocked as blocked:
            kept = memoryview(bytes(data))
            return until_free(request, blocked, partial(_set_again, request, setter, kept, body.file_info_class))
    elif body.info_type == INFO_SECURITY:
        set_security(request, opened, handle, data, body.additional_information)
    elif body.info_type == INFO_QUOTA:
        quota.change(request, data)
    else:
        raise SmbError(status.NOT_SUPPORTED if body.info_type == INFO_FILESYSTEM else status.INVALID_PARAMETER)
    return RESPONSE


def _set_again(request: Request, setter: Setter, data: memoryview, info_class: int) -> bytes:
    handle = request.open.handle
    assert handle is not None
    setter(request, request.open, handle, data, info_class)
    return RESPONSE


def _set_pipe(body: SetInfoRequest) -> bytes:
    if body.info_type == INFO_FILE and body.file_info_class == query.FILE_PIPE_INFORMATION:
        return RESPONSE  # message mode is all there is
    raise SmbError(status.NOT_SUPPORTED)


def _need(opened: Open, right: int) -> None:
    if right & ~opened.granted:
        raise SmbError(status.ACCESS_DENIED)


def _basic(request: Request, opened: Open, handle: Handle, data: memoryview, info_class: int) -> None:
    """[MS-FSA] 2.1.5.15.2."""
    _need(opened, FILE_WRITE_ATTRIBUTES)
    basic = change.parse_basic(data)
    attributes = basic.file_attributes
    if attributes & FILE_ATTRIBUTE_DIRECTORY and not opened.is_directory:
        raise SmbError(status.INVALID_PARAMETER)
    if attributes & FILE_ATTRIBUTE_TEMPORARY and opened.is_directory:
        raise SmbError(status.INVALID_PARAMETER)
    if attributes:
        handle.set_attributes(attributes)
    handle.set_times(basic.creation_time, basic.last_access_time, basic.last_write_time, basic.change_time)
    if opened.tree.delays:
        writetimes.was_set(opened, basic.last_write_time)
        writetimes.tell(request.worker, opened)
    changed = FILE_NOTIFY_CHANGE_ATTRIBUTES if attributes else 0
    changed |= FILE_NOTIFY_CHANGE_CREATION if basic.creation_time > 0 else 0
    changed |= FILE_NOTIFY_CHANGE_LAST_ACCESS if basic.last_access_time > 0 else 0
    changed |= FILE_NOTIFY_CHANGE_LAST_WRITE if basic.last_write_time > 0 else 0
    if changed or basic.change_time > 0:
        changes.altered(request.worker, opened, changed)


def _disposition(request: Request, opened: Open, handle: Handle, data: memoryview, info_class: int) -> None:
    """[MS-FSA] 2.1.5.15.3."""
    _need(opened, DELETE)
    wish = change.parse_disposition(info_class, data)
    assert opened.key is not None
    if wish.delete:
        may = wish.ignore_readonly or request.tree.share.delete_readonly
        if not may and handle.info().attributes & FILE_ATTRIBUTE_READONLY:
            raise SmbError(status.CANNOT_DELETE)
        if not handle.path.components and not handle.path.stream:
            raise SmbError(status.CANNOT_DELETE)
        vfs = request.tree.vfs
        assert vfs is not None
        if opened.is_directory and not vfs.is_empty(handle):
            raise SmbError(status.DIRECTORY_NOT_EMPTY)
        request.worker.breaks.require(request, Operation.DELETE)
    token = request.tree.token
    request.worker.sharing.set_delete_on_close(opened.key, opened.persistent, wish.delete, token.uid, token.gid)
    opened.dooms = wish.delete
    opened.dooms_name = wish.delete and wish.posix and not handle.stream
    if wish.delete and opened.is_directory:
        changes.doomed(request.worker, opened)


def _end_of_file(request: Request, opened: Open, handle: Handle, data: memoryview, info_class: int) -> None:
    """[MS-FSA] 2.1.5.15.5."""
    _need(opened, FILE_WRITE_DATA)
    if opened.is_directory:
        raise SmbError(status.INVALID_PARAMETER)
    size = change.parse_size(data)
    if size > LARGEST_FILE:
        raise SmbError(status.INVALID_PARAMETER)
    _check_truncation(request, opened, handle, size)
    handle.truncate(size)
    request.worker.breaks.data_changed(opened)
    if opened.tree.delays:
        writetimes.tell(request.worker, opened)
    changes.altered(request.worker, opened, FILE_NOTIFY_CHANGE_SIZE | FILE_NOTIFY_CHANGE_LAST_WRITE)


def _allocation(request: Request, opened: Open, handle: Handle, data: memoryview, info_class: int) -> None:
    """[MS-FSA] 2.1.5.15.1."""
    _need(opened, FILE_WRITE_DATA)
    if opened.is_directory:
        raise SmbError(status.INVALID_PARAMETER)
    size = change.parse_size(data)
    if size > LARGEST_FILE:
        raise SmbError(status.DISK_FULL)
    _check_truncation(request, opened, handle, size)
    handle.allocate(size)
    request.worker.breaks.data_changed(opened)
    changes.altered(request.worker, opened, FILE_NOTIFY_CHANGE_SIZE)


def _check_truncation(request: Request, opened: Open, handle: Handle, size: int) -> None:
    """What somebody has locked is not cut off."""
    assert opened.key is not None
    current = handle.info().size
    if size < current and request.worker.sharing.locks_conflict(opened.key, opened.persistent, size, current - size, True):
        raise SmbError(status.FILE_LOCK_CONFLICT)


def _valid_data_length(request: Request, opened: Open, handle: Handle, data: memoryview, info_class: int) -> None:
    """[MS-FSA] 2.1.5.15.17: Unix files have no such length: what is within the file is valid already."""
    _need(opened, FILE_WRITE_DATA)
    if change.parse_size(data) > handle.info().size:
        raise SmbError(status.INVALID_PARAMETER)


def _position(request: Request, opened: Open, handle: Handle, data: memoryview, info_class: int) -> None:
    opened.position = change.parse_position(data)


def _mode(request: Request, opened: Open, handle: Handle, data: memoryview, info_class: int) -> None:
    """[MS-FSA] 2.1.5.15.10."""
    mode = change.parse_mode(data)
    if mode & FILE_DELETE_ON_CLOSE:
        raise SmbError(status.INVALID_PARAMETER)
    opened.mode = mode


def _eas(request: Request, opened: Open, handle: Handle, data: memoryview, info_class: int) -> None:
    """[MS-FSA] 2.1.5.15.6."""
    _need(opened, FILE_WRITE_EA)
    if not opened.tree.share.ea_support:
        raise SmbError(status.EAS_NOT_SUPPORTED)
    for name, value in lists.parse_full_eas(data):
        handle.set_ea(name, value)
    changes.altered(request.worker, opened, FILE_NOTIFY_CHANGE_EA)


def _rename(request: Request, opened: Open, handle: Handle, data: memoryview, info_class: int) -> None:
    _need(opened, DELETE)
    renaming.rename(request, opened, handle, change.parse_rename(info_class, data))


def _link(request: Request, opened: Open, handle: Handle, data: memoryview, info_class: int) -> None:
    renaming.link(request, opened, handle, change.parse_rename(info_class, data))


SETTERS: dict[int, Setter] = {
    query.FILE_BASIC_INFORMATION: _basic,
    change.FILE_RENAME_INFORMATION: _rename,
    change.FILE_RENAME_INFORMATION_EX: _rename,
    change.FILE_LINK_INFORMATION: _link,
    change.FILE_LINK_INFORMATION_EX: _link,
    change.FILE_DISPOSITION_INFORMATION: _disposition,
    change.FILE_DISPOSITION_INFORMATION_EX: _disposition,
    change.FILE_ALLOCATION_INFORMATION: _allocation,
    change.FILE_END_OF_FILE_INFORMATION: _end_of_file,
    change.FILE_VALID_DATA_LENGTH_INFORMATION: _valid_data_length,
    query.FILE_POSITION_INFORMATION: _position,
    query.FILE_MODE_INFORMATION: _mode,
    query.FILE_FULL_EA_INFORMATION: _eas,
}


OF_THE_OPEN = frozenset({query.FILE_POSITION_INFORMATION, query.FILE_MODE_INFORMATION})
"""The classes that change nothing of the file."""


def set_security(request: Request, opened: Open, handle: Handle, data: memoryview, parts: int) -> None:
    """3.3.5.21.3, [MS-FSA] 2.1.5.17: the parts named replace those of the file's descriptor."""
    if parts & (OWNER_SECURITY_INFORMATION | GROUP_SECURITY_INFORMATION):
        _need(opened, WRITE_OWNER)
    if parts & DACL_SECURITY_INFORMATION:
        _need(opened, WRITE_DAC)
    if parts & SACL_SECURITY_INFORMATION:
        _need(opened, ACCESS_SYSTEM_SECURITY)
    new = mapped(SecurityDescriptor.unpack(data))
    if not opened.tree.share.acl_flag_inherited_canonicalization and new.control & DACL_AUTO_INHERITED:
        new = new._replace(control=new.control | DACL_AUTO_INHERIT_REQ)  # as if it had been asked for
    worker = request.worker
    if parts & OWNER_SECURITY_INFORMATION and new.owner is not None:
        _check_owner(request, handle, new)
    merged = access.descriptor(worker, handle, handle.info()).merge(new, parts)
    handle.set_security(merged.pack())
    changes.altered(request.worker, opened, FILE_NOTIFY_CHANGE_SECURITY)


def _check_owner(request: Request, handle: Handle, new: SecurityDescriptor) -> None:
    """[MS-FSA] 2.1.5.17: one may take ownership, not give it away, unless one may restore."""
    token = request.tree.token
    current = access.descriptor(request.worker, handle, handle.info()).owner
    if new.owner in token.sids or new.owner == current or "SeRestorePrivilege" in token.privileges:
        return
    raise SmbError(status.INVALID_OWNER)
