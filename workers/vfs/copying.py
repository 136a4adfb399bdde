"""Server-side copy between two handles.

Owns: the choice between the kernel's copy (which shares extents where the file system can) and our own. Invariant: the number returned is
the number of bytes that are in the target.
"""

from __future__ import annotations

import errno

from pools.port import files
from workers.vfs.interface import Handle

_CHUNK = 1 << 20
_NOT_BY_THE_KERNEL = (errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF)


def copy_range(source: tuple[Handle, int], target: tuple[Handle, int], length: int) -> int:
    """(handle, offset) pairs. Less than ``length`` when the source ends."""
    done = 0
    if not source[0].stream and not target[0].stream:
        done = _by_the_kernel(source, target, length)
    while done < length:
        step = _by_hand(source, target, done, min(_CHUNK, length - done))
        if not step:
            break
        done += step
    return done


def _by_the_kernel(source: tuple[Handle, int], target: tuple[Handle, int], length: int) -> int:
    done = 0
    try:
        while done < length:
            step = files.copy_range(source[0].fd, target[0].fd, length - done, source[1] + done, target[1] + done)
            if not step:
                break
            done += step
    except OSError as error:
        if error.errno not in _NOT_BY_THE_KERNEL:  # EINVAL: ranges of one file that overlap
            raise
    return done


def _by_hand(source: tuple[Handle, int], target: tuple[Handle, int], done: int, size: int) -> int:
    view = memoryview(bytearray(size))
    count = source[0].pread_into(view, source[1] + done)
    return target[0].pwrite(view[:count], target[1] + done) if count else 0
