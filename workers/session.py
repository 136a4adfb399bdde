"""Sessions of one client ([MS-SMB2] 3.3.1.8), and the exchanges by which they come to be.

Owns: who is logged on, with which keys, and the tree connects and opens made under it.
Invariant: a session that is not ``VALID`` reaches no share; ``channels`` is empty until its keys exist, and has a line if and only if that
line's connection has the session's channel.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from smbd.smb2.connection import Connection
    from smbd.smb2.crypto import Channel, PreauthHash
    from smbd.smb2.dtyp import Token
    from workers.line import Line
    from workers.tree import TreeConnect


class State(Enum):
    """[MS-SMB2] 3.3.1.8 Session.State."""

    IN_PROGRESS = auto()
    VALID = auto()
    EXPIRED = auto()


class Terms(NamedTuple):
    """What was negotiated on a connection, as far as it matters to the sessions on it."""

    dialect: int
    signing_id: int
    cipher_id: int
    client_guid: bytes


def terms_of(connection: Connection) -> Terms:
    """Of a connection that has been negotiated."""
    choice = connection.choice
    assert choice is not None
    assert choice.dialect is not None
    return Terms(choice.dialect.number, choice.signing_id, choice.cipher_id, choice.client_guid)


class Session:
    """One authenticated user, or the attempt to become one."""

    __slots__ = (
        "channels",
        "encrypt",
        "first",
        "is_anonymous",
        "is_guest",
        "proven",
        "session_id",
        "started",
        "state",
        "terms",
        "token",
        "trees",
    )

    def __init__(self, session_id: int, started: int) -> None:
        self.session_id = session_id
        self.started = started  # FILETIME
        self.state = State.IN_PROGRESS
        self.channels: dict[Line, Channel] = {}  # 3.3.1.8 ChannelList, the oldest first
        self.first: Channel | None = None  # has Session.SigningKey and the cipher, whatever became of its line
        self.terms = Terms(0, 0, 0, bytes(16))  # of the connection that it was set up on; its leases belong to this client GUID
        self.token: Token | None = None
        self.trees: dict[int, TreeConnect] = {}
        self.proven: tuple[str, str] | None = None  # name and SID of the user whose logon made the keys; None when there are none
        self.encrypt = False
        self.is_guest = False
        self.is_anonymous = False

    def require_token(self) -> Token:
        """Who acts. A session without a token has no tree to act in."""
        assert self.token is not None
        return self.token


class Logon:
    """An exchange of SESSION_SETUPs that is under way on one line: a new session's, another one of an old session, or one that binds it.

    ``conversation``: the authenticator's number for it. ``preauth``: of Connection.PreauthSessionTable, while keys are to be made from it.
    ``busy``: the authenticator is at work on a step.
    """

    __slots__ = ("binding", "busy", "conversation", "preauth", "session")

    def __init__(self, session: Session, conversation: int, *, binding: bool = False) -> None:
        self.session = session
        self.conversation = conversation
        self.binding = binding
        self.preauth: PreauthHash | None = None
        self.busy = False

    @property
    def again(self) -> bool:
        """Whether the session authenticates anew."""
        return not self.binding and self.session.state is not State.IN_PROGRESS
