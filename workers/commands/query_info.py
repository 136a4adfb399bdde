"""QUERY_INFO: [MS-SMB2] 2.2.37, 3.3.5.20."""

from __future__ import annotations

from collections.abc import Callable

from smbd.smb2 import names, status
from smbd.smb2.constants import (
    ACCESS_SYSTEM_SECURITY,
    FILE_READ_ATTRIBUTES,
    FILE_READ_EA,
    INFO_FILE,
    INFO_FILESYSTEM,
    INFO_QUOTA,
    INFO_SECURITY,
    READ_CONTROL,
    SACL_SECURITY_INFORMATION,
)
from smbd.smb2.fscc import filesystem, lists, posix, query
from smbd.smb2.fscc.facts import OpenState
from smbd.smb2.header import HEADER_SIZE
from smbd.smb2.messages.info import (
    QUERY_INFO_REQUEST,
    QUERY_INFO_RESPONSE,
    QUERY_INFO_RESPONSE_STRUCTURE_SIZE,
    QueryInfoRequest,
)
from smbd.smb2.names import EXACT
from smbd.smb2.status import SmbError
from workers import access, writetimes
from workers.commands import quota
from workers.open import Open
from workers.request import Answer, Request
from workers.vfs import snapnames
from workers.vfs.interface import Handle

INPUT_MINIMUM = HEADER_SIZE + QUERY_INFO_REQUEST.size
OUTPUT_AT = HEADER_SIZE + QUERY_INFO_RESPONSE.size
NEEDS_ATTRIBUTES = frozenset(
    {
        query.FILE_BASIC_INFORMATION,
        query.FILE_ALL_INFORMATION,
        query.FILE_NETWORK_OPEN_INFORMATION,
        query.FILE_ATTRIBUTE_TAG_INFORMATION,
    }
)
"""[MS-FSA] 2.1.5.12: the classes that need FILE_READ_ATTRIBUTES."""
STREAM_MINIMUM = 32  # Windows' structure, padded, with its first character
PIPE_TYPE_MESSAGE = 1
PIPE_QUOTA = 4096
PIPE_INSTANCES = 0xFFFFFFFF
PIPE_CONNECTED = 3
PIPE_DUPLEX = 2


def query_info(request: Request, body: QueryInfoRequest) -> Answer:
    """One of four kinds of information about what is open."""
    if body.output_buffer_length > request.worker.max_transact:
        raise SmbError(status.INVALID_PARAMETER)
    request.check_charge(max(body.output_buffer_length, body.input_buffer_length))
    data = request.variable(body.input_buffer_offset, body.input_buffer_length, INPUT_MINIMUM)
    if request.open.pipe is not None:
        output, complete = pipe_information(request, body)
    elif body.info_type == INFO_FILE:
        output, complete = file_information(request, body, data)
    elif body.info_type == INFO_FILESYSTEM:
        output, complete = filesystem_information(request, body)
    elif body.info_type == INFO_SECURITY:
        output, complete = security_information(request, body), True
    elif body.info_type == INFO_QUOTA:
        output, complete = quota.query(request, data, body.output_buffer_length), True
    else:
        raise SmbError(status.INVALID_PARAMETER)
    if len(output) > body.output_buffer_length:
        output, complete = output[: body.output_buffer_length], False
    fixed = QUERY_INFO_RESPONSE.pack(QUERY_INFO_RESPONSE_STRUCTURE_SIZE, OUTPUT_AT, len(output))
    return Answer(fixed + output, status.SUCCESS if complete else status.BUFFER_OVERFLOW)


def _at_least(minimum: dict[int, int], body: QueryInfoRequest) -> None:
    """3.3.5.20.1: a buffer smaller than the class's fixed part."""
    least = minimum.get(body.file_info_class)
    if least is None:
        raise SmbError(status.INVALID_INFO_CLASS)
    if body.output_buffer_length < least:
        raise SmbError(status.INFO_LENGTH_MISMATCH)


def state_of(request: Request, opened: Open, handle: Handle, info_class: int) -> OpenState:
    """What the packers of file classes need; what costs something only for the classes that show it."""
    assert opened.key is not None
    name = handle.path.name
    glance = opened.glance is not None  # opened in this very compound: what was learnt then is the answer
    info = handle.opened if glance else handle.info()
    return OpenState(
        writetimes.told(request.worker, info) if opened.tree.delays else info,
        snapnames.shown(handle).wire(),
        opened.granted,
        opened.mode,
        opened.position,
        not glance and info_class in query.SHOWS_DELETE_PENDING and request.worker.sharing.is_delete_pending(opened.key),
        handle.ea_size() if info_class in query.SHOWS_EA_SIZE and not (glance and handle.bare) else 0,
        opened.key.dev & 0xFFFFFFFF,
        _short_name(opened, name) if info_class == query.FILE_ALTERNATE_NAME_INFORMATION else "",
    )


