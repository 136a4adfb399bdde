"""A named stream as a handle.

Owns: its base handle, and the descriptor of its content once that lies in a file of its own. Invariant: an operation first learns where
the content is now; another worker may have moved it. Everything that is the file's (times, attributes, security, EAs) goes to the base.
"""

from __future__ import annotations

import errno
import os

from pools.port import files
from smbd.smb2 import constants as c
from smbd.smb2 import status
from smbd.smb2.names import DATA, Path
from smbd.smb2.status import SmbError
from workers.vfs import streamstore
from workers.vfs.copying import copy_range
from workers.vfs.handle import MAX_OFFSET, PosixHandle
from workers.vfs.interface import FileInfo, Handle, StreamInfo

_ZEROES = bytes(1 << 20)


class StreamHandle:
    """See ``interface.Handle``."""

    __slots__ = ("_opened", "_stored", "base", "path", "stream")

    directory = False
    bare = False
    read_only = False
    is_link = False

    def __init__(self, base: PosixHandle, stream: str) -> None:
        """Owns ``base`` from here on."""
        self.base = base
        self.stream = stream
        self.path = Path(base.path.components, stream, DATA)
        self._stored: int | None = None
        self._opened = self.info()

    @property
    def fd(self) -> int:
        return self.base.fd

    @property
    def key(self) -> tuple[int, int, str]:
        return self.base.dev, self.base.ino, self.stream

    @property
    def hidden_by_name(self) -> bool:
        return self.base.hidden_by_name

    @property
    def opened(self) -> FileInfo:
        return self._opened

    def extent(self, offset: int, length: int) -> None:
        """Its content may be in an attribute, and may move to a file meanwhile."""

    def landing(self) -> None:
        """Likewise."""

    def refresh(self) -> None:
        """After creating set more than the content."""
        self._opened = self.info()

    def close(self) -> None:
        self._drop()
        self.base.close()

    def _drop(self) -> None:
        if self._stored is not None:
            files.close(self._stored)
            self._stored = None

    def info(self) -> FileInfo:
        info = self.base.info()
        size = self._size()
        attributes = info.attributes & ~c.FILE_ATTRIBUTE_DIRECTORY or c.FILE_ATTRIBUTE_NORMAL
        return info._replace(size=size, allocation=(size + 15) & ~15, directory=False, attributes=attributes)

    def current_path(self) -> Path | None:
        path = self.base.current_path()
        return None if path is None else Path(path.components, self.stream, DATA)

    def renamed(self, stream: str) -> None:
        """``PosixVfs`` gave it another name."""
        self.stream = stream
        self.path = self.path._replace(stream=stream)

    # Content

    def _place(self) -> int | None:
        """The descriptor of the content, or None while it lies in the xattr."""
        if self._stored is None and streamstore.inline(self.base, self.stream) is None:
            self._stored = self._open_stored()
        return self._stored

    def _open_stored(self) -> int:
        try:
            return streamstore.open_stored(self.base, self.base.root, self.stream, os.O_RDWR)
        except OSError as error:
            if error.errno != errno.EROFS:  # a snapshot, or a file system that is read only
                raise
            return streamstore.open_stored(self.base, self.base.root, self.stream, os.O_RDONLY)

    def _size(self) -> int:
        stored = self._place()
        return files.fstat(stored).st_size if stored is not None else len(self._content())

    def _content(self) -> bytes:
        content = streamstore.inline(self.base, self.stream)
        if content is None:
            raise SmbError(status.FILE_DELETED)
        return content

    def activate(self, read: bool, write: bool) -> None:
        """The right to a stream's content is the right to its file's. The descriptor of stored content was opened by root, so this is the
        check.
        """
        wanted = (os.R_OK if read else 0) | (os.W_OK if write else 0)
        if wanted and not files.may_access(self.base.fd, wanted, self.base.place):
            raise PermissionError(errno.EACCES, self.stream)

    def pread_into(self, view: memoryview, offset: int, nowait: bool = False) -> int:
        del nowait
        if offset > MAX_OFFSET:
            return 0
        stored = self._place()
        if stored is not None:
            return files.preadv(stored, (view,), offset)
        part = self._content()[offset : offset + len(view)]
        view[: len(part)] = part
        return len(part)

    def pwrite(self, view: memoryview | bytes, offset: int) -> int:
        if offset + len(view) > MAX_OFFSET:
            raise OSError(errno.EFBIG, "beyond the largest offset")
        stored = self._place()
        if stored is None:
            with streamstore.locked(self.base):
                stored = self._place()
                if stored is None:
                    content = self._content()
                    end = offset + len(view)
                    if end > streamstore.INLINE_MAX:
                        stored = self._move(content)
                    else:
                        changed = content[:offset].ljust(offset, b"\0") + bytes(view) + content[end:]
                        if self._keep(changed):
                            return len(view)
                        stored = self._move(content)
        done = 0
        while done < len(view):
            done += files.pwrite(stored, view[done:], offset + done)
        return done

    def truncate(self, size: int) -> None:
        if size > MAX_OFFSET:
            raise OSError(errno.EINVAL, "beyond the largest offset")
        stored = self._place()
        if stored is None:
            with streamstore.locked(self.base):
                stored = self._place()
                if stored is None:
                    content = self._content()
                    if size <= streamstore.INLINE_MAX and self._keep(content[:size].ljust(size, b"\0")):
                        return
                    stored = self._move(content)
        files.truncate(stored, size)

    def _keep(self, content: bytes) -> bool:
        return streamstore.set_inline(self.base, self.stream, content)

    def _move(self, content: bytes) -> int:
        self._stored = streamstore.store(self.base, self.base.root, self.stream, content)
        return self._stored

    def allocate(self, size: int) -> None:
        if size < self._size():
            self.truncate(size)

    def fsync(self) -> None:
        stored = self._place()
        if stored is not None:
            files.fsync(stored)
        self.base.fsync()

    def clear(self) -> None:
        self.truncate(0)

    def zero_range(self, offset: int, length: int) -> None:
        end = min(offset + length, self._size())
        while offset < end:
            offset += self.pwrite(_ZEROES[: end - offset], offset)

    def lock_range(self, offset: int, length: int, exclusive: bool) -> None:
        pass

    def unlock_range(self, offset: int, length: int) -> None:
        pass

    def allocated_ranges(self, offset: int, length: int) -> list[tuple[int, int]]:
        length = min(length, self._size() - offset)
        return [(offset, length)] if length > 0 else []

    def copy_range(self, source: Handle, source_offset: int, offset: int, length: int) -> int:
        return copy_range((source, source_offset), (self, offset), length)

    def clone_range(self, source: Handle, source_offset: int, offset: int, length: int) -> None:
        del source, source_offset, offset, length
        raise OSError(errno.EOPNOTSUPP, "a stream has no blocks of its own")

    def trim(self, offset: int, length: int) -> None:
        """Nothing could be freed."""

    # The file's

    def ea_size(self) -> int:
        return self.base.ea_size()

    def set_times(self, creation: int = 0, access: int = 0, write: int = 0, change: int = 0) -> None:
        self.base.set_times(creation, access, write, change)

    def set_attributes(self, attributes: int) -> None:
        self.base.set_attributes(attributes)

    def reparse(self) -> bytes | None:
        return self.base.reparse()

    def set_reparse(self, data: bytes | None) -> None:
        del data
        raise SmbError(status.INVALID_PARAMETER)

    def set_sparse(self, on: bool) -> None:
        self.base.set_sparse(on)

    def set_compressed(self, on: bool) -> None:
        self.base.set_compressed(on)

    def security(self) -> bytes | None:
        return self.base.security()

    def set_security(self, descriptor: bytes) -> None:
        self.base.set_security(descriptor)

    def chown(self, uid: int, gid: int) -> None:
        self.base.chown(uid, gid)

    def chmod(self, mode: int) -> None:
        self.base.chmod(mode)

    def eas(self) -> list[tuple[str, bytes]]:
        return self.base.eas()

    def set_ea(self, name: str, value: bytes) -> None:
        self.base.set_ea(name, value)

    def streams(self) -> list[StreamInfo]:
        return self.base.streams()


