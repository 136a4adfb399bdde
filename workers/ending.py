"""How sessions, tree connects and opens end.

Owns: the order in which they do. Invariants: from the first moment no request finds what ends; on a slow share its files are closed when
the errands that came before are over, on an errand of their own, so that nothing is taken from under a call of the file system and nobody
else waits for the disk. What is awaited, if anything, is returned: a client's own request waits for it, others do not.
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from authd import client as authd
from pools.queue import AskBusy
from smbd.smb2 import status
from smbd.smb2.status import SmbError
from workers import identity
from workers.commands.close import close_open
from workers.leaving import leave_opens
from workers.loop import Completion
from workers.patience import errand, in_turn
from workers.session import State

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from workers.line import Line
    from workers.open import Open
    from workers.session import Session
    from workers.tree import TreeConnect
    from workers.worker import Worker


def end_session(worker: Worker, session: Session, *, lost: bool = False) -> list[Completion[None]]:
    """Close what the session has and forget it. ``lost``: of its connection; then opens that outlive that are left to be reclaimed."""
    worker.sessions.pop(session.session_id, None)
    for line in session.channels:
        line.forget(session.session_id)
    session.channels.clear()
    waits = [done for tree in list(session.trees.values()) if (done := end_tree(worker, tree, lost=lost)) is not None]
    if session.state is not State.IN_PROGRESS:
        worker.sharing.remove_session(session.session_id)
        worker.row.add("sessions", -1)
        worker.describe()
    return waits


def give_up(worker: Worker, line: Line) -> None:
    """The logons that were under way on a line which has ended: a session that never came to be is forgotten."""
    for logon in line.logons.values():
        with suppress(AskBusy):  # it forgets by itself, in time
            authd.forget(worker.mailbox.send, logon.conversation)
        if logon.session.state is State.IN_PROGRESS:
            worker.sessions.pop(logon.session.session_id, None)
    line.logons.clear()


def end_tree(worker: Worker, tree: TreeConnect, *, lost: bool = False) -> Completion[None] | None:
    """Close the opens of a tree connect and forget it. ``lost``: as above."""
    tree.session.trees.pop(tree.tree_id, None)
    worker.sharing.remove_tree(tree.session.session_id, tree.tree_id)
    worker.row.add("tree_connects", -1)
    if lost:
        leave_opens(worker, tree)
    if tree.slow:
        return _spawn(worker, _end_tree_later(worker, tree))
    if tree.identity is not None:
        identity.assume(tree.identity)
    _close_opens(worker, tree)
    tree.ended = True
    tree.close_when_idle()
    return None


async def _end_tree_later(worker: Worker, tree: TreeConnect) -> None:
    try:
        await tree.quiet()
        await errand(worker, tree, partial(_close_opens, worker, tree))
    except GeneratorExit:
        # The loop is over, and the disk has let go of its threads only after that: a process that goes on keeps no descriptor of them.
        if tree.identity is not None:
            identity.assume(tree.identity)
        _close_opens(worker, tree)
        raise
    finally:
        tree.ended = True
        tree.close_when_idle()


def _close_opens(worker: Worker, tree: TreeConnect) -> None:
    for opened in [one for one in worker.opens.values() if one.tree is tree]:
        _close(worker, opened)


def _close(worker: Worker, opened: Open) -> None:
    """No client asks for it, and others must end all the same."""
    try:
        close_open(worker, opened)
    except (OSError, SmbError) as error:
        worker.log.warning("an open in share %s did not end well: %s", opened.tree.share.name, error)


def end_open(worker: Worker, opened: Open) -> None:
    """Somebody other than its client closes a file."""
    tree = opened.tree
    if tree.slow:
        tree.begin_errand()
        _spawn(worker, _end_open_later(worker, opened))
        return
    if tree.identity is not None:
        identity.assume(tree.identity)
    _close(worker, opened)


def close_file(worker: Worker, file_id: int) -> int:
    """Another process has a file closed, as if its client had; the status to tell it."""
    found = next((opened for opened in worker.opens.values() if opened.persistent == file_id), None)
    if found is None:
        return status.FILE_CLOSED
    end_open(worker, found)
    return status.SUCCESS


async def _end_open_later(worker: Worker, opened: Open) -> None:
    try:
        await in_turn(opened, lambda: errand(worker, opened.tree, partial(_close, worker, opened)))
    finally:
        opened.tree.end_errand()


def _spawn(worker: Worker, coroutine: Coroutine[Any, None, None]) -> Completion[None]:
    done: Completion[None] = Completion()

    def ended(_: Any, error: BaseException | None) -> None:
        done.finish(None)
        if error is not None:
            raise error

    worker.loop.spawn(coroutine, ended)
    return done
