"""Opening and creating files: the rules of [MS-FSA] 2.1.5.1 between the CREATE request and the file system.

Owns: the order of the checks: name, existence, type, access, sharing, then the disk. Invariant: nothing on the disk changes before every
check has passed, and whatever a failure leaves behind is undone here.
"""

from __future__ import annotations

from dataclasses import dataclass
from time import monotonic_ns
from typing import TYPE_CHECKING

from smbd.sharing import CacheClaim, FileKey, OpenClaim, Operation
from smbd.smb2 import status
from smbd.smb2.constants import (
    DELETE,
    FILE_APPEND_DATA,
    FILE_ATTRIBUTE_ARCHIVE,
    FILE_ATTRIBUTE_ENCRYPTED,
    FILE_ATTRIBUTE_HIDDEN,
    FILE_ATTRIBUTE_READONLY,
    FILE_ATTRIBUTE_SYSTEM,
    FILE_CREATE,
    FILE_CREATED,
    FILE_DELETE_ON_CLOSE,
    FILE_DIRECTORY_FILE,
    FILE_EXECUTE,
    FILE_NO_COMPRESSION,
    FILE_NON_DIRECTORY_FILE,
    FILE_NOTIFY_CHANGE_LAST_WRITE,
    FILE_NOTIFY_CHANGE_SIZE,
    FILE_OPEN,
    FILE_OPEN_FOR_BACKUP_INTENT,
    FILE_OPEN_IF,
    FILE_OPEN_REPARSE_POINT,
    FILE_OPENED,
    FILE_OVERWRITE,
    FILE_OVERWRITE_IF,
    FILE_OVERWRITTEN,
    FILE_READ_ATTRIBUTES,
    FILE_READ_DATA,
    FILE_SUPERSEDE,
    FILE_SUPERSEDED,
    FILE_WRITE_ATTRIBUTES,
    FILE_WRITE_DATA,
    FILE_WRITE_THROUGH,
    MAXIMUM_ALLOWED,
    READ_CONTROL,
    SYNCHRONIZE,
)
from smbd.smb2.dtyp import SecurityDescriptor, cached_descriptor, create_descriptor, map_generic
from smbd.smb2.names import DATA, EXACT, INDEX_ALLOCATION, Path
from smbd.smb2.status import SmbError
from workers import access, changes, keeping
from workers.breaks import NOTHING, Blocked, of_directory
from workers.commands.close import close_open, settle
from workers.instance import take_over
from workers.leaving import call_janitor
from workers.reliable import ORDINARY, Wanted, claim_of, grant
from workers.vfs.interface import NewFile

if TYPE_CHECKING:
    from smbd.config import Share
    from workers.open import Open
    from workers.request import Request
    from workers.tree import TreeConnect
    from workers.vfs.interface import Handle
    from workers.worker import Worker

DONE_BY = {FILE_SUPERSEDE: FILE_SUPERSEDED, FILE_OVERWRITE: FILE_OVERWRITTEN, FILE_OVERWRITE_IF: FILE_OVERWRITTEN}  # to what exists
OVERWRITING = tuple(DONE_BY)
CREATING = (FILE_SUPERSEDE, FILE_CREATE, FILE_OPEN_IF, FILE_OVERWRITE_IF)
SETTABLE_ATTRIBUTES = 0x00003127
DATA_ACCESS = FILE_READ_DATA | FILE_WRITE_DATA | FILE_APPEND_DATA | FILE_EXECUTE
LOOKING = FILE_READ_ATTRIBUTES | FILE_WRITE_ATTRIBUTES | READ_CONTROL | SYNCHRONIZE
WRITING = FILE_WRITE_DATA | FILE_APPEND_DATA
RACES = 8  # turns between finding and creating before somebody else's haste is our failure


