"""A client's worker, whichever way it was started: its parts put together, its life, and what is given back at its end.

Owns: ``Room``, what one worker is given and nobody else has, and the routes of what arrives unasked. Invariant: the client's first byte is
read after everything stands; when ``serve`` returns, nothing of the room is in use by any thread, except views of its arena that a
collection of garbage will find.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
import socket
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial

from authd.client import initial_token
from pools.arena import Arena
from pools.counters import Row
from pools.pool import BufferPool, open_pool
from pools.port import sockets
from pools.queue import MASTER, RELOAD, STOP, AskBusy, Endpoint, HubClosed, Message
from smbd.accounts import IdMap, machine_sid
from smbd.channel_messages import CHANNEL_ASK, CHANNEL_MOVE
from smbd.child import pool_ceiling, pool_plan
from smbd.config import Config
from smbd.lease_messages import LEASE, LEASE_ANSWER, LEASE_ASK, LEASE_RECALL, LEASE_RETURN
from smbd.sharing import Sharing
from smbd.sharing.messages import (
    CLOSE_FILE,
    CLOSE_FILE_LAYOUT,
    CLOSE_SESSION,
    CLOSE_SESSION_LAYOUT,
    LOCK_WAKE,
    LOCK_WAKE_LAYOUT,
    NOTIFY,
    OPLOCK_BREAK,
    PREVIOUS_SESSION,
    STATUS_ANSWER,
    unpack_notify,
)
from smbd.smb2 import status
from smbd.smb2.connection import Connection
from smbd.smb2.constants import (
    CAP_DFS,
    CAP_DIRECTORY_LEASING,
    CAP_LARGE_MTU,
    CAP_LEASING,
    CAP_MULTI_CHANNEL,
    CAP_PERSISTENT_HANDLES,
    CIPHER_AES128_CCM,
    CIPHER_AES128_GCM,
    CIPHER_AES256_CCM,
    CIPHER_AES256_GCM,
    SIGNING_AES_CMAC,
    SIGNING_AES_GMAC,
    SIGNING_HMAC_SHA256,
)
from smbd.smb2.negotiate import NegotiateSettings
from workers import binding, handover
from workers.ending import close_file, end_session
from workers.loop import Loop
from workers.mailbox import Mailbox
from workers.worker import Worker

CIPHERS = {
    "AES-128-GCM": CIPHER_AES128_GCM,
    "AES-128-CCM": CIPHER_AES128_CCM,
    "AES-256-GCM": CIPHER_AES256_GCM,
    "AES-256-CCM": CIPHER_AES256_CCM,
}
SIGNERS = {"AES-128-GMAC": SIGNING_AES_GMAC, "AES-128-CMAC": SIGNING_AES_CMAC, "HMAC-SHA256": SIGNING_HMAC_SHA256}

log = logging.getLogger("millpond.worker")


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What one client's worker has to itself. ``title`` takes the words by which the system shows it, ``unpack`` the payload of RELOAD.

    ``outlived``: its process goes on afterwards, so that nothing may be left to the kernel.
    """

    slot: int
    generation: int
    config: Config
    hub: socket.socket
    client: socket.socket
    address: str
    arena: Arena | None
    row: Row
    sharing: Sharing
    title: Callable[[str], None]
    unpack: Callable[[bytes | memoryview], Config]
    outlived: bool


def serve(room: Room) -> None:
    """Serve one client until it leaves, the master stops us or the connection breaks."""
    loop = Loop(room.config.vfs_threads)
    endpoint = Endpoint(room.hub)
    mailbox = Mailbox(loop, endpoint, loop.stop)
    pool = _pool(room, mailbox)
    ids = id_map(room.config.state_directory, room.config.netbios_name)
    worker = Worker(
        room.config, slot=room.slot, generation=room.generation, loop=loop, pool=pool, row=room.row, sharing=room.sharing, ids=ids
    )
    worker.mailbox = mailbox
    worker.title = room.title
    _route(worker, mailbox, room.unpack)
    client = room.client
    client.setblocking(False)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for word in room.config.socket_options:
        set_socket_option(client, word)
    worker.attach(client, room.address, Connection(negotiate_settings(room.config, ids), secrets.token_bytes))
    try:
        loop.run()
    finally:
        try:
            worker.close()
            pool.close()
        finally:
            left = loop.close(patiently=room.outlived)
            if room.outlived:
                worker.let_go()
            if left:
                log.warning("%s: %d calls of the file system did not end in time", room.address, left)


def set_socket_option(sock: socket.socket, word: str) -> None:
    """One word of ``socket options``: NAME or NAME=NUMBER. One that cannot be set is logged: the client is served without it."""
    name, _, number = word.partition("=")
    option = sockets.OPTIONS.get(name.upper())
    try:
        if option is None:
            raise ValueError(f"one of {', '.join(sockets.OPTIONS)}")
        sock.setsockopt(*option, int(number or 1))
    except (OSError, ValueError) as error:
        log.warning("socket option %s is not set: %s", word, error)