def _short_name(opened: Open, name: str) -> str:
    """[MS-FSA] 2.1.5.12.5: the name itself where it is short."""
    if opened.tree.share.mangled_names == "no":
        raise SmbError(status.OBJECT_NAME_NOT_FOUND)
    return names.short_name(name) or name


def file_information(request: Request, body: QueryInfoRequest, data: memoryview) -> tuple[bytes, bool]:
    """3.3.5.20.1: the output and whether it is all there is."""
    opened, info_class = request.open, body.file_info_class
    handle = opened.handle
    assert handle is not None
    special = LISTS.get(info_class)
    if special is not None:
        return special(opened, handle, body, data)
    if info_class == posix.FILE_POSIX_INFORMATION and handle.path.type == EXACT:
        return _posix_information(request, handle, body), True
    _at_least(query.MINIMUM, body)
    if info_class in NEEDS_ATTRIBUTES and not opened.granted & FILE_READ_ATTRIBUTES:
        raise SmbError(status.ACCESS_DENIED)
    if info_class == query.FILE_NORMALIZED_NAME_INFORMATION:
        dialect = request.line.connection.dialect
        if dialect is None or not dialect.preauth:
            raise SmbError(status.NOT_SUPPORTED)  # 3.3.5.20.1: 3.1.1 only
    return query.query(info_class, state_of(request, opened, handle, info_class)), True


def _posix_information(request: Request, handle: Handle, body: QueryInfoRequest) -> bytes:
    if not request.open.granted & FILE_READ_ATTRIBUTES:
        raise SmbError(status.ACCESS_DENIED)
    if body.output_buffer_length < posix.MINIMUM:
        raise SmbError(status.INFO_LENGTH_MISMATCH)
    return posix.information(handle.info(), request.worker.sids)


def _eas(opened: Open, handle: Handle, body: QueryInfoRequest, data: memoryview) -> tuple[bytes, bool]:
    """FileFullEaInformation ([MS-FSA] 2.1.5.12.14): all of them, or those named in the input."""
    if not opened.granted & FILE_READ_EA:
        raise SmbError(status.ACCESS_DENIED)
    if not opened.tree.share.ea_support:
        raise SmbError(status.EAS_NOT_SUPPORTED)
    found = handle.eas()
    if len(data):
        values = {name.upper(): value for name, value in found}
        # An attribute that does not exist is reported with an empty value.
        found = [(name, values.get(name.upper(), b"")) for name in lists.parse_ea_names(data)]
    if not found:
        raise SmbError(status.NO_EAS_ON_FILE)
    packed = lists.pack_full_eas(found, body.output_buffer_length)
    if not packed.data:
        raise SmbError(status.BUFFER_TOO_SMALL)
    return packed.data, packed.complete


def _streams(opened: Open, handle: Handle, body: QueryInfoRequest, data: memoryview) -> tuple[bytes, bool]:
    if body.output_buffer_length < STREAM_MINIMUM:
        raise SmbError(status.INFO_LENGTH_MISMATCH)
    packed = lists.pack_streams(handle.streams(), body.output_buffer_length)
    return packed.data, packed.complete


def _links(opened: Open, handle: Handle, body: QueryInfoRequest, data: memoryview) -> tuple[bytes, bool]:
    """FileHardLinkInformation: the name it was opened by; the others would take a walk over the volume."""
    if body.output_buffer_length < lists.HARD_LINK.size:
        raise SmbError(status.INFO_LENGTH_MISMATCH)
    vfs = opened.tree.vfs
    assert vfs is not None
    parent = vfs.open(handle.path.parent)
    try:
        packed = lists.pack_links([(parent.opened.ino, handle.path.name)], body.output_buffer_length)
    finally:
        parent.close()
    return packed.data, packed.complete


LISTS: dict[int, Callable[[Open, Handle, QueryInfoRequest, memoryview], tuple[bytes, bool]]] = {
    query.FILE_FULL_EA_INFORMATION: _eas,
    query.FILE_STREAM_INFORMATION: _streams,
    query.FILE_HARD_LINK_INFORMATION: _links,
}


