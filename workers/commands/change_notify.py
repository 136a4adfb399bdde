"""CHANGE_NOTIFY: [MS-SMB2] 2.2.35, 3.3.5.19; what is told is gathered here until somebody asks."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from smbd.sharing.messages import DOOMED
from smbd.smb2 import fscc, status
from smbd.smb2.constants import FILE_ACTION_RENAMED_NEW_NAME, WATCH_TREE
from smbd.smb2.header import HEADER_SIZE
from smbd.smb2.messages.directory import (
    CHANGE_NOTIFY_RESPONSE,
    CHANGE_NOTIFY_RESPONSE_STRUCTURE_SIZE,
    ChangeNotifyRequest,
)
from smbd.smb2.status import SmbError
from workers.changes import joined
from workers.loop import Cancelled, Completion
from workers.open import Notify, Open
from workers.request import Answer, Request

if TYPE_CHECKING:
    from workers.worker import Worker

OUTPUT_AT = HEADER_SIZE + CHANGE_NOTIFY_RESPONSE.size
MAX_WATCHES = 256  # of one directory by one client: whoever changes anything there tells each of them
KEPT = 65536  # bytes of changes kept at most for a client that does not ask for them


class Notices:
    """The watches of one worker: who watches, what has come, who waits for it."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._watched: dict[int, Open] = {}
        self._places: Counter[tuple[str, str]] = Counter()  # watches by directory
        self._waiting: dict[int, deque[Completion[int]]] = {}
        self._news: set[int] = set()

    def watch(self, opened: Open, changes: int, recursive: bool, room: int) -> Notify:
        """Start watching the directory that ``opened`` has open. The first request's filter holds as long as the open does."""
        assert opened.path is not None
        watch_id = self._worker.next_id()
        notify = Notify(watch_id, joined(opened.path), min(room, KEPT))
        place = _place(opened, notify)
        self._worker.check_room()
        if self._places[place] >= MAX_WATCHES:
            raise SmbError(status.INSUFFICIENT_RESOURCES)
        if opened.handle is None or not opened.handle.read_only:  # in a snapshot nothing changes
            self._worker.sharing.watch(opened.tree.share.name, notify.path, changes, recursive, watch_id)
        opened.notify = notify
        self._places[place] += 1
        self._watched[watch_id] = opened
        self._waiting[watch_id] = deque()
        return notify

    def deliver(self, watch_id: int, action: int, name: str, new_name: str = "") -> None:
        """A change happened. Whoever waits hears of it at the end of this turn, so that what belongs together arrives together."""
        opened = self._watched.get(watch_id)
        if opened is None or opened.notify is None:
            return
        if action == DOOMED:
            while self._waiting[watch_id]:
                self._waiting[watch_id].popleft().finish(status.DELETE_PENDING)
            return
        notify = opened.notify
        if not notify.overflowed:
            notify.add(action, name.replace("/", "\\"))
            if new_name:
                notify.add(FILE_ACTION_RENAMED_NEW_NAME, new_name.replace("/", "\\"))
            if notify.bytes > notify.room:
                notify.overflow()
        if watch_id not in self._news:
            self._news.add(watch_id)
            self._worker.loop.soon(lambda: self._answer(watch_id))

    def _answer(self, watch_id: int) -> None:
        """The first of those who wait, if there is something to tell: a request of the same turn, which had not to wait, may have it."""
        self._news.discard(watch_id)
        opened = self._watched.get(watch_id)
        if opened is None or opened.notify is None:
            return
        waiting = self._waiting[watch_id]
        if waiting and (opened.notify.changes or opened.notify.overflowed):
            waiting.popleft().finish(status.SUCCESS)

    async def wait(self, notify: Notify) -> int:
        """The status with which the wait ended: SUCCESS when there are changes, NOTIFY_CLEANUP when the open was closed, DELETE_PENDING."""
        done: Completion[int] = Completion()
        waiting = self._waiting[notify.watch_id]
        waiting.append(done)
        try:
            return await done
        except Cancelled:
            if done in waiting:
                waiting.remove(done)
            else:  # a change, or the end of the open, came in the same turn: the change is the next one's
                self._answer(notify.watch_id)
            raise

    def close(self, opened: Open) -> None:
        """The open ends: so do its watch and those who wait on it."""
        notify = opened.notify
        assert notify is not None
        self._watched.pop(notify.watch_id, None)
        place = _place(opened, notify)
        self._places[place] -= 1
        if not self._places[place]:
            del self._places[place]
        self._worker.sharing.unwatch(opened.tree.share.name, notify.path, notify.watch_id)
        for done in self._waiting.pop(notify.watch_id, ()):
            done.finish(status.NOTIFY_CLEANUP)
        opened.notify = None


def _place(opened: Open, notify: Notify) -> tuple[str, str]:
    return opened.tree.share.name, notify.path.casefold()


def change_notify(request: Request, body: ChangeNotifyRequest) -> bytes | Answer | Coroutine[Any, None, bytes | Answer]:
    """Answer with the changes since the last time, or wait for one."""
    opened = request.open
    if not request.worker.config.change_notify:
        raise SmbError(status.NOT_IMPLEMENTED)
    if body.output_buffer_length > request.worker.max_transact:
        raise SmbError(status.INVALID_PARAMETER)
    request.check_charge(body.output_buffer_length)
    if not opened.is_directory or not (body.completion_filter or opened.notify):
        raise SmbError(status.INVALID_PARAMETER)  # the filter of those that follow the first counts for nothing
    if opened.key is not None and request.worker.sharing.is_delete_pending(opened.key):
        raise SmbError(status.DELETE_PENDING)
    notify = opened.notify
    if notify is None:
        # As on Windows the first request's buffer is the size of what is kept: one that is too small never gets more than "enumerate".
        room = body.output_buffer_length
        notify = request.worker.notices.watch(opened, body.completion_filter, bool(body.flags & WATCH_TREE), room)
    if notify.changes or notify.overflowed:
        return respond(notify, body.output_buffer_length)
    return wait(request, notify, body.output_buffer_length)


async def wait(request: Request, notify: Notify, room: int) -> Answer:
    """Until something changes, the request is cancelled or the directory is closed."""
    request.ends_with_open = True
    request.pend()
    code = await request.worker.notices.wait(notify)
    return respond(notify, room) if code == status.SUCCESS else empty(code)


def respond(notify: Notify, room: int) -> Answer:
    """3.3.4.4: the changes, or NOTIFY_ENUM_DIR when they do not fit: the client then enumerates."""
    changes, overflowed = notify.take()
    output = b"" if overflowed else fscc.pack_notify(changes)
    if overflowed or len(output) > room:
        return empty(status.NOTIFY_ENUM_DIR)
    return Answer(CHANGE_NOTIFY_RESPONSE.pack(CHANGE_NOTIFY_RESPONSE_STRUCTURE_SIZE, OUTPUT_AT, len(output)) + output)


def empty(code: int) -> Answer:
    """A response without changes."""
    return Answer(CHANGE_NOTIFY_RESPONSE.pack(CHANGE_NOTIFY_RESPONSE_STRUCTURE_SIZE, 0, 0), code)
