"""CREATE: [MS-SMB2] 2.2.13, 3.3.5.9."""

from __future__ import annotations

from collections.abc import Coroutine
from functools import partial
from typing import Any

from smbd.smb2 import status
from smbd.smb2.constants import (
    CAP_PERSISTENT_HANDLES,
    CREATE_FLAG_REPARSEPOINT,
    FILE_ATTRIBUTE_REPARSE_POINT,
    FILE_CREATE_TREE_CONNECTION,
    FILE_CREATED,
    FILE_DIRECTORY_FILE,
    FILE_OPEN,
    FILE_OPEN_BY_FILE_ID,
    FILE_OPENED,
    FILE_RESERVE_OPFILTER,
    FLAGS_DFS_OPERATIONS,
    IMPERSONATION_DELEGATE,
    OPLOCK_LEVEL_LEASE,
)
from smbd.smb2.dtyp import SecurityDescriptor
from smbd.smb2.fscc import lists, posix
from smbd.smb2.fscc.reparse import TAG_DFS, stopped
from smbd.smb2.header import HEADER_SIZE
from smbd.smb2.messages import create_contexts as contexts
from smbd.smb2.messages.create import CREATE_REQUEST, CREATE_RESPONSE, CREATE_RESPONSE_STRUCTURE_SIZE, CreateRequest
from smbd.smb2.names import DATA, EXACT, Path, beneath_share, decode, parse, parse_posix, parse_text
from smbd.smb2.status import SmbError
from workers import access, keeping, reliable, replay, writetimes
from workers.breaks import Blocked, cache_claim, lease_context, level_of, until_free
from workers.commands import pipe
from workers.commands.close import close_open
from workers.open import Open
from workers.opening import Wish, check_disposition, open_file
from workers.reconnect import Asked, reclaim
from workers.reliable import Kind, Reconnect
from workers.request import Answer, Request
from workers.vfs import snapnames
from workers.vfs.interface import FileInfo, Handle, LinkMet

INVALID_OPTIONS = 0xFF000000
UNSUPPORTED_OPTIONS = FILE_CREATE_TREE_CONNECTION | FILE_OPEN_BY_FILE_ID | FILE_RESERVE_OPFILTER
INVALID_ATTRIBUTES = 0xFFFF8048
ALL_SHARED = 0x7
NAME_MINIMUM = HEADER_SIZE + CREATE_REQUEST.size
CONTEXTS_AT = HEADER_SIZE + CREATE_RESPONSE.size

Contexts = reliable.Found


def create(request: Request, body: CreateRequest) -> bytes | Coroutine[Any, None, bytes | Answer]:
    """Open or create what the name says, on a disk share or among the pipes."""
    if request.chain is not None:
        request.chain.open = None  # should this fail, what follows must not act on an earlier element's file
    if request.tree.is_pipe:
        _check_impersonation(body)
        return pipe.open_pipe(request, request.text(body.name_offset, body.name_length))
    found = read_contexts(request, body)
    again = reliable.reconnect_of(found) if found else None
    if again is not None:
        return reconnect(request, body, again, found)  # 3.3.5.9.7, .12: whatever else the request says
    _check_impersonation(body)
    wish = read_wish(request, body, found)
    if len(request.worker.opens) >= request.worker.config.max_open_files:
        raise SmbError(status.TOO_MANY_OPENED_FILES)
    request.worker.check_room()
    wish.cache = cache_claim(request, wish.path.name, body.requested_oplock_level, found.get(contexts.REQUEST_LEASE))
    wish.brief = request.chain is not None and not request.tree.slow and request.chain.closes_soon()
    lost = replay.lost(request, wish)
    if lost is not None:
        return reconnect(request, body, lost, found)
    return replay.once(request, wish, partial(open_and_keep, request, wish, found), partial(open_again, request, wish, found))


