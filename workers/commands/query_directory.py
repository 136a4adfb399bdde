"""QUERY_DIRECTORY: [MS-SMB2] 2.2.33, 3.3.5.18."""

from __future__ import annotations

from collections.abc import Coroutine, Iterator
from functools import partial
from itertools import chain
from typing import Any

from pools.pool import HEADROOM, Buffer, PoolExhausted
from smbd.config import Share
from smbd.smb2 import status
from smbd.smb2.constants import (
    FILE_GENERIC_READ,
    FILE_WRITE_DATA,
    INDEX_SPECIFIED,
    REOPEN,
    RESTART_SCANS,
    RETURN_SINGLE_ENTRY,
    SYNCHRONIZE,
)
from smbd.smb2.fscc import posix
from smbd.smb2.fscc.directory import FILE_NAMES_INFORMATION, MINIMUM
from smbd.smb2.fscc.listing import Listing
from smbd.smb2.header import HEADER_SIZE
from smbd.smb2.messages.directory import (
    QUERY_DIRECTORY_RESPONSE,
    QUERY_DIRECTORY_RESPONSE_STRUCTURE_SIZE,
    QueryDirectoryRequest,
)
from smbd.smb2.names import COMPONENT_MAX, EXACT, Path, fold, has_wildcards, matcher, parse_posix, parse_text, short_name
from smbd.smb2.status import SmbError
from workers import access, writetimes
from workers.open import Enumeration, Open
from workers.patience import Turns
from workers.request import Answer, Request
from workers.vfs.interface import FileInfo, Handle, LinkMet, Vfs

OUTPUT_AT = HEADER_SIZE + QUERY_DIRECTORY_RESPONSE.size
AnyListing = Listing | posix.PosixListing
FILETIME_SECOND = 10_000_000
READING = FILE_GENERIC_READ & ~SYNCHRONIZE
ROOM = 65536  # of one answer: what a buffer holds that is always to be had


def query_directory(request: Request, body: QueryDirectoryRequest) -> Answer | Coroutine[Any, None, bytes | Answer]:
    """The next entries that match, as many as there is room for, packed where they are sent from."""
    opened = request.open
    if body.output_buffer_length > request.worker.max_transact:
        raise SmbError(status.INVALID_PARAMETER)
    request.check_charge(body.output_buffer_length)
    if not opened.is_directory:
        raise SmbError(status.INVALID_PARAMETER)
    info_class = body.file_information_class
    if info_class not in MINIMUM and not _is_posix(opened, info_class):
        raise SmbError(status.INVALID_INFO_CLASS)
    if body.output_buffer_length < MINIMUM.get(info_class, posix.MINIMUM):
        raise SmbError(status.INFO_LENGTH_MISMATCH)
    if body.flags & INDEX_SPECIFIED and body.file_index:
        raise SmbError(status.NOT_SUPPORTED)  # 3.3.5.18: this file system has no resume by index
    pattern = request.text(body.file_name_offset, body.file_name_length)
    if len(pattern) > COMPONENT_MAX:
        raise SmbError(status.OBJECT_NAME_INVALID)  # [MS-FSCC] 2.1.5.2: it stands for a name, and is looked for in each
    enumeration = position(request, opened, pattern, body.flags, info_class == FILE_NAMES_INFORMATION)
    if (
        enumeration.large
        or enumeration.turns is not None  # a page of it is under way, perhaps, on a share that has become fast since
        or (request.tree.slow and not request.tree.share.lists_by_rights and not request.tree.delays)
    ):
        return fill_elsewhere(request, body, enumeration)
    try:
        buffer = request.worker.pool.allocate(min(body.output_buffer_length, ROOM))
    except PoolExhausted:
        return fill_later(request, body, enumeration)
    return fill(request, body, enumeration, buffer)


async def fill_later(request: Request, body: QueryDirectoryRequest, enumeration: Enumeration) -> Answer:
    """The pool has no such buffer now: list when it has."""
    return fill(request, body, enumeration, await request.obtain(min(body.output_buffer_length, ROOM)))


