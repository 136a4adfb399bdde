"""The bottom of every share's stack: a directory tree of the host.

Owns: the share's root descriptor and name cache. Invariant: each path is resolved beneath the root (``files.open_beneath``), each change
of a name is made in a directory so resolved, by a single component; names from outside are never joined and handed to a call that follows
symlinks.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress

from pools.port import files
from pools.port.interface import Quota
from smbd.smb2 import constants as c
from smbd.smb2 import status
from smbd.smb2.names import DATA, EXACT, INDEX_ALLOCATION, ROOT, Match, Path, display
from smbd.smb2.status import SmbError
from workers import identity
from workers.vfs import attributes, dosattrib, quotas, streamstore, vetoed
from workers.vfs.handle import SERVED, PosixHandle
from workers.vfs.interface import FileInfo, FsInfo, Handle, LinkMet, NewFile, PathNotFound, Sight, Unfollowed
from workers.vfs.links import LinkHandle
from workers.vfs.listing import scan
from workers.vfs.reach import open_base, say_what_stops
from workers.vfs.resolver import READ, Resolver, join
from workers.vfs.root import RESERVED, Root, VfsSettings, displayed, is_reserved
from workers.vfs.streams import StreamHandle, absorb_stream, rename_stream
from workers.vfs.volume import fs_info

LARGE_DIRECTORY = 1 << 16  # bytes of the directory itself: from about 1,500 entries on, 15 ms of listing


class PosixVfs:
    """See ``interface.Vfs``."""

    __slots__ = ("_resolver", "root")

    def __init__(self, path: str | int, settings: VfsSettings | None = None) -> None:
        """Opens the root, if the caller may go there, or takes its descriptor over. Modes are exact: the umask must be 0."""
        fd = path if isinstance(path, int) else _open_root(path)
        self.root = Root(fd, settings or VfsSettings())
        self._resolver = Resolver(self.root)

    def close(self) -> None:
        files.close(self.root.fd)

    # Opening

    def open(self, path: Path, itself: bool = False) -> Handle:
        if path.stream and quotas.is_quota_file(path):
            return quotas.QuotaHandle(open_base(self._resolver, ROOT), path, self)
        try:
            handle = open_base(self._resolver, path, itself)
        except (PathNotFound, Unfollowed):
            say_what_stops(self._resolver, path)
            raise
        try:
            if handle.opened.attributes & c.FILE_ATTRIBUTE_REPARSE_POINT and not itself:
                raise LinkMet(len(path.components), handle.reparse() or b"")
            if isinstance(handle, LinkHandle):
                if path.stream:
                    raise FileNotFoundError(errno.ENOENT, path.wire())
                return handle
            if path.stream:
                stored = streamstore.find(handle, path.stream)
                if stored is None:
                    raise FileNotFoundError(errno.ENOENT, path.wire())
                return StreamHandle(handle, stored)
            if path.type:
                self._check_type(path, handle)
        except (OSError, SmbError):
            handle.close()
            raise
        return handle

    def _check_type(self, path: Path, handle: PosixHandle) -> None:
        if path.type == DATA and handle.directory:
            raise SmbError(status.FILE_IS_A_DIRECTORY)
        if path.type == INDEX_ALLOCATION and not handle.directory:
            raise SmbError(status.NOT_A_DIRECTORY)

    def look(self, path: Path) -> Sight | None:
        root = self.root
        if root.conceals(path) or path.stream or path.type:
            return None
        real = "/".join(path.components).encode()
        try:
            fd = files.open_beneath(root.fd, real or b".", READ)
        except OSError:
            return None
        try:
            if not root.attributes.names(fd):
                st = files.stat_fd(fd)
                return Sight(attributes.file_info(st, None, root.hides(path.name))) if st.mode & 0o170000 in SERVED else None
            handle = PosixHandle(files.dup(fd), True, (path, real, False), root)
            try:
                if handle.opened.attributes & c.FILE_ATTRIBUTE_REPARSE_POINT:
                    return None
                return Sight(handle.opened, handle.security(), handle.ea_size())
            finally:
                handle.close()
        except OSError:
            return None
        finally:
            files.close(fd)

    # Making

    def create(self, path: Path, new: NewFile, parent: Handle | None = None) -> Handle:
        if self.root.conceals(path):
            raise PermissionError(errno.EACCES, path.wire())
        if path.stream:
            return self._create_stream(path, new)
        if not path.components:
            raise FileExistsError(errno.EEXIST, "the share's root")
        if parent is not None:
            above = _posix(parent)
            return self._create_in((above.fd, above.real), path, new)
        with self._resolver.directory(path.components[:-1], path.type == EXACT) as place:
            return self._create_in(place, path, new)

    def _create_in(self, place: tuple[int, bytes], path: Path, new: NewFile) -> PosixHandle:
        """``place``: its directory's descriptor and spelling on disk."""
        parent_fd, parent = place
        directory = new.directory or path.type == INDEX_ALLOCATION
        name = path.name if path.type == EXACT else self._resolver.names.tunnelled(parent_fd, path.name)
        if name != path.name:
            path = path.parent.child(name)
            if self.root.conceals(path):
                raise PermissionError(errno.EACCES, path.wire())
        _check_ours(name)
        if path.type != EXACT:
            self._check_free(parent_fd, path)
        fd = self._make(parent_fd, name, directory, new.mode)
        self._resolver.names.changed(parent_fd, None, name)
        as_given = parent == "/".join(path.components[:-1]).encode()
        shown = path.base if as_given else displayed(parent).child(name)
        handle = None
        try:
            self.root.attributes.fresh(fd)  # before anything is read of it
            handle = PosixHandle(fd, True, (shown, join(parent, name.encode()), False), self.root)
            handle.made(not directory)
            self._dress(handle, new)
        except (OSError, SmbError):
            self._unmake(parent_fd, name, directory)
            if handle is not None:
                handle.close()
            raise
        return handle

    def _check_free(self, directory: int, path: Path) -> None:
        stored = self._resolver.spelling(directory, path.name, len(path.components) - 1)
        if stored is None:
            return
        try:
            files.stat_at(directory, os.fsencode(stored))
        except FileNotFoundError:
            self._resolver.names.doubt(directory)
            return
        raise FileExistsError(errno.EEXIST, stored)

    def _make(self, directory: int, name: str, is_directory: bool, mode: int | None) -> int:
        """``mode``: as the client says. From the first moment on it lets nobody in who is to stay out."""
        raw = name.encode()
        if mode is None:
            mode = 0o777 if is_directory else 0o666
        elif is_directory:
            mode |= stat.S_IRWXU  # it is yet to be opened
        mode = self.root.settings.masked(mode, is_directory)
        if is_directory:
            files.mkdir(directory, raw, mode)
            try:
                return files.open_beneath(directory, raw, READ | os.O_DIRECTORY)
            except OSError:
                self._unmake(directory, name, True)
                raise
        return files.open_beneath(directory, raw, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)

    def _unmake(self, directory: int, name: str, is_directory: bool) -> None:
        with suppress(OSError):
            files.remove(directory, name.encode(), is_directory=is_directory)

    def _dress(self, handle: PosixHandle, new: NewFile) -> None:
        """What the new file is to have beside its name. Nothing to do, no system call, for a file that only wants ARCHIVE."""
        wanted = new.attributes & dosattrib.SETTABLE
        if not handle.directory:
            wanted |= c.FILE_ATTRIBUTE_ARCHIVE  # [MS-FSA] 2.1.5.1.1
        touched = bool(new.security or new.eas or new.allocation) or new.mode is not None
        if new.mode is not None:
            handle.chmod(self.root.settings.masked(new.mode, handle.directory))
        if new.security:
            handle.set_security(new.security)
        for name, value in new.eas:
            handle.set_ea(name, value)
        if new.allocation and not handle.directory:
            handle.allocate(new.allocation)
        if wanted != handle.opened.attributes & dosattrib.SETTABLE:
            handle.set_attributes(wanted | (c.FILE_ATTRIBUTE_NORMAL if not wanted else 0))
            touched = True
        if new.no_compression and handle.opened.attributes & c.FILE_ATTRIBUTE_COMPRESSED:
            handle.set_compressed(False)
            touched = True
        if touched:
            handle.refresh()

    def _create_stream(self, path: Path, new: NewFile) -> Handle:
        streamstore.check_name(path.stream)
        try:
            base = _posix(open_base(self._resolver, path))
        except FileNotFoundError:
            base = _posix(self.create(path.base, new._replace(directory=False, allocation=0)))
        try:
            if streamstore.find(base, path.stream) is not None:
                raise FileExistsError(errno.EEXIST, path.wire())
            if not streamstore.set_inline(base, path.stream, b""):
                files.close(streamstore.store(base, self.root, path.stream, b""))
            return StreamHandle(base, path.stream)
        except (OSError, SmbError):
            base.close()
            raise

    # Names

    @contextmanager
    def _located(self, handle: PosixHandle | LinkHandle) -> Iterator[tuple[int, bytes]]:
        """(directory, name) by which the handle's file is known now. FileNotFoundError when it has no name."""
        if isinstance(handle, LinkHandle):
            yield handle.place
            return
        fd, name = self._locate(handle)
        try:
            yield fd, name
        finally:
            files.close(fd)

    def _locate(self, handle: PosixHandle) -> tuple[int, bytes]:
        found = self._still(handle.real, handle)
        if found is None:  # perhaps a parent was renamed: the kernel knows
            found = self._still(self.root.relative(handle.fd, handle.real) or b"", handle)
        if found is not None:
            return found
        if not handle.real:
            raise PermissionError(errno.EACCES, "the share's root")
        raise FileNotFoundError(errno.ENOENT, handle.path.wire())

    def _still(self, real: bytes, handle: PosixHandle) -> tuple[int, bytes] | None:
        """``real`` as (directory, name), if that is the handle's file."""
        if not real:
            return None
        parent, _, name = real.rpartition(b"/")
        try:
            fd = self._resolver.directory_fd(parent)
        except (FileNotFoundError, NotADirectoryError):
            return None
        if self._leads_to(fd, name, real, handle):
            return fd, name
        files.close(fd)
        return None

    def _leads_to(self, directory: int, name: bytes, real: bytes, handle: PosixHandle) -> bool:
        try:
            st = files.stat_at(directory, name)
            if (os.makedev(st.dev_major, st.dev_minor), st.ino) == (handle.dev, handle.ino):
                return True
            if not handle.link or not stat.S_ISLNK(st.mode):
                return False
            fd = self._resolver.open_fd(real)[0]
        except OSError:
            return False
        behind = files.fstat(fd)
        files.close(fd)
        return (behind.st_dev, behind.st_ino) == (handle.dev, handle.ino)

    def unlink(self, handle: Handle) -> None:
        if isinstance(handle, StreamHandle):
            streamstore.remove(handle.base, self.root, handle.stream)
            return
        if isinstance(handle, LinkHandle):
            self._remove_link(handle)
            return
        base = _posix(handle)
        left = _last_of(base)
        with self._located(base) as (fd, name):
            linked = base.link and stat.S_ISLNK(files.stat_at(fd, name).mode)
            if base.directory and not linked and self.root.settings.delete_veto_files:  # is_empty has said yes
                vetoed.remove(base.fd, self._goes_along)
            files.remove(fd, name, is_directory=base.directory and not linked)
            self._resolver.names.changed(fd, os.fsdecode(name), None)
        streamstore.remove_leftover(self.root, None if linked else left)

    def _remove_link(self, link: LinkHandle) -> None:
        fd, name = link.place
        files.remove(fd, name)
        self._resolver.names.changed(fd, os.fsdecode(name), None)

    def replace(self, handle: Handle, target: bytes | None) -> Handle:
        base = handle if isinstance(handle, LinkHandle) else _posix(handle)
        path, real = base.path, base.real
        left = None if isinstance(base, LinkHandle) else _last_of(base)
        with self._located(base) as (fd, name):
            directory = stat.S_ISDIR(files.stat_at(fd, name).mode)
            if target is None:
                files.remove(fd, name, is_directory=directory)
                self._resolver.names.changed(fd, os.fsdecode(name), None)
                return self._create_in((fd, real.rpartition(b"/")[0]), path, NewFile())
            with _draft(fd) as draft:  # the target may be too long for the file system: then what is there stays
                files.symlink(target, fd, draft)
                if directory:
                    files.remove(fd, name, is_directory=True)
                files.rename(fd, draft, fd, name, replace=True)
            self._resolver.names.changed(fd, None, os.fsdecode(name))
            streamstore.remove_leftover(self.root, left)
        made = self._resolver.open_link(path, real)
        if made is None:
            raise FileNotFoundError(errno.ENOENT, path.wire())
        return made

    def absorb(self, handle: Handle) -> Handle:
        if not isinstance(handle, StreamHandle):
            raise SmbError(status.INVALID_PARAMETER)
        return absorb_stream(handle)

    def rename(self, handle: Handle, target: Path, replace: bool) -> None:
        if isinstance(handle, StreamHandle):
            rename_stream(handle, target, replace)
            return
        base = handle if isinstance(handle, LinkHandle) else _posix(handle)
        if self.root.conceals(target):
            raise PermissionError(errno.EACCES, target.wire())
        if not target.components:
            raise PermissionError(errno.EACCES, "the share's root")
        new_name = target.name.encode()
        with self._located(base) as (source_fd, name), self._parent_of(target) as (target_fd, parent):
            _check_ours(target.name)
            existing = self._existing(target_fd, target)
            if existing is not None and self._same(target_fd, existing, base):
                self._respell(base, (source_fd, name), (target_fd, existing, new_name), replace)
            else:
                self._move((source_fd, name), (target_fd, existing, new_name), replace)
            self._resolver.names.changed(source_fd, os.fsdecode(name), None)
            self._resolver.names.changed(target_fd, None if existing is None else os.fsdecode(existing), target.name)
            shown = target.base if target.type == EXACT else displayed(parent).child(target.name)
            place = shown, join(parent, new_name)
            if isinstance(base, LinkHandle):
                base.moved(files.dup(target_fd), new_name, place)
            else:
                base.path, base.real = place

    def _parent_of(self, target: Path) -> AbstractContextManager[tuple[int, bytes]]:
        return self._resolver.directory(target.components[:-1], target.type == EXACT)

    def _existing(self, directory: int, target: Path) -> bytes | None:
        """What has the target's name already, in any spelling unless it is exact."""
        raw = target.name.encode()
        try:
            files.stat_at(directory, raw)
            return raw
        except FileNotFoundError:
            stored = self._resolver.spelling(directory, target.name, 0) if target.type != EXACT else None
        if stored is None:
            return None
        if self.root.conceals(Path((display(stored),))):
            raise PermissionError(errno.EACCES, target.wire())
        try:
            files.stat_at(directory, os.fsencode(stored))
        except FileNotFoundError:
            return None
        return os.fsencode(stored)

    def _same(self, directory: int, name: bytes, handle: PosixHandle | LinkHandle) -> bool:
        st = files.stat_at(directory, name)
        return (os.makedev(st.dev_major, st.dev_minor), st.ino) == (handle.dev, handle.ino)

    def _respell(self, base: PosixHandle | LinkHandle, source: tuple[int, bytes], target: tuple[int, bytes, bytes], replace: bool) -> None:
        """The target is the file itself: another case of its name, or another hard link of it."""
        fd, name = source
        target_fd, existing, new_name = target
        if os.path.samestat(files.fstat(fd), files.fstat(target_fd)) and existing == name:
            if new_name != name:
                files.rename(fd, name, target_fd, new_name, replace=False)
            return
        if not replace:
            raise FileExistsError(errno.EEXIST, base.path.wire())
        files.remove(fd, name)  # rename(2) would do nothing between two links of one file
        if existing != new_name:
            files.rename(target_fd, existing, target_fd, new_name, replace=False)

    def _move(self, source: tuple[int, bytes], target: tuple[int, bytes | None, bytes], replace: bool) -> None:
        fd, name = source
        target_fd, existing, new_name = target
        if existing is None:
            files.rename(fd, name, target_fd, new_name, replace=False)
            return
        if not replace:
            raise FileExistsError(errno.EEXIST, os.fsdecode(existing))
        if stat.S_ISDIR(files.stat_at(target_fd, existing).mode):
            raise PermissionError(errno.EACCES, "a directory is never replaced")  # [MS-FSA] 2.1.5.15.11
        left = self._leftover_of(target_fd, existing)
        files.rename(fd, name, target_fd, existing, replace=True)
        if existing != new_name:
            files.rename(target_fd, existing, target_fd, new_name, replace=False)
        streamstore.remove_leftover(self.root, left)

    def _leftover_of(self, directory: int, name: bytes) -> streamstore.Leftover | None:
        """Of a file that is about to be replaced."""
        if files.stat_at(directory, name).nlink > 1:
            return None
        try:
            fd = files.open_beneath(directory, name, files.PATH_ONLY)
        except OSError:
            return None
        victim = PosixHandle(fd, False, (Path(), b"", False), self.root)
        try:
            return streamstore.leftover(victim)
        finally:
            victim.close()

    def link(self, handle: Handle, target: Path, replace: bool) -> None:
        base = _posix(handle)
        if self.root.conceals(target) or base.directory or not target.components:
            raise SmbError(status.FILE_IS_A_DIRECTORY if base.directory else status.ACCESS_DENIED)
        with self._located(base) as (source_fd, name), self._parent_of(target) as (target_fd, _):
            _check_ours(target.name)
            existing = self._existing(target_fd, target)
            if existing is None:
                files.link(source_fd, name, target_fd, target.name.encode())
            elif not replace:
                raise FileExistsError(errno.EEXIST, target.wire())
            elif self._same(target_fd, existing, base):
                return  # it has that name
            else:
                self._link_over((source_fd, name), (target_fd, existing, target.name.encode()))
            self._resolver.names.changed(target_fd, None if existing is None else os.fsdecode(existing), target.name)

    def _link_over(self, source: tuple[int, bytes], target: tuple[int, bytes, bytes]) -> None:
        """What is there goes when the link stands: the kernel may refuse that."""
        with _draft(target[0]) as draft:
            files.link(*source, target[0], draft)
            self._move((target[0], draft), target, True)

    def snapshots(self, _handle: Handle) -> list[str]:
        return []

    def quota(self, uid: int) -> Quota | None:
        return quotas.quota(self.root, uid)

    def quotas(self, first: int) -> list[tuple[int, Quota]]:
        return quotas.quotas(self.root, first)

    def set_quota(self, uid: int, soft: int, hard: int) -> None:
        quotas.set_quota(self.root, uid, soft, hard)

    # Listing

    def scan(self, handle: Handle, names_only: bool = False, match: Match | None = None) -> Iterator[tuple[str, FileInfo]]:
        return scan(self._resolver, _posix(handle), names_only, match)

    def is_large(self, handle: Handle) -> bool:
        return files.fstat(handle.fd).st_size >= LARGE_DIRECTORY

    def is_empty(self, handle: Handle) -> bool:
        """As rmdir sees it, but for our own directory: what clients are not shown keeps a directory alive too."""
        fd = files.reopen(handle.fd, READ | os.O_DIRECTORY, _posix(handle).place)
        try:
            with files.scandir(fd) as found:
                return all((entry.name == RESERVED and not _posix(handle).real) or self._goes_along(entry.name) for entry in found)
        finally:
            files.close(fd)

    def _goes_along(self, name: str) -> bool:
        """Whether a name that no client sees is deleted with its directory."""
        forbidden = self.root.vetoed
        return self.root.settings.delete_veto_files and forbidden is not None and display(name) in forbidden

    def tidy(self) -> None:
        pass

    def fs_info(self) -> FsInfo:
        return fs_info(self.root)