def open_and_keep(request: Request, wish: Wish, found: Contexts) -> bytes | Coroutine[Any, None, bytes | Answer]:
    """A persistent open is answered when it is on the disk; when it cannot be, it is not opened."""

    def undo(opened: Open) -> None:
        worker, durability, key, handle = request.worker, opened.durability, opened.key, opened.handle
        made = durability is not None and durability.action == FILE_CREATED
        if made and key is not None and handle is not None and not handle.info().size:  # else somebody has been there meanwhile
            token = opened.tree.token
            worker.sharing.doom_if_alone(key, opened.persistent, token.uid, token.gid)
        close_open(worker, opened)

    return keeping.created(request, wish, open_new(request, wish, found), undo)


def open_new(request: Request, wish: Wish, found: Contexts) -> bytes | Coroutine[Any, None, bytes | Answer]:
    """Open it at once, or when others have given up what they cache."""
    wish.waiter_id = request.waiter_id = request.worker.next_id()
    try:
        return open_and_respond(request, wish, found)
    except Blocked as blocked:
        wish.again = True
        wish.brief = False
        kept = {name: memoryview(bytes(data)) for name, data in found.items()}
        return until_free(request, blocked, partial(open_and_respond, request, wish, kept))


def open_again(request: Request, wish: Wish, found: Contexts, opened: Open) -> bytes:
    """3.3.5.9.10: the answer that the client did not get. The open stays as it is; what it caches is told as it is by now."""
    durability, key, first = opened.durability, opened.key, opened.cache
    assert durability is not None
    assert key is not None
    cache, lease_key = request.worker.sharing.cache_of(key, opened.persistent)
    if request.chain is not None:
        request.chain.open = opened
    opened.cache = reliable.told_again(cache, lease_key, wish.cache)
    try:
        return respond(request, opened, durability.action, (wish, found))
    finally:
        opened.cache = first


def _check_impersonation(body: CreateRequest) -> None:
    if body.impersonation_level > IMPERSONATION_DELEGATE:
        raise SmbError(status.BAD_IMPERSONATION_LEVEL)


def read_contexts(request: Request, body: CreateRequest) -> reliable.Found:
    """The contexts that there are in the connection's dialect."""
    chain = request.variable(body.create_contexts_offset, body.create_contexts_length, NAME_MINIMUM)
    if not len(chain):
        return {}
    dialect = request.line.connection.dialect
    assert dialect is not None
    return reliable.known(contexts.parse_chain(chain), dialect)


def reconnect(request: Request, body: CreateRequest, again: Reconnect, found: Contexts) -> bytes:
    """An open whose connection was lost, asked for on another one: nothing else of the request counts but its name and its lease.

    By DHnC or DH2C, or by the CREATE that made it, sent again: then the answer is that one's.
    """
    name = request.variable(body.name_offset, body.name_length, NAME_MINIMUM)
    lease = found.get(contexts.REQUEST_LEASE)
    # Clients name the lease and leave the level at none.
    cache = cache_claim(request, "", body.requested_oplock_level if lease is None else OPLOCK_LEVEL_LEASE, lease)
    wish = Wish(Path(), 0, 0, FILE_OPEN, 0, 0, cache=cache)

    def answer(opened: Open) -> bytes:
        durability = opened.durability
        assert durability is not None
        replay.begin(request, opened)
        if request.chain is not None:
            request.chain.open = opened
        if durability.persistent:
            request.worker.creates.answered(opened, durability.action)
        repeated = contexts.DURABLE_HANDLE_REQUEST_V2 in found
        return respond(request, opened, durability.action if repeated else FILE_OPENED, (wish, found))

    return reclaim(request, Asked(again, name, cache), answer)


