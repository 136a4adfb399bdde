"""From errno to NTSTATUS: the one table.

Owns: what a client is told about a failing system call. Invariant: total; an errno that is not here is UNSUCCESSFUL, never a guess.
"""

from __future__ import annotations

import errno
from typing import Final

from pools.port.interface import NO_ATTRIBUTE
from smbd.smb2 import status
from smbd.smb2.status import SmbError
from workers.vfs.interface import PathNotFound

_STATUS: Final[dict[int, int]] = {
    NO_ATTRIBUTE: status.NOT_FOUND,  # first: where systems have no such errno it is ENOENT
    errno.EPERM: status.ACCESS_DENIED,
    errno.EACCES: status.ACCESS_DENIED,
    errno.ENOENT: status.OBJECT_NAME_NOT_FOUND,
    errno.ESTALE: status.OBJECT_NAME_NOT_FOUND,
    errno.ENOTDIR: status.OBJECT_PATH_NOT_FOUND,
    errno.EXDEV: status.NOT_SAME_DEVICE,
    errno.ELOOP: status.ACCESS_DENIED,
    errno.EEXIST: status.OBJECT_NAME_COLLISION,
    errno.EISDIR: status.FILE_IS_A_DIRECTORY,
    errno.ENOTEMPTY: status.DIRECTORY_NOT_EMPTY,
    errno.ENAMETOOLONG: status.OBJECT_NAME_INVALID,
    errno.EILSEQ: status.OBJECT_NAME_INVALID,
    errno.EINVAL: status.INVALID_PARAMETER,
    errno.EOVERFLOW: status.INVALID_PARAMETER,
    errno.EBADF: status.INVALID_HANDLE,
    errno.ENOSPC: status.DISK_FULL,
    errno.EFBIG: status.DISK_FULL,
    errno.EDQUOT: status.DISK_FULL,  # what programs know how to report
    errno.ENOMEM: status.INSUFFICIENT_RESOURCES,
    errno.ENFILE: status.INSUFFICIENT_RESOURCES,
    errno.EMFILE: status.TOO_MANY_OPENED_FILES,
    errno.EROFS: status.MEDIA_WRITE_PROTECTED,
    errno.ETXTBSY: status.SHARING_VIOLATION,
    errno.EBUSY: status.SHARING_VIOLATION,
    errno.EWOULDBLOCK: status.SHARING_VIOLATION,
    errno.EMLINK: status.TOO_MANY_LINKS,
    errno.EIO: status.IO_DEVICE_ERROR,
    errno.ENXIO: status.ACCESS_DENIED,
    errno.ENODEV: status.ACCESS_DENIED,
    errno.EOPNOTSUPP: status.NOT_SUPPORTED,
    errno.ENOSYS: status.NOT_SUPPORTED,
    errno.E2BIG: status.EA_TOO_LARGE,
    errno.ERANGE: status.EA_TOO_LARGE,
}


def smb_error(error: OSError) -> SmbError:
    """The refusal that ``error`` means to a client."""
    if isinstance(error, PathNotFound):
        return SmbError(status.OBJECT_PATH_NOT_FOUND)
    return SmbError(_STATUS.get(error.errno or 0, status.UNSUCCESSFUL))
