"""The file of an open that outlived the server: found again by its name.

Owns: the way from what was kept of a persistent open to its file beneath its share. Invariants: only the very same file will do: inode and
time of birth; its device may have another number by now. A folder whose path was made for a client (%-macros) is looked into as the open's
user, for such a path is not the administrator's own word. The broker runs it.
"""

from __future__ import annotations

import errno

from smbd.config import Config
from smbd.config.access import find as find_share
from smbd.config.macros import may_give
from smbd.sharing import FileKey
from smbd.sharing.images import Kept
from smbd.smb2.names import EXACT, Path
from workers import identity
from workers.admission import home_of
from workers.doomed import asker
from workers.reliable import birth_of
from workers.vfs.posix import PosixVfs


def find(config: Config, kept: Kept) -> FileKey:
    """``OSError`` when it is not there any more, or its share is not, or may not be entered."""
    share = find_share(config, kept.share, kept.share, home_of)
    if share is None:
        raise OSError(errno.ESTALE, "there is no such share any more", kept.share)
    if "%" not in share.path:
        return _look(share.path, kept)
    if not may_give(share.path, kept.root):
        raise OSError(errno.ESTALE, "the share has other folders now", kept.share)
    before = identity.current()
    try:
        identity.assume(asker(kept.uid, kept.gid))
        return _look(kept.root, kept)
    finally:
        identity.assume(before)


def _look(root: str, kept: Kept) -> FileKey:
    vfs = PosixVfs(root)
    try:
        kind = EXACT if kept.exact else ""
        handle = vfs.open(Path(tuple(kept.path.split("/")) if kept.path else (), kept.stream, kind))
        try:
            if handle.key[1] != kept.ino or birth_of(handle) != kept.birth:
                raise FileNotFoundError(errno.ENOENT, "another file has this name now", kept.path)
            return FileKey(*handle.key)
        finally:
            handle.close()
    finally:
        vfs.close()