def open_and_respond(request: Request, wish: Wish, found: Contexts) -> bytes:
    """One attempt; ``Blocked`` when others have to give up what they cache first."""
    opened = request.worker.new_open(request.tree)
    replay.begin(request, opened)
    try:
        action = open_file(request, wish, opened)
    except LinkMet as met:
        raise stopped(met.data, wish.path.wire_from(met.depth)) from met
    try:
        response = respond(request, opened, action, (wish, found))
    except BaseException:
        close_open(request.worker, opened)
        raise
    request.worker.add_open(opened)
    wish.made = opened
    if wish.wanted.kind is Kind.DURABLE_V2:
        request.worker.creates.answered(opened, action)
    if request.chain is not None:
        request.chain.open = opened
        if opened.glance is not None:
            request.chain.glance = opened
    return response


def read_wish(request: Request, body: CreateRequest, found: Contexts) -> Wish:
    """Decode the request and refuse what makes no sense on any file."""
    # The order in which Windows finds fault
    if not body.desired_access or body.desired_access & access.INVALID_ACCESS:
        raise SmbError(status.ACCESS_DENIED)
    if body.file_attributes & INVALID_ATTRIBUTES or body.create_options & INVALID_OPTIONS or body.share_access & ~ALL_SHARED:
        raise SmbError(status.INVALID_PARAMETER)
    if body.create_options & UNSUPPORTED_OPTIONS:
        raise SmbError(status.NOT_SUPPORTED)
    check_disposition(body.create_disposition, body.create_options)
    path = _path(request, body, contexts.POSIX in found)
    if path.stream or path.type == DATA:
        if not request.tree.share.named_streams:
            raise SmbError(status.OBJECT_NAME_INVALID)
        if body.create_options & FILE_DIRECTORY_FILE:
            raise SmbError(status.NOT_A_DIRECTORY)
    if contexts.EA_BUFFER in found and not request.tree.share.ea_support:
        raise SmbError(status.EAS_NOT_SUPPORTED)
    wish = Wish(path, body.desired_access, body.share_access, body.create_disposition, body.create_options, body.file_attributes)
    if path.type == EXACT:
        wish.mode = posix.CREATE_REQUEST.unpack(found[contexts.POSIX]).mode & posix.PERMISSIONS
    if found:
        _apply_contexts(request, wish, found)
        dialect, choice = request.line.connection.dialect, request.line.connection.choice
        assert dialect is not None
        assert choice is not None
        wish.wanted = reliable.wanted_of(found, dialect, request.session.terms.client_guid)
        if wish.wanted.persistent and not (choice.capabilities & CAP_PERSISTENT_HANDLES and reliable.is_somebody(request.session)):
            wish.wanted = wish.wanted._replace(persistent=False)
    return wish


def _path(request: Request, body: CreateRequest, exact: bool) -> Path:
    raw = request.variable(body.name_offset, body.name_length, NAME_MINIMUM)
    if exact and _has_posix(request):
        return parse_posix(decode(raw))
    if request.header.flags & FLAGS_DFS_OPERATIONS and request.tree.is_dfs(request.worker.config):
        return parse_text(beneath_share(decode(raw), request.tree.share.name))
    return parse(raw)


def _has_posix(request: Request) -> bool:
    """Whether the POSIX extensions were negotiated, and the share is one that has them."""
    choice = request.line.connection.choice
    return choice is not None and choice.posix and request.tree.share.smb3_unix_extensions


def _apply_contexts(request: Request, wish: Wish, found: Contexts) -> None:
    """The contexts that shape the file (2.2.13.2.1, .2, .6, .7)."""
    timewarp = found.get(contexts.TIMEWARP_TOKEN)
    if timewarp is not None:
        wish.path = _as_it_was(request, wish.path, contexts.TIMEWARP.unpack(timewarp).timestamp)
    allocation = found.get(contexts.ALLOCATION_SIZE)
    if allocation is not None:
        wish.allocation = contexts.ALLOCATION.unpack(allocation).allocation_size
    security = found.get(contexts.SD_BUFFER)
    if security is not None:
        wish.security = SecurityDescriptor.unpack(security)
    eas = found.get(contexts.EA_BUFFER)
    if eas is not None:
        wish.eas = tuple(lists.parse_full_eas(eas))