@dataclass(slots=True)
class Wish:
    """What a CREATE asks for, decoded and checked for sense, before anything is looked up."""

    path: Path
    desired: int
    share_access: int
    disposition: int
    options: int
    attributes: int
    allocation: int = 0
    security: SecurityDescriptor | None = None
    eas: tuple[tuple[str, bytes], ...] = ()
    cache: CacheClaim = NOTHING
    wanted: Wanted = ORDINARY
    waiter_id: int = 0
    again: bool = False  # it has waited for others to give up what they cached
    action: int = FILE_OPENED  # what is done to the file, once that is known
    made: Open | None = None  # what came of it
    mode: int | None = None  # of a file that is made, where the client says
    brief: bool = False  # it is only looked at, and closed by the compound that opens it
    deadline: int = 0  # until when it waits for a lease that a program beside the server has; 0: it has met none

    @property
    def directory(self) -> bool:
        """Only a directory will do."""
        return bool(self.options & FILE_DIRECTORY_FILE) or self.path.type == INDEX_ALLOCATION

    @property
    def file(self) -> bool:
        """Only a file will do."""
        return bool(self.options & FILE_NON_DIRECTORY_FILE) or self.path.type == DATA


def open_file(request: Request, wish: Wish, opened: Open) -> int:
    """Fill ``opened`` for ``wish``; the CreateAction. Nothing stays behind when it raises."""
    worker, vfs = request.worker, request.tree.vfs
    assert vfs is not None
    for _ in range(RACES):
        try:
            handle = vfs.open(wish.path, bool(wish.options & FILE_OPEN_REPARSE_POINT))
        except FileNotFoundError:
            if wish.disposition not in CREATING:
                raise
        except BlockingIOError:  # on a port where a file cannot be named without being opened
            _wait_for_program(worker, None, wish)
            raise
        else:
            return _keep(handle, request, wish, opened)
        try:
            return _create(request, wish, opened)
        except FileExistsError:
            continue  # somebody was faster: then it exists
    raise SmbError(status.OBJECT_NAME_COLLISION)


def _keep(handle: Handle, request: Request, wish: Wish, opened: Open) -> int:
    try:
        return _open_existing(handle, request, wish, opened)
    except BaseException:
        handle.close()
        raise


# What exists


def _open_existing(handle: Handle, request: Request, wish: Wish, opened: Open) -> int:
    worker, tree = request.worker, request.tree
    _check_type(handle, wish)
    if wish.disposition == FILE_CREATE:
        raise SmbError(status.OBJECT_NAME_COLLISION)
    overwriting = wish.disposition in OVERWRITING
    desired = map_generic(wish.desired)
    needed = desired
    if overwriting:
        needed |= DELETE | FILE_WRITE_DATA if wish.disposition == FILE_SUPERSEDE else FILE_WRITE_DATA
    granted = access.check(worker, tree, handle, needed, backup=bool(wish.options & FILE_OPEN_FOR_BACKUP_INTENT))
    if not desired & MAXIMUM_ALLOWED:
        granted &= desired
    granted = _mind_readonly(handle, wish, granted, tree.share.delete_readonly)
    if desired & MAXIMUM_ALLOWED and not overwriting:
        granted = _allowed(worker, opened, handle, wish, granted)
    wish.action = DONE_BY.get(wish.disposition, FILE_OPENED)
    claim(worker, opened, handle, wish, granted)
    try:
        opened.granted = granted = _activate(handle, granted, wish, overwriting)
        worker.check_descriptor(handle)
        if overwriting:
            _overwrite(handle, wish)
            worker.breaks.data_changed(opened, Operation.OVERWRITE)
            changes.altered(request.worker, opened, FILE_NOTIFY_CHANGE_SIZE | FILE_NOTIFY_CHANGE_LAST_WRITE)
    except BlockingIOError:
        release_claim(worker, opened)
        _wait_for_program(worker, opened.key, wish)
        raise
    except BaseException:
        release_claim(worker, opened)
        raise
    return wish.action


def _check_type(handle: Handle, wish: Wish) -> None:
    if handle.directory and not handle.stream:
        if wish.file:
            raise SmbError(status.FILE_IS_A_DIRECTORY)
        if wish.disposition in OVERWRITING:
            raise SmbError(status.INVALID_PARAMETER if wish.directory else status.OBJECT_NAME_COLLISION)
    elif wish.directory and not handle.is_link:
        raise SmbError(status.OBJECT_NAME_COLLISION if wish.disposition == FILE_CREATE else status.NOT_A_DIRECTORY)


