"""Oplock and lease breaks: [MS-SMB2] 3.3.4.6, 3.3.4.7, 3.3.5.22 and the waits they cause.

Owns: the way of a break from who causes it to the worker whose client caches, and from there to the client; the time-out of the
acknowledgement; the waits of operations that others' caches keep. Invariants: what is decided is in the shared state before anybody is
told; whoever waits tries again at each wake-up and each ``RETRY``, so that a lost message or a dead process costs a moment and no promise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from time import monotonic_ns
from typing import TYPE_CHECKING, Any, TypeVar

from pools.queue import AskBusy, AskError, HubClosed, Message
from smbd.sharing import Act, CacheClaim, CacheKind, FileKey, Notice, Operation
from smbd.sharing.caching import HANDLE, READ, STATE_OF_LEVEL
from smbd.sharing.messages import OPLOCK_BREAK, OPLOCK_BREAK_LAYOUT, STATUS_ANSWER, OplockBreak, break_of, pack_break
from smbd.smb2 import status
from smbd.smb2.constants import (
    CAP_DIRECTORY_LEASING,
    CAP_LEASING,
    LEASE_FLAG_BREAK_IN_PROGRESS,
    LEASE_FLAG_PARENT_LEASE_KEY_SET,
    NOTIFY_BREAK_LEASE_FLAG_ACK_REQUIRED,
    OPLOCK_LEVEL_LEASE,
    OPLOCK_LEVEL_NONE,
)
from smbd.smb2.messages import control
from smbd.smb2.messages.create_contexts import LEASE, LEASE_V2
from smbd.smb2.status import SmbError
from workers.commands.close import wake
from workers.failover import Awaited, Told, lines_of, tell
from workers.loop import Completion
from workers.patience import on_errand
from workers.vfs.namelists import name_list

if TYPE_CHECKING:
    from smbd.sharing import Acknowledged
    from smbd.smb2.names import Path
    from workers.line import Line
    from workers.open import Open
    from workers.request import Request
    from workers.tree import TreeConnect
    from workers.worker import Worker

T = TypeVar("T")
RETRY = 1.0  # seconds: a wake-up that was lost on the way costs no more than this
BUSY_RETRIES = (0.1, 0.5, 2.0, 5.0)
NS = 1_000_000_000
LEVEL_OF_STATE = {state: level for level, state in STATE_OF_LEVEL.items()}
ALL_CACHING = 0x7
DIRECTORY_CACHING = READ | HANDLE
NOTHING = CacheClaim()


class Blocked(Exception):
    """Others have to give up what they cache first. Nothing was done; ``waiter_id`` is registered with the file ``key``; None: with none,
    because a program beside the server does not let it be opened at all.
    """

    def __init__(self, key: FileKey | None, waiter_id: int) -> None:
        super().__init__(key, waiter_id)
        self.key = key
        self.waiter_id = waiter_id


# What a client asks for and is told at its CREATE


def cache_claim(request: Request, name: str, level: int, lease: memoryview | None) -> CacheClaim:
    """RequestedOplockLevel and the RqLs context as the shared state knows them; what was not negotiated is not asked for.

    ``name``: of the file, for the share may want none of that name to be cached.
    """
    share = request.tree.share
    if not share.oplocks or (share.veto_oplock_files and name in name_list(share.veto_oplock_files)):
        return NOTHING
    if level != OPLOCK_LEVEL_LEASE:
        state = STATE_OF_LEVEL.get(level, 0)
        return CacheClaim(CacheKind.OPLOCK, state, whole=not share.level2_oplocks) if state else NOTHING
    dialect, choice = request.line.connection.dialect, request.line.connection.choice
    if lease is None or dialect is None or choice is None or not choice.capabilities & CAP_LEASING:
        return NOTHING
    if len(lease) == LEASE.size:
        first = LEASE.unpack(lease)
        return CacheClaim(CacheKind.LEASE, first.lease_state & ALL_CACHING, 0, request.session.terms.client_guid, first.lease_key)
    if len(lease) == LEASE_V2.size and dialect.smb3:
        second = LEASE_V2.unpack(lease)
        state = second.lease_state & ALL_CACHING
        directory = state & DIRECTORY_CACHING if choice.capabilities & CAP_DIRECTORY_LEASING else -1
        parent = second.parent_lease_key if second.lease_flags & LEASE_FLAG_PARENT_LEASE_KEY_SET else b""
        client_guid = request.session.terms.client_guid
        return CacheClaim(CacheKind.LEASE_V2, state, second.epoch, client_guid, second.lease_key, parent, directory)
    return NOTHING


def of_directory(claim: CacheClaim) -> CacheClaim:
    """What of it holds for a directory: [MS-FSA] 2.1.5.18 knows no write caching there; oplocks and leases of version 1 are for files.

    A key that is in use for a file is refused all the same.
    """
    return claim._replace(state=max(claim.directory_state, 0)) if claim.kind >= CacheKind.LEASE else NOTHING


def level_of(opened: Open, claim: CacheClaim) -> int:
    """OplockLevel of the CREATE response."""
    cache = opened.cache
    if cache is None or (opened.is_directory and claim.directory_state < 0):
        return OPLOCK_LEVEL_NONE
    return OPLOCK_LEVEL_LEASE if cache.kind >= CacheKind.LEASE else LEVEL_OF_STATE[cache.granted]


def lease_context(opened: Open, claim: CacheClaim) -> bytes:
    """2.2.14.2.10 and .11: the lease that an open belongs to, in the form of the open that began it. Empty without a lease."""
    cache = opened.cache
    if cache is None or cache.kind < CacheKind.LEASE or (opened.is_directory and claim.directory_state < 0):
        return b""
    flags = LEASE_FLAG_BREAK_IN_PROGRESS if cache.breaking else 0
    if cache.kind == CacheKind.LEASE:
        return LEASE.pack(claim.lease_key, cache.granted, flags, 0)
    if claim.parent_key:
        flags |= LEASE_FLAG_PARENT_LEASE_KEY_SET
    return LEASE_V2.pack(claim.lease_key, cache.granted, flags, 0, claim.parent_key or bytes(16), cache.epoch, 0)


# Waiting


async def until_free(request: Request, blocked: Blocked, attempt: Callable[[], T]) -> T:
    """``attempt()`` again whenever a break is over, until nobody is in its way. It may not use the request's bytes."""
    keys: set[FileKey] = set() if blocked.key is None else {blocked.key}
    try:
        result = await _attempts(request, blocked.waiter_id, attempt, keys)
    except GeneratorExit:
        raise  # the process ends in the middle of it: what it has left is swept
    except BaseException:
        _forget(request.worker, blocked.waiter_id, keys)
        raise
    _forget(request.worker, blocked.waiter_id, keys)
    return result


