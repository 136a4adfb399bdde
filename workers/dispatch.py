"""From a header to a handler: one row per command, and the preconditions that the row names.

Owns: ``resolve`` and ``execute``, and the one place where each kind of error becomes a status.
Invariant: a handler runs only when session, tree and open that its row asks for exist, belong together and grant the access it names.

Three kinds of error end here: ``SmbError`` and ``OSError`` (of the file system) are the response's status, ``WireError`` is
INVALID_PARAMETER; anything else is a bug of ours and passes through to end the worker.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from struct import Struct
from typing import Any, NamedTuple

from pools.layout import Layout, WireError
from pools.pool import PoolExhausted
from smbd.smb2 import status
from smbd.smb2.constants import FLAGS_RELATED_OPERATIONS, FLAGS_REPLAY_OPERATION
from smbd.smb2.header import ERROR_CONTEXT, HEADER_SIZE, error_body
from smbd.smb2.status import SmbError
from workers import identity
from workers.loop import Cancelled
from workers.open import Open
from workers.replay import verify
from workers.request import Answer, Chain, Request
from workers.session import Session, State
from workers.vfs.errors import smb_error

Result = bytes | Answer | Coroutine[Any, None, bytes | Answer]
Handler = Callable[[Request, Any], Result]

FILE_ID = Struct("<QQ")


class Row(NamedTuple):
    """What one command needs before its handler runs. ``file_id`` is the offset of FileId in the body, None when it has none.

    ``structure_size`` 0: the handler tells forms apart itself. ``access``: the open must have at least one of these rights.
    ``optional_open``: FileId may be of no open; the handler sees to it (some FSCTLs). ``modifies``: it is refused when it was overtaken by
    the loss of its channel.
    """

    name: str
    handler: Handler
    layout: Layout[Any]
    structure_size: int
    session: bool = True
    tree: bool = True
    file_id: int | None = None
    access: int = 0
    optional_open: bool = False
    modifies: bool = False


ERRORS = (SmbError, WireError, OSError, PoolExhausted, Cancelled)


def answer_of(error: BaseException, request: Request) -> Answer:
    """The error response for one of ``ERRORS``."""
    if request.worker.log.isEnabledFor(logging.DEBUG):
        request.worker.log.debug("command %d, message %d: %r", request.header.command, request.header.message_id, error)
    if isinstance(error, SmbError):
        return Answer(_error_body(error.data, request), error.status)
    if isinstance(error, WireError):
        code = status.INVALID_PARAMETER
    elif isinstance(error, PoolExhausted):
        code = status.INSUFFICIENT_RESOURCES
    elif isinstance(error, Cancelled):
        code = status.CANCELLED
    else:
        assert isinstance(error, OSError)
        code = smb_error(error).status
    return Answer(error_body(), code)


def _error_body(data: bytes, request: Request) -> bytes:
    """2.2.2: in 3.1.1 ErrorData is a chain of error contexts, here one with the default id."""
    dialect = request.line.connection.dialect
    if not data or dialect is None or not dialect.preauth:
        return error_body(data)
    return error_body(ERROR_CONTEXT.pack(len(data), 0) + data, 1)


def execute(row: Row, request: Request) -> Result:
    """Check the row's preconditions and run its handler to its end or its first wait."""
    try:
        view = request.view
        body = row.layout.unpack(view, HEADER_SIZE)
        if row.structure_size and body[0] != row.structure_size:
            raise WireError(f"{row.name}: StructureSize {body[0]}, expected {row.structure_size}")
        if row.session:
            resolve(row, request)
        return row.handler(request, body)
    except ERRORS as error:
        return answer_of(error, request)


def resolve(row: Row, request: Request) -> None:
    """Find session, tree and open for ``request``, inheriting from the chain where the element is related."""
    chain = request.chain
    related = bool(request.header.flags & FLAGS_RELATED_OPERATIONS)
    if related and (chain is None or chain.session_id is None):
        raise SmbError(status.INVALID_PARAMETER)
    session_id = chain.session_id if related and chain is not None else request.header.session_id
    session = request.session = find_session(request, session_id)
    if chain is not None:
        chain.session_id = session_id
    if not row.tree:
        return
    tree_id = request.header.tree_id
    if related and chain is not None:
        if chain.tree_id is None:
            raise SmbError(status.INVALID_PARAMETER)
        tree_id = chain.tree_id
    tree = session.trees.get(tree_id)
    if tree is None:
        raise SmbError(status.NETWORK_NAME_DELETED)
    if tree.encrypt and not request.encrypted:
        raise SmbError(status.ACCESS_DENIED)  # 3.3.5.2.11
    request.tree = tree
    if chain is not None:
        chain.tree_id = tree_id
    if row.file_id is not None:
        resolve_open(row, request, chain if related else None)
    if tree.identity is not None:
        identity.assume(tree.identity)


def find_session(request: Request, session_id: int | None) -> Session:
    """[MS-SMB2] 3.3.5.2.9: a session of this line. Of another line's, one that has no channel here, this one knows nothing."""
    session = request.worker.sessions.get(session_id) if session_id is not None else None
    if session is None or session.state is State.IN_PROGRESS or request.line not in session.channels:
        raise SmbError(status.USER_SESSION_DELETED)
    if session.state is State.EXPIRED:
        raise SmbError(status.NETWORK_SESSION_EXPIRED)
    return session


def resolve_open(row: Row, request: Request, chain: Chain | None) -> None:
    """The Open by FileId, or the chain's ([MS-SMB2] 3.3.5.2.10, 3.3.5.2.7.2)."""
    assert row.file_id is not None
    persistent, volatile = FILE_ID.unpack_from(request.view, HEADER_SIZE + row.file_id)
    found: Open | None
    if chain is not None and chain.open is not None:
        found = chain.open
    elif chain is not None and status.is_error(chain.status):
        raise SmbError(chain.status)
    else:
        found = request.worker.opens.get(volatile)
        if found is None or found.persistent != persistent:
            if row.optional_open:
                return
            raise SmbError(status.FILE_CLOSED)
    if request.worker.opens.get(found.volatile) is not found or found.tree is not request.tree:
        raise SmbError(status.FILE_CLOSED)
    if row.access and not found.granted & row.access:
        raise SmbError(status.ACCESS_DENIED)
    request.open = found
    header = request.header
    if header.status != found.usual or header.flags & FLAGS_REPLAY_OPERATION:
        verify(request, found, modifies=row.modifies)
    if request.chain is not None:
        request.chain.open = found
