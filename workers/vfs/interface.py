"""What the protocol engine may ask of a file system.

Owns: the words (``FileInfo``, ``FsInfo``, ``StreamInfo``) and the two protocols (``Vfs``, ``Handle``) every module of a share's stack
speaks. Invariant: nothing here names a host path. A caller holds names.Path values and handles; it cannot express a file outside the
share.

Every call acts with the identity the calling thread has assumed (``workers.identity``). What fails raises ``OSError`` as the system gave
it, ``PathNotFound`` when a component before the last is missing, or ``SmbError`` where no errno says it; ``errors.smb_error`` turns the
first two into the third. Times are FILETIMEs (100 ns since 1601), attributes are [MS-FSCC] 2.6 values, security descriptors are
self-relative bytes.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import NamedTuple, Protocol

from pools.iovec import Descriptor, FileEntry
from pools.port.interface import Quota
from smbd.smb2.names import Match, Path


class PathNotFound(OSError):
    """A component before the last one does not exist or is no directory: OBJECT_PATH_NOT_FOUND."""


class Unfollowed(PermissionError):
    """A symlink that leads out of the share, in a circle or to what is ours, or any where none is followed."""


class LinkMet(OSError):
    """A reparse point that is not followed stands in a path: ``depth`` components lead there, ``data`` is its REPARSE_DATA_BUFFER."""

    def __init__(self, depth: int, data: bytes) -> None:
        super().__init__(errno.ELOOP, "a reparse point that is not followed")
        self.depth = depth
        self.data = data


class FileInfo(NamedTuple):
    """One file as the information classes want it. ``size`` and ``allocation`` are 0 for directories, the stream's own for a named
    stream.
    """

    dev: int
    ino: int
    size: int
    allocation: int
    links: int
    directory: bool
    attributes: int
    creation_time: int
    last_access_time: int
    last_write_time: int
    change_time: int
    ea_size: int
    reparse_tag: int
    uid: int
    gid: int
    mode: int


class Sight(NamedTuple):
    """A file that was looked at: what it is, its stored descriptor, and the size of its EAs."""

    info: FileInfo
    security: bytes | None = None
    ea_size: int = 0


class StreamInfo(NamedTuple):
    """One data stream; ``name`` is '' for the unnamed one, else as in the path: no colons, no type."""

    name: str
    size: int
    allocation: int


class FsInfo(NamedTuple):
    """Room and abilities of the volume behind the share's root. Counts are in units of ``unit`` bytes."""

    unit: int
    total: int
    free: int
    available: int
    identifier: int
    name_max: int
    creation_time: int
    named_streams: bool
    sparse_files: bool
    read_only: bool
    shared_blocks: bool
    compression: bool
    nodes: int
    free_nodes: int


class NewFile(NamedTuple):
    """What ``Vfs.create`` needs to know of the file to be made."""

    directory: bool = False
    attributes: int = 0
    security: bytes | None = None
    eas: tuple[tuple[str, bytes], ...] = ()
    allocation: int = 0
    mode: int | None = None  # None: what the share's masks leave of everything
    no_compression: bool = False  # whatever its directory says


