"""The keeper: persistent opens ([MS-SMB2] 3.3.1.10, Open.IsPersistent) on disk, so that they stand again after everything was killed.

Owns: the vault and the one thread that writes to it. Invariants: a worker that asked is answered when what the tables say of its open is on
the disk; what many ask meanwhile is one write; the tables are read after the question came, so that the last word is the one kept.

A worker asks at a CREATE, a LOCK and a CLOSE. Whatever else changes (a name, a broken lease) is found by comparison, every few seconds.
"""

from __future__ import annotations

import logging
import socket
from collections import defaultdict
from collections.abc import Callable, Mapping
from queue import SimpleQueue

from pools import port
from pools.layout import WireError
from pools.queue import Deferred, Message
from smbd.sharing import FileKey, Sharing
from smbd.sharing.images import Kept, kept_of
from smbd.sharing.messages import KEEP_LAYOUT, STATUS_ANSWER
from smbd.sharing.vault import Vault
from smbd.smb2 import status
from smbd.smb2.status import SmbError

log = logging.getLogger("millpond.broker")

PATIENCE = 5.0
"""Seconds that a disk has at the end."""

REFUSED = "persistent opens cannot be kept in %s: %s. They are refused until they can: make room there, or move 'state directory'"
KEPT = "persistent opens can be kept in %s again"

Batch = Mapping[int, bytes | None]
Find = Callable[[Kept], FileKey]
"""The file of an image, if it is the very same still; ``OSError`` otherwise."""


class Keeper:
    """Keeps what ``sharing`` says of persistent opens in ``vault``, which is its to close."""

    def __init__(self, sharing: Sharing, vault: Vault) -> None:
        self._sharing = sharing
        self._vault = vault
        self._refused = False  # the last write could not be done, and the log says so
        self._known: dict[int, bytes] = {}
        self._asked: defaultdict[int, list[Deferred]] = defaultdict(list)
        self._batch: Batch = {}
        self._answers: list[Deferred] = []
        self._work: SimpleQueue[Batch | None] = SimpleQueue()
        self._done: SimpleQueue[OSError | None] = SimpleQueue()
        self._bell: tuple[socket.socket, socket.socket] = port.sockets.stream_pair()
        self._over = port.processes.start_thread("keeper", self._write_all)

    def fileno(self) -> int:
        """Readable when something is written: then ``written`` is due."""
        return self._bell[0].fileno()

    # ---- at the start -------------------------------------------------------------------------------------------------------------------

    def load(self, images: Mapping[int, bytes], find: Find) -> None:
        """Have everything stand again that was kept, once for each state: one that a dead broker has loaded says more than the disk."""
        self._known = dict(images)
        if not self._sharing.loaded:
            for file_id, image in self._known.items():
                try:
                    kept = kept_of(image)
                    self._sharing.restore(image, find(kept))
                except (WireError, SmbError, OSError) as error:
                    log.warning("a persistent open (%x) is forgotten: %s", file_id, error)
            if self._known:
                log.info("%d persistent opens stand again", len(self._sharing.persistent()))
            self._sharing.loaded = True
        self.compare()

    # ---- asked by workers ---------------------------------------------------------------------------------------------------------------

    def keep(self, message: Message) -> Deferred | None:
        """KEEP: answered when the open is on the disk as it is by now, or gone from there."""
        file_id = KEEP_LAYOUT.unpack(message.payload).file_id
        answer = Deferred() if message.id else None
        waiting = self._asked[file_id]
        if answer is not None:
            waiting.append(answer)
        self._begin()
        return answer

    def compare(self) -> None:
        """Keep what has changed without anybody's word."""
        there = self._sharing.persistent()
        for file_id in (*there, *(self._known.keys() - set(there))):
            if self._sharing.image(file_id) != self._known.get(file_id):
                self._asked[file_id]
        self._begin()

    def _begin(self) -> None:
        """Hand everything that was asked to the thread, unless it is at work."""
        if self._batch or not self._asked:
            return
        self._batch = {file_id: self._sharing.image(file_id) for file_id in self._asked}
        self._answers = [answer for waiting in self._asked.values() for answer in waiting]
        self._asked.clear()
        self._work.put(self._batch)

    def written(self) -> None:
        """The thread has written, or could not: tell who waits for that."""
        self._bell[0].recv(64)
        error = self._done.get()
        if error is None:
            self._learn(self._batch)
        self._tell(error)
        payload = STATUS_ANSWER.pack(status.SUCCESS if error is None else status.DISK_FULL)
        answers, self._answers, self._batch = self._answers, [], {}
        for answer in answers:
            answer.answer(payload)
        self._begin()

    def _tell(self, error: OSError | None) -> None:
        """The administrator, once when it begins and once when it is over: clients ask, and the comparison, as often as they like."""
        place = self._vault.directory
        if error is not None and not self._refused:
            log.error(REFUSED, place, error.strerror)
        elif error is None and self._refused:
            log.warning(KEPT, place)
        self._refused = error is not None

    def _learn(self, batch: Batch) -> None:
        for file_id, image in batch.items():
            if image is None:
                self._known.pop(file_id, None)
            else:
                self._known[file_id] = image

    def _write_all(self) -> None:
        """The thread: it knows nothing but the vault."""
        while (batch := self._work.get()) is not None:
            error: OSError | None = None
            try:
                self._vault.write(batch)
            except OSError as caught:
                error = caught
            self._done.put(error)
            self._bell[1].send(b"\0")

    def close(self) -> None:
        """Write what is still to be written, and let go."""
        self._work.put(None)
        if not self._over(PATIENCE):
            log.error("the disk does not take persistent opens; their last changes may be lost")
            return
        self._vault.close()
        for end in self._bell:
            end.close()
