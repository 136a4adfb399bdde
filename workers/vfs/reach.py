"""From a path to the handle of its file, or to the reparse point that stops it.

Owns: nothing; the share's resolver is given. Invariant: a handle is of what the path names, spelt as on the disk; nothing that a share
conceals is ever opened.
"""

from __future__ import annotations

import errno

from pools.port import files
from smbd.smb2.names import EXACT, Path
from workers.vfs.handle import PosixHandle
from workers.vfs.interface import PathNotFound, Unfollowed
from workers.vfs.links import LinkHandle
from workers.vfs.resolver import Resolver
from workers.vfs.root import RESERVED, displayed


def open_base(resolver: Resolver, path: Path, itself: bool = False) -> PosixHandle | LinkHandle:
    """The file of a path, its stream left aside; a symlink at its end when that is wanted, ``itself``."""
    components = path.components
    if path.type == EXACT:
        return _open_exact(resolver, path, itself)
    if resolver.root.conceals(path):
        raise (PathNotFound if len(components) > 1 else FileNotFoundError)(errno.ENOENT, RESERVED)
    real = "/".join(components).encode()
    try:
        fd, readable, link = resolver.open_fd(real or b".")
    except FileNotFoundError:
        real = resolver.find(components)
        try:
            fd, readable, link = resolver.open_fd(real)
        except (FileNotFoundError, Unfollowed) as error:  # the name is there: a symlink to nowhere, or just removed
            return _stopped(resolver, path, real, itself, error)
        found = resolver.open_link(displayed(real), real) if link and itself else None
        if found is not None:
            files.close(fd)
            return found
        return PosixHandle(fd, readable, (displayed(real), real, link), resolver.root)
    except Unfollowed as error:
        return _stopped(resolver, path, real, itself, error)
    except NotADirectoryError as error:
        raise PathNotFound(errno.ENOTDIR, path.wire()) from error
    shown = path.base if path.stream or path.type else path
    found = resolver.open_link(shown, real) if link and itself else None
    if found is not None:
        files.close(fd)
        return found
    return PosixHandle(fd, readable, (shown, real, link), resolver.root)


def _open_exact(resolver: Resolver, path: Path, itself: bool) -> PosixHandle | LinkHandle:
    """No other spelling, and no symlink on the way."""
    components = path.components
    if resolver.root.conceals(path):
        raise (PathNotFound if len(components) > 1 else FileNotFoundError)(errno.ENOENT, RESERVED)
    real = "/".join(components).encode()
    try:
        fd, readable, _ = resolver.open_fd(real or b".", exact=True)
    except Unfollowed as error:
        return _stopped(resolver, path, real, itself, error)
    except FileNotFoundError:
        with resolver.directory(components[:-1], exact=True):
            raise
    except NotADirectoryError as error:
        raise PathNotFound(errno.ENOTDIR, path.wire()) from error
    return PosixHandle(fd, readable, (path, real, False), resolver.root)


def _stopped(resolver: Resolver, path: Path, real: bytes, itself: bool, error: OSError) -> LinkHandle:
    """A symlink is not followed: it is what was wanted, or it is what stops the path."""
    shown = path if path.type == EXACT else displayed(real)
    found = resolver.open_link(shown, real) if itself else None
    if found is not None:
        return found
    say_what_stops(resolver, path)
    raise PermissionError(errno.EACCES, path.wire()) from error


def say_what_stops(resolver: Resolver, path: Path) -> None:
    """LinkMet, if it is a symlink that a path which failed has met."""
    met = resolver.link_in(path)
    if met is not None:
        raise met