def _as_it_was(request: Request, path: Path, timestamp: int) -> Path:
    """2.2.13.2.7, 3.3.5.9.4: the name in the snapshot of that time; 0 is now."""
    if not timestamp:
        return path
    token = snapnames.token_of_filetime(timestamp) if request.tree.share.shadow is not None else None
    if token is None:
        raise SmbError(status.OBJECT_NAME_NOT_FOUND)
    return path._replace(components=(token, *path.components))


def respond(request: Request, opened: Open, action: int, asked: tuple[Wish, Contexts]) -> bytes:
    """2.2.14, with the response contexts that were asked for."""
    assert opened.handle is not None
    changed = action not in (FILE_OPENED, FILE_CREATED)  # else nothing has happened to it since it was looked at
    info = opened.handle.info() if changed else opened.handle.opened
    if opened.tree.delays:
        info = writetimes.told(request.worker, info)
    extra = contexts.build_chain(_response_contexts(request, opened, *asked)) if asked[1] else b""
    return (
        CREATE_RESPONSE.pack(
            CREATE_RESPONSE_STRUCTURE_SIZE,
            level_of(opened, asked[0].cache),
            _reparse_flag(request, info) if info.attributes & FILE_ATTRIBUTE_REPARSE_POINT else 0,
            action,
            info.creation_time,
            info.last_access_time,
            info.last_write_time,
            info.change_time,
            info.allocation,
            info.size,
            info.attributes,
            0,
            opened.persistent,
            opened.volatile,
            CONTEXTS_AT if extra else 0,
            len(extra),
        )
        + extra
    )


def _reparse_flag(request: Request, info: FileInfo) -> int:
    """A link of a namespace is no file to whoever goes by names of the namespace: to look at it, it must be asked for in its share."""
    if info.reparse_tag == TAG_DFS and request.header.flags & FLAGS_DFS_OPERATIONS:
        raise SmbError(status.PATH_NOT_COVERED)
    return CREATE_FLAG_REPARSEPOINT


def _maximal_access(request: Request, opened: Open, handle: Handle, asked: memoryview) -> bytes:
    """3.3.5.9.5: a client that names the time of the last write knows already what it may do with a file that was not written since."""
    if len(asked):
        if len(asked) != contexts.MAXIMAL_ACCESS_REQUEST.size:
            raise SmbError(status.INVALID_PARAMETER)
        if contexts.MAXIMAL_ACCESS_REQUEST.unpack(asked).timestamp == handle.opened.last_write_time:
            return contexts.MAXIMAL_ACCESS_RESPONSE.pack(status.NONE_MAPPED, 0)
    return contexts.MAXIMAL_ACCESS_RESPONSE.pack(status.SUCCESS, access.maximal(request.worker, opened.tree, handle))


def _response_contexts(request: Request, opened: Open, wish: Wish, found: Contexts) -> list[tuple[bytes, bytes]]:
    made = []
    handle = opened.handle
    assert handle is not None
    asked = found.get(contexts.QUERY_MAXIMAL_ACCESS_REQUEST)
    if asked is not None:
        made.append((contexts.QUERY_MAXIMAL_ACCESS_REQUEST, _maximal_access(request, opened, handle, asked)))
    if contexts.QUERY_ON_DISK_ID in found:
        seen = handle.opened
        made.append((contexts.QUERY_ON_DISK_ID, contexts.ON_DISK_ID.pack(seen.ino, seen.dev & 0xFFFFFFFFFFFFFFFF, bytes(16))))
    lease = lease_context(opened, wish.cache)
    if lease:
        made.append((contexts.REQUEST_LEASE, lease))
    if handle.path.type == EXACT:
        made.append((contexts.POSIX, posix.created(handle.opened, request.worker.sids)))
    lasting = reliable.response_of(opened.durability, opened.cache)
    if lasting is not None and lasting[0] in found:
        made.append(lasting)
    return made