async def _attempts(request: Request, waiter_id: int, attempt: Callable[[], T], keys: set[FileKey]) -> T:
    """``keys`` takes in the files it has waited for: another one may have the name meanwhile."""
    _pend(request)
    while True:
        await woken(request.worker, waiter_id)
        request.resume()
        try:
            return await on_errand(request, attempt) if request.tree.slow else attempt()
        except Blocked as again:
            if again.key is not None:
                keys.add(again.key)


def _forget(worker: Worker, waiter_id: int, keys: Iterable[FileKey]) -> None:
    worker.lock_waits.pop(waiter_id, None)
    for key in keys:
        worker.sharing.cancel_wait(key, waiter_id)


def _pend(request: Request) -> None:
    """Tell the client to wait. In the middle of a compound there is no interim response: the whole of it waits."""
    if request.async_id:
        return  # it knows already
    if request.chain is None or request.chain.last:
        request.pend()
    elif request.task is not None:
        request.when_cancelled = request.task.cancel


async def woken(worker: Worker, waiter_id: int) -> None:
    """Wait until somebody says that it is worth trying again, or ``RETRY`` is over."""
    news: Completion[None] = Completion()
    worker.lock_waits[waiter_id] = news
    timer = worker.loop.later(RETRY, lambda: news.finish(None))
    try:
        await news
    finally:
        timer.cancel()


