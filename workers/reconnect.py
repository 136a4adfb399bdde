"""An open whose connection was lost, asked for on another one: [MS-SMB2] 3.3.5.9.7 and 3.3.5.9.12.

Owns: whether it is given back, and its life in the new worker. Invariants: the file is opened again by its path beneath the share and must
be the very same (device, inode, time of birth); the record changes hands after everything that can fail, in one transaction.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from smbd.sharing import CacheKind, Claimant, Durable, FileKey, Lasting, OpenFlags
from smbd.smb2 import status
from smbd.smb2.constants import CAP_PERSISTENT_HANDLES, FILE_EXECUTE, FILE_OPEN_REPARSE_POINT, FILE_READ_DATA
from smbd.smb2.names import EXACT, Path, decode, parse, parse_posix
from smbd.smb2.status import SmbError
from workers import identity, rangelocks
from workers.commands.close import close_open
from workers.opening import WRITING, writes_through
from workers.reliable import AppInstance, Durability, Kind, Reconnect, Wanted, birth_of, is_somebody
from workers.vfs.handle import PosixHandle
from workers.vfs.interface import LinkMet
from workers.vfs.patient import unwrapped

if TYPE_CHECKING:
    from smbd.sharing import CacheClaim, OpenRow
    from workers.open import Open
    from workers.request import Request
    from workers.tree import TreeConnect
    from workers.vfs.interface import Handle


class Asked:
    """What a reconnecting CREATE says: which open, under which name, with which lease. No NamedTuple: compiled, none holds a memoryview."""

    __slots__ = ("again", "cache", "name")

    def __init__(self, again: Reconnect, name: memoryview, cache: CacheClaim) -> None:
        self.again = again
        self.name = name
        self.cache = cache


def reclaim(request: Request, asked: Asked, respond: Callable[[Open], bytes]) -> bytes:
    """The open that ``asked`` names, as this worker's own; OBJECT_NAME_NOT_FOUND, ACCESS_DENIED or INVALID_PARAMETER if it is not given."""
    worker, tree = request.worker, request.tree
    if len(worker.opens) >= worker.config.max_open_files:
        raise SmbError(status.TOO_MANY_OPENED_FILES)
    durable = _find(request, asked.again)
    _check(request, asked, durable)
    handle = _reopen(tree, durable)
    try:
        worker.check_descriptor(handle)
        opened = _renew(request, durable, handle, asked.cache.parent_key)
        token = tree.token
        claimant = Claimant(tree.session.session_id, tree.tree_id, token.name)
        opened.cache = worker.sharing.reclaim(durable.row.key, durable.row.file_id, claimant)
    except BaseException:
        handle.close()
        raise
    worker.add_open(opened)
    if worker.sharing.has_locks(durable.row.key):
        opened.locks = len(worker.sharing.own_locks(durable.row.key, durable.row.file_id))
        worker.locks += opened.locks
    opened.durability = _durability(durable)
    try:
        if tree.share.posix_locking:
            rangelocks.take_again(worker, opened)
        response = respond(opened)
    except BaseException:
        close_open(worker, opened)
        raise
    if opened.cache.notices:
        notices = opened.cache.notices
        worker.loop.soon(lambda: worker.breaks.send(notices))
    return response


def _find(request: Request, again: Reconnect) -> Durable:
    sharing = request.worker.sharing
    durable = sharing.find(again.file_id_persistent)
    if durable is None and again.persistent and _may_persist(request):
        # 3.3.5.9.12: the FileId of a persistent open may be one that its client never heard of.
        durable = sharing.find_created(request.session.terms.client_guid, again.create_guid)
    if durable is None or durable.connected or not durable.claim.lasting:
        raise SmbError(status.OBJECT_NAME_NOT_FOUND)
    return durable


def _may_persist(request: Request) -> bool:
    choice = request.line.connection.choice
    return choice is not None and bool(choice.capabilities & CAP_PERSISTENT_HANDLES)


