"""What a file's mode lets the caller do."""

from __future__ import annotations

import os
import stat


def bits_allow(found: os.stat_result, mode: int) -> bool:
    """``mode`` as ``os.access`` has it. Of access control lists it knows what they put into the mode."""
    uid = os.geteuid()
    if uid == 0:
        return True
    if uid == found.st_uid:
        bits = found.st_mode >> 6
    elif found.st_gid == os.getegid() or found.st_gid in os.getgroups():
        bits = found.st_mode >> 3
    else:
        bits = found.st_mode
    return stat.S_IMODE(bits) & mode == mode