class Breaks:
    """The breaks that one worker causes, and those its client is told of."""

    __slots__ = ("_worker", "repeated")

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self.repeated: list[Told] = []  # what was said once more because nothing was heard of the client

    def deadline(self) -> int:
        """When a break that begins now is over, acknowledged or not: ns of the monotonic clock, which all processes share."""
        return monotonic_ns() + int(self._worker.config.oplock_break_timeout * NS)

    # causing breaks

    def data_changed(self, opened: Open, operation: Operation = Operation.WRITE) -> None:
        """What others have cached of the file is out of date. Nobody is waited for: with this open there, nobody caches writes.

        Called when the change is made: whoever begins to cache later has seen it.
        """
        key, sharing = opened.key, self._worker.sharing
        if key is not None and sharing.is_cached(key):
            self.send(sharing.disturb(key, Act(opened.persistent, operation, self.deadline())).notices)

    def directory_changed(self, tree: TreeConnect, path: Path, parent_key: bytes = b"") -> None:
        """The name ``path``, or what a listing shows of it, is another now: who caches its directory is told, and not waited for.

        ``parent_key``: the directory's lease key as the open through which it happened has named it: whose key it is knows already.
        """
        sharing = self._worker.sharing
        if not sharing.caches_directories() or not path.components:
            return
        key = _directory_of(tree, path)
        if key is not None and sharing.is_cached(key):
            self.send(sharing.disturb(key, Act(0, Operation.CHILD, self.deadline(), spared=parent_key)).notices)

    def require(self, request: Request, operation: Operation, other: FileKey | None = None) -> None:
        """Break what stands against an operation on the request's open, or on ``other``; ``Blocked`` until it is given up."""
        opened, sharing = request.open, self._worker.sharing
        key, file_id = (opened.key, opened.persistent) if other is None else (other, 0)
        if key is None or (file_id and not sharing.is_cached(key)):
            return
        request.waiter_id = request.waiter_id or self._worker.next_id()
        done = sharing.disturb(key, Act(file_id, operation, self.deadline(), request.waiter_id))
        self.send(done.notices)
        if done.wait:
            raise Blocked(key, request.waiter_id)

    def send(self, notices: Iterable[Notice]) -> None:
        """Have clients told."""
        for notice in notices:
            if (notice.slot, notice.generation) == (self._worker.slot, self._worker.generation):
                self._tell(break_of(notice), own=True)
            else:
                self._worker.loop.spawn(self._deliver(notice.slot, pack_break(notice)), _ended)

    async def _deliver(self, slot: int, payload: bytes) -> None:
        for pause in BUSY_RETRIES:
            try:
                await self._worker.mailbox.ask(slot, OPLOCK_BREAK.number, payload, timeout=10.0)
            except AskBusy:
                await self._worker.loop.sleep(pause)
                continue
            except (AskError, HubClosed):
                return  # it is gone, and its caches with it; or it is stopped, and will be killed
            return
        self._worker.log.warning("worker %d takes no oplock break", slot)

    # being told of breaks

    def arrived(self, message: Message) -> None:
        """Another worker's client wants what ours caches."""
        notice = OPLOCK_BREAK_LAYOUT.unpack(message.payload)
        # The slot may have another process by now.
        if notice.generation == self._worker.generation & 0xFFFF:
            self._tell(notice, own=False)
        if message.id:
            self._worker.mailbox.answer(message, STATUS_ANSWER.pack(status.SUCCESS))

    def _tell(self, notice: OplockBreak, *, own: bool) -> None:
        worker = self._worker
        opened = next((item for item in worker.opens.values() if item.persistent == notice.file_id), None)
        if opened is None and not notice.lease:
            return  # closed meanwhile: whoever waited has been woken
        session = opened.session if opened is not None else None
        lines = partial(lines_of, worker, session, any_session=bool(notice.lease))
        awaited: Awaited | None = None
        if notice.deadline:
            client_guid = session.terms.client_guid if session is not None else worker.client_guid
            awaited = Awaited(partial(self._is_awaited, notice, opened, client_guid), notice.deadline, own)
            pause = max(0.0, (notice.deadline - monotonic_ns()) / NS)
            worker.loop.later(pause, partial(self._expired, notice, opened, client_guid))
        if notice.lease:
            body = _lease_notification(notice)
            tell(worker, lines, partial(_say, awaited, lambda line: line.engine.notify(body)), awaited)
        elif opened is not None:
            tell(worker, lines, partial(_say, awaited, partial(_tell_oplock, opened, notice.state)), awaited)

    def _is_awaited(self, notice: OplockBreak, opened: Open | None, client_guid: bytes) -> bool:
        """Whether the client has yet to acknowledge the break. A stream's open may have another key since."""
        sharing, key = self._worker.sharing, None if opened is None else opened.key
        if notice.lease:
            return sharing.awaits_lease(client_guid, notice.lease_key, notice.deadline)
        return key is not None and sharing.awaits_oplock(key, notice.file_id, notice.deadline)

    def _expired(self, notice: OplockBreak, opened: Open | None, client_guid: bytes) -> None:
        """3.3.6.1, 3.3.6.5: not acknowledged in time."""
        worker, key = self._worker, None if opened is None else opened.key
        if notice.lease:
            waiters = worker.sharing.expire_lease(client_guid, notice.lease_key, notice.deadline)
        elif key is not None:
            waiters = worker.sharing.expire_oplock(key, notice.file_id, notice.deadline)
        self._settle()
        wake(worker, waiters)

    def _settle(self) -> None:
        self.repeated = [told for told in self.repeated if not told.settle()]

    # acknowledgements

    def acknowledged(self, done: Acknowledged) -> None:
        """Wake who waited; a further break is told of after the response to this acknowledgement."""
        if self.repeated:
            self._settle()
            self._worker.loop.soon(partial(wake, self._worker, done.wake))  # when a connection that was given up is closed
        else:
            wake(self._worker, done.wake)
        if done.notices:
            self._worker.loop.soon(partial(self.send, done.notices))


