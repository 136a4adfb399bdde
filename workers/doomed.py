"""Deleting what a dead process's last open left to be deleted.

Owns: the way from a record of the shared state to the file beneath its share. Invariant: only the very file, directory or stream of the
record is deleted, by the file system module that its share uses, with the rights of the user who asked for the deletion.
"""

from __future__ import annotations

import errno
import pwd

from pools.port import credentials
from smbd.config import Config
from smbd.sharing import NOBODY, Doomed, FileKey
from smbd.sharing.values import Deletion
from smbd.smb2.names import Path
from workers import identity
from workers.identity import Identity
from workers.vfs.interface import Handle, LinkMet
from workers.vfs.posix import PosixVfs


def remove(config: Config, item: Doomed) -> FileKey:
    """Delete it; the directory that it was in.

    ``OSError`` when it cannot be deleted; FileNotFoundError when it is not there any more, or another file has its name.
    """
    share = config.share(item.share)
    if share is None or "%" in share.path:
        raise OSError(errno.ESTALE, "the share's folder is not known without its client")
    vfs = PosixVfs(share.path)
    before = identity.current()
    try:
        identity.assume(asker(item.uid, item.gid))
        return _unlink(vfs, item)
    finally:
        identity.assume(before)
        vfs.close()


def _unlink(vfs: PosixVfs, item: Doomed) -> FileKey:
    stream = item.key.stream if item.delete is Deletion.STREAM else ""
    path = Path(tuple(item.path.split("/")), stream)
    for itself in (False, True):  # a symlink may have been what was open, or where it led
        try:
            handle = vfs.open(path, itself)
        except LinkMet:
            continue
        try:
            if handle.key[:2] == item.key[:2]:
                return _unlink_known(vfs, path, handle)
        finally:
            handle.close()
    raise FileNotFoundError(errno.ENOENT, "another file has this name now", item.path)


def _unlink_known(vfs: PosixVfs, path: Path, handle: Handle) -> FileKey:
    parent = vfs.open(path.parent)
    try:
        vfs.unlink(handle)
        return FileKey(*parent.key)
    finally:
        parent.close()


def asker(uid: int, gid: int) -> Identity:
    """The user who asked for a deletion, with the groups the system gives it; whoever serves where none is known."""
    if NOBODY in (uid, gid):
        return identity.current()
    try:
        groups = tuple(credentials.groups_of(pwd.getpwuid(uid).pw_name, gid))
    except KeyError:
        groups = (gid,)
    return Identity(uid, gid, groups)
