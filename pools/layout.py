"""Fixed layouts: one NamedTuple, compiled once to one ``struct.Struct``.

Owns: the vocabulary of field types and ``Layout``. Pure: knows neither sockets nor files.
Invariant: a layout never reads or writes outside the buffer it is given; what does not fit is a ``WireError``.

All integers are little-endian, as in SMB2, DCE/RPC over SMB and the shared segments.
"""

from __future__ import annotations

from functools import partial
from struct import Struct
from struct import error as StructError
from typing import Annotated, Any, Generic, NamedTuple, TypeVar, get_type_hints

U8 = Annotated[int, "B"]
U16 = Annotated[int, "H"]
U32 = Annotated[int, "I"]
U64 = Annotated[int, "Q"]
I64 = Annotated[int, "q"]
Raw2 = Annotated[bytes, "2s"]
Raw3 = Annotated[bytes, "3s"]
Raw4 = Annotated[bytes, "4s"]
Raw6 = Annotated[bytes, "6s"]
Raw8 = Annotated[bytes, "8s"]
Raw16 = Annotated[bytes, "16s"]
Raw24 = Annotated[bytes, "24s"]
Raw64 = Annotated[bytes, "64s"]

Readable = bytes | bytearray | memoryview
Writable = bytearray | memoryview

T = TypeVar("T", bound=NamedTuple)


class WireError(ValueError):
    """What a peer sent cannot be parsed. In a request: INVALID_PARAMETER or a disconnect."""


class Layout(Generic[T]):
    """Reads and writes the NamedTuple ``kind`` in place, in any buffer.

    ``size`` is the layout's length in bytes. Offsets are counted from the start of the buffer and are never negative.
    """

    __slots__ = ("_make", "_pack", "_pack_into", "_unpack_from", "format", "kind", "size")

    def __init__(self, kind: type[T]) -> None:
        hints = get_type_hints(kind, include_extras=True)
        self.format = "".join(hint.__metadata__[0] for hint in hints.values())
        compiled = Struct("<" + self.format)
        self.kind = kind
        self.size = compiled.size
        self._make = partial(tuple.__new__, kind)  # what _make does, without its check of a length that is right
        self._unpack_from = compiled.unpack_from
        self._pack = compiled.pack
        self._pack_into = compiled.pack_into

    def unpack(self, buf: Readable, offset: int = 0) -> T:
        """The fields at ``offset``; ``WireError`` when the buffer ends before the layout does."""
        if offset < 0:
            raise WireError(f"{self.kind.__name__}: offset {offset} is before the buffer")
        try:
            return self._make(self._unpack_from(buf, offset))
        except StructError as error:
            raise WireError(f"{self.kind.__name__}: {len(buf) - offset} bytes, needs {self.size}") from error

    def pack(self, *fields: int | bytes) -> bytes:
        """The layout's bytes, from fields in order. A value out of its field's range is a bug: ``struct.error``."""
        return self._pack(*fields)

    def pack_into(self, buf: Writable, offset: int, *fields: int | bytes) -> None:
        """Write fields in order at ``offset`` of ``buf``."""
        self._pack_into(buf, offset, *fields)


def joined(*layouts: Layout[Any]) -> Struct:
    """Layouts that lie one behind the other as one, for who reads or writes them by the thousand: their fields in order, as a plain tuple.

    Its methods know no ``WireError``: who calls them has made sure that the bytes are there.
    """
    return Struct("<" + "".join(layout.format for layout in layouts))
