"""One logon, token by token, and the table of logons in progress.

Owns: the decision who gets in. Invariant: fails closed: whatever is malformed, late, unexpected or unproven ends the conversation, and a
conversation that ended is not continued. No token, however made, raises out of ``step``.

    (absent) --NEGOTIATE or a SPNEGO offer--> CHALLENGED --AUTHENTICATE--> in as user | guest | anonymous, or refused
"""

from __future__ import annotations

import logging
import struct
from collections import OrderedDict
from dataclasses import dataclass
from typing import NamedTuple

from spnego.exceptions import SpnegoError

from authd import ntlm
from authd.acceptor import Acceptor, TargetNames, accept_completed, open_token
from authd.identity import Identities, UserMap
from authd.limits import Limiter
from authd.messages import MAX_TOKEN, MORE_PROCESSING, SUCCESS, Step
from authd.users import User, UserDatabase, UserError
from smbd.config.hosts import source
from smbd.smb2 import status
from smbd.smb2.dtyp.token import Token

log = logging.getLogger("authd")

MALFORMED = (SpnegoError, ValueError, struct.error, LookupError, ArithmeticError, TypeError, StopIteration, RecursionError)
"""What pyspnego's parsers raise for bytes that are no token."""

MAX_ROUNDS = 6
"""Tokens in one conversation: NTLM in SPNEGO needs four at most."""


@dataclass(frozen=True, slots=True)
class Policy:
    """Who is let in. ``domains``: case-folded names a client may give, empty for any. ``map_to_guest``: never, bad_user or bad_password."""

    map_to_guest: str = "never"
    domains: frozenset[str] = frozenset()
    anonymous: bool = True


class Outcome(NamedTuple):
    """A step and the seconds its delivery has to wait."""

    step: Step
    delay: float = 0.0


class Gate(NamedTuple):
    """What all conversations share."""

    database: UserDatabase
    identities: Identities
    names: TargetNames
    limiter: Limiter
    secret: bytes
    policy: Policy = Policy()
    user_map: UserMap | None = None


class Refused(Exception):
    """The logon is over: ``status`` for the client, ``text`` for the log; ``guess`` when it counts as a wrong password."""

    def __init__(self, code: int, text: str, user: str = "", guess: bool = False) -> None:
        super().__init__(code, text)
        self.status = code
        self.text = text
        self.user = user
        self.guess = guess