def _say(awaited: Awaited | None, say: Callable[[Line], None], line: Line) -> None:
    """Tell of a break, unless it was acknowledged since it was told of on another connection."""
    if awaited is None or awaited.still():
        say(line)


def _directory_of(tree: TreeConnect, path: Path) -> FileKey | None:
    """The directory that a name is in; None when it is gone."""
    vfs = tree.vfs
    assert vfs is not None
    try:
        parent = vfs.open(path.parent)
    except (OSError, SmbError):
        return None
    try:
        return FileKey(*parent.key)
    finally:
        parent.close()


def _tell_oplock(opened: Open, state: int, line: Line) -> None:
    """3.3.4.6."""
    body = control.OPLOCK_BREAK.pack(control.OPLOCK_BREAK_STRUCTURE_SIZE, LEVEL_OF_STATE[state], 0, 0, opened.persistent, opened.volatile)
    session = opened.session
    seal = session.channels.get(line) if session.encrypt or opened.tree.encrypt else None
    line.engine.notify(body, session.session_id, seal)


def _lease_notification(notice: OplockBreak) -> bytes:
    """3.3.4.7."""
    flags = NOTIFY_BREAK_LEASE_FLAG_ACK_REQUIRED if notice.acknowledge else 0
    size = control.LEASE_BREAK_NOTIFICATION_STRUCTURE_SIZE
    return control.LEASE_BREAK_NOTIFICATION.pack(size, notice.epoch, flags, notice.lease_key, notice.current, notice.state, 0, 0, 0)


def _ended(_: Any, error: BaseException | None) -> None:
    if error is not None:
        raise error
