"""NDR types that several interfaces share, and the shapes their structures repeat.

Owns: the marshalling of strings, SIDs, times and enumerations as [MS-DTYP] and [MS-SRVS] define them. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pools.layout import WireError
from smbd.smb2.dtyp.sid import MAX_SUB_AUTHORITIES, SID
from srvsvc.ndr import Array, Int, Raw, Reader, Record, Switch, Text, Type, Unique, Writer

U8, U16, U32, U64 = Int(1), Int(2), Int(4), Int(8)
TEXT = Text()
OPTIONAL_TEXT = Unique(TEXT)
HANDLE = Raw(20, 4)
"""A context handle: four bytes of attributes and a GUID."""


class UnicodeString:
    """[MS-DTYP] 2.3.10 RPC_UNICODE_STRING: counted, without NUL; None is the null buffer."""

    align = 4
    _buffer = Unique(Text(counted=True))

    def pack(self, out: Writer, value: Any) -> None:
        size = 0 if value is None else len(value.encode("utf-16-le", errors="surrogatepass"))
        out.align(4)
        out.integer(2, size)
        out.integer(2, size)
        self._buffer.pack(out, value)

    def unpack(self, src: Reader) -> Any:
        src.align(4)
        src.integer(2)
        src.integer(2)
        return self._buffer.unpack(src)

    def settle(self, value: Any) -> Any:
        return self._buffer.settle(value)


class Sid:
    """[MS-DTYP] 2.4.2.3 RPC_SID: its array's count stands in front of the structure."""

    align = 4

    def pack(self, out: Writer, value: Any) -> None:
        out.integer(4, len(value.sub_authorities))
        out.data += value.pack()

    def unpack(self, src: Reader) -> Any:
        count = src.integer(4)
        if count > MAX_SUB_AUTHORITIES:
            raise WireError(f"NDR: a SID of {count} sub-authorities")
        sid = SID.unpack(src.raw(8 + 4 * count))
        if len(sid.sub_authorities) != count:
            raise WireError("NDR: a SID whose counts differ")
        return sid

    def settle(self, value: Any) -> Any:
        return value


class OldLargeInteger:
    """[MS-SAMR] 2.2.2.2 OLD_LARGE_INTEGER: 64 bits aligned to 4. A FILETIME, or the distance of one."""

    align = 4

    def pack(self, out: Writer, value: Any) -> None:
        out.integer(4, value & 0xFFFFFFFF)
        out.integer(4, value >> 32 & 0xFFFFFFFF)

    def unpack(self, src: Reader) -> Any:
        return src.integer(4) | src.integer(4) << 32

    def settle(self, value: Any) -> Any:
        return value


class DiskText:
    """[MS-SRVS] 2.2.4.92 DISK_INFO: a varying string in an array of fixed size, so without a maximum in front."""

    align = 4

    def pack(self, out: Writer, value: Any) -> None:
        raw = (value + "\0").encode("utf-16-le")
        out.integer(4, 0)
        out.integer(4, len(raw) // 2)
        out.data += raw

    def unpack(self, src: Reader) -> Any:
        offset, count = src.integer(4), src.integer(4)
        if offset or 2 * count > src.left:
            raise WireError(f"NDR: a string of {count} units at {offset} in {src.left} bytes")
        return src.raw(2 * count).decode("utf-16-le", errors="replace").partition("\0")[0]

    def settle(self, value: Any) -> Any:
        return value


USTRING = UnicodeString()
SID_TYPE = Sid()
OLD_TIME = OldLargeInteger()
NEVER = 0x7FFFFFFFFFFFFFFF


class Win32:
    """[MS-ERREF] 2.2 codes that the interfaces return."""

    SUCCESS = 0
    ACCESS_DENIED = 5
    NOT_SUPPORTED = 50
    INVALID_PARAMETER = 87
    INVALID_NAME = 123
    INVALID_LEVEL = 124
    CLIENT_NAME_NOT_FOUND = 2312
    NET_NAME_NOT_FOUND = 2310
    DEVICE_NOT_SHARED = 2311
    FILE_ID_NOT_FOUND = 2314
    BUFFER_TOO_SMALL = 2123


def container(info: Type) -> Record:
    """SHARE_INFO_1_CONTAINER and its kin."""
    return Record("CONTAINER", entries_read=U32, buffer=Unique(Array(info)))


_UNKNOWN = Record("UNKNOWN", entries_read=U32, buffer=U32)


def levels(infos: Mapping[int, Type]) -> Record:
    """SHARE_ENUM_STRUCT and its kin: the level, and a union of containers by level."""
    arms: dict[int, Type] = {level: Unique(container(info)) for level, info in infos.items()}
    return Record("ENUM_STRUCT", level=U32, info=Switch(arms, default=Unique(_UNKNOWN)))


def choice(infos: Mapping[int, Type]) -> Switch:
    """SHARE_INFO and its kin: a union of pointers by level."""
    return Switch({level: Unique(info) for level, info in infos.items()}, default=Unique(_UNKNOWN))


def enumeration(name: str, info: Record, **before: Type) -> tuple[Record, Record]:
    """The parameters that every Netr...Enum has: (request, response). ``before`` stand before the structure."""
    request = Record(name, **before, info=info, preferred_maximum=U32, resume=Unique(U32))
    response = Record(name, info=info, total=U32, resume=Unique(U32), status=U32)
    return request, response


def enumerated(level: int, rows: list[Any], resume: int | None) -> tuple[Any, ...]:
    """The results of an enumeration whose level is known; it is always complete, from ``resume`` on."""
    part = rows[resume or 0 :]
    return (level, (level, (len(part), part))), len(rows), None if resume is None else 0, Win32.SUCCESS


def not_enumerated(level: int, resume: int | None, code: int) -> tuple[Any, ...]:
    """The results of an enumeration that is refused."""
    return (level, (level, None)), 0, resume, code
