"""Tree connects ([MS-SMB2] 3.3.1.9): a session's use of one share.

Owns: the share's settings as they were at connect, the VFS stack beneath it and the identity its requests run under.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from workers.disk import Disk
from workers.loop import Completion

if TYPE_CHECKING:
    from smbd.config import Config, Share
    from smbd.smb2.dtyp import Token
    from workers.identity import Identity
    from workers.session import Session
    from workers.vfs.interface import Vfs


_NO_DISK = Disk("", lambda _: None)


class TreeConnect:
    """``vfs`` is None for IPC$: its names are pipes. ``forced`` replaces the session's token (``force user``)."""

    __slots__ = (
        "_quiet",
        "delays",
        "disk",
        "encrypt",
        "ended",
        "errands",
        "forced",
        "identity",
        "in_flight",
        "maximal_access",
        "path",
        "read_only",
        "rights",
        "rights_of",
        "session",
        "share",
        "slow",
        "started",
        "tree_id",
        "vfs",
    )

    def __init__(self, tree_id: int, session: Session, share: Share, started: int) -> None:
        self.tree_id = tree_id
        self.session = session
        self.share = share
        self.forced: Token | None = None
        self.started = started
        self.path = ""  # of the share's folder, as it is for this client
        self.vfs: Vfs | None = None
        self.identity: Identity | None = None
        self.maximal_access = 0
        # By descriptor, or by uid, gid, mode and kind: what they give ``rights_of``.
        self.rights: dict[tuple[int, int, int, bool] | bytes, int] = {}
        self.rights_of: Token | None = None
        self.read_only = False
        self.delays = share.write_time_delay > 0  # see workers.writetimes
        self.encrypt = False
        self.disk = _NO_DISK
        self.slow = False  # as its disk is: requests that touch it go on errands
        self.errands = 0  # requests that are on one, or wait for their turn
        self._quiet: Completion[None] | None = None
        self.in_flight = 0  # calls on VFS threads that use files of it
        self.ended = False

    def begin_errand(self) -> None:
        """A request has come that goes on an errand."""
        self.errands += 1
        self.disk.errands += 1

    def end_errand(self) -> None:
        """It is over."""
        self.errands -= 1
        self.disk.errands -= 1
        quiet, self._quiet = (None, self._quiet) if self.errands else (self._quiet, None)
        if quiet is not None:
            quiet.finish(None)
        self.close_when_idle()

    async def quiet(self) -> None:
        """Wait until no errand is under way. Only whoever ends the tree connect asks, once no request finds it any more."""
        while self.errands:
            self._quiet = Completion()
            await self._quiet

    def close_when_idle(self) -> None:
        """Close the share's root once the tree connect has ended and no thread works beneath it any more."""
        if self.ended and not self.in_flight and not self.errands and self.vfs is not None:
            self.vfs.close()
            self.vfs = None

    @property
    def token(self) -> Token:
        """Who acts on this share."""
        return self.forced or self.session.require_token()

    def is_dfs(self, config: Config) -> bool:
        """TreeConnect.Share.IsDfs: it is a namespace."""
        return self.share.msdfs_root and config.host_msdfs

    @property
    def is_pipe(self) -> bool:
        """Whether this is IPC$."""
        return self.vfs is None
