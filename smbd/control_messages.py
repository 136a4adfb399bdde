"""What the ``millpond`` command asks of a running server: a socket in the lock directory, one order and its outcome a connection.

Owns: the socket's name and both records. The socket belongs to the server's user and is of mode 0600: who may open it may also kill the
server. srvsvc listens, for managing the server is its work; what is to be ended is ended by the worker that has it.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

from pools.layout import U32, U64, Layout

CONTROL_SOCKET = "control"


class Verb(IntEnum):
    """What to do with the thing whose id is given."""

    END_SESSION = 1
    CLOSE_OPEN = 2


class Outcome(IntEnum):
    """What came of it."""

    DONE = 0
    UNKNOWN = 1
    """There is no such thing (any more)."""
    UNANSWERED = 2
    """Its worker did not answer, or would not."""


class Order(NamedTuple):
    """``verb`` is a Verb; ``id`` a SessionId, or an open's persistent FileId."""

    verb: U32
    reserved: U32
    id: U64


class Report(NamedTuple):
    """``outcome`` is an Outcome."""

    outcome: U32


ORDER = Layout(Order)
REPORT = Layout(Report)