def _check(request: Request, asked: Asked, durable: Durable) -> None:
    """In the order of Windows: the name of a leased file counts when the lease is the right one."""
    again, claim, row = asked.again, durable.claim, durable.row
    leased = row.cache_kind >= CacheKind.LEASE
    if leased and claim.client_guid != request.session.terms.client_guid:
        raise SmbError(status.OBJECT_NAME_NOT_FOUND)
    if again.kind is Kind.DURABLE_V2 and again.create_guid != claim.create_guid:
        raise SmbError(status.OBJECT_NAME_NOT_FOUND)
    if claim.lasting & Lasting.PERSISTENT and not again.persistent:
        raise SmbError(status.OBJECT_NAME_NOT_FOUND)
    if asked.cache.kind != row.cache_kind if leased else asked.cache.kind >= CacheKind.LEASE:
        raise SmbError(status.OBJECT_NAME_NOT_FOUND)
    if leased and asked.cache.lease_key != row.lease_key:
        raise SmbError(status.OBJECT_NAME_NOT_FOUND)
    if leased and not row.flags & OpenFlags.DELETE_ON_CLOSE and not _same_name(asked.name, row):
        raise SmbError(status.INVALID_PARAMETER)
    if row.share.casefold() != request.tree.share.name.casefold():
        raise SmbError(status.OBJECT_NAME_NOT_FOUND)
    session = request.tree.session
    if not is_somebody(session) or claim.sid != str(session.require_token().user_sid):
        raise SmbError(status.ACCESS_DENIED)


def _same_name(asked: memoryview, row: OpenRow) -> bool:
    try:
        if row.flags & OpenFlags.EXACT:
            return "/".join(parse_posix(decode(asked)).components) == row.path
        found = parse(asked)
    except SmbError:
        return False  # no name at all
    return "/".join(found.components).casefold() == row.path.casefold() and found.stream.casefold() == row.key.stream.casefold()


def _reopen(tree: TreeConnect, durable: Durable) -> Handle:
    """The file, if it is the very same still. Somebody beside the server may have moved or replaced it."""
    vfs, row, itself = tree.vfs, durable.row, bool(durable.claim.options & FILE_OPEN_REPARSE_POINT)
    assert vfs is not None
    try:
        kind = EXACT if row.flags & OpenFlags.EXACT else ""
        handle = vfs.open(Path(tuple(row.path.split("/")) if row.path else (), row.key.stream, kind), itself)
    except (FileNotFoundError, LinkMet):
        raise SmbError(status.OBJECT_NAME_NOT_FOUND) from None
    try:
        if FileKey(*handle.key) != row.key or birth_of(handle) != durable.claim.birth:
            raise SmbError(status.OBJECT_NAME_NOT_FOUND)
        _activate(handle, row.access)
    except BaseException:
        handle.close()
        raise
    return handle


def _activate(handle: Handle, granted: int) -> None:
    """The rights were granted when it was opened first, and last as long as the open: the file may have become read-only meanwhile."""
    reads = bool(granted & (FILE_READ_DATA | FILE_EXECUTE))
    writes = bool(granted & WRITING) and not handle.directory
    if not reads and not writes:
        return
    try:
        handle.activate(reads, writes)
    except PermissionError:
        before = identity.current()
        identity.assume(identity.ROOT)
        try:
            handle.activate(reads, writes)
        finally:
            identity.assume(before)


def _renew(request: Request, durable: Durable, handle: Handle, parent_key: bytes) -> Open:
    """The open as it was, with a FileId.Volatile of this connection."""
    row, parting, claim = durable.row, durable.parting, durable.claim
    opened = request.worker.new_open(request.tree)
    opened.persistent = row.file_id
    opened.handle = handle
    opened.key = row.key
    opened.path = handle.path
    opened.is_directory = bool(row.flags & OpenFlags.DIRECTORY)
    opened.granted = row.access
    opened.parent_key = parent_key
    opened.write_through = bool(claim.lasting & Lasting.PERSISTENT) or writes_through(request.tree.share, claim.options)
    opened.mode = parting.mode
    opened.position = parting.position
    opened.lock_sequences = bytearray(parting.sequences)
    below = unwrapped(handle)
    if parting.allocation and isinstance(below, PosixHandle):
        below.allocated = parting.allocation
        below.refresh()
    return opened


def _durability(durable: Durable) -> Durability:
    claim = durable.claim
    app = AppInstance(claim.app_instance, (claim.app_high, claim.app_low)) if any(claim.app_instance) else None
    made = Durability(Wanted(create_guid=claim.create_guid, app=app))
    made.kind = Kind.RESILIENT if claim.lasting & Lasting.RESILIENT else Kind(claim.version)
    made.persistent = bool(claim.lasting & Lasting.PERSISTENT)
    made.timeout = claim.timeout
    made.action = claim.action
    return made
