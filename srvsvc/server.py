"""What operations work with: the configuration, the tables of sessions and opens, the accounts, and one association's handles.

Owns: ``Backend`` (what the service must provide) and ``Server`` (one per pipe). Invariant: a context handle is valid on the association
that made it and only with the kind of object it was made for.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from smbd.accounts import Account, IdMap, UserRecord
from smbd.config import Config
from smbd.sharing import OpenRow, SessionRecord, TreeRecord
from srvsvc import pdu
from srvsvc.association import RpcFault
from srvsvc.messages import Caller

MAX_HANDLES = 256
NULL_HANDLE = bytes(20)


class Backend(Protocol):
    """The world outside the pipe."""

    @property
    def config(self) -> Config: ...

    @property
    def ids(self) -> IdMap: ...

    def sessions(self) -> Sequence[SessionRecord]: ...

    def trees(self) -> Sequence[TreeRecord]: ...

    def opens(self) -> Sequence[OpenRow]: ...

    def close_open(self, row: OpenRow) -> bool: ...

    def close_session(self, record: SessionRecord) -> bool: ...

    def lookup_names(self, names: Sequence[str]) -> list[Account]: ...

    def lookup_sids(self, sids: Sequence[str]) -> list[Account]: ...

    def users(self) -> list[UserRecord]: ...

    def now(self) -> float: ...


class Handle(NamedTuple):
    """What a context handle stands for: ``kind`` policy, server, domain or user; ``subject`` a domain's or user's SID text."""

    kind: str
    subject: str = ""


class Server:
    """One association's view."""

    __slots__ = ("_handles", "backend", "caller")

    def __init__(self, backend: Backend, caller: Caller) -> None:
        self.backend = backend
        self.caller = caller
        self._handles: dict[bytes, Handle] = {}

    def open_handle(self, handle: Handle) -> bytes:
        """A new context handle; NULL_HANDLE when there are too many."""
        if len(self._handles) >= MAX_HANDLES:
            return NULL_HANDLE
        name = bytes(4) + secrets.token_bytes(16)
        self._handles[name] = handle
        return name

    def handle(self, name: bytes, *kinds: str) -> Handle:
        """What ``name`` stands for; a fault when it is not one of ``kinds`` ([C706] 5.1.6: the run-time checks context handles)."""
        found = self._handles.get(name)
        if found is None or found.kind not in kinds:
            raise RpcFault(pdu.CONTEXT_MISMATCH)
        return found

    def close_handle(self, name: bytes) -> None:
        """Forget a handle; a fault when there is none."""
        if self._handles.pop(name, None) is None:
            raise RpcFault(pdu.CONTEXT_MISMATCH)