async def fill_elsewhere(request: Request, body: QueryDirectoryRequest, enumeration: Enumeration) -> Answer:
    """A large directory, or one on a slow share: it is read on a VFS thread, a page at a time, in the order in which the pages were asked
    for, and to its end, whatever becomes of the share.

    A CLOSE that comes while a page is read does not take it away: it was asked for later.
    """
    turns = enumeration.turns = enumeration.turns or Turns()
    await turns.take()
    try:
        buffer = await request.obtain(min(body.output_buffer_length, ROOM))
        try:
            listing = _listing(request, body, buffer)
            await request.worker.blocking(partial(_pack, enumeration, listing, bool(body.flags & RETURN_SINGLE_ENTRY)), request.open)
        except BaseException:
            buffer.release()
            raise
        return _answer(enumeration, listing, buffer)
    finally:
        turns.give()


def position(request: Request, opened: Open, pattern: str, flags: int, names_only: bool) -> Enumeration:
    """Start, restart or go on. A restart without a pattern keeps the one before."""
    current = opened.enumeration
    if current is not None and not flags & (RESTART_SCANS | REOPEN):
        return current
    if current is not None and not flags & REOPEN and not pattern:
        pattern = current.pattern
    made = opened.enumeration = Enumeration(pattern or "*", entries(request, opened, pattern or "*", names_only))
    # What `hide unreadable` and the like ask of each entry belongs to the engine's thread.
    if has_wildcards(made.pattern) and not request.tree.share.lists_by_rights and not request.tree.delays:
        assert request.tree.vfs is not None
        assert opened.handle is not None
        made.large = request.tree.vfs.is_large(opened.handle)
    return made


def entries(request: Request, opened: Open, pattern: str, names_only: bool) -> Iterator[tuple[str, FileInfo]]:
    """What matches: '.' and '..' first, as Windows does, then the directory's entries in its own order."""
    vfs, handle, share = request.tree.vfs, opened.handle, request.tree.share
    assert vfs is not None
    assert handle is not None
    match = matcher(pattern)
    if not has_wildcards(pattern):
        exact = _exactly(request, opened, pattern)
        if exact is not None:
            return iter((exact,))
    # Now, not when they are asked for: the rest may be read on a thread, and when the open has ended.
    dots = [entry for entry in _dots(request, handle) if match(entry[0])]
    if share.dont_descend and _is_closed(share, handle.path):
        return iter(dots)
    found = vfs.scan(handle, names_only and not share.hide_new_files_timeout, match)
    if request.tree.delays:
        found = ((name, writetimes.told(request.worker, info)) for name, info in found)
    if share.lists_by_rights:
        found = (entry for entry in found if _child(request, opened, entry[0]) is not None)
    elif share.hide_new_files_timeout:
        youngest = _youngest(request)
        found = (entry for entry in found if entry[1].directory or entry[1].last_write_time <= youngest)
    return chain(dots, found)


def _is_closed(share: Share, path: Path) -> bool:
    """``dont descend``: of these directories the content is not shown."""
    here = fold("/".join(path.components))
    return any(fold(closed).removeprefix("./").strip("/") == here for closed in share.dont_descend)


def _youngest(request: Request) -> int:
    """``hide new files timeout``: what was written after this is not shown yet, for it may still be arriving."""
    return request.worker.now() - int(request.tree.share.hide_new_files_timeout * FILETIME_SECOND)


def _is_posix(opened: Open, info_class: int) -> bool:
    assert opened.handle is not None
    return info_class == posix.FILE_POSIX_INFORMATION and opened.handle.path.type == EXACT


def _exactly(request: Request, opened: Open, name: str) -> tuple[str, FileInfo] | None:
    """A pattern without wildcards names one file: found without reading the directory."""
    assert opened.handle is not None
    try:
        wanted = parse_posix(name) if opened.handle.path.type == EXACT else parse_text(name)
    except SmbError:
        return None
    return _child(request, opened, name) if wanted.components == (name,) and not wanted.stream else None


def _child(request: Request, opened: Open, name: str) -> tuple[str, FileInfo] | None:
    """One entry of the directory. None when it cannot be opened, or the share shows it only to those who may do more with it.

    Whoever asks for one is told the size of its EAs too, which would take a system call for each entry of a listing.
    """
    vfs = request.tree.vfs
    assert vfs is not None
    assert opened.handle is not None
    path = opened.handle.path.child(name)
    try:
        handle = vfs.open(path)
    except LinkMet:
        return _link(vfs, path)
    except (OSError, SmbError):
        return None
    try:
        shown = _is_shown(request, handle)
        info = writetimes.told(request.worker, handle.opened) if request.tree.delays else handle.opened
        if shown and not handle.bare and request.tree.share.ea_support:
            info = info._replace(ea_size=handle.ea_size())
        return (handle.path.name, info) if shown else None
    except (OSError, SmbError):
        return None
    finally:
        handle.close()


