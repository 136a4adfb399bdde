"""An opened file or directory of the posix module.

Owns: one descriptor and what was learnt when it was opened. Invariant: everything goes through the descriptor; the path is only ever used
again by ``PosixVfs``, which then checks that it still leads to the same inode. ``close`` is called once.

The descriptor is opened for reading when the user may read (xattrs then need no detour through /proc), else O_PATH.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from typing import TypeVar

from pools.iovec import Descriptor, FileEntry
from pools.port import files
from pools.port.interface import Place
from smbd.smb2 import constants as c
from smbd.smb2 import status
from smbd.smb2.fscc import reparse
from smbd.smb2.names import Path
from smbd.smb2.status import SmbError
from workers import identity
from workers.vfs import attributes, dosattrib, links, ntacl, streamstore, times, xattrs
from workers.vfs.copying import copy_range
from workers.vfs.dosattrib import DosInfo
from workers.vfs.interface import FileInfo, Handle, StreamInfo
from workers.vfs.root import Root, displayed

MAX_OFFSET = 0x7FFF_FFFF_FFFF_FFFF
_MAX_RANGES = 4096
_ZEROES = bytes(1 << 20)
_STRIDE = 1 << 18  # bytes: readahead brings neighbours along
_probe = (bytearray(1),)  # where a byte lands that nobody looks at
SERVED = (stat.S_IFREG, stat.S_IFDIR)
_REOPEN = os.O_NONBLOCK | os.O_NOCTTY
T = TypeVar("T")


class PosixHandle:
    """See ``interface.Handle``."""

    __slots__ = (
        "_descriptor",
        "_opened",
        "_readable",
        "_writable",
        "allocated",
        "bare",
        "dev",
        "directory",
        "fd",
        "ino",
        "link",
        "path",
        "real",
        "root",
        "times",
    )

    stream = ""
    read_only = False
    is_link = False

    def __init__(self, fd: int, readable: bool, place: tuple[Path, bytes, bool], root: Root) -> None:
        """``place``: the path as clients see it, relative on disk, and whether a symlink led there. Owns ``fd`` from here on."""
        self.fd = fd
        self._descriptor: Descriptor | None = None  # made when somebody else needs the number too
        self._readable = readable
        self._writable = False
        self.path, self.real, self.link = place
        self.root = root
        self.times: times.SetTimes | None = None
        self.allocated: int | None = None  # as this open has asked
        try:
            info = self._opened = self._look()
            if info.mode & 0o170000 not in SERVED:
                raise PermissionError(errno.EACCES, "devices, sockets and pipes are not served")
        except OSError:
            self.close()
            raise
        self.dev = info.dev
        self.ino = info.ino
        self.directory = info.directory

    @property
    def key(self) -> tuple[int, int, str]:
        return self.dev, self.ino, ""

    @property
    def opened(self) -> FileInfo:
        return self._opened

    @property
    def readable(self) -> bool:
        """Whether the descriptor does more than name the file."""
        return self._readable or self._writable

    @property
    def place(self) -> Place:
        """Where it was found."""
        return Place(self.root.fd, self.real)

    def again(self) -> PosixHandle:
        """The file once more, whatever stream this is of."""
        return PosixHandle(files.dup(self.fd), self._readable, (self.path.base, self.real, self.link), self.root)

    def made(self, writable: bool) -> None:
        """It was created just now, with a descriptor of this kind."""
        self._writable = writable

    def refresh(self) -> None:
        """What was learnt at the open is out of date: creating set more than the file."""
        self._opened = self._look()

    def close(self) -> None:
        fd, self.fd = self.fd, -1
        self._part_with(fd)

    def _part_with(self, fd: int) -> None:
        """Close it, or leave that to who still sends from it or writes to it."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            descriptor.release()
        else:
            files.close(fd)

    # What it is

    def _look(self) -> FileInfo:
        names = xattrs.known_names(self)
        self.bare = names is not None and not names
        return self._info(names)

    def info(self) -> FileInfo:
        return self._info(xattrs.known_names(self))

    def _info(self, names: list[str] | None) -> FileInfo:
        """``names``: of its xattrs, if they are known."""
        settings = self.root.settings
        st = files.stat_fd(self.fd)
        value = self._dos_xattr() if settings.store_dos_attributes and (names is None or dosattrib.XATTR in names) else None
        info = attributes.file_info(st, value, self.root.hides(self.path.name))
        if info.attributes & c.FILE_ATTRIBUTE_REPARSE_POINT:
            info = links.shown(info, self.reparse())
        if self.allocated is not None:  # blocks hold the file's xattrs too: a client that set the room of its data wants to see that
            info = info._replace(allocation=(max(self.allocated, info.size) + 4095) & ~4095)
        change = self.times.change if self.times is not None else None
        return info if change is None or change[1] != times.changed_at(st) else info._replace(change_time=change[0])

    def shown_change_time(self) -> int:
        return self.info().change_time

    @property
    def hidden_by_name(self) -> bool:
        return self.root.hides(self.path.name)

    def reparse(self) -> bytes | None:
        data = self.get_xattr(links.XATTR)
        return None if data is None else reparse.stored(data)

    def set_reparse(self, data: bytes | None) -> None:
        before = self.dos()
        if data is not None:
            xattrs.set_xattr(self, links.XATTR, data)
        mask = c.FILE_ATTRIBUTE_REPARSE_POINT if data is not None else 0
        times.store(self, before._replace(attributes=before.attributes & ~c.FILE_ATTRIBUTE_REPARSE_POINT | mask))
        if data is None:
            xattrs.remove_xattr(self, links.XATTR)
        self.refresh()

    def _dos_xattr(self) -> bytes | None:
        if self._readable:
            try:
                return self.root.attributes.small(self.fd, dosattrib.XATTR_RAW)
            except PermissionError:
                pass  # opened before the user lost the right
        return self.get_xattr(dosattrib.XATTR)

    def get_xattr(self, name: str) -> bytes | None:
        """With root's help where the user may not read the file itself but, as its descriptor says, its attributes."""
        try:
            return self.root.attributes.get(self.fd, name)
        except PermissionError:
            try:
                with identity.as_root():
                    return self.root.attributes.get(self.fd, name)
            except PermissionError:
                return None

    def as_owner(self, call: Callable[[], T]) -> T:
        return xattrs.owner_call(self, call)

    def ea_size(self) -> int:
        return xattrs.ea_size(self)

    def current_path(self) -> Path | None:
        real = self.root.relative(self.fd, self.real)
        return None if real is None else displayed(real)

    # Data

    def activate(self, read: bool, write: bool) -> None:
        if self.directory and write:
            raise SmbError(status.FILE_IS_A_DIRECTORY)
        if (not read or self._readable) and (not write or self._writable):
            return
        read = read or self._readable
        write = write or self._writable
        mode = os.O_RDWR if read and write else os.O_WRONLY if write else os.O_RDONLY
        fd = files.reopen(self.fd, mode | _REOPEN, self.place)
        self._part_with(self.fd)
        self.fd = fd
        self._readable, self._writable = read, write

    def pread_into(self, view: memoryview, offset: int, nowait: bool = False) -> int:
        if offset > MAX_OFFSET:
            return 0
        fd, wanted = self.fd, len(view)
        done = self._pread_warm(view, offset) if nowait and not self.root.memory.get(self.dev) else files.preadv(fd, (view,), offset)
        while 0 < done < wanted:
            more = files.preadv(fd, (view[done:],), offset + done)
            if not more:
                break
            done += more
        if self.times is not None:
            times.stay_read(self)
        return done

    def _pread_warm(self, view: memoryview, offset: int) -> int:
        try:
            done = files.preadv(self.fd, (view,), offset, files.WARM)
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
            if not self._is_memory():
                raise BlockingIOError(errno.EAGAIN, "this file system does not say what it has in memory") from None
            return files.preadv(self.fd, (view,), offset)
        if done < len(view) and offset + done < files.fstat(self.fd).st_size:
            raise BlockingIOError(errno.EAGAIN, "the rest is on the disk")
        return done

    def extent(self, offset: int, length: int) -> FileEntry | None:
        if not self._readable or (self.times is not None and self.times.access is not None):
            return None
        got = max(0, min(length, files.fstat(self.fd).st_size - offset))
        if got and not self._is_warm(offset, got):
            return None
        descriptor = self._shared()
        descriptor.hold()
        return FileEntry(self.fd, offset, got, descriptor)

    def landing(self) -> Descriptor | None:
        return self._shared() if self._writable and not self.directory and self.times is None else None

    def _shared(self) -> Descriptor:
        if self._descriptor is None:
            self._descriptor = Descriptor(self.fd)
        return self._descriptor

    def _is_warm(self, offset: int, length: int) -> bool:
        """Whether a range is in memory. Where the kernel does not say so of the whole, single bytes of it stand for those between."""
        if self.root.memory.get(self.dev):
            return True
        if not self._is_byte_warm(offset):
            return False
        known = files.is_cached(self.fd, offset, length)
        if known is None:
            return all(self._is_byte_warm(at) for at in (*range(offset + _STRIDE, offset + length, _STRIDE), offset + length - 1))
        return known

    def _is_byte_warm(self, offset: int) -> bool:
        try:
            files.preadv(self.fd, _probe, offset, files.WARM)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
            return self._is_memory()
        return True

    def _is_memory(self) -> bool:
        """tmpfs knows no RWF_NOWAIT and need not; FUSE and network file systems know none and may wait for ever."""
        known = self.root.memory.get(self.dev)
        if known is None:
            known = self.root.memory[self.dev] = files.in_memory(self.dev)
        return known

    def pwrite(self, view: memoryview | bytes, offset: int) -> int:
        total = len(view)
        if offset + total > MAX_OFFSET:
            raise OSError(errno.EFBIG, "beyond the largest offset")
        done = files.pwrite(self.fd, view, offset)
        while done < total:
            done += files.pwrite(self.fd, view[done:], offset + done)
        if self.times is not None:
            times.stay(self)
        return total

    def fsync(self) -> None:
        if self._readable or self._writable:
            files.fsync(self.fd)

    def truncate(self, size: int) -> None:
        if size > MAX_OFFSET:
            raise OSError(errno.EINVAL, "beyond the largest offset")
        files.truncate(self.fd, size)
        times.stay(self)

    def allocate(self, size: int) -> None:
        if size > MAX_OFFSET:
            raise OSError(errno.ENOSPC, "beyond the largest offset")
        end = files.fstat(self.fd).st_size
        if size < end:
            self.truncate(size)
        elif size > end:
            try:
                files.preallocate(self.fd, size)
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.ENOSYS):
                    raise
        self.allocated = size

    # Times and attributes

    def set_times(self, creation: int = 0, access: int = 0, write: int = 0, change: int = 0) -> None:
        if creation or access or write or change:
            times.apply(self, creation, access, write, change)

    def set_attributes(self, attributes_: int) -> None:
        if not attributes_:
            return
        if bool(attributes_ & c.FILE_ATTRIBUTE_DIRECTORY) and not self.directory:
            raise SmbError(status.INVALID_PARAMETER)
        if self.directory and attributes_ & c.FILE_ATTRIBUTE_TEMPORARY:
            raise SmbError(status.INVALID_PARAMETER)
        before = self.dos()
        kept = before.attributes & ~dosattrib.SETTABLE
        times.store(self, before._replace(attributes=kept | (attributes_ & dosattrib.SETTABLE)))

    def set_sparse(self, on: bool) -> None:
        before = self.dos()
        sparse = c.FILE_ATTRIBUTE_SPARSE_FILE if on else 0
        times.store(self, before._replace(attributes=before.attributes & ~c.FILE_ATTRIBUTE_SPARSE_FILE | sparse))

    def set_compressed(self, on: bool) -> None:
        self.as_owner(lambda: self._set_compressed(on))
        times.stay(self)

    def _set_compressed(self, on: bool) -> None:
        if self.readable:
            files.set_compressed(self.fd, on)
            return
        fd = files.reopen(self.fd, os.O_RDONLY | _REOPEN, self.place)
        try:
            files.set_compressed(fd, on)
        finally:
            files.close(fd)

    def dos(self) -> DosInfo:
        """The stored attributes, or what counts where none are."""
        value = self._dos_xattr() if self.root.settings.store_dos_attributes else None
        info = dosattrib.unpack(value) if value else None
        return info or DosInfo(attributes.default(files.stat_fd(self.fd).mode), 0)

    def store_dos(self, info: DosInfo) -> None:
        """Once a file has the xattr its creation time is in it, so that a copy by other means keeps it."""
        st = files.stat_fd(self.fd)
        if not info.creation:
            info = info._replace(creation=attributes.file_info(st, None, False).creation_time)
        try:
            if self.root.settings.store_dos_attributes:
                xattrs.set_xattr(self, dosattrib.XATTR, dosattrib.pack(info))
                return
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
        self._store_in_mode(st.mode, bool(info.attributes & c.FILE_ATTRIBUTE_READONLY))

    def _store_in_mode(self, mode: int, readonly: bool) -> None:
        """Where there are no xattrs, READONLY at least is in the mode."""
        if not self.directory and readonly == bool(mode & 0o222):
            wanted = mode & ~0o222 if readonly else mode | 0o200
            self.as_owner(lambda: files.chmod(self.fd, stat.S_IMODE(wanted)))

    # Security

    def security(self) -> bytes | None:
        names = xattrs.known_names(self)
        for name in ntacl.places(self.root.settings.acl_name, privileged=identity.privileged()):
            value = self.get_xattr(name) if names is None or name in names else None
            descriptor = ntacl.unpack(value) if value else None
            if descriptor is not None:
                return descriptor
        return None

    def set_security(self, descriptor: bytes) -> None:
        value = ntacl.pack(descriptor)
        kept = self.root.attributes
        *privileged, last = ntacl.places(self.root.settings.acl_name, privileged=identity.privileged())
        for name in privileged:
            try:
                with identity.as_root():
                    kept.set(self.fd, name, value)
                return
            except OSError as error:  # a container's root, or a file system without the namespace
                if error.errno not in (errno.EPERM, errno.EOPNOTSUPP):
                    raise
        if last.startswith(xattrs.USER):
            self.as_owner(lambda: kept.set(self.fd, last, value))
            return
        with identity.as_root():
            kept.set(self.fd, last, value)

    def chown(self, uid: int, gid: int) -> None:
        who = identity.current()
        try:
            files.chown(self.fd, uid, gid)
        except PermissionError:
            # WRITE_OWNER lets a user take a file, never give it away ([MS-FSA] 2.1.5.17)
            if uid not in (-1, who.uid) or (gid not in (-1, who.gid) and gid not in who.groups):
                raise
            with identity.as_root():
                files.chown(self.fd, uid, gid)

    def chmod(self, mode: int) -> None:
        self.as_owner(lambda: files.chmod(self.fd, mode))

    # Extended attributes and streams

    def eas(self) -> list[tuple[str, bytes]]:
        return xattrs.list_eas(self)

    def set_ea(self, name: str, value: bytes) -> None:
        xattrs.set_ea(self, name, value)

    def streams(self) -> list[StreamInfo]:
        named = streamstore.entries(self, self.root)
        if self.directory:
            return named
        info = self.info()
        return [StreamInfo("", info.size, info.allocation), *named]

    def clear(self) -> None:
        self.truncate(0)
        streamstore.clear(self, self.root)
        xattrs.clear_eas(self)

    # Ranges

    def zero_range(self, offset: int, length: int) -> None:
        length = min(length, files.fstat(self.fd).st_size - offset)
        if length <= 0:
            return
        sparse = self.dos().attributes & c.FILE_ATTRIBUTE_SPARSE_FILE
        # Holes for others only where the file system has nothing better: to write a large file's zeros takes hours.
        ways = (files.punch_hole,) if sparse else (files.zero_range, files.punch_hole)
        if not any(self._manages(way, offset, length) for way in ways):
            for at in range(offset, offset + length, len(_ZEROES)):
                self.pwrite(_ZEROES[: offset + length - at], at)
        times.stay(self)

    def _manages(self, way: Callable[[int, int, int], None], offset: int, length: int) -> bool:
        """Do it that way, if the file system knows it."""
        try:
            way(self.fd, offset, length)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.ENOSYS):
                raise
            return False
        return True

    def lock_range(self, offset: int, length: int, exclusive: bool) -> None:
        length = min(length, MAX_OFFSET - offset)
        if length <= 0:  # 0 would be "to the end"
            return
        try:
            # A descriptor that cannot write cannot keep others from reading either: the weaker lock is better than none.
            files.lock_range(self.fd, offset, length, exclusive=exclusive and self._writable)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF):
                raise

    def unlock_range(self, offset: int, length: int) -> None:
        length = min(length, MAX_OFFSET - offset)
        if length <= 0:
            return
        try:
            files.unlock_range(self.fd, offset, length)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF):
                raise

    def allocated_ranges(self, offset: int, length: int) -> list[tuple[int, int]]:
        length = min(length, files.fstat(self.fd).st_size - offset)
        if length <= 0:
            return []
        if not self.dos().attributes & c.FILE_ATTRIBUTE_SPARSE_FILE:
            return [(offset, length)]
        return files.data_ranges(self.fd, offset, length, _MAX_RANGES)

    def copy_range(self, source: Handle, source_offset: int, offset: int, length: int) -> int:
        copied = copy_range((source, source_offset), (self, offset), length)
        times.stay(self)
        return copied

    def clone_range(self, source: Handle, source_offset: int, offset: int, length: int) -> None:
        if source.stream:
            raise OSError(errno.EOPNOTSUPP, "a stream has no blocks of its own")
        files.clone_range(source.fd, self.fd, length, source_offset, offset)
        times.stay(self)

    def trim(self, offset: int, length: int) -> None:
        length = min(length, files.fstat(self.fd).st_size - offset)
        if length <= 0:
            return
        self._manages(files.punch_hole, offset, length)
        times.stay(self)
