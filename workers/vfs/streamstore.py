"""Where named streams lie: small ones in an xattr of their file, large ones in a file under the share's reserved directory.

Owns: both places and the move from the first to the second. Layout: ``user.DosStream.NAME:$DATA`` holds the content and a NUL (Samba's
vfs_streams_xattr); ``user.millpond.stream.NAME`` holds a random token, and ``.millpond/streams/TO/TOKEN`` the content. Invariant: a
stored file is only ever opened for the inode it says it belongs to. Users can write user.* xattrs, so a token in one proves nothing.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

from pools.port import files
from smbd.smb2.names import fold
from workers import identity
from workers.vfs import xattrs
from workers.vfs.interface import StreamInfo
from workers.vfs.root import RESERVED, Root
from workers.vfs.xattrs import STORED_STREAM, STREAM, STREAM_END, Base

INLINE_MAX = 16384  # a write to a stream in an xattr writes all of it; ext4 has room for less than 4,000 bytes anyway
_TOKEN = re.compile(rb"[0-9a-f]{32}")
_OWNER = "user.millpond.base"
_NO_ROOM = (errno.ENOSPC, errno.E2BIG, errno.ERANGE)
_LOCK_TRIES = 50
_XATTR_NAME_MAX = 255
_BUSY_SECONDS = 0.001


def check_name(name: str) -> None:
    """An xattr's name holds 255 bytes, prefix included: about 234 ASCII characters are left for the stream's."""
    if len(f"{STREAM}{name}{STREAM_END}".encode()) > _XATTR_NAME_MAX:
        raise OSError(errno.ENAMETOOLONG, "stream name too long", name)


def find(base: Base, name: str) -> str | None:
    """The stored spelling of the stream, or None."""
    folded = fold(name)
    return next((stored for stored in stream_names(base) if fold(stored) == folded), None)


def stream_names(base: Base) -> list[str]:
    found: dict[str, None] = {}
    for name in xattrs.names(base):
        if name.startswith(STREAM):
            found[name[len(STREAM) :].removesuffix(STREAM_END)] = None
        elif name.startswith(STORED_STREAM):
            found[name[len(STORED_STREAM) :]] = None
    return list(found)


def entries(base: Base, root: Root) -> list[StreamInfo]:
    """All named streams with their sizes."""
    found = []
    for name in stream_names(base):
        try:
            size = size_of(base, root, name)
        except FileNotFoundError:
            continue
        found.append(StreamInfo(name, size, (size + 15) & ~15))
    return found


def size_of(base: Base, root: Root, name: str) -> int:
    """Of one stream, by its stored spelling; FileNotFoundError when it points to nothing that is its own."""
    value = inline(base, name)
    if value is not None:
        return len(value)
    fd = open_stored(base, root, name, os.O_RDONLY)
    try:
        return files.fstat(fd).st_size
    finally:
        files.close(fd)


def inline(base: Base, name: str) -> bytes | None:
    """The content if it lies in the xattr."""
    value = base.get_xattr(f"{STREAM}{name}{STREAM_END}")
    if value is not None and base.get_xattr(STORED_STREAM + name) is not None:
        return None  # a move was interrupted after its last word was written
    return None if value is None else value[:-1]


def set_inline(base: Base, name: str, content: bytes) -> bool:
    """False: too large for an xattr here."""
    if len(content) > INLINE_MAX:
        return False
    try:
        xattrs.set_xattr(base, f"{STREAM}{name}{STREAM_END}", content + b"\0")
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        return False
    return True


def remove(base: Base, root: Root, name: str) -> None:
    tokens = _tokens(base, [name])
    xattrs.remove_xattr(base, f"{STREAM}{name}{STREAM_END}")
    xattrs.remove_xattr(base, STORED_STREAM + name)
    _remove_stored(root, tokens)


def clear(base: Base, root: Root) -> None:
    for name in stream_names(base):
        remove(base, root, name)


def rename(base: Base, name: str, new_name: str) -> None:
    """The new name must be free, or be another spelling of the old."""
    for old, new in ((f"{STREAM}{name}{STREAM_END}", f"{STREAM}{new_name}{STREAM_END}"), (STORED_STREAM + name, STORED_STREAM + new_name)):
        value = base.get_xattr(old)
        if value is not None:
            # both do not fit where only one did: the old one goes first, and comes back if the new one fails
            xattrs.remove_xattr(base, old)
            try:
                xattrs.set_xattr(base, new, value)
            except OSError:
                xattrs.set_xattr(base, old, value)
                raise


@contextmanager
def locked(base: Base) -> Iterator[None]:
    """Between workers, around read-modify-write of an xattr. EBUSY when somebody holds the file's flock for long."""
    if not base.readable:
        yield  # it only names the file, so it is not lockable; the last writer wins
        return
    for attempt in range(_LOCK_TRIES):
        try:
            files.lock(base.fd)
            break
        except BlockingIOError:
            if attempt + 1 == _LOCK_TRIES:
                raise OSError(errno.EBUSY, "the file is locked by another program") from None
            time.sleep(_BUSY_SECONDS)
    try:
        yield
    finally:
        files.unlock(base.fd)


