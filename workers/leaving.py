"""What a client leaves behind when its connection is lost: [MS-SMB2] 3.3.7.1.

Owns: which opens are left in the shared state, without a process, for their client to come back to. Invariants: an open that is left is
nobody's from that moment on, however long its disk takes to close the file; what one user, and all together, leave behind has a limit,
and a lower one where room for the state runs short.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pools.queue import BROKER, AskBusy
from smbd.sharing.messages import SWEEP
from workers.commands.close import wake
from workers.keeping import parting_of
from workers.reliable import Kind

CROWDED = 750  # thousandths of the shared state: from here on room is for those who are connected
WHEN_CROWDED = 16  # part of the limits that is left then

if TYPE_CHECKING:
    from workers.open import Open
    from workers.tree import TreeConnect
    from workers.worker import Worker


def leave_opens(worker: Worker, tree: TreeConnect) -> None:
    """The connection is lost: opens of the tree connect that outlive it are its client's to reclaim. All others are still to be closed."""
    lasting = [opened for opened in worker.opens.values() if opened.tree is tree and _lasts(worker, opened)]
    for opened in lasting:
        assert opened.key is not None
        opened.left = worker.sharing.disconnect(opened.key, opened.persistent, parting_of(opened))
    if lasting:
        _mind_limits(worker)


def _lasts(worker: Worker, opened: Open) -> bool:
    durability = opened.durability
    if durability is None or opened.key is None or opened.ended or opened.glance is not None:
        return False
    # The state that disconnected opens are kept in does not outlive the server; what is kept on disk does.
    return durability.persistent or (durability.kind is not Kind.NONE and not worker.stopping)


def _mind_limits(worker: Worker) -> None:
    limits = worker.config.max_disconnected_opens_per_user, worker.config.max_disconnected_opens
    if worker.sharing.fullness >= CROWDED:
        limits = limits[0] // WHEN_CROWDED, limits[1] // WHEN_CROWDED
    surplus = worker.sharing.surplus(*limits)
    if surplus:
        wake(worker, worker.sharing.end_disconnected(surplus))
        call_janitor(worker)


def call_janitor(worker: Worker) -> None:
    """A disconnected open has ended, and may have left a file to be deleted."""
    try:
        worker.mailbox.send(BROKER, SWEEP.number)
    except AskBusy:
        return  # it looks by itself, now and then
