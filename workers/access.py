"""Who may do what with a file: the stored descriptor when there is one, POSIX mode otherwise, and the share's limits on both.

Owns: the calls of ``smbd.smb2.dtyp``'s checks. Invariant: nothing is granted that the share, or the descriptor, or the mode withholds;
the kernel then has its own say when the file is opened with the user's identity.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pools.layout import WireError
from smbd.smb2 import status
from smbd.smb2.constants import (
    ACCESS_SYSTEM_SECURITY,
    DELETE,
    FILE_ADD_FILE,
    FILE_ADD_SUBDIRECTORY,
    FILE_ALL_ACCESS,
    FILE_DELETE_CHILD,
    FILE_EXECUTE,
    FILE_LIST_DIRECTORY,
    FILE_READ_ATTRIBUTES,
    MAXIMUM_ALLOWED,
)
from smbd.smb2.dtyp import SecurityDescriptor, access_check, cached_descriptor, descriptor_from_mode, map_generic, maximum_access
from smbd.smb2.dtyp.token import SE_SECURITY
from smbd.smb2.status import SmbError

if TYPE_CHECKING:
    from smbd.smb2.names import Path
    from workers.tree import TreeConnect
    from workers.vfs.interface import FileInfo, Handle
    from workers.worker import Worker

REMEMBERED = 512  # descriptors, or kinds of owner and mode, of one tree connect
INVALID_ACCESS = 0x0CE0FE00
"""Bits of DesiredAccess that mean nothing ([MS-SMB2] 2.2.13.1): Windows answers ACCESS_DENIED."""


def descriptor(worker: Worker, handle: Handle, info: FileInfo) -> SecurityDescriptor:
    """The file's descriptor: stored, or made from owner, group and mode."""
    return _descriptor(worker, info, handle.security())


def _descriptor(worker: Worker, info: FileInfo, stored: bytes | None) -> SecurityDescriptor:
    if stored is not None:
        try:
            return cached_descriptor(stored)
        except WireError:
            worker.log.warning("security descriptor of inode %d cannot be read; its POSIX mode counts instead", info.ino)
    return from_mode(worker, info)


def from_mode(worker: Worker, info: FileInfo) -> SecurityDescriptor:
    """What a file without a stored descriptor shows and is checked by."""
    ids = worker.ids
    return descriptor_from_mode(ids.user_sid(info.uid), ids.group_sid(info.gid), info.mode, info.directory)


def check(worker: Worker, tree: TreeConnect, handle: Handle, desired: int, *, backup: bool = False) -> int:
    """Access granted on an existing file for ``desired``, MAXIMUM_ALLOWED resolved. ``SmbError``: ACCESS_DENIED or PRIVILEGE_NOT_HELD.

    ``backup``: the client says that it is about to back up or restore; it counts for whom that is a privilege of.
    """
    desired = map_generic(desired)
    stored = None if handle.bare else handle.security()
    if not desired & ~rights(worker, tree, handle.opened, stored):
        return desired  # the usual case: all of it, and nothing that has to be found out
    if desired & INVALID_ACCESS:
        raise SmbError(status.ACCESS_DENIED)
    found = _descriptor(worker, handle.opened, stored)
    limit = tree.maximal_access | ACCESS_SYSTEM_SECURITY | MAXIMUM_ALLOWED
    if desired & ~limit:
        raise SmbError(status.ACCESS_DENIED)
    if tree.share.acl_allow_execute_always and desired & FILE_EXECUTE and not handle.directory:
        return FILE_EXECUTE | (check(worker, tree, handle, desired & ~FILE_EXECUTE, backup=backup) if desired & ~FILE_EXECUTE else 0)
    try:
        granted = access_check(found, tree.token, desired, backup=backup)
    except SmbError as error:
        # The directory is asked only when the file's own word is not enough: most opens never need it.
        given = desired & (DELETE | FILE_READ_ATTRIBUTES)
        if error.status != status.ACCESS_DENIED or not given:
            raise
        given &= by_parent(worker, tree, handle.path)
        granted = given | access_check(found, tree.token, desired & ~given, backup=backup) if desired & ~given else given
    if desired & MAXIMUM_ALLOWED and ~granted & (DELETE | FILE_READ_ATTRIBUTES):
        granted |= by_parent(worker, tree, handle.path)
    return granted & limit


def maximal(worker: Worker, tree: TreeConnect, handle: Handle) -> int:
    """The most that the user could be granted ([MS-SMB2] 2.2.14.2.5)."""
    most = rights(worker, tree, handle.opened, None if handle.bare else handle.security())
    if ~most & (DELETE | FILE_READ_ATTRIBUTES):
        most |= by_parent(worker, tree, handle.path)
    return most & tree.maximal_access


def by_parent(worker: Worker, tree: TreeConnect, path: Path) -> int:
    """[MS-FSA] 2.1.5.1.2.1: DELETE is also granted by FILE_DELETE_CHILD on the directory, FILE_READ_ATTRIBUTES by FILE_LIST_DIRECTORY."""
    if not path.components or path.stream:
        return 0
    above = directory_access(worker, tree, path.parent)
    return (DELETE if above & FILE_DELETE_CHILD else 0) | (FILE_READ_ATTRIBUTES if above & FILE_LIST_DIRECTORY else 0)


def directory_access(worker: Worker, tree: TreeConnect, path: Path) -> int:
    """The most the user has on a directory of the share."""
    vfs = tree.vfs
    assert vfs is not None
    parent = vfs.open(path)
    try:
        return rights(worker, tree, parent.opened, None if parent.bare else parent.security())
    finally:
        parent.close()


def rights(worker: Worker, tree: TreeConnect, info: FileInfo, stored: bytes | None) -> int:
    """All that a file's descriptor and the share give the user. What the former gives is remembered: a share has few different ones."""
    token = tree.token
    if tree.rights_of is not token:
        tree.rights_of = token
        tree.rights.clear()
    key = (info.uid, info.gid, info.mode, info.directory) if stored is None else stored
    known = tree.rights.get(key)
    if known is None:
        if len(tree.rights) >= REMEMBERED:
            tree.rights.clear()
        known = tree.rights[key] = maximum_access(_descriptor(worker, info, stored), token)
    return known & tree.maximal_access


def check_add(worker: Worker, tree: TreeConnect, parent: Handle, directory: bool) -> bytes | None:
    """May the user add a file, or a directory, to ``parent``? Its stored descriptor, from which the new one inherits."""
    stored = None if parent.bare else parent.security()
    wanted = FILE_ADD_SUBDIRECTORY if directory else FILE_ADD_FILE
    if not rights(worker, tree, parent.opened, stored) & wanted:
        raise SmbError(status.ACCESS_DENIED)
    return stored


def of_new(tree: TreeConnect, desired: int) -> int:
    """Access on a file that this very open created: its creator gets what he asks for ([MS-FSA] 2.1.5.1.1)."""
    limit = tree.maximal_access
    desired = map_generic(desired)
    if desired & INVALID_ACCESS:
        raise SmbError(status.ACCESS_DENIED)
    granted = desired & ~MAXIMUM_ALLOWED
    if granted & ACCESS_SYSTEM_SECURITY and SE_SECURITY not in tree.token.privileges:
        raise SmbError(status.PRIVILEGE_NOT_HELD)
    if granted & ~(limit | ACCESS_SYSTEM_SECURITY):
        raise SmbError(status.ACCESS_DENIED)
    if desired & MAXIMUM_ALLOWED:
        granted |= FILE_ALL_ACCESS & limit
    return granted or FILE_READ_ATTRIBUTES
