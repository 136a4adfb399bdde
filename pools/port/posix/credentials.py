"""Credentials of the whole process: all that POSIX knows of.

Owns: nothing. Contracts are in ``interface.Credentials``. Invariant: only effective ids move; the real user id stays 0, which is what lets
``set_effective(0, ...)`` come back.
"""

from __future__ import annotations

import os

from pools.port import portable

PER_THREAD = False
effective = portable.effective
effective_uid = portable.effective_uid
groups_of = portable.groups_of
real = portable.real


def can_switch() -> bool:
    """See ``interface.Credentials``."""
    return os.getuid() == 0


def set_effective_uid(uid: int) -> None:
    """seteuid(2)."""
    portable.check_id(uid)
    os.seteuid(uid)


def set_effective(uid: int, gid: int, groups: tuple[int, ...]) -> None:
    """seteuid(2), setgroups(2) and setegid(2), in the order in which they are allowed."""
    for number in (uid, gid, *groups):
        portable.check_id(number)
    os.seteuid(0)
    os.setgroups(groups)
    os.setegid(gid)
    if uid != 0:
        os.seteuid(uid)