def _is_shown(request: Request, handle: Handle) -> bool:
    """``hide unreadable``, ``hide unwriteable files`` and ``hide new files timeout``. ``OSError``: the kernel's word counts too."""
    share, tree = request.tree.share, request.tree
    if share.hide_new_files_timeout and not handle.directory and handle.opened.last_write_time > _youngest(request):
        return False
    if not share.lists_by_rights:
        return True
    # What the file's own descriptor gives: READ_ATTRIBUTES that come from the directory make nothing readable.
    most = access.rights(request.worker, tree, handle.opened, None if handle.bare else handle.security())
    writing = share.hide_unwriteable_files and not handle.directory  # smb.conf: directories are shown as usual
    if (share.hide_unreadable and READING & ~most) or (writing and not most & FILE_WRITE_DATA):
        return False
    handle.activate(share.hide_unreadable, writing)
    return True


def _link(vfs: Vfs, path: Path) -> tuple[str, FileInfo] | None:
    """A reparse point that is not followed: it is shown to whoever may list its directory, as it has nothing that could be read."""
    try:
        handle = vfs.open(path, True)
    except OSError:
        return None
    try:
        return handle.path.name, handle.opened
    finally:
        handle.close()


def _dots(request: Request, handle: Handle) -> Iterator[tuple[str, FileInfo]]:
    """The directory itself and its parent; the share's root is its own parent, so nothing outside is shown."""
    vfs = request.tree.vfs
    assert vfs is not None
    here = handle.info()
    yield ".", here
    above = here
    if handle.path.components:
        try:
            parent = vfs.open(handle.path.parent)
        except (OSError, SmbError):
            yield "..", above
            return
        try:
            above = parent.opened
        finally:
            parent.close()
    yield "..", above


def fill(request: Request, body: QueryDirectoryRequest, enumeration: Enumeration, buffer: Buffer) -> Answer:
    """Pack entries into ``buffer`` (taken over) until it is full."""
    try:
        listing = _listing(request, body, buffer)
        _pack(enumeration, listing, bool(body.flags & RETURN_SINGLE_ENTRY))
    except BaseException:
        buffer.release()
        raise
    return _answer(enumeration, listing, buffer)


def _listing(request: Request, body: QueryDirectoryRequest, buffer: Buffer) -> AnyListing:
    room = min(body.output_buffer_length, ROOM)
    if body.file_information_class == posix.FILE_POSIX_INFORMATION:
        return posix.PosixListing(buffer.view[HEADROOM : HEADROOM + room], room, request.worker.sids)
    short = short_name if request.tree.share.mangled_names == "yes" else None
    return Listing(body.file_information_class, buffer.view[HEADROOM : HEADROOM + room], room, short)


def _answer(enumeration: Enumeration, listing: AnyListing, buffer: Buffer) -> Answer:
    """Takes ``buffer`` over. No entry: NO_SUCH_FILE at the beginning, NO_MORE_FILES later."""
    if not listing.count:
        buffer.release()
        fresh = not enumeration.started
        if enumeration.pending is not None:
            # 3.3.5.18: not even one entry fits
            raise SmbError(status.INFO_LENGTH_MISMATCH if fresh else status.BUFFER_OVERFLOW)
        raise SmbError(status.NO_SUCH_FILE if fresh else status.NO_MORE_FILES)
    enumeration.started = True
    fixed = QUERY_DIRECTORY_RESPONSE.pack(QUERY_DIRECTORY_RESPONSE_STRUCTURE_SIZE, OUTPUT_AT, listing.length)
    return Answer(fixed, status.SUCCESS, buffer, listing.length)


def _pack(enumeration: Enumeration, listing: AnyListing, single: bool) -> None:
    entry = enumeration.pending
    enumeration.pending = None
    add = listing.add
    if entry is None:
        entry = next(enumeration.entries, None)
    while entry is not None:
        if not add(entry[0], entry[1]):
            enumeration.pending = entry
            return
        if single:
            return
        entry = next(enumeration.entries, None)
