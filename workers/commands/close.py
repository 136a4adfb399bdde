"""CLOSE: [MS-SMB2] 2.2.15, 3.3.5.10, and the one place where an Open ends."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from pools.queue import AskBusy
from smbd.sharing import Deletion
from smbd.sharing.messages import LOCK_WAKE, LOCK_WAKE_LAYOUT
from smbd.smb2.constants import CLOSE_FLAG_POSTQUERY_ATTRIB
from smbd.smb2.messages.file import CLOSE_RESPONSE, CLOSE_RESPONSE_STRUCTURE_SIZE, CloseRequest
from smbd.smb2.status import SmbError
from workers import changes, identity, keeping, rangelocks, writetimes
from workers.commands import pipe
from workers.doomed import asker
from workers.request import Answer, Request

if TYPE_CHECKING:
    from smbd.sharing import Closed, FileKey, Waiter
    from workers.open import Open
    from workers.worker import Worker

PLAIN = CLOSE_RESPONSE.pack(CLOSE_RESPONSE_STRUCTURE_SIZE, 0, 0, 0, 0, 0, 0, 0, 0, 0)


def close(request: Request, body: CloseRequest) -> bytes | Coroutine[Any, None, bytes | Answer]:
    """End an Open; its attributes as they are afterwards when asked for."""
    opened = request.open
    if opened.pipe is not None:
        return pipe.close(request)
    if opened.held is not None:
        writetimes.end(request.worker, opened)
    response = last_words(opened, body.flags)
    close_open(request.worker, opened)
    return keeping.closed(request, response)


def last_words(opened: Open, flags: int) -> bytes:
    """2.2.16, before the file is closed. What cannot be told keeps nothing open: then the answer's flags say that it tells nothing."""
    if not flags & CLOSE_FLAG_POSTQUERY_ATTRIB:
        return PLAIN
    assert opened.handle is not None
    try:
        info = opened.handle.info()
    except (OSError, SmbError):
        return PLAIN
    times = info.creation_time, info.last_access_time, info.last_write_time, info.change_time
    told = *times, info.allocation, info.size, info.attributes
    return CLOSE_RESPONSE.pack(CLOSE_RESPONSE_STRUCTURE_SIZE, CLOSE_FLAG_POSTQUERY_ATTRIB, 0, *told)


def close_open(worker: Worker, opened: Open) -> None:
    """Give back all that ``opened`` holds: notification, shared record, locks, the file itself when it is to be deleted, the handle."""
    if opened.ended:
        return
    opened.ended = True
    worker.remove_open(opened)
    if opened.notify is not None:
        worker.notices.close(opened)
    if opened.pipe is not None:
        pipe.release(worker, opened.pipe)
    for waiter in tuple(opened.lock_waits):
        worker.lock_woken(waiter)  # it finds its Open closed
    handle = opened.handle
    if handle is None:
        return
    try:
        if opened.told:
            rangelocks.forget(worker, opened)
        if opened.held is not None:
            writetimes.end(worker, opened)
        if opened.written and opened.path is not None:
            worker.breaks.directory_changed(opened.tree, opened.path, opened.parent_key)
        if opened.key is not None and opened.glance is None and not opened.left:
            _end_claim(worker, opened, opened.key)
    finally:
        opened.handle = None
        if opened.in_flight:
            opened.orphan = handle
        else:
            handle.close()


def _end_claim(worker: Worker, opened: Open, key: FileKey) -> None:
    """Take the open's record away, and what its end leaves to be deleted: a stream first, then perhaps the file."""
    if opened.dooms_name:
        _end_name(worker, opened, key)
    closed = worker.sharing.close(key, opened.persistent)
    if opened.dooms and opened.is_directory and not closed.last:
        changes.doomed(worker, opened)
    settle(worker, opened, key, closed)
    if keeping.is_kept(opened):
        keeping.tell_keeper(worker, opened)


def _end_name(worker: Worker, opened: Open, key: FileKey) -> None:
    """FILE_DISPOSITION_POSIX_SEMANTICS ([MS-FSCC] 2.4.12): the name goes now, the file with the last of those who have it open.

    Until the name has gone the file is pending deletion, for whoever comes and should this process end.
    """
    if len(worker.sharing.opens_of(key)) > 1 and _delete_as(worker, opened, Deletion.FILE, _asker_of(opened)):
        worker.sharing.set_delete_on_close(key, opened.persistent, False)


def settle(worker: Worker, opened: Open, key: FileKey, closed: Closed) -> None:
    """Do what the end of a record asks for: wake who waited for it, delete what it leaves to be deleted."""
    wake(worker, closed.wake)
    while closed.delete:
        _delete_as(worker, opened, closed.delete, (closed.uid, closed.gid))
        closed = worker.sharing.finish_delete(key, opened.persistent, closed.delete)


def _asker_of(opened: Open) -> tuple[int, int]:
    token = opened.tree.token
    return token.uid, token.gid


def _delete_as(worker: Worker, opened: Open, what: Deletion, ids: tuple[int, int]) -> bool:
    """``ids``: who asked for it. It is his right to delete that counts, not that of who happens to close last."""
    before = identity.current()
    if before.uid not in (identity.ROOT.uid, ids[0]):
        identity.assume(asker(*ids))
    try:
        return _delete(worker, opened, what)
    finally:
        identity.assume(before)


def _delete(worker: Worker, opened: Open, what: Deletion) -> bool:
    """The end of a file marked for deletion; whether its name has gone. A failure is logged: the CLOSE succeeds ([MS-FSA] 2.1.5.5)."""
    vfs, handle = opened.tree.vfs, opened.handle
    assert vfs is not None
    assert handle is not None
    path = handle.path.base if what is Deletion.FILE else handle.path
    doomed = handle
    try:
        if handle.stream and what is Deletion.FILE:
            doomed = vfs.open(path)
        if doomed.key[:2] == handle.key[:2]:
            vfs.unlink(doomed)
    except FileNotFoundError:
        return True  # somebody on the server was faster
    except (OSError, SmbError) as error:
        worker.log.warning("cannot delete %s in share %s: %s", path.wire(), opened.tree.share.name, error)
        return False
    finally:
        if doomed is not handle:
            doomed.close()
    changes.removed(worker, opened.tree, path, opened, opened.parent_key if opened.dooms else b"")
    return True


def wake(worker: Worker, waiters: tuple[Waiter, ...]) -> None:
    """Tell requests that wait for a lock or a break that they may try again."""
    for waiter in waiters:
        if waiter.slot == worker.slot:
            worker.lock_woken(waiter.waiter_id)
            continue
        try:
            worker.mailbox.send(waiter.slot, LOCK_WAKE.number, LOCK_WAKE_LAYOUT.pack(waiter.waiter_id))
        except AskBusy:
            continue  # it also tries again by itself
