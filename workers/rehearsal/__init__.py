"""A rehearsal: before its first fork the master serves an imaginary client itself, so that every worker begins warm.

Owns: the stage, which is everything that client and its worker need for the moment. Invariant: what is left of it is warmth: no descriptor,
no file, no process, no thread, no change of identity; a server that could not rehearse serves all the same.

What happens for the first time in a process is dear: OpenSSL looks its algorithms up, codecs are imported, CPython specialises bytecode and
fills its caches. Done in each worker it is private memory and processor time of each client; done before the fork it is shared by all.
"""

from __future__ import annotations

import gc
import logging
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from pools import port
from pools.arena import Arena
from pools.counters import CounterSegment
from pools.queue import FIRST_WORKER
from smbd.accounts import IdMap
from smbd.child import SHARING_DIRECTORY, WORKER, Child
from smbd.config import Config, Share
from smbd.sharing import prepare
from smbd.smb2.dtyp import Token
from smbd.smb2.dtyp.sid import EVERYONE
from workers import identity
from workers.main import main
from workers.rehearsal import client
from workers.room import CIPHERS, SIGNERS, id_map

STAGE = "rehearsal"  # in the lock directory
ROUNDS = 12  # CPython specialises a function at its eighth call; a multiple of the client's protections
ARENA_BYTES = 16 << 20
STATE_BYTES = 1 << 20

log = logging.getLogger("millpond.worker")


class _Round(NamedTuple):
    """Both ends of the hub's pair and of the connection for one life of the worker."""

    hub: socket.socket
    master: socket.socket
    served: socket.socket
    client: socket.socket


def rehearse(config: Config) -> bool:
    """Serve the imaginary client; whether all of it went as expected. For the master, while it has one thread and no children.

    ``config``: the server's own; its lock directory must be there.
    """
    before = identity.current()
    rounds: list[_Round] = []
    logging.disable(logging.INFO)  # nobody came, so nobody needs to know who
    gc.freeze()  # the collections below have only to do with what is made here
    try:
        rounds += (_Round(*port.sockets.record_pair(), *port.sockets.stream_pair()) for _ in range(ROUNDS))
        with _stage(os.path.join(config.lock_directory, STAGE)) as place:
            done = _play(_stage_config(config, place), rounds)
        id_map(config.state_directory, config.netbios_name)
    except Exception:
        # Whatever it is, it is not worth the server: workers begin cold, and one that has the same trouble ends alone.
        log.exception("the workers' code could not be warmed up")
        return False
    finally:
        for ends in rounds:
            _close(ends)
        identity.assume(before)
        gc.unfreeze()
        logging.disable(logging.NOTSET)
    if not done:
        log.warning("the workers' code could not be warmed up: the imaginary client was not served as it should be")
    return done


@contextmanager
def _stage(place: str) -> Iterator[str]:
    """A directory for the time being. Whoever holds the lock of the directory above may remove what an earlier server left."""
    port.files.remove_tree(place, ignore_errors=True)
    Path(place).mkdir(0o700)
    try:
        yield place
    finally:
        port.files.remove_tree(place, ignore_errors=True)


def _stage_config(config: Config, place: str) -> Config:
    """The server's configuration with a share of its own and none of the refusals."""
    folder = os.path.join(place, client.SHARE)
    Path(folder).mkdir(0o700)
    administrators = (client.USER,) if port.credentials.effective_uid() == 0 else ()
    share = Share(name=client.SHARE, path=folder, read_only=False, admin_users=administrators)
    return replace(
        config,
        shares={client.SHARE: share},
        lock_directory=place,
        state_directory=place,
        server_min_protocol=client.DIALECT,
        server_max_protocol=client.DIALECT,
        server_signing="auto",
        server_smb_encrypt="default",
        server_smb3_encryption_algorithms=tuple(CIPHERS),
        server_smb3_signing_algorithms=tuple(SIGNERS),
        pool_mode="dynamic",
        socket_options=(),
    )


def _play(config: Config, rounds: Sequence[_Round]) -> bool:
    """Fork the client, then be its worker, once a round."""
    prepare(os.path.join(config.lock_directory, SHARING_DIRECTORY), STATE_BYTES)
    user = _user(id_map(config.state_directory, config.netbios_name))
    pid = port.processes.fork()
    if pid == 0:
        _be_client(rounds, user)
    try:
        for number, ends in enumerate(rounds, 1):
            ends.client.close()
            ends.master.close()
            _serve(config, ends, number)
    finally:
        for ends in rounds:
            _close(ends)  # whatever went wrong here: the client meets the end of its connection
        waited = port.processes.wait(pid)
    return waited == 0


def _user(ids: IdMap) -> Token:
    """Whoever runs the server: nobody else's identity has to be taken on."""
    uid, gid, _ = port.credentials.effective()
    return Token(ids.user_sid(uid), (ids.group_sid(gid), EVERYONE), uid=uid, gid=gid, name=client.USER, domain="WORKGROUP")


def _be_client(rounds: Sequence[_Round], user: Token) -> None:
    """The client's whole life. Never returns."""
    code = 1
    try:
        for ends in rounds:
            ends.served.close()
            ends.hub.close()
        for number, ends in enumerate(rounds):
            client.visit(ends.client, ends.master, user, number)
        code = 0
    except (OSError, ValueError, EOFError) as error:
        log.warning("the imaginary client: %s", error)
    finally:
        port.processes.exit_now(code)


def _serve(config: Config, ends: _Round, generation: int) -> None:
    """One life of a worker, in this process. What fails leaves its memory mapped: the traceback holds it."""
    counters = CounterSegment.create(None, FIRST_WORKER + 1)
    arena = Arena.create(ARENA_BYTES)
    main(Child(WORKER, FIRST_WORKER, generation, config, ends.hub, counters, arena, ends.served))
    gc.collect()  # the views of both, before they are unmapped
    arena.close()
    counters.close()


def _close(ends: _Round) -> None:
    for one in ends:
        one.close()