# The reserved directory


def _tokens(base: Base, names: list[str]) -> list[bytes]:
    if not names:
        return []
    values = (base.get_xattr(STORED_STREAM + name) for name in names)
    owner = _owner(base)
    return [value + b" " + owner for value in values if value and _TOKEN.fullmatch(value)]


class Leftover(NamedTuple):
    """What is kept elsewhere of a file: its key, and the tokens of its stored streams with the number of the file they belong to."""

    key: tuple[int, int]
    tokens: list[bytes]


def leftover(base: Base) -> Leftover:
    """What ``remove_leftover`` needs once the file itself is gone."""
    return Leftover((base.dev, base.ino), _tokens(base, stream_names(base)))


def remove_leftover(root: Root, left: Leftover | None) -> None:
    """The file has lost its last name. None: it still has one."""
    if left is not None:
        _remove_stored(root, left.tokens)
        root.attributes.gone(left.key)


def _remove_stored(root: Root, tokens: list[bytes]) -> None:
    for entry in tokens:
        token, owner = entry.split(b" ")
        with identity.as_root(), suppress(FileNotFoundError):
            _remove_of(root, _path(token), owner)


def _remove_of(root: Root, path: bytes, owner: bytes) -> None:
    fd = files.open_beneath(root.fd, path, os.O_RDONLY)
    try:
        if root.attributes.get(fd, _OWNER) == owner:
            _unlink(root, path)
    finally:
        files.close(fd)


def _unlink(root: Root, path: bytes) -> None:
    directory, _, name = path.rpartition(b"/")
    fd = files.open_beneath(root.fd, directory, files.PATH_ONLY | os.O_DIRECTORY)
    try:
        files.remove(fd, name)
    finally:
        files.close(fd)


def _path(token: bytes) -> bytes:
    return b"%b/streams/%b/%b" % (RESERVED.encode(), token[:2], token)


def _owner(base: Base) -> bytes:
    return b"%d" % files.stat_fd(base.fd).ino


def open_stored(base: Base, root: Root, name: str, flags: int) -> int:
    """FileNotFoundError: there is none, or it is not this file's."""
    token = base.get_xattr(STORED_STREAM + name) or b""
    if not _TOKEN.fullmatch(token):
        raise FileNotFoundError(errno.ENOENT, name)
    with identity.as_root():
        fd = files.open_beneath(root.fd, _path(token), flags)
        if root.attributes.get(fd, _OWNER) != _owner(base):
            files.close(fd)
            raise FileNotFoundError(errno.ENOENT, name)
    return fd


def store(base: Base, root: Root, name: str, content: bytes) -> int:
    """Moves a stream out of its xattr; the descriptor of its new place. ``content`` is complete there before anything points to it."""
    token = secrets.token_hex(16).encode()
    st = files.stat_fd(base.fd)
    with identity.as_root():
        directory = _make_directory(root, token)
        try:
            fd = files.open_beneath(directory, token, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        finally:
            files.close(directory)
        try:
            root.attributes.fresh(fd)
            root.attributes.set(fd, _OWNER, _owner(base))
            if identity.privileged():
                files.chown(fd, st.uid, st.gid)  # its owner's quota
            _write(fd, content)
        except OSError:
            files.close(fd)
            _unlink(root, _path(token))
            raise
    try:
        _point(base, name, token)
    except OSError:
        files.close(fd)
        with identity.as_root():
            _unlink(root, _path(token))
        raise
    return fd


def _write(fd: int, content: bytes) -> None:
    done = 0
    while done < len(content):
        done += files.pwrite(fd, content[done:], done)


def _point(base: Base, name: str, token: bytes) -> None:
    """The token in, the content out; in this order unless there is no room for both."""
    before = base.get_xattr(f"{STREAM}{name}{STREAM_END}")
    try:
        xattrs.set_xattr(base, STORED_STREAM + name, token)
    except OSError as error:
        if before is None or error.errno not in _NO_ROOM:
            raise
        xattrs.remove_xattr(base, f"{STREAM}{name}{STREAM_END}")
        try:
            xattrs.set_xattr(base, STORED_STREAM + name, token)
        except OSError:
            xattrs.set_xattr(base, f"{STREAM}{name}{STREAM_END}", before)
            raise
    xattrs.remove_xattr(base, f"{STREAM}{name}{STREAM_END}")


def _make_directory(root: Root, token: bytes) -> int:
    """``.millpond/streams/xx``, each made when missing, mode 0700."""
    at = files.dup(root.fd)
    for name in (RESERVED.encode(), b"streams", token[:2]):
        try:
            files.mkdir(at, name, 0o700)
        except FileExistsError:
            pass
        except OSError:
            files.close(at)
            raise
        try:
            inner = files.open_beneath(at, name, files.PATH_ONLY | os.O_DIRECTORY)
        finally:
            files.close(at)
        at = inner
    return at
