"""The entries of a directory.

Owns: nothing; the directory's handle and the share's resolver are given. Invariant: what is ours is never among them, and each entry is
what an open of its name would find; a symlink that is not followed, and any other reparse point, is itself. Each listing has a position of
its own: one that was begun before, and is let go of later, does not move it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from pools.port import files
from smbd.smb2 import constants as c
from smbd.smb2.names import EXACT, Match, display, display_exact
from workers.vfs import attributes, dosattrib
from workers.vfs.handle import PosixHandle
from workers.vfs.interface import FileInfo
from workers.vfs.resolver import Resolver, join
from workers.vfs.root import RESERVED, displayed

if TYPE_CHECKING:
    from workers.vfs.interface import Handle

_NAMELESS: Final = FileInfo(0, 0, 0, 0, 0, False, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)


def scan(resolver: Resolver, directory: PosixHandle, names_only: bool, match: Match | None) -> Iterator[tuple[str, FileInfo]]:
    """See ``interface.Vfs``."""
    directory.activate(True, False)
    fd, forbidden = directory.fd, resolver.root.vetoed
    exact = directory.path.type == EXACT
    with files.scan(fd) as found:
        for entry in found:
            name = entry.name
            shown = display_exact(name) if exact else display(name)
            if (match is not None and not match(shown)) or name.casefold() == RESERVED:
                continue
            if forbidden is not None and shown in forbidden:
                continue
            if names_only and (entry.is_file(follow_symlinks=False) or entry.is_dir(follow_symlinks=False)):
                yield shown, _NAMELESS
                continue
            info = _entry(resolver, fd, name, directory)
            if info is not None:
                yield shown, info


def _entry(resolver: Resolver, fd: int, name: str, directory: PosixHandle) -> FileInfo | None:
    """None: gone meanwhile, or nothing that could be opened."""
    root = resolver.root
    raw = os.fsencode(name)
    try:
        st = files.stat_at(fd, raw)
    except OSError:
        return None
    kind = st.mode & 0o170000
    if kind not in (stat.S_IFREG, stat.S_IFDIR):
        return _opened(resolver, directory, name) if kind == stat.S_IFLNK else None
    value = root.attributes.at(fd, raw, dosattrib.XATTR_RAW) if root.settings.store_dos_attributes else None
    info = attributes.file_info(st, value, root.hides(name))
    return _opened(resolver, directory, name) if info.attributes & c.FILE_ATTRIBUTE_REPARSE_POINT else info


def _opened(resolver: Resolver, directory: PosixHandle, name: str) -> FileInfo | None:
    """Of what a symlink leads to, or of the symlink where it is not followed; of a reparse point."""
    handle: Handle | None
    real = join(directory.real, os.fsencode(name))
    exact = directory.path.type == EXACT
    path = directory.path.child(name) if exact else displayed(real)
    try:
        fd, readable, link = resolver.open_fd(real, exact)
        handle = PosixHandle(fd, readable, (path, real, link), resolver.root)
    except OSError:
        handle = resolver.open_link(path, real)
        if handle is None:
            return None
    info = handle.opened
    handle.close()
    return info