@lru_cache(maxsize=1)
def id_map(state_directory: str, netbios_name: str) -> IdMap:
    """The machine's identity. Read once before the first fork: a worker then has nothing to read."""
    return IdMap(machine_sid(state_directory), netbios_name)


def _pool(room: Room, mailbox: Mailbox) -> BufferPool:
    """The pool on the arena that the master made for this worker; its leases are asked for by message."""

    def ask(class_index: int, slabs: int) -> None:
        try:
            mailbox.send(MASTER, LEASE_ASK.number, LEASE.pack(class_index, slabs, 0))
        except (AskBusy, HubClosed):
            mailbox.soon(lambda: pool.refused(class_index))  # not from within: the pool is in the middle of something

    def give_back(class_index: int, slabs: int) -> None:
        try:
            mailbox.send(MASTER, LEASE_RETURN.number, LEASE.pack(class_index, slabs, 0))
        except (AskBusy, HubClosed):
            log.warning("%d leases of class %d could not be given back; they return when this worker ends", slabs, class_index)

    if room.arena is not None:
        room.arena.map()
    config = room.config
    plan, ceiling = pool_plan(config), pool_ceiling(config)
    pool = open_pool(config.pool_mode, room.arena, room.row, ask, give_back, plan=plan, ceiling=ceiling, decay=config.pool_decay)

    def answered(message: Message) -> None:
        lease = LEASE.unpack(message.payload)
        if lease.slabs:
            pool.granted(lease.class_index, lease.slabs, bool(lease.turn))
        else:
            pool.refused(lease.class_index)

    mailbox.route(LEASE_ANSWER.number, answered)
    mailbox.route(LEASE_RECALL.number, lambda _message: _shed(pool))
    return pool


def _shed(pool: BufferPool) -> None:
    pool.shed()


def _route(worker: Worker, mailbox: Mailbox, unpack: Callable[[bytes | memoryview], Config]) -> None:
    """What may arrive unasked."""

    def lock_wake(message: Message) -> None:
        worker.lock_woken(LOCK_WAKE_LAYOUT.unpack(message.payload).waiter_id)

    def notify(message: Message) -> None:
        fixed, name, new_name = unpack_notify(message.payload)
        worker.notices.deliver(fixed.watch_id, fixed.action, name, new_name)

    def close_session(message: Message) -> None:
        asked = CLOSE_SESSION_LAYOUT.unpack(message.payload)
        session = worker.sessions.get(asked.session_id)
        if session is not None:
            worker.cancel_session(session.session_id)
            end_session(worker, session, lost=asked.reason == PREVIOUS_SESSION)
        code = status.SUCCESS if session is not None else status.USER_SESSION_DELETED
        mailbox.answer(message, STATUS_ANSWER.pack(code))

    def close(message: Message) -> None:
        mailbox.answer(message, STATUS_ANSWER.pack(close_file(worker, CLOSE_FILE_LAYOUT.unpack(message.payload).file_id)))

    mailbox.route(LOCK_WAKE.number, lock_wake)
    mailbox.route(NOTIFY.number, notify)
    mailbox.route(OPLOCK_BREAK.number, worker.breaks.arrived)
    mailbox.route(CLOSE_SESSION.number, close_session)
    mailbox.route(CLOSE_FILE.number, close)
    mailbox.route(CHANNEL_ASK.number, partial(binding.asked, worker))
    mailbox.route(CHANNEL_MOVE.number, partial(handover.arrived, worker))
    mailbox.route(STOP, lambda _message: worker.drain())
    mailbox.route(RELOAD, lambda message: worker.reload(unpack(message.payload)))


def _capabilities(config: Config) -> int:
    capabilities = CAP_LARGE_MTU
    if config.smb2_leases:
        capabilities |= CAP_LEASING | (CAP_DIRECTORY_LEASING if config.smb3_directory_leases else 0)
    if config.server_multi_channel_support:
        capabilities |= CAP_MULTI_CHANNEL
    if config.host_msdfs:
        capabilities |= CAP_DFS
    if any(share.continuous_availability for share in config.shares.values()):
        capabilities |= CAP_PERSISTENT_HANDLES
    return capabilities


def negotiate_settings(config: Config, ids: IdMap) -> NegotiateSettings:
    """What the configuration lets the core offer."""
    ciphers = tuple(CIPHERS[name] for name in config.server_smb3_encryption_algorithms)
    if config.server_smb_encrypt == "off":
        ciphers = ()
    return NegotiateSettings(
        server_guid=hashlib.sha256(f"{ids.machine} {config.netbios_name}".encode()).digest()[:16],
        min_dialect=config.server_min_protocol,
        max_dialect=config.server_max_protocol,
        signing_required=config.server_signing == "mandatory",
        ciphers=ciphers,
        signing_algorithms=tuple(SIGNERS[name] for name in config.server_smb3_signing_algorithms),
        capabilities=_capabilities(config),
        max_transact_size=config.smb2_max_trans,
        max_read_size=config.smb2_max_read,
        max_write_size=config.smb2_max_write,
        max_credits=config.smb2_max_credits,
        security_blob=initial_token(),
        posix=any(share.kind == "disk" and share.smb3_unix_extensions for share in config.shares.values()),
    )
