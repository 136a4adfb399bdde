"""DFS referrals: FSCTL_DFS_GET_REFERRALS and _EX ([MS-SMB2] 3.3.5.15.2, [MS-DFSC] 3.2.5).

Owns: the way from a name to the shares that stand behind it. Namespaces are shares with ``msdfs root``; their links are Samba's, symlinks
``msdfs:server\\share``, and a whole share may stand for another one (``msdfs proxy``). Invariant: a referral tells nobody what the share
would not tell him by the same way: neither the user, nor in the clear.
"""

from __future__ import annotations

import random
from collections.abc import Coroutine
from functools import partial
from typing import Any

from smbd.config import Share
from smbd.smb2 import status
from smbd.smb2.fscc import reparse
from smbd.smb2.messages.dfs import Asked, Referral, pack, read_request, read_request_ex
from smbd.smb2.names import Path, parse_text
from smbd.smb2.status import SmbError
from workers.admission import admit, can_encrypt, insists_on_encryption, open_root
from workers.patience import errand, fit, patiently
from workers.request import Request
from workers.tree import TreeConnect
from workers.vfs.interface import LinkMet

TIME_TO_LIVE = 600  # seconds
MOST_TARGETS = 64
MOST_COMPONENTS = 256
LONGEST_NAME = 16384  # characters: what is told of it is found by offsets of 16 bits

Output = bytes | tuple[bytes, int]


def get_referrals(request: Request, data: memoryview, max_output: int) -> Output | Coroutine[Any, None, Output]:
    """The older form of the request."""
    _check_here(request)
    return _answer(request, read_request(data), max_output)


def get_referrals_ex(request: Request, data: memoryview, max_output: int) -> Output | Coroutine[Any, None, Output]:
    """The newer one."""
    _check_here(request)
    return _answer(request, read_request_ex(data), max_output)


def _check_here(request: Request) -> None:
    if not request.worker.config.host_msdfs:
        raise SmbError(status.FS_DRIVER_REQUIRED)


def _answer(request: Request, asked: Asked, room: int) -> Output | Coroutine[Any, None, Output]:
    if not asked.level:
        raise SmbError(status.INVALID_PARAMETER)
    parts = asked.name.strip("\\").split("\\")
    if len(asked.name) > LONGEST_NAME or not 2 <= len(parts) <= MOST_COMPONENTS or "" in parts:
        raise SmbError(status.NOT_FOUND)  # a domain's, or its controllers': this is none
    share = request.worker.find_share(parts[1], request.session)
    if share is None or not (share.msdfs_root or share.msdfs_proxy):
        raise SmbError(status.NOT_FOUND)
    root = _path(parts[:2])
    _check_encryption(request, share, beneath=bool(share.msdfs_proxy) or len(parts) > 2)
    if share.msdfs_proxy:
        return _packed(asked, Referral(root, _targets(share.msdfs_proxy, share), False, TIME_TO_LIVE), room)
    itself = Referral(root, (root,), True, TIME_TO_LIVE)
    if len(parts) == 2:
        return _packed(asked, itself, room)
    return patiently(request, _look_up(request, (share, asked, itself), parts, room))


def _check_encryption(request: Request, share: Share, *, beneath: bool) -> None:
    """As at a tree connect (3.3.5.7) and at the requests that follow it (3.3.5.2.11): that there is a share that insists on encryption, who
    could use it hears in the clear too; what is in it does not leave in the clear. IPC$, by which referrals come, insists on nothing.
    """
    if insists_on_encryption(request.worker.config, share) and not (request.encrypted if beneath else can_encrypt(request)):
        raise SmbError(status.ACCESS_DENIED)


def _path(parts: list[str]) -> str:
    return "\\" + "\\".join(parts)


def _packed(asked: Asked, referral: Referral, room: int) -> Output:
    """[MS-DFSC] 3.2.5.5: what has no room is asked for again with more."""
    if not referral.targets:
        raise SmbError(status.NOT_FOUND)
    packed = pack(referral, asked.level, room)
    return (b"", status.BUFFER_OVERFLOW) if packed is None else packed


async def _look_up(request: Request, wanted: tuple[Share, Asked, Referral], parts: list[str], room: int) -> Output:
    """The link that the name leads to or through, seen as the session's user, on an errand: the share need not be connected."""
    share, asked, itself = wanted
    worker = request.worker
    path = parse_text("\\".join(parts[2:]))
    tree = TreeConnect(0, request.session, share, worker.now())
    folder = admit(request.line, tree)
    tree.disk = worker.disk(share, folder)
    try:
        met = await errand(worker, tree, partial(_first_link, request, tree, folder, path))
    finally:
        tree.ended = True
        tree.close_when_idle()
    if met is None:
        return _packed(asked, itself, room)
    targets = _targets(reparse.parse_dfs(met.data), share)
    return _packed(asked, Referral(_path(parts[: 2 + met.depth]), targets, False, TIME_TO_LIVE), room)


def _first_link(request: Request, tree: TreeConnect, folder: str, path: Path) -> LinkMet | None:
    """On a VFS thread. What stops the path, if that is a DFS link."""
    open_root(request.worker, tree, folder)
    fit(tree)
    assert tree.vfs is not None
    try:
        tree.vfs.open(path).close()
    except LinkMet as met:
        return met if reparse.tag_of(met.data) == reparse.TAG_DFS else None
    except (OSError, SmbError):
        return None
    return None


def _targets(text: str, share: Share) -> tuple[str, ...]:
    r"""``server\share,other/share``: of each, at least a server and a share."""
    found = []
    for one in text.split(",")[:MOST_TARGETS]:
        parts = one.strip().replace("/", "\\").strip("\\").split("\\")
        if len(parts) >= 2 and all(parts):
            found.append(_path(parts))
    if share.msdfs_shuffle_referrals:
        random.shuffle(found)
    return tuple(found)