def _mind_readonly(handle: Handle, wish: Wish, granted: int, may_be_deleted: bool) -> int:
    """[MS-FSA] 2.1.5.1.2.1: what the READONLY, HIDDEN and SYSTEM attributes forbid; the access that is left."""
    attributes = handle.opened.attributes
    if wish.disposition in (FILE_OVERWRITE, FILE_OVERWRITE_IF, FILE_SUPERSEDE):
        kept = attributes & (FILE_ATTRIBUTE_SYSTEM if handle.hidden_by_name else FILE_ATTRIBUTE_HIDDEN | FILE_ATTRIBUTE_SYSTEM)
        if kept & ~wish.attributes and not handle.stream:
            raise SmbError(status.ACCESS_DENIED)
    if not attributes & FILE_ATTRIBUTE_READONLY or handle.directory:
        return granted
    if wish.disposition in OVERWRITING or map_generic(wish.desired) & WRITING:
        raise SmbError(status.ACCESS_DENIED)
    if wish.options & FILE_DELETE_ON_CLOSE and not may_be_deleted:
        raise SmbError(status.CANNOT_DELETE)
    return granted & ~WRITING


def claim(worker: Worker, opened: Open, handle: Handle, wish: Wish, granted: int) -> None:
    """Enter the open into the shared state; SHARING_VIOLATION, DELETE_PENDING and the like come from there."""
    opened.handle = handle
    opened.key = FileKey(*handle.key)
    worker.check_same(opened.key)
    opened.path = handle.path
    opened.is_directory = handle.directory and not handle.stream
    opened.granted = granted
    opened.parent_key = wish.cache.parent_key
    opened.write_through = writes_through(opened.tree.share, wish.options)
    if wish.wanted.app is not None:
        take_over(worker, opened.tree, handle, wish)
    if wish.options & FILE_DELETE_ON_CLOSE:
        if handle.read_only:
            raise SmbError(status.MEDIA_WRITE_PROTECTED)
        _check_delete_on_close(opened)
        opened.dooms = True
    elif wish.brief and _disturbs_nobody(worker, opened, wish):
        opened.glance = wish
        return
    done = worker.sharing.open(opened.key, _record(worker, opened, handle, wish))
    worker.breaks.send(done.notices)
    if done.doomed:
        call_janitor(worker)
    if done.wait:
        raise Blocked(opened.key, wish.waiter_id)
    opened.cache = done
    grant(opened, wish.wanted)
    if keeping.is_kept(opened):
        opened.write_through = True  # what is acknowledged is to be there after the server was killed


def writes_through(share: Share, options: int) -> bool:
    """Whether a WRITE is answered when it is on the disk."""
    return share.sync_always or (bool(options & FILE_WRITE_THROUGH) and share.strict_sync)


def _disturbs_nobody(worker: Worker, opened: Open, wish: Wish) -> bool:
    """Whether the open may stay outside of the shared state until it is closed, in the same turn of the engine.

    It conflicts with no other open, breaks nobody's cache and deletes nothing; and nobody else's turn comes before its end.
    """
    if wish.disposition != FILE_OPEN or wish.cache.kind or opened.granted & ~LOOKING or wish.path.stream:
        return False
    assert opened.key is not None
    return worker.sharing.may_look(opened.key, opened.granted)


def enter(worker: Worker, opened: Open) -> None:
    """A glance lasts longer than it seemed: it is entered in the shared state after all. It was let in, whatever the file has become."""
    wish, opened.glance = opened.glance, None
    assert wish is not None
    assert opened.key is not None
    assert opened.handle is not None
    record = _record(worker, opened, opened.handle, wish)._replace(admitted=True)
    try:
        opened.cache = worker.sharing.open(opened.key, record)
    except SmbError as error:  # no room for it
        opened.glance = wish
        close_open(worker, opened)
        worker.log.warning("an open in share %s was lost: status 0x%08x", opened.tree.share.name, error.status)