class Conversation:
    """One client's way to a token."""

    __slots__ = ("_acceptor", "_address", "_gate", "_identity", "_rounds", "_source", "started")

    def __init__(self, gate: Gate, address: str, now: float) -> None:
        self._gate = gate
        self._address = address
        self._source = source(address)
        self._acceptor = Acceptor(gate.names)
        self._identity: Token | None = None
        self._rounds = 0
        self.started = now

    def step(self, token: bytes, now: float) -> Outcome:
        """Take the client's token; any status but MORE_PROCESSING ends the conversation."""
        try:
            return Outcome(self._step(token, now))
        except Refused as refusal:
            # Who guesses at passwords is an administrator's business.
            level = logging.WARNING if refusal.guess else logging.INFO
            log.log(level, "%s: logon refused: %s (%s)", self._address, refusal.text, status.name(refusal.status))
            delay = self._gate.limiter.failed(self._source, refusal.user, now) if refusal.guess else 0.0
            return Outcome(Step(refusal.status, b""), delay)
        except (OSError, UserError) as error:
            log.error("nobody can log on: %s", _one_line(error))
            return Outcome(Step(status.NO_LOGON_SERVERS, b""))
        except MALFORMED as error:
            log.info("%s: logon refused: %s", self._address, _one_line(error))
            proved = self._acceptor.ntlm.base_key is not None
            return Outcome(Step(status.LOGON_FAILURE if proved else status.INVALID_PARAMETER, b""))

    def _step(self, token: bytes, now: float) -> Step:
        self._rounds += 1
        if self._rounds > MAX_ROUNDS or not token or len(token) > MAX_TOKEN:
            raise Refused(status.INVALID_PARAMETER, f"token {self._rounds} of {len(token)} bytes")
        opened = open_token(token)
        if ntlm.message_type(opened.message) == ntlm.AUTHENTICATE and self._identity is None:
            done = self._decide(opened.message, opened.wrapped, now)
            if done is not None:
                return done
        answer = self._acceptor.step(opened.forward) or b""
        if not self._acceptor.complete:
            return Step(MORE_PROCESSING, answer)
        if self._identity is None:
            raise Refused(status.LOGON_FAILURE, "the exchange ended without a proof")
        # A session key is 16 bytes ([MS-NLMP] 3.1.5.1.2); the worker derives everything else from it.
        return Step(SUCCESS, answer, self._acceptor.session_key, self._identity)

    def _decide(self, message: bytes, wrapped: bool, now: float) -> Step | None:
        """The whole answer for a client without a key of its own; None when the acceptor goes on with a proven one."""
        auth = ntlm.parse_authenticate(message)
        challenge = self._acceptor.ntlm.server_challenge
        if not challenge:
            # Most likely an earlier life of this process made the challenge. Clients take LOGON_FAILURE for a wrong password, this not.
            raise Refused(status.NO_LOGON_SERVERS, "AUTHENTICATE without a challenge", auth.user)
        if auth.anonymous:
            if not self._gate.policy.anonymous:
                raise Refused(status.ACCESS_DENIED, "anonymous logon, 'restrict anonymous = 2'")
            # [MS-NLMP] 3.2.5.1.2: the session key is made from zeros; an exchanged key lets clients sign that insist on it.
            self._identity = self._gate.identities.anonymous()
            self._acceptor.ntlm.base_key = ntlm.ZERO_KEY
            return None
        found = self._find(auth)
        wrong_user = found is None
        base_key = None if self._gate.limiter.refuses(self._source, auth.user, now) else self._prove(found, auth, challenge)
        if base_key is None:
            return self._guest_or_refuse(auth, wrong_user, wrapped, now)
        assert found is not None
        if found.disabled:
            raise Refused(status.ACCOUNT_DISABLED, f"{found.name!r} is disabled", found.name)
        self._identity = self._gate.identities.user(found)
        self._acceptor.ntlm.base_key = base_key
        return None

    def _find(self, auth: ntlm.Authenticate) -> User | None:
        """The user a client means; any domain it names is ours, unless the configuration says which are."""
        name, at, realm = auth.user.rpartition("@") if "@" in auth.user and not auth.domain else (auth.user, "", auth.domain)
        if self._gate.policy.domains and realm.casefold() not in self._gate.policy.domains:
            return None
        names: tuple[str, ...] = (auth.user, name) if at else (name,)
        if self._gate.user_map is not None:
            names = tuple(self._gate.user_map.unix_name(one) for one in names)
        return next((user for one in names if (user := self._gate.database.find(one)) is not None), None)

    def _prove(self, found: User | None, auth: ntlm.Authenticate, challenge: bytes) -> bytes | None:
        if found is None or not found.nt_hash:
            ntlm.prove(ntlm.dummy_hash(self._gate.secret, auth.user), auth, challenge)
            return None
        return ntlm.prove(found.nt_hash, auth, challenge)

    def _guest_or_refuse(self, auth: ntlm.Authenticate, wrong_user: bool, wrapped: bool, now: float) -> Step:
        mapped = self._gate.policy.map_to_guest
        if mapped == "bad_password" or (mapped == "bad_user" and wrong_user):
            if not wrong_user:
                self._gate.limiter.failed(self._source, auth.user, now)
            return self._without_key(self._gate.identities.guest(), wrapped)
        what = "no such user" if wrong_user else "wrong password"
        raise Refused(status.LOGON_FAILURE, f"{what}: {auth.domain}\\{auth.user} from {auth.workstation!r}"[:200], auth.user, guess=True)

    def _without_key(self, identity: Token, wrapped: bool) -> Step:
        # A guest proved nothing, so there is no common key and a mechListMIC cannot be checked.
        return Step(SUCCESS, accept_completed() if wrapped else b"", ntlm.ZERO_KEY, identity)


def _one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


class Key(NamedTuple):
    """A conversation's name: the worker, as the hub stamped it, and the worker's number."""

    slot: int
    generation: int
    number: int


class Conversations:
    """All logons in progress: at most ``per_peer`` of one worker, ``in_all`` together, none older than ``lifetime`` seconds."""

    def __init__(self, gate: Gate, lifetime: float = 60.0, per_peer: int = 64, in_all: int = 4096) -> None:
        self.gate = gate
        self._lifetime = lifetime
        self._per_peer = per_peer
        self._in_all = in_all
        self._open: OrderedDict[Key, Conversation] = OrderedDict()
        self._peers: dict[tuple[int, int], int] = {}

    def __len__(self) -> int:
        return len(self._open)

    def step(self, key: Key, token: bytes, address: str, now: float) -> Outcome:
        """Begin or continue ``key`` with ``token``."""
        self.expire(now)
        conversation = self._open.get(key)
        if conversation is None:
            if len(self._open) >= self._in_all or self._peers.get(key[:2], 0) >= self._per_peer:
                log.warning("%s: logon refused: too many at once", address)
                return Outcome(Step(status.INSUFF_SERVER_RESOURCES, b""))
            conversation = Conversation(self.gate, address, now)
            self._open[key] = conversation
            self._peers[key[:2]] = self._peers.get(key[:2], 0) + 1
        outcome = conversation.step(token, now)
        if outcome.step.status != MORE_PROCESSING:
            self.forget(key)
        return outcome

    def forget(self, key: Key) -> None:
        """Drop a conversation; nothing happens when there is none."""
        if self._open.pop(key, None) is not None:
            left = self._peers.pop(key[:2]) - 1
            if left:
                self._peers[key[:2]] = left

    def drop_peer(self, slot: int, generation: int) -> None:
        """The worker died."""
        for key in [key for key in self._open if key[:2] == (slot, generation)]:
            self.forget(key)

    def expire(self, now: float) -> None:
        """Drop what is too old; the table is in order of age."""
        while self._open:
            key, oldest = next(iter(self._open.items()))
            if oldest.started > now - self._lifetime:
                return
            self.forget(key)
