"""The envelope of a security descriptor in an xattr: Samba's xattr_NTACL, so that descriptors survive a switch in either direction.

Owns: the layout (librpc's xattr.idl as NDR bytes: version, union tag, pointers, hashes, then the descriptor). Versions 1 to 4 are read;
version 1 is written: it carries no hash of the POSIX ACL and both servers take it as it is. Invariant: ``unpack(pack(d)) == d``; what is
no envelope is None.
"""

from __future__ import annotations

from typing import NamedTuple

from pools.layout import U16, U32, Layout, WireError

XATTR = "security.NTACL"
XATTR_UNPRIVILEGED = "user.millpond.sd"
_REFERENT = 0x00020000


class _Head(NamedTuple):
    version: U16
    tag: U16
    pointer: U32


_HEAD = Layout(_Head)
_HASH = {2: 16, 3: 66, 4: 66}  # bytes between the descriptor's pointer and what follows: hash type and hash


def places(chosen: str, *, privileged: bool) -> tuple[str, ...]:
    """The xattrs in which a descriptor may be, the best first: the one that the share has ``chosen``, if it has."""
    if chosen:
        return (chosen,)
    return (XATTR, XATTR_UNPRIVILEGED) if privileged else (XATTR_UNPRIVILEGED,)


def pack(descriptor: bytes) -> bytes:
    """The value to store."""
    return _HEAD.pack(1, 1, _REFERENT) + descriptor


def unpack(value: bytes) -> bytes | None:
    """The descriptor in a stored value."""
    try:
        head = _HEAD.unpack(value)
    except WireError:
        return None
    if head.version != head.tag or not head.pointer or not 1 <= head.version <= 4:
        return None
    offset = _HEAD.size
    if head.version > 1:
        offset += 4 + _HASH[head.version]
    if head.version == 4:
        end = value.find(b"\0", offset)  # description
        if end < 0:
            return None
        offset = _aligned(end + 1) + 8 + 64  # time, hash of the system ACL
    return value[_aligned(offset) :] or None


def _aligned(offset: int) -> int:
    return (offset + 3) & ~3