def _record(worker: Worker, opened: Open, handle: Handle, wish: Wish) -> OpenClaim:
    """What the shared state is to know of the open."""
    tree = opened.tree
    token = tree.token
    return OpenClaim(
        file_id=opened.persistent,
        access=opened.granted,
        share_access=wish.share_access,
        path="/".join(handle.path.components),
        share=tree.share.name,
        user=token.name,
        session_id=tree.session.session_id,
        tree_id=tree.tree_id,
        delete_on_close=bool(wish.options & FILE_DELETE_ON_CLOSE),
        directory=opened.is_directory,
        uid=token.uid,
        gid=token.gid,
        opened=worker.now(),
        overwrite=wish.disposition in OVERWRITING,
        cache=of_directory(wish.cache) if opened.is_directory else wish.cache,
        waiter_id=wish.waiter_id,
        deadline=worker.breaks.deadline(),
        again=wish.again,
        allocation=handle.opened.allocation,
        durable=None if wish.wanted is ORDINARY else claim_of(wish.wanted, tree, handle, (wish.options, wish.action)),
        exact=handle.path.type == EXACT,
    )


def release_claim(worker: Worker, opened: Open) -> None:
    """Take the record of a failed open back. It deletes only what others have marked: the open never was."""
    assert opened.key is not None
    if opened.glance is not None:
        return
    settle(worker, opened, opened.key, worker.sharing.abandon(opened.key, opened.persistent))


def _check_delete_on_close(opened: Open) -> None:
    if not opened.granted & DELETE:
        raise SmbError(status.ACCESS_DENIED)
    assert opened.path is not None
    if not opened.path.components and not opened.path.stream:
        raise SmbError(status.CANNOT_DELETE)  # the share's root


def _wait_for_program(worker: Worker, key: FileKey | None, wish: Wish) -> None:
    """A program beside the server has a lease (fcntl(2)), which the kernel now breaks. ``Blocked``, as by a client's, for as long."""
    wish.deadline = wish.deadline or worker.breaks.deadline()
    if monotonic_ns() < wish.deadline:
        raise Blocked(key, wish.waiter_id) from None


def _allowed(worker: Worker, opened: Open, handle: Handle, wish: Wish, granted: int) -> int:
    """MAXIMUM_ALLOWED as far as the file system goes along: what is recorded is given back to an open that outlives its connection."""
    opened.key = FileKey(*handle.key)
    try:
        return _activate(handle, granted, wish, False)
    except BlockingIOError:
        _wait_for_program(worker, opened.key, wish)
        raise


def _activate(handle: Handle, granted: int, wish: Wish, overwriting: bool) -> int:
    """Open the data where data access was granted. What POSIX withholds from MAXIMUM_ALLOWED is taken out of it."""
    if handle.directory and not handle.stream:
        if granted & FILE_READ_DATA:
            try:
                handle.activate(True, False)
            except PermissionError:
                if map_generic(wish.desired) & FILE_READ_DATA:
                    raise
                granted &= ~FILE_READ_DATA
        return granted
    reads = bool(granted & (FILE_READ_DATA | FILE_EXECUTE))
    writes = bool(granted & WRITING) or overwriting
    if not reads and not writes:
        return granted
    explicit = map_generic(wish.desired)
    try:
        handle.activate(reads, writes)
    except PermissionError:
        if overwriting or not explicit & MAXIMUM_ALLOWED or explicit & DATA_ACCESS & granted:
            raise
        return _activate_less(handle, granted)
    return granted


def _activate_less(handle: Handle, granted: int) -> int:
    for reads, writes, lost in ((True, False, WRITING), (False, True, FILE_READ_DATA | FILE_EXECUTE)):
        try:
            handle.activate(reads, writes)
        except PermissionError:
            continue
        return granted & ~lost
    return granted & ~DATA_ACCESS


def _overwrite(handle: Handle, wish: Wish) -> None:
    """[MS-FSA] 2.1.5.1.2: length 0, the new attributes, streams and extended attributes gone."""
    handle.clear()
    if not handle.stream:
        handle.set_attributes((wish.attributes & SETTABLE_ATTRIBUTES) | FILE_ATTRIBUTE_ARCHIVE)
        for name, value in wish.eas:
            handle.set_ea(name, value)
    if wish.allocation:
        handle.allocate(wish.allocation)


