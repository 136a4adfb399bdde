"""Security identifiers: [MS-DTYP] 2.4.2.

Owns: ``SID``, its two spellings and the well-known ones. Invariant: what ``parse`` and ``unpack`` give has at most 15
sub-authorities of 32 bits each.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from pools.layout import U8, U32, Layout, Raw6, Readable, WireError

MAX_SUB_AUTHORITIES = 15
_TEXT = re.compile(r"S-1-(0x[0-9A-Fa-f]{1,12}|\d{1,15})((?:-\d{1,10}){0,15})", re.ASCII | re.IGNORECASE)


class SidHeader(NamedTuple):
    """[MS-DTYP] 2.4.2.2 SID--Packet Representation, the fixed part."""

    revision: U8
    sub_authority_count: U8
    identifier_authority: Raw6


class SubAuthority(NamedTuple):
    """One 32-bit element of a SID."""

    value: U32


SID_HEADER = Layout(SidHeader)
SUB_AUTHORITY = Layout(SubAuthority)


class SID(NamedTuple):
    """[MS-DTYP] 2.4.2 SID. Hashable and comparable; ``str()`` gives the S-1-... form."""

    authority: int
    sub_authorities: tuple[int, ...] = ()

    @classmethod
    def parse(cls, text: str) -> SID:
        """From 'S-1-5-21-...'; ``ValueError`` when it is none."""
        match = _TEXT.fullmatch(text)
        if match is None:
            raise ValueError(f"{text!r} is not a SID")
        authority = int(match[1], 0) if match[1].lower().startswith("0x") else int(match[1])
        parts = tuple(int(part) for part in match[2].split("-")[1:])
        if authority >= 1 << 48 or any(part > 0xFFFFFFFF for part in parts):
            raise ValueError(f"{text!r} is not a SID: a number is too large")
        return cls(authority, parts)

    @classmethod
    def unpack(cls, buf: Readable, offset: int = 0) -> SID:
        """The SID at ``offset``; its length is ``size``. ``WireError`` when the bytes are none."""
        header = SID_HEADER.unpack(buf, offset)
        if header.revision != 1 or header.sub_authority_count > MAX_SUB_AUTHORITIES:
            raise WireError(f"SID: revision {header.revision}, {header.sub_authority_count} sub-authorities")
        first = offset + SID_HEADER.size
        parts = tuple(SUB_AUTHORITY.unpack(buf, first + 4 * index).value for index in range(header.sub_authority_count))
        return cls(int.from_bytes(header.identifier_authority, "big"), parts)

    def pack(self) -> bytes:
        """The packet representation."""
        head = SID_HEADER.pack(1, len(self.sub_authorities), self.authority.to_bytes(6, "big"))
        return head + b"".join(SUB_AUTHORITY.pack(part) for part in self.sub_authorities)

    @property
    def size(self) -> int:
        """Bytes of the packet representation."""
        return SID_HEADER.size + 4 * len(self.sub_authorities)

    @property
    def rid(self) -> int:
        """The last sub-authority; 0 for a SID without any."""
        return self.sub_authorities[-1] if self.sub_authorities else 0

    def child(self, rid: int) -> SID:
        """The SID of account ``rid`` in this domain."""
        return SID(self.authority, (*self.sub_authorities, rid))

    def __str__(self) -> str:
        # [MS-DTYP] 2.4.2.1: an authority of 2^32 or more is written in hexadecimal.
        authority = str(self.authority) if self.authority < 1 << 32 else f"0x{self.authority:012x}"
        return "-".join(("S-1", authority, *map(str, self.sub_authorities)))


NULL_SID = SID(0, (0,))
EVERYONE = SID(1, (0,))
CREATOR_OWNER = SID(3, (0,))
CREATOR_GROUP = SID(3, (1,))
CREATOR_OWNER_SERVER = SID(3, (2,))
CREATOR_GROUP_SERVER = SID(3, (3,))
OWNER_RIGHTS = SID(3, (4,))
NETWORK = SID(5, (2,))
ANONYMOUS = SID(5, (7,))
AUTHENTICATED_USERS = SID(5, (11,))
SYSTEM = SID(5, (18,))
BUILTIN = SID(5, (32,))
ADMINISTRATORS = SID(5, (32, 544))
USERS = SID(5, (32, 545))
GUESTS = SID(5, (32, 546))
BACKUP_OPERATORS = SID(5, (32, 551))
UNIX_USERS = SID(22, (1,))
UNIX_GROUPS = SID(22, (2,))
