"""Sessions of one client ([MS-SMB2] 3.3.1.8).

Owns: who is logged on, with which keys, and the tree connects and opens made under it.
Invariant: a session that is not ``VALID`` reaches no share; ``channels`` is empty until its keys exist, and has a line if and only if that
line's connection has the session's channel.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from smbd.smb2.crypto import Channel, PreauthHash
    from smbd.smb2.dtyp import Token
    from workers.line import Line
    from workers.tree import TreeConnect


class State(Enum):
    """[MS-SMB2] 3.3.1.8 Session.State."""

    IN_PROGRESS = auto()
    VALID = auto()
    EXPIRED = auto()


class Session:
    """One authenticated user, or the attempt to become one."""

    __slots__ = (
        "busy",
        "channels",
        "conversation",
        "encrypt",
        "is_anonymous",
        "is_guest",
        "preauth",
        "proven",
        "reauthenticating",
        "session_id",
        "started",
        "state",
        "token",
        "trees",
    )

    def __init__(self, session_id: int, conversation: int, started: int) -> None:
        self.session_id = session_id
        self.conversation = conversation  # of the authenticator; a new one with each reauthentication
        self.started = started  # FILETIME
        self.state = State.IN_PROGRESS
        self.channels: dict[Line, Channel] = {}  # 3.3.1.8 ChannelList, the oldest first
        self.token: Token | None = None
        self.trees: dict[int, TreeConnect] = {}
        self.preauth: PreauthHash | None = None  # while keys are still to be made from it
        self.busy = False  # the authenticator is at work on a step of it
        self.reauthenticating = False
        self.proven: tuple[str, str] | None = None  # name and SID of the user whose logon made the keys; None when there are none
        self.encrypt = False
        self.is_guest = False
        self.is_anonymous = False

    def require_token(self) -> Token:
        """Who acts. A session without a token has no tree to act in."""
        assert self.token is not None
        return self.token