def _open_root(path: str) -> int:
    """A folder to which the way is open to the caller, though he may not read it. Where a descriptor has to be for reading it is root's:
    with it names are looked up, for which the caller's rights count each time.
    """
    flags = files.PATH_ONLY | os.O_DIRECTORY
    try:
        return files.open(path, flags)
    except PermissionError:
        seen = files.stat(path)
        with identity.as_root():
            fd = files.open(path, flags)
        if os.path.samestat(seen, files.fstat(fd)):
            return fd
        files.close(fd)
        raise


def _posix(handle: Handle) -> PosixHandle:
    if isinstance(handle, PosixHandle):
        return handle
    raise SmbError(status.INVALID_PARAMETER)


@contextmanager
def _draft(directory: int) -> Iterator[bytes]:
    """A name in a directory for what is renamed when it stands. What has it at the end all the same is removed: rename(2) leaves one of
    two links of a file where it is.
    """
    name = b"." + secrets.token_hex(16).encode()
    try:
        yield name
    finally:
        with suppress(FileNotFoundError):
            files.remove(directory, name)


def _last_of(base: PosixHandle) -> streamstore.Leftover | None:
    """What goes with the name of a file that has no other."""
    return streamstore.leftover(base) if base.directory or files.fstat(base.fd).st_nlink <= 1 else None


def _check_ours(name: str) -> None:
    """Wherever a symlink has led: a directory of this name is nobody else's to make."""
    if is_reserved(Path((name,))):
        raise PermissionError(errno.EACCES, RESERVED)
