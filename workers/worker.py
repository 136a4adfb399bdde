"""One client, one process: what a worker has, and its life from accept to exit.

Owns: the client's lines, the tables of sessions, tree connects and opens, and everything that must be given back at the end. Invariants: a
session lives as long as it has a channel on one of the lines; whatever way the last line ends, ``close`` runs once: opens are closed with
their users' identities, records removed, buffers returned.
"""

from __future__ import annotations

import itertools
import logging
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from pools import port
from pools.counters import BYTES_READ, BYTES_WRITTEN, COMMANDS_AT, ERRORS, REQUESTS
from pools.port import files
from smbd.accounts import IdMap
from smbd.config import Config, Share
from smbd.log import set_level
from smbd.sharing import ChannelRecord, FileKey, SessionRecord, Sharing, TreeRecord
from smbd.smb2 import status
from smbd.smb2.credits import Disconnect
from smbd.smb2.status import SmbError
from workers import admission, identity
from workers.breaks import Breaks
from workers.commands.change_notify import Notices
from workers.disk import Disk, Overdue
from workers.ending import end_session, give_up
from workers.line import Line
from workers.loop import Cancelled, Completion, Loop, Timer
from workers.open import Open
from workers.patience import settle
from workers.replay import Creates
from workers.session import Session
from workers.transport.receive import BATCH

if TYPE_CHECKING:
    import socket

    from pools.counters import Row
    from pools.pool import Buffer, BufferPool
    from smbd.smb2.connection import Connection
    from smbd.smb2.crypto import Channel
    from workers.handover import Welcome
    from workers.mailbox import Mailbox
    from workers.tree import TreeConnect
    from workers.vfs.interface import Handle

T = TypeVar("T")
MAX_SESSIONS = 1024
SEND_LIMIT = 16 << 20  # unsent bytes, of all lines together, at which no further request is read
MAX_LOGONS = 64  # under way at once: as many as the authenticator takes of one process
MAX_TREES = 4096  # of all sessions together: each is a record in the shared state
LARGEST = 8 << 20
EPOCH = 116444736000000000  # FILETIME of 1970
TICK = 1.0
QUIET_TICK = 10.0  # of a worker whose client has asked for nothing since the last one
DRAIN_TURN = 0.05
CLOSING = 5.0  # seconds for slow disks to close what was open
NEVER = 1 << 62  # bytes
# The shared state has room for all clients of a large server, and none may have it for himself. In thousandths of it:
CROWDED = 750  # from here on nothing more is entered for a client that has much in it
FULL = 900  # and here for any: what is in it must be able to go
MAX_SAME = 2048  # opens of one file: whoever opens it has to look through them, while nobody else may write
MUCH = 256 << 10  # bytes, about 400 opens
OPEN_BYTES, LOCK_BYTES = 512, 64  # about what one takes, beside an open's path
LAST_DESCRIPTORS = 256  # of the process, which no open file gets: they are for connections, and for what is under way


def data_path_thresholds(config: Config) -> tuple[int, int]:
    """Payloads of so many bytes and more are read, and written, in kernel format."""
    if config.data_path == "user" or not port.sockets.KERNEL_FORMAT:
        return NEVER, NEVER
    if config.data_path == "kernel":
        return 1, 1
    return config.data_path_read_threshold or NEVER, config.data_path_write_threshold or NEVER


async def _to_its_end(completion: Completion[T]) -> T:
    """A cancel is put off until the thread is done: it cannot be stopped, and what it uses must not go before."""
    put_off: Cancelled | None = None
    while True:
        try:
            value = await completion
        except Cancelled as error:
            put_off = error
        else:
            break
    if put_off is not None:
        raise put_off
    return value


