"""Application instances: [MS-SMB2] 3.3.5.9.13.

Owns: what a CREATE with an AppInstanceId does to opens that the same application has left on another machine. Invariant: such an open is
closed before the new one is let in, as its client would close it: nobody's cache is broken for it; one that knows its version stays, unless
the CREATE names a later one, and else that fails. Who may not read the file closes nobody's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pools.queue import AskBusy, AskError, HubClosed
from smbd.sharing import FileKey
from smbd.sharing.messages import CLOSE_FILE, CLOSE_FILE_LAYOUT
from smbd.smb2 import status
from smbd.smb2.constants import FILE_GENERIC_READ
from smbd.smb2.status import SmbError
from workers import access
from workers.breaks import Blocked
from workers.commands.close import wake
from workers.leaving import call_janitor

if TYPE_CHECKING:
    from smbd.sharing import Durable, OpenRow
    from workers.opening import Wish
    from workers.reliable import AppInstance
    from workers.tree import TreeConnect
    from workers.vfs.interface import Handle
    from workers.worker import Worker

ANSWER_WITHIN = 10.0  # seconds; it is asked again as long as the open is there


def take_over(worker: Worker, tree: TreeConnect, handle: Handle, wish: Wish) -> None:
    """Have the file's opens closed that the same application has through other clients; ``Blocked`` until they are.

    FILE_FORCED_CLOSED when one of them has a version that this CREATE's is not later than: then none is closed.
    """
    app, key = wish.wanted.app, FileKey(*handle.key)
    assert app is not None
    others = [one for one in worker.sharing.find_app(app.app_id) if _gives_way(one, tree, key, wish.wanted.client_guid)]
    if any(_stays(one, app) for one in others):
        raise SmbError(status.FILE_FORCED_CLOSED)  # before anybody's rights are asked for
    if not others or FILE_GENERIC_READ & ~access.maximal(worker, tree, handle):
        return
    lost = [one.row.file_id for one in others if not one.connected]
    if lost:
        wake(worker, worker.sharing.end_disconnected(lost))
        call_janitor(worker)
    connected = [one.row for one in others if one.connected]
    for row in connected:
        worker.loop.spawn(_close(worker, row, wish.waiter_id), _ended)
    if connected:
        raise Blocked(key, wish.waiter_id)


def _gives_way(other: Durable, tree: TreeConnect, key: FileKey, client_guid: bytes) -> bool:
    row = other.row
    return row.key == key and row.share == tree.share.name and other.claim.client_guid != client_guid


def _stays(other: Durable, app: AppInstance) -> bool:
    """Whether it has a version, and the CREATE none that is later. Zeros are none; nor is what a dialect before 3.1.1 sends."""
    known = other.claim.app_high, other.claim.app_low
    return known != (0, 0) and (app.version is None or known >= app.version)


async def _close(worker: Worker, row: OpenRow, waiter_id: int) -> None:
    try:
        await worker.mailbox.ask(row.slot, CLOSE_FILE.number, CLOSE_FILE_LAYOUT.pack(row.file_id), timeout=ANSWER_WITHIN)
    except (AskBusy, AskError, HubClosed):
        return  # who waits tries again by itself
    worker.lock_woken(waiter_id)


def _ended(_: Any, error: BaseException | None) -> None:
    if error is not None:
        raise error