class Handle(Protocol):
    """One opened file, directory or stream. Not activated it names the file; activated it also reads and writes."""

    __slots__ = ()

    @property
    def fd(self) -> int:
        """The descriptor that names the base file (O_PATH until activated)."""

    @property
    def path(self) -> Path:
        """Where it was found, in the case the disk has. ``Vfs.rename`` updates it."""

    @property
    def stream(self) -> str:
        """'' for the file itself."""

    @property
    def directory(self) -> bool:
        """Known from the open, no system call."""

    @property
    def is_link(self) -> bool:
        """It is a symlink of the disk, opened itself: it has a name and a target, no data and no attributes. No system call."""

    @property
    def key(self) -> tuple[int, int, str]:
        """(dev, ino, stream): what shared file state is keyed by. No system call."""

    @property
    def opened(self) -> FileInfo:
        """The file as it was when opened; no system call. ``info`` is the file as it is."""

    @property
    def hidden_by_name(self) -> bool:
        """Whether its name makes it HIDDEN, whatever its attributes are. No system call."""

    @property
    def read_only(self) -> bool:
        """Whether it lies in a snapshot: whatever would change it is MEDIA_WRITE_PROTECTED. No system call."""

    @property
    def bare(self) -> bool:
        """When opened it had no xattrs at all: no stored descriptor, no DOS attributes, streams or EAs. No system call."""

    def info(self) -> FileInfo:
        """The file now. ``ea_size`` is 0 here: ask ``ea_size`` where a class needs it."""

    def ea_size(self) -> int: ...

    def current_path(self) -> Path | None:
        """Where the file is now, whoever moved it; None when it has no name any more or left the share."""

    def activate(self, read: bool, write: bool) -> None:
        """Make it ready for data. PermissionError when the user may not. A directory is only ever activated for reading."""

    def pread_into(self, view: memoryview, offset: int, nowait: bool = False) -> int:
        """Bytes read, 0 at the end of file. ``nowait``: BlockingIOError when the data would have to come from the disk."""

    def extent(self, offset: int, length: int) -> FileEntry | None:
        """Up to ``length`` bytes as they lie in a file, less at its end, to be sent without being read; None where that cannot be, or where
        they would have to come from the disk.
        """

    def landing(self) -> Descriptor | None:
        """The descriptor for bytes to be put there without entering the process; None where that cannot be. The handle's own: hold it."""

    def pwrite(self, view: memoryview | bytes, offset: int) -> int:
        """Writes all of it. A failure after a part was written truncates nothing and raises: what was written stands."""

    def fsync(self) -> None: ...

    def truncate(self, size: int) -> None: ...

    def allocate(self, size: int) -> None:
        """FileAllocationInformation: reserves beyond the end, or truncates when ``size`` is less than the end of file."""

    def set_times(self, creation: int = 0, access: int = 0, write: int = 0, change: int = 0) -> None:
        """0 leaves a time alone, -1 freezes it for what this handle does, -2 thaws it ([MS-FSCC] 2.4.7)."""

    def set_attributes(self, attributes: int) -> None:
        """0 leaves them alone; DIRECTORY is implied by the file, NORMAL means none."""

    def security(self) -> bytes | None:
        """The stored self-relative descriptor, or None: the caller then makes one from uid, gid and mode."""

    def set_security(self, descriptor: bytes) -> None: ...

    def chown(self, uid: int, gid: int) -> None:
        """-1 leaves one alone."""

    def chmod(self, mode: int) -> None: ...

    def eas(self) -> list[tuple[str, bytes]]: ...

    def set_ea(self, name: str, value: bytes) -> None:
        """An empty value removes it. Names are compared without case."""

    def streams(self) -> list[StreamInfo]:
        """The unnamed stream first (files only), then the named ones."""

    def clear(self) -> None:
        """Overwrite and supersede: length 0, no named streams, no extended attributes ([MS-FSA] 2.1.5.1.2.1)."""

    def reparse(self) -> bytes | None:
        """The REPARSE_DATA_BUFFER of a reparse point; None: it is none."""

    def set_reparse(self, data: bytes | None) -> None:
        """Make it a reparse point, or none any more. What a symlink of the disk is, only ``Vfs.replace`` changes."""

    def set_sparse(self, on: bool) -> None: ...

    def set_compressed(self, on: bool) -> None:
        """Whether what is written from now on is compressed; a directory's: whether what is made in it begins so. OSError (EOPNOTSUPP) or
        ``SmbError`` (NOT_SUPPORTED) where that cannot be.
        """

    def zero_range(self, offset: int, length: int) -> None:
        """FSCTL_SET_ZERO_DATA: never beyond the end of file; deallocates when the file is sparse."""

    def lock_range(self, offset: int, length: int, exclusive: bool) -> None:
        """A lock that other programs see, in place of what this handle has there. BlockingIOError when one of them stands against it.

        Nothing happens where the kernel knows no such lock: in named streams, beyond its largest offset, on systems that have none.
        """

    def unlock_range(self, offset: int, length: int) -> None: ...

    def allocated_ranges(self, offset: int, length: int) -> list[tuple[int, int]]:
        """(offset, length) pairs inside the window asked for."""

    def copy_range(self, source: Handle, source_offset: int, offset: int, length: int) -> int:
        """Server-side copy; bytes copied (less at the source's end). Both handles are activated."""

    def clone_range(self, source: Handle, source_offset: int, offset: int, length: int) -> None:
        """Share the source's blocks, all of them or none. OSError as the file system says it where that cannot be; named streams cannot."""

    def trim(self, offset: int, length: int) -> None:
        """The range's content is of no use any more, whatever is read there from now on. Nothing happens where nothing can be freed."""

    def close(self) -> None:
        """Once; the handle is of no use afterwards."""


