"""The file of an open that outlived the server: found again by its name.

Owns: the way from what was kept of a persistent open to its file beneath its share. Invariant: only the very same file will do: inode and
time of birth; its device may have another number by now. The broker runs it.
"""

from __future__ import annotations

import errno

from smbd.config import Config
from smbd.sharing import FileKey
from smbd.sharing.images import Kept
from smbd.smb2.names import Path
from workers.reliable import birth_of
from workers.vfs.posix import PosixVfs


def find(config: Config, kept: Kept) -> FileKey:
    """``OSError`` when it is not there any more, or its share is not."""
    share = config.share(kept.share)
    if share is None or "%" in share.path:
        raise OSError(errno.ESTALE, "the share's folder is not known", kept.share)
    vfs = PosixVfs(share.path)
    try:
        handle = vfs.open(Path(tuple(kept.path.split("/")) if kept.path else (), kept.stream))
        try:
            if handle.key[1] != kept.ino or birth_of(handle) != kept.birth:
                raise FileNotFoundError(errno.ENOENT, "another file has this name now", kept.path)
            return FileKey(*handle.key)
        finally:
            handle.close()
    finally:
        vfs.close()
