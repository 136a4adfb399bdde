"""TREE_CONNECT and TREE_DISCONNECT: [MS-SMB2] 2.2.9 to 2.2.12, 3.3.5.7, 3.3.5.8."""

from __future__ import annotations

from collections.abc import Coroutine
from functools import partial
from time import monotonic
from typing import Any

from smbd.smb2 import status
from smbd.smb2.constants import (
    CAP_PERSISTENT_HANDLES,
    SHARE_CAP_CONTINUOUS_AVAILABILITY,
    SHARE_CAP_DFS,
    SHARE_TYPE_DISK,
    SHARE_TYPE_PIPE,
    SHAREFLAG_ACCESS_BASED_DIRECTORY_ENUM,
    SHAREFLAG_AUTO_CACHING,
    SHAREFLAG_DFS,
    SHAREFLAG_DFS_ROOT,
    SHAREFLAG_ENCRYPT_DATA,
    SHAREFLAG_MANUAL_CACHING,
    SHAREFLAG_NO_CACHING,
    SHAREFLAG_VDO_CACHING,
    TREE_CONNECT_FLAG_EXTENSION_PRESENT,
)
from smbd.smb2.header import HEADER_SIZE
from smbd.smb2.messages.tree import (
    TREE_CONNECT_REQUEST,
    TREE_CONNECT_REQUEST_EXTENSION,
    TREE_CONNECT_RESPONSE,
    TREE_CONNECT_RESPONSE_STRUCTURE_SIZE,
    TREE_DISCONNECT_RESPONSE,
    TREE_DISCONNECT_STRUCTURE_SIZE,
    TreeConnectRequest,
    TreeDisconnectRequest,
)
from smbd.smb2.names import decode
from smbd.smb2.status import SmbError
from workers.admission import admit, can_encrypt, encrypts, open_root
from workers.ending import end_tree
from workers.loop import Completion
from workers.patience import errand, fit, patiently
from workers.request import Request
from workers.tree import TreeConnect

PATH_MINIMUM = HEADER_SIZE + TREE_CONNECT_REQUEST.size
PIPE_ACCESS = 0x001F00A9
CACHING = {
    "manual": SHAREFLAG_MANUAL_CACHING,
    "documents": SHAREFLAG_AUTO_CACHING,
    "programs": SHAREFLAG_VDO_CACHING,
    "disable": SHAREFLAG_NO_CACHING,
}
DISCONNECTED = TREE_DISCONNECT_RESPONSE.pack(TREE_DISCONNECT_STRUCTURE_SIZE, 0)


def tree_connect(request: Request, body: TreeConnectRequest) -> bytes | Coroutine[Any, None, bytes]:
    """Connect the session to a share, if it is there and lets the user in."""
    name = share_name(request, body)
    worker, session = request.worker, request.session
    share = worker.find_share(name, session)
    if share is None or (share.msdfs_proxy and worker.config.host_msdfs):
        raise SmbError(status.BAD_NETWORK_NAME)  # the latter stands elsewhere: clients ask for a referral
    tree = TreeConnect(worker.next_tree_id(), session, share, worker.now())
    tree.encrypt = encrypts(request, share)
    if tree.encrypt and not can_encrypt(request):
        raise SmbError(status.ACCESS_DENIED)  # 3.3.5.7: the client cannot encrypt and the share insists
    tree.maximal_access = PIPE_ACCESS
    if share.kind == "pipe":
        return _connected(request, tree)
    path = admit(request.line, tree)
    tree.disk = worker.disk(share, path)
    if tree.disk.slow:
        return patiently(request, _connect_later(request, tree, path))
    begun = monotonic()
    open_root(worker, tree, path)
    tree.disk.held_up(monotonic() - begun)
    return _connected(request, tree)


async def _connect_later(request: Request, tree: TreeConnect, path: str) -> bytes:
    """The share's folder is opened on an errand; the session may have ended meanwhile."""
    worker = request.worker
    try:
        await errand(worker, tree, partial(open_root, worker, tree, path))
        if worker.sessions.get(tree.session.session_id) is not tree.session:
            raise SmbError(status.USER_SESSION_DELETED)
    except BaseException:
        _undo(tree)
        raise
    return _connected(request, tree)


def _undo(tree: TreeConnect) -> None:
    """It is not entered: its folder is closed again."""
    tree.ended = True
    tree.close_when_idle()


def _connected(request: Request, tree: TreeConnect) -> bytes:
    """Enter the tree connect; its response."""
    fit(tree)
    try:
        request.worker.add_tree(tree)
    except BaseException:
        _undo(tree)
        raise
    request.answer_tree = tree.tree_id
    if request.chain is not None:
        request.chain.tree_id = tree.tree_id
    kind = SHARE_TYPE_PIPE if tree.share.kind == "pipe" else SHARE_TYPE_DISK
    dfs = tree.is_dfs(request.worker.config)
    flags = share_flags(tree) | (SHAREFLAG_DFS | SHAREFLAG_DFS_ROOT if dfs else 0)
    about = flags, capabilities(request, tree) | (SHARE_CAP_DFS if dfs else 0), tree.maximal_access
    return TREE_CONNECT_RESPONSE.pack(TREE_CONNECT_RESPONSE_STRUCTURE_SIZE, kind, 0, *about)


def share_name(request: Request, body: TreeConnectRequest) -> str:
    r"""The share in ``\\server\share``. The server part is not compared: clients use every name we have."""
    offset = body.path_offset
    dialect = request.line.connection.dialect
    if body.flags & TREE_CONNECT_FLAG_EXTENSION_PRESENT and dialect is not None and dialect.preauth:
        TREE_CONNECT_REQUEST_EXTENSION.unpack(request.view, PATH_MINIMUM)
        offset += PATH_MINIMUM  # 2.2.9: then the offset counts from the end of this structure
    raw = request.variable(offset, body.path_length, PATH_MINIMUM)
    if len(raw) & 1:
        raise SmbError(status.INVALID_PARAMETER)
    path = decode(raw)
    parts = path.split("\\")
    if len(parts) != 4 or parts[0] or parts[1] or not parts[3]:
        raise SmbError(status.BAD_NETWORK_NAME)
    return parts[3]


def share_flags(tree: TreeConnect) -> int:
    """2.2.10 ShareFlags."""
    flags = CACHING.get(tree.share.csc_policy, SHAREFLAG_MANUAL_CACHING) if not tree.is_pipe else 0
    if tree.encrypt:
        flags |= SHAREFLAG_ENCRYPT_DATA
    if tree.share.hide_unreadable and not tree.is_pipe:
        flags |= SHAREFLAG_ACCESS_BASED_DIRECTORY_ENUM
    return flags


def capabilities(request: Request, tree: TreeConnect) -> int:
    """2.2.10 Capabilities."""
    choice = request.line.connection.choice
    persistent = choice is not None and choice.capabilities & CAP_PERSISTENT_HANDLES and tree.share.continuous_availability
    return SHARE_CAP_CONTINUOUS_AVAILABILITY if persistent else 0


def tree_disconnect(request: Request, body: TreeDisconnectRequest) -> bytes | Coroutine[Any, None, bytes]:
    """End the tree connect and its opens."""
    request.worker.cancel_tree(request.tree)
    done = end_tree(request.worker, request.tree)
    return DISCONNECTED if done is None else patiently(request, _disconnected(done))


async def _disconnected(done: Completion[None]) -> bytes:
    await done
    return DISCONNECTED