# What does not


def _create(request: Request, wish: Wish, opened: Open) -> int:
    """[MS-FSA] 2.1.5.1.1."""
    worker, tree, vfs = request.worker, request.tree, request.tree.vfs
    assert vfs is not None
    if wish.attributes & FILE_ATTRIBUTE_ENCRYPTED:
        raise SmbError(status.ACCESS_DENIED)
    if tree.read_only:
        raise SmbError(status.ACCESS_DENIED)
    if wish.attributes & FILE_ATTRIBUTE_READONLY and wish.options & FILE_DELETE_ON_CLOSE and not tree.share.delete_readonly:
        raise SmbError(status.CANNOT_DELETE)
    granted = _granted_by_base(worker, tree, wish) if wish.path.stream else None
    handle, granted = _make(request, wish, granted)
    wish.action = FILE_CREATED
    claimed = False
    try:
        claim(worker, opened, handle, wish, granted)
        claimed = True
        opened.granted = _activate(handle, granted, wish, False)
        worker.check_descriptor(handle)
    except Blocked:
        handle.close()  # somebody has opened what we have just made: then it exists
        raise
    except BaseException:
        if claimed:
            release_claim(worker, opened)
        vfs.unlink(handle)
        handle.close()
        raise
    changes.added(worker, tree, handle.path, opened)
    return FILE_CREATED


def _make(request: Request, wish: Wish, granted: int | None) -> tuple[Handle, int]:
    """The new file, and the access granted on it. ``granted``: by the file that it is a new stream of; None: there is none yet."""
    tree, vfs = request.tree, request.tree.vfs
    assert vfs is not None
    directory = wish.directory and not wish.path.stream
    attributes = (wish.attributes & SETTABLE_ATTRIBUTES) | (0 if directory else FILE_ATTRIBUTE_ARCHIVE)
    new = NewFile(directory, attributes, None, wish.eas, wish.allocation, wish.mode, bool(wish.options & FILE_NO_COMPRESSION))
    if granted is not None:
        return vfs.create(wish.path, new), granted
    granted = access.of_new(tree, wish.desired)
    parent = vfs.open(wish.path.parent)
    try:
        security = _security_of_new(request, wish, parent, directory)
        if security is not None:
            new = new._replace(security=security.pack())
        return vfs.create(wish.path, new, None if wish.path.stream else parent), granted
    finally:
        parent.close()


def _granted_by_base(worker: Worker, tree: TreeConnect, wish: Wish) -> int | None:
    """A new stream of a file that exists: its file's descriptor decides, and must let the file be written. None: the file is new too."""
    vfs = tree.vfs
    assert vfs is not None
    try:
        base = vfs.open(wish.path.base)
    except FileNotFoundError:
        return None
    try:
        desired = map_generic(wish.desired)
        granted = access.check(worker, tree, base, desired | FILE_WRITE_DATA)
    finally:
        base.close()
    return granted if desired & MAXIMUM_ALLOWED else granted & desired


def _security_of_new(request: Request, wish: Wish, parent: Handle, directory: bool) -> SecurityDescriptor | None:
    """The descriptor to store: given, inherited, or None where POSIX mode says it all ([MS-DTYP] 2.5.3.4)."""
    tree = request.tree
    stored = access.check_add(request.worker, tree, parent, directory)
    if wish.security is None and stored is None:
        return None
    return create_descriptor(None if stored is None else cached_descriptor(stored), tree.token, directory, wish.security)


def check_disposition(disposition: int, options: int) -> None:
    """[MS-FSA] 2.1.5.1: combinations that never work."""
    if disposition > FILE_OVERWRITE_IF:
        raise SmbError(status.INVALID_PARAMETER)
    never = options & FILE_NON_DIRECTORY_FILE or disposition not in (FILE_OPEN, FILE_CREATE, FILE_OPEN_IF)
    if options & FILE_DIRECTORY_FILE and never:
        raise SmbError(status.INVALID_PARAMETER)