class Vfs(Protocol):
    """One share's file system."""

    def open(self, path: Path, itself: bool = False) -> Handle:
        """FileNotFoundError: the last component (or the stream) is missing. PathNotFound: one before it is. LinkMet: a reparse point stands
        in the way, or at its end unless that is what is wanted, ``itself``.
        """

    def look(self, path: Path) -> Sight | None:
        """What ``open`` would know of a file, and nothing stays open; None where only ``open`` can tell: it is not there under exactly this
        name, or may not be read.
        """

    def create(self, path: Path, new: NewFile, parent: Handle | None = None) -> Handle:
        """Make what ``open`` did not find. FileExistsError when somebody else was faster. With a stream, the base file is made when
        missing. ``parent``: its directory, where the caller has it open; not for streams.
        """

    def rename(self, handle: Handle, target: Path, replace: bool) -> None:
        """FileExistsError unless ``replace``. A target that differs in case only is the same file. Streams rename within their file, and
        replace nothing that holds anything (INVALID_PARAMETER).
        """

    def absorb(self, handle: Handle) -> Handle:
        """The content of the stream that ``handle`` names becomes its file's, and the stream is gone; INVALID_PARAMETER unless the file was
        empty. A handle of the file, for writing; the other one names nothing any more, and is to be closed.
        """

    def link(self, handle: Handle, target: Path, replace: bool) -> None: ...

    def snapshots(self, handle: Handle) -> list[str]:
        """The tokens (``@GMT-...``) of the snapshots in which earlier versions of a file may be; each is a name in front of its path."""

    def replace(self, handle: Handle, target: bytes | None) -> Handle:
        """Put a symlink to ``target`` in the place of the empty file or directory that ``handle`` names; None: an empty file in the place
        of a symlink. The handle of what is there now; the other one stays open and names nothing any more.
        """

    def quota(self, uid: int) -> Quota | None:
        """A user's; None where the file system has none. Whether the caller may know is to be checked first, as for the next two."""

    def quotas(self, first: int) -> list[tuple[int, Quota]]:
        """Some users from ``first`` on, by uid, and theirs; none: there are no more."""

    def set_quota(self, uid: int, soft: int, hard: int) -> None:
        """Limits in bytes, 0 for none."""

    def unlink(self, handle: Handle) -> None:
        """Removes the file, directory or stream the handle names, if the name still is that file; otherwise FileNotFoundError."""

    def scan(self, handle: Handle, names_only: bool = False, match: Match | None = None) -> Iterator[tuple[str, FileInfo]]:
        """The directory's entries without '.' and '..', in the directory's order. ``names_only``: the infos are all zero and cost
        nothing. ``match`` is asked of the name first; what it refuses costs nothing either.
        """

    def is_large(self, handle: Handle) -> bool:
        """Whether reading the directory takes so long that others should not wait for it. Costs next to nothing."""

    def is_empty(self, handle: Handle) -> bool: ...

    def fs_info(self) -> FsInfo: ...

    def tidy(self) -> None:
        """Now and then: let go of what was only kept to be quick. Never waits."""

    def close(self) -> None: ...