def filesystem_information(request: Request, body: QueryInfoRequest) -> tuple[bytes, bool]:
    """3.3.5.20.2."""
    handle = request.open.handle
    if body.file_info_class == posix.FILE_FS_POSIX_INFORMATION and handle is not None and handle.path.type == EXACT:
        return _posix_filesystem(request, body), True
    _at_least(filesystem.MINIMUM, body)
    vfs = request.tree.vfs
    assert vfs is not None
    fs = vfs.fs_info()
    attributes = (
        filesystem.FILE_CASE_PRESERVED_NAMES
        | filesystem.FILE_CASE_SENSITIVE_SEARCH
        | filesystem.FILE_UNICODE_ON_DISK
        | filesystem.FILE_PERSISTENT_ACLS
        | filesystem.FILE_SUPPORTS_OBJECT_IDS
        | filesystem.FILE_SUPPORTS_HARD_LINKS
        | filesystem.FILE_SUPPORTS_POSIX_UNLINK_RENAME
    )
    if fs.named_streams:
        attributes |= filesystem.FILE_NAMED_STREAMS if request.tree.share.named_streams else 0
        attributes |= filesystem.FILE_SUPPORTS_EXTENDED_ATTRIBUTES
        attributes |= filesystem.FILE_SUPPORTS_REPARSE_POINTS
    if fs.sparse_files:
        attributes |= filesystem.FILE_SUPPORTS_SPARSE_FILES
    if fs.shared_blocks:
        attributes |= filesystem.FILE_SUPPORTS_BLOCK_REFCOUNTING
    if fs.compression:
        attributes |= filesystem.FILE_FILE_COMPRESSION
    total, available, quotas = fs.total, fs.available, False
    if body.file_info_class in filesystem.SHOWS_QUOTAS:
        quotas = vfs.quota(request.tree.token.uid) is not None
        limits = quota.within(request.tree, fs.unit) if quotas else None
        total, available = (min(total, limits[0]), min(available, limits[1])) if limits is not None else (total, available)
        attributes |= filesystem.FILE_VOLUME_QUOTAS if quotas else 0
    volume = filesystem.Volume(
        fs.unit,
        total,
        fs.free,
        available,
        fs.identifier & 0xFFFFFFFF,
        fs.creation_time,
        request.tree.share.name,
        attributes=attributes,
        name_max=fs.name_max,
        read_only=fs.read_only or request.tree.read_only,
        object_id=fs.identifier.to_bytes(16, "little"),
        quotas=quotas,
    )
    return filesystem.query(body.file_info_class, volume), True


def _posix_filesystem(request: Request, body: QueryInfoRequest) -> bytes:
    if body.output_buffer_length < posix.FS_INFORMATION.size:
        raise SmbError(status.INFO_LENGTH_MISMATCH)
    vfs = request.tree.vfs
    assert vfs is not None
    fs = vfs.fs_info()
    blocks = fs.total, fs.free, fs.available
    return posix.FS_INFORMATION.pack(1 << 20, fs.unit, *blocks, fs.nodes, fs.free_nodes, fs.identifier & 0xFFFFFFFFFFFFFFFF)


def security_information(request: Request, body: QueryInfoRequest) -> bytes:
    """3.3.5.20.3: what does not fit at all is BUFFER_TOO_SMALL, with the size it takes."""
    opened, wanted = request.open, body.additional_information
    needed = ACCESS_SYSTEM_SECURITY if wanted & SACL_SECURITY_INFORMATION else 0
    needed |= READ_CONTROL if wanted & ~SACL_SECURITY_INFORMATION else 0
    if needed & ~opened.granted:
        raise SmbError(status.ACCESS_DENIED)
    handle = opened.handle
    assert handle is not None
    output = access.descriptor(request.worker, handle, handle.info()).select(wanted).pack()
    if len(output) > body.output_buffer_length:
        raise SmbError(status.BUFFER_TOO_SMALL, len(output).to_bytes(4, "little"))
    return output


def pipe_information(request: Request, body: QueryInfoRequest) -> tuple[bytes, bool]:
    """The classes that make sense for a pipe."""
    opened, info_class = request.open, body.file_info_class
    if body.info_type != INFO_FILE:
        raise SmbError(status.NOT_SUPPORTED)
    if info_class == query.FILE_PIPE_INFORMATION:
        return query.PIPE.pack(PIPE_TYPE_MESSAGE, 0), True
    if info_class == query.FILE_PIPE_LOCAL_INFORMATION:
        quota = (PIPE_QUOTA, 0, PIPE_QUOTA, PIPE_QUOTA)
        return query.PIPE_LOCAL.pack(PIPE_TYPE_MESSAGE, PIPE_DUPLEX, PIPE_INSTANCES, 1, *quota, PIPE_CONNECTED, 1), True
    _at_least(query.MINIMUM, body)
    if info_class == query.FILE_STANDARD_INFORMATION:
        return query.STANDARD.pack(PIPE_QUOTA, 0, 1, 1, 0, 0), True
    if info_class == query.FILE_NAME_INFORMATION:
        return query.pack_name("\\" + opened.pipe_name), True
    if info_class == query.FILE_ACCESS_INFORMATION:
        return query.ACCESS.pack(opened.granted), True
    raise SmbError(status.NOT_SUPPORTED)