class Worker:
    """The state of one client's process. Its parts reach each other through it."""

    def __init__(
        self, config: Config, *, slot: int, generation: int, loop: Loop, pool: BufferPool, row: Row, sharing: Sharing, ids: IdMap
    ) -> None:
        self.config = config
        self.slot = slot
        self.generation = generation
        self.loop = loop
        self.pool = pool
        self.row = row
        self.sharing = sharing
        self.ids = ids
        self.log = logging.getLogger("millpond.worker")
        self.mailbox: Mailbox
        self.title: Callable[[str], None] = port.processes.set_title  # by which the system shows who is served
        self.stopping = False  # with the whole server
        self.ended = False  # the loop is to be left
        self.closed = False  # everything was given back
        self.lines: list[Line] = []
        self.send_limit = SEND_LIMIT  # of each line
        self.client_address = ""  # of the first line
        self.client_guid = bytes(16)  # of the last session; each has its own, which hardly ever differ (``Session.terms``)
        self.notices = Notices(self)
        self.breaks = Breaks(self)
        # Unique among the state's processes, and the era keeps it apart from what an earlier server gave to clients that may come back.
        self.file_id_base = (((slot & 0xFFFF) << 16 | (generation & 0xFFFF)) ^ sharing.era) << 32
        self.sessions: dict[int, Session] = {}
        self.opens: dict[int, Open] = {}
        self._same: dict[FileKey, int] = {}  # how many of them there are of a file
        self.locks = 0  # byte ranges that these have locked
        self.creates = Creates()
        self.welcomes: dict[tuple[int, int], Welcome] = {}  # by process: the connections that may come in
        self.confirming: set[tuple[int, int]] = set()  # processes that the authenticator is being asked about
        self.disks: dict[str, Disk] = {}  # by share, as far as they were used
        self._orphans: set[Handle] = set()  # handles whose open has ended, which a VFS thread is to close
        self.max_read = self.max_write = self.max_transact = BATCH
        # `data path`: from how many bytes on a plain payload leaves, and lands, without entering the process.
        self.leaves_from, self.lands_from = data_path_thresholds(config)
        self.lock_waits: dict[int, Completion[None]] = {}
        self._ids = itertools.count(1)
        self.volatile_base = secrets.randbits(31) << 32  # so that no other connection's FileId is one of ours
        self._trees = itertools.count(1)
        self._conversations = itertools.count(1)
        self._asked = 0
        self._claimed = port.processes.claimed()
        most = port.processes.descriptor_limit()
        self._descriptors = most - min(LAST_DESCRIPTORS, most // 8)
        self._ticked = 0  # REQUESTS at the last tick
        self._ticker: Timer | None = None
        self._quiet_since = time.monotonic()
        self.counters = row.words

    # life

    def attach(self, sock: socket.socket, address: str, connection: Connection) -> Line:
        """Take one of the client's sockets and start serving it."""
        self.client_address = self.client_address or address
        line = Line(self, sock, address, connection)
        self.lines.append(line)
        self._share_out()
        if self._ticker is None:
            self._ticker = self.loop.later(TICK, self._tick)
        return line

    def _share_out(self) -> None:
        """Lines share what a client may leave unread."""
        self.send_limit = SEND_LIMIT // max(1, len(self.lines))

    def line_ended(self, line: Line) -> None:
        """A line ended: with the last one the client is gone; before, the others go on without it."""
        if all(one.ended for one in self.lines):
            self._leave()
        else:
            self.loop.soon(partial(self._drop, line))  # what is in the middle of using it comes to its end first

    def _drop(self, line: Line) -> None:
        """[MS-SMB2] 3.3.7.1: its channels end, and with their last one sessions."""
        if line not in self.lines:
            return
        self.lines.remove(line)
        self._share_out()
        if not line.closed:
            line.shut()
        give_up(self, line)
        for session in list(self.sessions.values()):
            if session.channels.pop(line, None) is None:
                continue
            if session.channels:
                self.sharing.remove_channel(session.session_id, line.number)
            else:
                self.cancel_session(session.session_id)
                end_session(self, session, lost=True)

    def cancel_session(self, session_id: int) -> None:
        """The session ends: every request of it that waits is cancelled, on whatever line it came."""
        for line in self.lines:
            line.engine.cancel_session(session_id)

    def cancel_tree(self, tree: TreeConnect) -> None:
        """The tree connect ends: likewise."""
        for line in self.lines:
            line.engine.cancel_tree(tree)

    def _tick(self) -> None:
        now = time.monotonic()
        self.row.set("heartbeat", time.monotonic_ns())
        self._excuse()
        for line in self.lines:
            line.trim()
        self.pool.tick(now)
        for session in self.sessions.values():
            for tree in session.trees.values():
                if tree.vfs is not None:
                    tree.vfs.tidy()
        self._mind_deadtime(now)
        asked = self.counters[REQUESTS]
        quiet = asked == self._ticked and not any(line.paused or line.engine.busy for line in self.lines)
        self._ticked = asked
        self._ticker = self.loop.later(min(QUIET_TICK, max(TICK, self.config.pool_decay)) if quiet else TICK, self._tick)

    def hurry(self) -> None:
        """A buffer is awaited: the pool asks for it again after a second, however quiet the client was."""
        for line in self.lines:
            line.sender.trim()
            if len(self.lines) > 1:  # what one of them needs for its turn is not for others to sit on
                line.receiver.let_go()
        if self._ticker is not None and self._ticker.due > time.monotonic() + TICK:
            self._ticker.cancel()
            self._ticker = self.loop.later(TICK, self._tick)

    def _mind_deadtime(self, now: float) -> None:
        """smb.conf(5), deadtime: a connection that has nothing open and asks for nothing ends after so many minutes."""
        asked = self.counters[REQUESTS]
        if asked != self._asked or self.opens:
            self._asked, self._quiet_since = asked, now
        elif self.config.deadtime and now - self._quiet_since > 60 * self.config.deadtime:
            self.end("idle for longer than deadtime")

    def end(self, reason: str) -> None:
        """Every line ends."""
        for line in self.lines:
            line.end(reason)
        self._leave()

    def _leave(self) -> None:
        """Leave the loop; ``close`` does the rest."""
        self.ended = True
        self.loop.stop()

    def drain(self) -> None:
        """The server stops: no new requests are read; what is under way is answered, as far as it needs no client, then the end."""
        self.stopping = True
        for line in self.lines:
            line.draining = True
            line.rewatch()
        self._drained()

    def _drained(self) -> None:
        """Whoever waits for another client, or for this one to read, gets no more than the master's patience."""
        if any(line.sender.backlog or line.engine.busy for line in self.lines):
            self.loop.later(DRAIN_TURN, self._drained)
        else:
            self.end("the server stops")

    def reload(self, config: Config) -> None:
        """A new configuration: it counts for what begins from now on; tree connects keep what they were made with."""
        self.config = config
        set_level(config)

    def close(self) -> None:
        """Give everything back, whatever state it is in."""
        if self.closed:
            return
        self.closed = True
        lines = [line for line in self.lines if not line.closed]
        for line in lines:
            line.stop_traffic()
        waits = [done for session in list(self.sessions.values()) for done in end_session(self, session, lost=True)]
        if not self.loop.turn_until(lambda: all(done.done for done in waits), CLOSING):
            self.log.warning("%s: a disk does not answer; what is open there is left as it is", self.client_address)
        for line in lines:
            line.closed = True
            line.close_traffic()

    # waiting

    async def blocking(self, call: Callable[[], T], *opens: Open) -> T:
        """``call()`` on a VFS thread, with the identity that is assumed now; it is assumed again when the caller goes on.

        ``opens``: whose handles the call uses, at least one; the first one's share has the thread. A CLOSE meanwhile takes effect at once
        for everyone else, but their descriptors stay open until the call is over: a number given back too early would be another file's
        by then.
        """
        who = identity.current()

        def run() -> T:
            identity.assume(who)
            return call()

        for opened in opens:
            opened.in_flight += 1
            opened.tree.in_flight += 1
        disk = opens[0].tree.disk
        overdue = Overdue(self.loop, disk)
        try:
            return await _to_its_end(self.loop.in_thread(run, disk.name))
        finally:
            overdue.over()
            for opened in opens:
                self._landed(opened)
            identity.assume(who)

    def _landed(self, opened: Open) -> None:
        """A VFS thread is done with an open's handle."""
        opened.in_flight -= 1
        opened.tree.in_flight -= 1
        orphan = opened.orphan
        if not opened.in_flight and orphan is not None:
            opened.orphan = None
            if opened.tree.slow and not self.closed:  # at the end of all no thread begins anything new
                self._orphans.add(orphan)
                self.loop.in_thread(partial(self._close_orphan, orphan), opened.tree.disk.name)
            else:
                orphan.close()
        opened.tree.close_when_idle()

    def _close_orphan(self, orphan: Handle) -> None:
        """On a VFS thread."""
        self._orphans.discard(orphan)
        orphan.close()

    def let_go(self) -> None:
        """After the end of the loop and its threads: close what they did not come to any more."""
        while self._orphans:
            self._close_orphan(self._orphans.pop())

    async def obtain(self, size: int) -> Buffer:
        """A buffer for ``size`` bytes, when the pool has one. PoolExhausted when it never can."""
        while True:
            ready: Completion[None] = Completion()
            granted = self.pool.request((size,), partial(ready.finish, None))
            if granted is not None:
                return granted[0]
            self.hurry()
            await ready

    def lock_woken(self, waiter_id: int) -> None:
        """A range was unlocked or a break is over somewhere: the waiter tries again."""
        waiting = self.lock_waits.get(waiter_id)
        if waiting is not None:
            waiting.finish(None)

    # sessions

    def next_conversation(self) -> int:
        """A number for an exchange with the authenticator."""
        return next(self._conversations)

    def next_id(self) -> int:
        """A number for watches and lock waits, unique in this process."""
        return next(self._ids)

    def check_logons(self) -> None:
        """One client's logons must not fill the authenticator's queue."""
        if sum(len(line.logons) for line in self.lines) >= MAX_LOGONS:
            raise SmbError(status.INSUFFICIENT_RESOURCES)

    def new_session(self) -> Session:
        """[MS-SMB2] 3.3.5.5.1: an unused random SessionId.

        Of 32 bits, as other servers make it: there are clients (smbtorture) that keep no more of it. It is a name and no secret.
        """
        if len(self.sessions) >= MAX_SESSIONS:
            raise Disconnect(f"more than {MAX_SESSIONS} sessions")
        session_id = secrets.randbits(32)
        while not session_id or session_id in self.sessions or self.sharing.session(session_id) is not None:
            session_id = secrets.randbits(32)
        session = Session(session_id, self.now())
        self.sessions[session_id] = session
        return session

    def session_established(self, session: Session, line: Line) -> None:
        """Its user is known: larger frames and batches are welcome on ``line`` from now on."""
        self.sharing.add_session(self._session_record(session, line))
        self.client_guid = session.terms.client_guid
        self.welcome(session, line)
        self._raise_limits(line.connection)
        self.row.add("sessions")
        self.describe()

    def welcome(self, session: Session, line: Line) -> None:
        """The session has a channel on ``line``."""
        bound = session.channels.get(line) is not session.first
        name, addresses = (session.session_id, line.number), (line.client_address, line.server_address)
        with suppress(SmbError):  # no room: it is for status only
            self.check_room()
            self.sharing.add_channel(ChannelRecord(*name, self.slot, self.generation, self.now(), int(bound), *addresses))
        line.welcome(self.lands_from if self.lands_from < NEVER else 0, proven=session.token is not None and not session.is_anonymous)

    def _raise_limits(self, connection: Connection) -> None:
        """What one request may carry, as the negotiation said: the same on every line, as the dialect is."""
        settings = connection.settings
        most = LARGEST if connection.multi_credit else BATCH
        self.max_read = min(settings.max_read_size, most)
        self.max_write = min(settings.max_write_size, most)
        self.max_transact = min(settings.max_transact_size, most)

    def identity_changed(self, session: Session, line: Line) -> None:
        """A reauthentication. On a share the new user may not enter, what is open stays usable as it was granted; nothing more opens."""
        for tree in list(session.trees.values()):
            if tree.is_pipe:
                continue
            try:
                admission.identify(self, tree)
            except SmbError:
                admission.shut(tree)
        self.sharing.add_session(self._session_record(session, line))
        self.describe()

    def _session_record(self, session: Session, line: Line) -> SessionRecord:
        token, choice = session.require_token(), line.connection.choice
        assert choice is not None
        assert choice.dialect is not None
        return SessionRecord(
            session_id=session.session_id,
            slot=self.slot,
            generation=self.generation,
            dialect=choice.dialect.number,
            started=session.started,
            flags=1 if session.encrypt else 0,
            signing=choice.signing_id,
            cipher=choice.cipher_id,
            uid=token.uid,
            gid=token.gid,
            client_guid=choice.client_guid,
            user=token.name,
            domain=token.domain,
            sid=str(token.user_sid),
            client=line.client_address,
            machine=line.client_address,
        )

    def first_channel(self, session_id: int) -> Channel | None:
        """Of a session of this client, on whatever line."""
        session = self.sessions.get(session_id)
        return session.first if session is not None else None

    # tree connects

    def sids(self, uid: int, gid: int) -> bytes:
        """``fscc.posix.Sids``."""
        return self.ids.user_sid(uid).pack() + self.ids.group_sid(gid).pack()

    def find_share(self, name: str, session: Session) -> Share | None:
        """The share a client means by ``name``."""
        return admission.find_share(self, name, session)

    def disk(self, share: Share, path: str) -> Disk:
        """The disk of a share, whose folder is at ``path``."""
        known = self.disks.get(share.name)
        if known is None:
            known = self.disks[share.name] = Disk(share.name, partial(settle, self), always=files.asks_others(path), excuse=self._excuse)
        return known

    def _excuse(self) -> float:
        """Seconds since this was last asked, at the tick or later, for which the engine had a processor or waited for one."""
        before = self._claimed
        try:
            self._claimed = port.processes.claimed()
        except OSError:
            return 0.0  # this process has no descriptor left to look with
        return self._claimed - before

    def next_tree_id(self) -> int:
        """A TreeId that no tree connect of this connection has had."""
        return next(self._trees)

    def add_tree(self, tree: TreeConnect) -> None:
        """Enter a tree connect into its session."""
        if sum(len(session.trees) for session in self.sessions.values()) >= MAX_TREES:
            raise Disconnect(f"more than {MAX_TREES} tree connects")
        self.sharing.add_tree(
            TreeRecord(tree.session.session_id, tree.tree_id, self.slot, self.generation, tree.started, int(tree.encrypt), tree.share.name)
        )
        tree.session.trees[tree.tree_id] = tree
        self.row.add("tree_connects")

    # opens

    def check_room(self) -> None:
        """INSUFFICIENT_RESOURCES where the shared state is so full that nothing more is to be entered for this client."""
        fullness = self.sharing.fullness
        if fullness >= CROWDED and (fullness >= FULL or self._has_much()):
            raise SmbError(status.INSUFFICIENT_RESOURCES)

    def _has_much(self) -> bool:
        taken = LOCK_BYTES * self.locks
        for opened in self.opens.values():
            # A row that is longer than half a page has pages of its own.
            taken += OPEN_BYTES + (2 * len(opened.path.wire()) if opened.path is not None else 0)
            if taken > MUCH:
                return True
        return False

    def new_open(self, tree: TreeConnect) -> Open:
        """An Open with its two ids, not yet in the table."""
        number = next(self._ids)
        return Open(self.file_id_base | number, self.volatile_base | number, tree)

    def add_open(self, opened: Open) -> None:
        """Enter an Open into the table."""
        self.opens[opened.volatile] = opened
        key = opened.counted_as = opened.key
        if key is not None:
            self._same[key] = self._same.get(key, 0) + 1
        self.row.add("opens")

    def remove_open(self, opened: Open) -> None:
        """Take an Open out of the table, if it is there."""
        if self.opens.pop(opened.volatile, None) is not None:
            self.row.add("opens", -1)
            self.locks -= opened.locks
            self._forget_one(opened.counted_as)
            if opened.durability is not None:
                self.creates.forget(opened)

    def serves(self, opened: Open) -> bool:
        """Whether an Open is still its client's to use here: neither ended nor left, to be reclaimed elsewhere."""
        return self.opens.get(opened.volatile) is opened and not opened.left

    def check_same(self, key: FileKey) -> None:
        """TOO_MANY_OPENED_FILES where one more open of this file would be more than anybody needs."""
        if self._same.get(key, 0) >= MAX_SAME:
            raise SmbError(status.TOO_MANY_OPENED_FILES)

    def check_descriptor(self, handle: Handle) -> None:
        """TOO_MANY_OPENED_FILES where a handle that is to stay open has one of the process's last descriptors.

        The lowest free number is always taken first, so its own tells how many are in use: by all connections, if the process has all.
        """
        if handle.fd >= self._descriptors:
            raise SmbError(status.TOO_MANY_OPENED_FILES)

    def _forget_one(self, key: FileKey | None) -> None:
        if key is None:
            return
        left = self._same[key] - 1
        if left:
            self._same[key] = left
        else:
            del self._same[key]

    # clock and counters

    def now(self) -> int:
        """FILETIME."""
        return time.time_ns() // 100 + EPOCH

    def count_request(self, command: int) -> None:
        """One request of ``command`` was dispatched."""
        self.counters[REQUESTS] += 1
        self.counters[COMMANDS_AT + command] += 1

    def count_error(self) -> None:
        """One error response."""
        self.counters[ERRORS] += 1

    def count_read(self, count: int) -> None:
        """Bytes read for a client."""
        self.counters[BYTES_READ] += count

    def count_written(self, count: int) -> None:
        """Bytes written for a client."""
        self.counters[BYTES_WRITTEN] += count

    def describe(self) -> None:
        """Show client and users to whoever looks at the system."""
        names = sorted({session.require_token().name or "anonymous" for session in self.sessions.values() if session.token is not None})
        self.title(" ".join((self.client_address, *names)))