def rename_stream(handle: StreamHandle, target: Path, replace: bool) -> None:
    """``target.components`` are not looked at: a stream never leaves its file."""
    base = handle.base
    if not target.stream:
        raise SmbError(status.INVALID_PARAMETER)
    streamstore.check_name(target.stream)
    existing = streamstore.find(base, target.stream)
    if existing is not None and existing != handle.stream:
        if not replace:
            raise SmbError(status.OBJECT_NAME_COLLISION)
        if streamstore.size_of(base, base.root, existing):
            raise SmbError(status.INVALID_PARAMETER)  # [MS-FSA] 2.1.5.15.11.1
        streamstore.remove(base, base.root, existing)
    if target.stream != handle.stream:
        streamstore.rename(base, handle.stream, target.stream)
    handle.renamed(target.stream)


def absorb_stream(handle: StreamHandle) -> PosixHandle:
    """See ``Vfs.absorb``. The content is in both places before it is taken out of the first."""
    base = handle.base
    made = base.again()
    try:
        if made.directory or made.info().size:
            raise SmbError(status.INVALID_PARAMETER)
        made.activate(False, True)
        try:
            size = handle.info().size
            if copy_range((handle, 0), (made, 0), size) != size:
                raise OSError(errno.EIO, "a stream is shorter than it was", handle.stream)
            made.fsync()
        except BaseException:
            made.truncate(0)
            raise
        streamstore.remove(base, base.root, handle.stream)
        made.refresh()
    except BaseException:
        made.close()
        raise
    return made
