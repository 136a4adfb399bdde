"""broker(8): the janitor's and watcher's process.

Usage: ``main(child, remover)`` in a fork of the master. It answers to nobody: it hears PEER_DIED from the master, sweeps, wakes waiters,
and tells watchers of changes that no worker made. It speaks to no client. Killed at any time, it is started again and goes on where it was.

Owns: the space of the shared state, which it reserves before it tells the master READY. Invariant: what is there already stays.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable

from pools.counters import PID, TXN_SINCE
from pools.queue import MASTER, PEER, PEER_DIED, RELOAD, Deferred, Endpoint, Handler, Message, Service
from smbd.broker.janitor import Janitor
from smbd.broker.keeper import KEPT, REFUSED, Keeper
from smbd.broker.watcher import Watcher
from smbd.child import READY, SHARING_DIRECTORY, Child
from smbd.config import Config
from smbd.config_messages import unpack_config
from smbd.log import follow
from smbd.sharing import Doomed, FileKey, Sharing, prepare
from smbd.sharing.images import Kept
from smbd.sharing.messages import CLOSE_FILE, CLOSE_FILE_LAYOUT, KEEP, NOTIFY, STATUS_ANSWER, SWEEP, unpack_notify
from smbd.sharing.vault import Vault
from smbd.smb2 import status

log = logging.getLogger("millpond.broker")

STATE_SIZES = (64 << 20, 32 << 20, 16 << 20, 8 << 20)
"""Bytes of shared state: as much as the tmpfs has room for. 64 MiB hold about 100,000 opens."""
SWEEP_EVERY = 60.0
SCAVENGE_EVERY = 1.0
COMPARE_EVERY = 5.0
VAULT_DIRECTORY = "persistent"
"""In the state directory: opens that survive the server."""
WATCH_EVERY = 1.0

Remover = Callable[[Config, Doomed], FileKey | None]


Finder = Callable[[Config, Kept], FileKey]


def main(child: Child, remover: Remover, finder: Finder) -> None:
    """The broker's life."""
    directory = os.path.join(child.config.lock_directory, SHARING_DIRECTORY)
    row = child.counters.row(child.slot)
    clock = row.words[TXN_SINCE : TXN_SINCE + 1]
    reserve(directory, clock)
    sharing = Sharing(directory, child.slot, child.generation, clock, child.counters.is_alive)
    broker = Broker(child, sharing, remover, finder)
    service = Service(Endpoint(child.hub), broker.handlers, row)
    broker.serve(service)


def reserve(directory: str, clock: memoryview) -> None:
    """Make the shared state, as large as there is room for; the least size not fitting is an error."""
    for size in STATE_SIZES:
        try:
            prepare(directory, size, clock=clock)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT) or size == STATE_SIZES[-1]:
                raise
            log.warning("%s has no room for %d MiB of shared state; trying with half", directory, size >> 20)
        else:
            return


class Broker:
    """The message table's handlers."""

    def __init__(self, child: Child, sharing: Sharing, remover: Remover, finder: Finder) -> None:
        self._config = child.config
        self._counters = child.counters
        self._sharing = sharing
        self._remover = remover
        self._finder = finder
        self._keeper: Keeper | None = None
        self._refused = False  # there is no place to keep opens, and the log says so
        self._janitor: Janitor
        self.handlers: dict[int, Handler] = {
            PEER_DIED: self.peer_died,
            RELOAD: self.reload,
            NOTIFY.number: self.announced,
            CLOSE_FILE.number: self.close_file,
            KEEP.number: self.keep,
            SWEEP.number: lambda _message: self._janitor.sweep_closing(),
        }
        self._watcher: Watcher
        self._service: Service

    def serve(self, service: Service) -> None:
        """Sweep once, tell the master that the shared state stands, and go on until STOP or the master's end."""

        self._service = service

        def tell(slot: int, kind: int, payload: bytes, generation: int) -> None:
            service.send(slot, kind, payload, generation=generation)

        self._janitor = Janitor(self._sharing, tell, lambda item: self._remover(self._config, item), self._config.oplock_break_timeout)
        self._watcher = Watcher(self._sharing, service, self._config, self._own_pids)
        self._janitor.sweep_dead()
        self._start_keeper(service)
        service.every(SWEEP_EVERY, self._janitor.sweep_dead)
        service.every(SCAVENGE_EVERY, self.scavenge)
        service.every(WATCH_EVERY, self._watcher.refresh)
        service.send(MASTER, READY.number)
        try:
            service.run()
        finally:
            self._watcher.close()
            if self._keeper is not None:
                self._keeper.close()
            self._sharing.close_environment()

    def _start_keeper(self, service: Service) -> None:
        """Where a share is continuously available. With no place to keep opens none is persistent: that is told, and ends nothing else."""
        config = self._config
        if not any(share.continuous_availability for share in config.shares.values()):
            return
        place = os.path.join(config.state_directory, VAULT_DIRECTORY)
        try:
            vault = Vault(place)
            images = vault.images()
        except OSError as error:
            if not self._refused:  # each client that asks has it tried again
                log.error(REFUSED, place, error.strerror)
            self._refused = True
            return
        if self._refused:
            log.warning(KEPT, place)
            self._refused = False
        self._keeper = keeper = Keeper(self._sharing, vault)
        service.watch(keeper.fileno(), keeper.written)
        service.every(COMPARE_EVERY, keeper.compare)
        keeper.load(images, lambda kept: self._finder(self._config, kept))

    def keep(self, message: Message) -> bytes | Deferred | None:
        """KEEP: see the keeper."""
        if self._keeper is None:
            self._start_keeper(self._service)  # the configuration may have come with a reload
        if self._keeper is None:
            return STATUS_ANSWER.pack(status.INSUFFICIENT_RESOURCES) if message.id else None
        return self._keeper.keep(message)

    def peer_died(self, message: Message) -> None:
        """PEER_DIED: sweep after it."""
        peer = PEER.unpack(message.payload)
        self._janitor.sweep(peer.slot, peer.generation)

    def scavenge(self) -> None:
        """[MS-SMB2] 3.3.6.2: end the disconnected opens whose time is over, and those that killed workers have left beyond the limits."""
        self._janitor.scavenge(self._config.max_disconnected_opens_per_user, self._config.max_disconnected_opens)

    def close_file(self, message: Message) -> bytes:
        """CLOSE_FILE of an open that is no worker's."""
        found = self._janitor.end_disconnected(CLOSE_FILE_LAYOUT.unpack(message.payload).file_id)
        return STATUS_ANSWER.pack(status.SUCCESS if found else status.FILE_CLOSED)

    def reload(self, message: Message) -> None:
        """RELOAD: other shares, other folders."""
        self._config = unpack_config(message.payload)
        follow(self._config)
        self._watcher.configure(self._config)
        self._janitor.listings.timeout = self._config.oplock_break_timeout

    def announced(self, message: Message) -> None:
        """NOTIFY: a worker made this change itself and has told everyone."""
        fixed, name, new_name = unpack_notify(message.payload)
        self._watcher.announced(fixed.watch_id, name, new_name)

    def _own_pids(self) -> frozenset[int]:
        """This server's processes: each tells of its changes itself."""
        return frozenset(self._counters.row(slot).words[PID] for slot in range(self._counters.rows))
