"""The authenticator's process: ``main(child)`` and its message table.

Owns: the answer to every kind in authd.messages. Invariant: the table is the permit: a kind that is not in it, or a record that does not
parse, ends its sender. A refusal waits its delay on a timer, so one client's wrong password holds nobody else up.
"""

from __future__ import annotations

import functools
import logging
import secrets
import time
from collections.abc import Callable

from authd.acceptor import TargetNames
from authd.conversation import Conversations, Gate, Key, Policy
from authd.directory import Directory
from authd.identity import Identities, UserMap
from authd.limits import Limiter
from authd.messages import (
    AUTHENTICATE,
    CONFIRM,
    CONFIRM_REQUEST,
    FORGET,
    FORGET_REQUEST,
    Confirm,
    pack_confirmed,
    pack_step,
    proof_of,
    unpack_authenticate,
)
from authd.proofs import Proof, Proofs
from authd.users import UserDatabase
from pools.port import sandbox, sockets
from pools.queue import PEER, PEER_DIED, RELOAD, Deferred, Endpoint, Handler, Message, Service
from smbd.accounts import LIST_USERS, LOOKUP_NAMES, LOOKUP_SIDS, PAGE, IdMap, machine_sid, pack_accounts, pack_users, unpack_texts
from smbd.child import Child
from smbd.config import Config
from smbd.config_messages import unpack_config
from smbd.log import follow

log = logging.getLogger("authd")

After = Callable[[float, Callable[[], None]], None]


def gate_for(config: Config, secret: bytes, limiter: Limiter) -> Gate:
    """What the configuration says about logons. OSError when the state directory or the username map cannot be read."""
    name = config.netbios_name.upper()
    dns = sockets.host_name().lower()
    domains = frozenset() if config.accept_any_domain else frozenset({"", ".", config.workgroup.casefold(), name.casefold()})
    limiter.delay = config.failed_logon_delay
    return Gate(
        database=UserDatabase(config.smb_passwd_file),
        identities=Identities(IdMap(machine_sid(config.state_directory), name), config.guest_account),
        names=TargetNames(name, config.workgroup.upper(), dns, dns.partition(".")[2]),
        limiter=limiter,
        secret=secret,
        policy=Policy(config.map_to_guest, domains, config.restrict_anonymous < 2),
        user_map=UserMap(config.username_map) if config.username_map else None,
    )


class Authenticator:
    """Answers messages. ``after``, set before the first message, calls something back later; the clock counts seconds."""

    after: After

    def __init__(self, config: Config, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._secret = secrets.token_bytes(16)
        self._limiter = Limiter(config.failed_logon_delay)
        self._conversations = Conversations(gate_for(config, self._secret, self._limiter), config.session_setup_timeout)
        self._proofs = Proofs()

    def handlers(self) -> dict[int, Handler]:
        """The message table."""
        return {
            AUTHENTICATE.number: self.authenticate,
            FORGET.number: self.forget,
            CONFIRM.number: self.confirm,
            LOOKUP_NAMES.number: self.lookup_names,
            LOOKUP_SIDS.number: self.lookup_sids,
            LIST_USERS.number: self.list_users,
            PEER_DIED: self.peer_died,
            RELOAD: self.reload,
        }

    def authenticate(self, message: Message) -> bytes | Deferred:
        """AUTHENTICATE: one step, or its refusal after the delay."""
        number, token, address = unpack_authenticate(message.payload)
        key = Key(message.sender, message.generation, number)
        outcome = self._conversations.step(key, token, address, self._clock())
        who = outcome.step.identity
        if who is not None and not who.guest and not who.anonymous:
            self._proofs.note(Proof(*key[:2], proof_of(outcome.step.session_key)), who, self._clock())
        answer = pack_step(outcome.step)
        if not outcome.delay:
            return answer
        deferred = Deferred()
        self.after(outcome.delay, functools.partial(deferred.answer, answer))
        return deferred

    def forget(self, message: Message) -> None:
        """FORGET: the client went away."""
        (number,) = FORGET_REQUEST.unpack(message.payload)
        self._conversations.forget(Key(message.sender, message.generation, number))

    def confirm(self, message: Message) -> bytes:
        """CONFIRM: what a worker says of itself is nothing that another one has to believe."""
        asked: Confirm = CONFIRM_REQUEST.unpack(message.payload)
        return pack_confirmed(self._proofs.take(Proof(*asked), self._clock()))

    def peer_died(self, message: Message) -> None:
        """PEER_DIED: its conversations with it."""
        slot, generation = PEER.unpack(message.payload)
        self._conversations.drop_peer(slot, generation)
        self._proofs.drop_peer(slot, generation)

    def lookup_names(self, message: Message) -> bytes:
        """LOOKUP_NAMES."""
        directory = self._directory()
        return pack_accounts([directory.by_name(name) for name in unpack_texts(message.payload)])

    def lookup_sids(self, message: Message) -> bytes:
        """LOOKUP_SIDS."""
        directory = self._directory()
        return pack_accounts([directory.by_sid(sid) for sid in unpack_texts(message.payload)])

    def list_users(self, message: Message) -> bytes:
        """LIST_USERS from a start on."""
        start, _ = PAGE.unpack(message.payload)
        return pack_users(start, self._directory().users())

    def reload(self, message: Message) -> None:
        """RELOAD: the new configuration, parsed and checked by the master, counts for the next logon."""
        config = unpack_config(message.payload)
        follow(config)
        try:
            self._conversations.gate = gate_for(config, self._secret, self._limiter)
        except (OSError, ValueError) as error:
            log.error("the new configuration is not used for logons: %s", error)

    def expire(self) -> None:
        """Drop conversations that came to no end, and what is known of old ones; called now and then."""
        self._conversations.expire(self._clock())
        self._proofs.expire(self._clock())

    def _directory(self) -> Directory:
        gate = self._conversations.gate
        return Directory(gate.identities.ids, gate.database)


def main(child: Child) -> None:
    """Serve until the master stops it or is gone."""
    sandbox.write_no_core()  # a core file would hold the hashes
    authenticator = Authenticator(child.config)
    service = Service(Endpoint(child.hub), authenticator.handlers(), child.counters.row(child.slot))
    authenticator.after = service.after
    service.every(5.0, authenticator.expire)
    service.run()
