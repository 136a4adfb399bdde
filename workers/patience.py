"""What touches a slow share's disk waits for it on a thread, so that one slow disk never stops a client's other requests.

Owns: the choice, request by request, between running a handler at once and sending it on an errand (``workers.baton``), and the order in
which errands go. Invariants: requests of one Open are executed in the order in which they came; what an errand works on is not taken away
while it is under way: whoever ends an Open, a tree connect or a session waits for the errands that came before (``workers.ending``). So a
handler need not look again, after each call of the file system, whether its Open is still there; what belongs to others may have changed,
as other workers could always change it. An Open that is left is its client's to reclaim at once: what has not begun by then never does.

A healthy share pays two readings of the clock for each request that touches its disk, and nothing for READ.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Coroutine
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, TypeVar

from smbd.smb2.credits import Disconnect
from smbd.smb2.status import SmbError
from workers import identity
from workers.disk import LONG, Overdue
from workers.loop import Cancelled, Completion
from workers.vfs.patient import PatientHandle, PatientVfs, unwrapped

if TYPE_CHECKING:
    from pools.pool import Buffer
    from workers.baton import Errand
    from workers.disk import Disk
    from workers.open import Open
    from workers.request import Request
    from workers.tree import TreeConnect
    from workers.worker import Worker

T = TypeVar("T")
KEPT: Final = 4096  # bytes of a request that are copied; a larger one keeps its buffer
INTERIM: Final = 1.0  # seconds after which a client hears that its request is under way


class Turns:
    """Whose turn it is among the requests of one Open: first come, first served."""

    __slots__ = ("_taken", "_waiting")

    def __init__(self) -> None:
        self._taken = False
        self._waiting: deque[Completion[None]] = deque()

    async def take(self) -> None:
        """Wait for the turn; ``give`` it on when done."""
        if not self._taken:
            self._taken = True
            return
        mine: Completion[None] = Completion()
        self._waiting.append(mine)
        try:
            await mine
        except BaseException:
            if mine.done:
                self.give()  # it came in the same moment
            else:
                self._waiting.remove(mine)
            raise

    def give(self) -> bool:
        """The next one's turn; False when there is none."""
        if self._waiting:
            self._waiting.popleft().finish(None)
            return True
        self._taken = False
        return False


def may_wait(handler: Callable[[Request, Any], Any]) -> Callable[[Request, Any], Any]:
    """``handler``, which touches the disk: at once where that is fast, else on an errand."""

    def run(request: Request, body: Any) -> Any:
        tree = request.tree
        if tree.slow and not _trusted(request):
            return patiently(request, _elsewhere(handler, request, body))
        begun = monotonic()
        try:
            result = handler(request, body)
            return patiently(request, result) if isinstance(result, Coroutine) else result
        finally:
            took = monotonic() - begun
            if took > LONG:
                tree.disk.held_up(took)

    return run


def _trusted(request: Request) -> bool:
    """The disk has been fast again for a while. The way back is open to a request when nothing of its Open is under way."""
    disk = request.tree.disk
    if not disk.calm:
        return False
    if not disk.errands:
        disk.slow = False
        settle(request.worker, disk)
    return not request.has_open() or request.open.turns is None


async def _elsewhere(handler: Callable[[Request, Any], Any], request: Request, body: Any) -> Any:
    """A handler on an errand. If it has to wait for something else, it does so here."""
    buffer = _keep(request)
    try:
        result = await on_errand(request, partial(handler, request, body))
        return await result if isinstance(result, Coroutine) else result
    finally:
        if buffer is not None:
            buffer.release()


def _keep(request: Request) -> Buffer | None:
    """The receive buffer moves on: a small request is copied out of it, a large one keeps it. All that a disk makes wait is the pool's."""
    if len(request.view) <= KEPT:
        request.view = memoryview(bytes(request.view))
        return None
    buffer = request.line.receiver.buffer if request.chain is None else request.chain.buffer
    assert buffer is not None
    buffer.hold()
    return buffer


async def on_errand(request: Request, call: Callable[[], T]) -> T:
    """``call()`` on a thread of the share's lane, as the tree's user, in the request's turn.

    If the request was cancelled meanwhile, it is where it waits next: a call that has done nothing yet may be the first of many.
    """
    opened = request.open if request.has_open() else None
    tree = request.tree
    tree.begin_errand()
    try:
        if opened is None:
            return await _now(request, call)
        return await in_turn(opened, lambda: _now(request, call))
    finally:
        tree.end_errand()
        if request.task is not None and request.task.cancelled:
            request.task.cancel()


async def in_turn(opened: Open, work: Callable[[], Coroutine[Any, None, T]]) -> T:
    """``work()`` after what has come before for the same Open."""
    turns = opened.turns = opened.turns or Turns()
    await turns.take()
    try:
        return await work()
    finally:
        if not turns.give():
            opened.turns = None


async def _now(request: Request, call: Callable[[], T]) -> T:
    request.resume()
    return await errand(request.worker, request.tree, partial(_resumed, request, call))


def _resumed(request: Request, call: Callable[[], T]) -> T:
    """``call()`` on its thread: it may have waited for that, too, and its Open may have been left meanwhile."""
    request.resume()
    return call()


async def errand(worker: Worker, tree: TreeConnect, call: Callable[[], T]) -> T:
    """``call()`` on a thread of the share's lane, as the tree's user. One that has begun cannot be cancelled: what it did is the answer."""
    made, done = worker.loop.errand(partial(_as_user, tree, call), tree.disk.name, tree.disk.took)
    overdue = Overdue(worker.loop, tree.disk)
    try:
        return await _to_its_end(made, done)
    finally:
        overdue.over()
        worker.loop.errand_over()
        if tree.identity is not None:
            identity.assume(tree.identity)


def _as_user(tree: TreeConnect, call: Callable[[], T]) -> T:
    if tree.identity is not None:
        identity.assume(tree.identity)
    return call()


async def _to_its_end(made: Errand, done: Completion[T]) -> T:
    while True:
        try:
            return await done
        except Cancelled:
            if not made.begun:
                made.withdrawn = True
                raise


async def patiently(request: Request, work: Coroutine[Any, None, T]) -> T:
    """What ``work`` comes to; when it takes a while the client hears that."""
    timer = request.worker.loop.later(INTERIM, partial(_tell, request))
    try:
        return await work
    finally:
        timer.cancel()


def _tell(request: Request) -> None:
    """[MS-SMB2] 3.3.4.2: clients give up what they hear nothing of. In the middle of a compound, and beyond the limit, they do not hear."""
    if not request.async_id and (request.chain is None or request.chain.last):
        try:
            request.pend()
        except SmbError:
            return
        except Disconnect as gone:
            request.line.hang_up(str(gone))


def settle(worker: Worker, disk: Disk) -> None:
    """The disk has become slow, or fast: the stacks of its trees and the handles of its opens become patient, or what they were."""
    for session in worker.sessions.values():
        for tree in session.trees.values():
            if tree.disk is disk:
                fit(tree)
    for opened in worker.opens.values():
        if opened.tree.disk is disk and opened.handle is not None:
            handle = unwrapped(opened.handle)
            opened.handle = PatientHandle(handle) if disk.slow else handle


def fit(tree: TreeConnect) -> None:
    """The tree connect's stack as its disk's speed asks for."""
    vfs = tree.vfs
    tree.slow = tree.disk.slow
    if vfs is not None:
        below = vfs.below if isinstance(vfs, PatientVfs) else vfs
        tree.vfs = PatientVfs(below) if tree.slow else below
