"""NDR 2.0, the transfer syntax of DCE/RPC ([C706] chapter 14), as types that pack and unpack Python values.

Owns: alignment, referents, conformance. Pure. Invariants: reading never leaves its buffer and never allocates more than the bytes that are
there can fill; a value is written as it is read.

    Int(4)                      int, aligned to its size            Unique(T)   a pointer that may be None
    Raw(n, align)               bytes                               Ref(T)      a pointer inside a structure that may not
    Record("NAME", a=T, b=T)    a named tuple                       Array(T)    conformant: the count in front
    Switch({1: T, 2: T})        (tag, value), a union               Text()      conformant varying UTF-16 with its NUL

A structure's pointers hold a referent id; what they point to follows the outermost structure, in order, each with its own pointees behind
it. A top-level parameter is written whole before the next one begins.
"""

from __future__ import annotations

import struct
from collections import namedtuple
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from pools.layout import Readable, WireError

MAX_ELEMENTS = 1 << 16
_FORMATS = {1: struct.Struct("<B"), 2: struct.Struct("<H"), 4: struct.Struct("<I"), 8: struct.Struct("<Q")}


class Reader:
    """Reads one stub. ``later`` holds what embedded pointers still have to read."""

    __slots__ = ("_buf", "_later", "_offset")

    def __init__(self, buf: Readable) -> None:
        self._buf = memoryview(buf)
        self._offset = 0
        self._later: list[Callable[[], None]] = []

    @property
    def left(self) -> int:
        """Bytes not read yet."""
        return len(self._buf) - self._offset

    def align(self, size: int) -> None:
        """Skip to a multiple of ``size``."""
        self._offset += -self._offset % size

    def integer(self, size: int) -> int:
        """An aligned unsigned integer."""
        self.align(size)
        if size > self.left:
            raise WireError(f"NDR: {size} bytes wanted at {self._offset} of {len(self._buf)}")
        (value,) = _FORMATS[size].unpack_from(self._buf, self._offset)
        self._offset += size
        return int(value)

    def raw(self, size: int) -> bytes:
        """``size`` bytes as they are."""
        if size > self.left:
            raise WireError(f"NDR: {size} bytes wanted at {self._offset} of {len(self._buf)}")
        self._offset += size
        return bytes(self._buf[self._offset - size : self._offset])

    def whole(self, kind: Type) -> Any:
        """A parameter or a pointee: the value, then what its pointers refer to."""
        outer, self._later = self._later, []
        value = [kind.unpack(self)]
        while self._later:
            pending, self._later = self._later, []
            for one in pending:
                one()
        self._later = outer
        return kind.settle(value[0])

    def defer(self, box: Box, kind: Type) -> None:
        """Read ``kind`` into ``box`` once the structure around it is read."""

        def read() -> None:
            box.value = self.whole(kind)

        self._later.append(read)


class Writer:
    """Writes one stub."""

    __slots__ = ("_later", "_referent", "data")

    def __init__(self) -> None:
        self.data = bytearray()
        self._later: list[Callable[[], None]] = []
        self._referent = 0x00020000

    def align(self, size: int) -> None:
        """Pad to a multiple of ``size``."""
        self.data += bytes(-len(self.data) % size)

    def integer(self, size: int, value: int) -> None:
        """An aligned unsigned integer."""
        self.align(size)
        self.data += _FORMATS[size].pack(value)

    def referent(self) -> int:
        """A new referent id."""
        self._referent += 4
        return self._referent

    def whole(self, kind: Type, value: Any) -> None:
        """A parameter or a pointee: the value, then what its pointers refer to."""
        outer, self._later = self._later, []
        kind.pack(self, value)
        for one in self._later:
            one()
        self._later = outer

    def defer(self, kind: Type, value: Any) -> None:
        """Write the pointee once the structure around its pointer is written."""
        self._later.append(lambda: self.whole(kind, value))


class Box:
    """Where a pointee will be put; ``settle`` takes it out."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: Any = None


class Type(Protocol):
    """What every type can do. ``settle`` replaces boxes by what was put into them."""

    align: int

    def pack(self, out: Writer, value: Any) -> None: ...

    def unpack(self, src: Reader) -> Any: ...

    def settle(self, value: Any) -> Any: ...


class Int:
    """An unsigned integer of ``size`` bytes."""

    def __init__(self, size: int) -> None:
        self.align = size

    def pack(self, out: Writer, value: Any) -> None:
        out.integer(self.align, value)

    def unpack(self, src: Reader) -> Any:
        return src.integer(self.align)

    def settle(self, value: Any) -> Any:
        return value


class Raw:
    """``size`` bytes that only their owner understands: GUIDs, context handles."""

    def __init__(self, size: int, align: int = 1) -> None:
        self.size = size
        self.align = align

    def pack(self, out: Writer, value: Any) -> None:
        if len(value) != self.size:
            raise ValueError(f"{len(value)} bytes for {self.size}")
        out.align(self.align)
        out.data += value

    def unpack(self, src: Reader) -> Any:
        src.align(self.align)
        return src.raw(self.size)

    def settle(self, value: Any) -> Any:
        return value


class Record:
    """A structure, or the parameters of an operation. Values are named tuples, or sequences when packed."""

    def __init__(self, name: str, /, **fields: Type) -> None:
        self.kind: Any = namedtuple(name, fields)  # type: ignore[misc]  # the fields are data here
        self.types = tuple(fields.values())
        self.align = max((field.align for field in self.types), default=1)

    def pack(self, out: Writer, value: Any) -> None:
        out.align(self.align)
        for kind, one in zip(self.types, value, strict=True):
            kind.pack(out, one)

    def unpack(self, src: Reader) -> Any:
        src.align(self.align)
        return self.kind._make(kind.unpack(src) for kind in self.types)

    def settle(self, value: Any) -> Any:
        return self.kind._make(kind.settle(one) for kind, one in zip(self.types, value, strict=True))


class Unique:
    """A unique pointer: None or a value. As a top-level parameter or embedded."""

    align = 4

    def __init__(self, target: Type) -> None:
        self.target = target

    def pack(self, out: Writer, value: Any) -> None:
        if value is None:
            out.integer(4, 0)
            return
        out.integer(4, out.referent())
        out.defer(self.target, value)

    def unpack(self, src: Reader) -> Any:
        box = Box()
        if src.integer(4):
            src.defer(box, self.target)
        return box

    def settle(self, value: Any) -> Any:
        return value.value


class Ref(Unique):
    """A reference pointer inside a structure: never null."""

    def pack(self, out: Writer, value: Any) -> None:
        if value is None:
            raise ValueError("a reference pointer to nothing")
        super().pack(out, value)

    def unpack(self, src: Reader) -> Any:
        box = Box()
        if not src.integer(4):
            raise WireError("NDR: a null reference pointer")
        src.defer(box, self.target)
        return box


class Array:
    """A conformant array: as a pointee or a top-level parameter."""

    def __init__(self, element: Type) -> None:
        self.element = element
        self.align = max(4, element.align)

    def pack(self, out: Writer, value: Any) -> None:
        out.integer(4, len(value))
        out.align(self.element.align)
        for one in value:
            self.element.pack(out, one)

    def unpack(self, src: Reader) -> Any:
        count = src.integer(4)
        if count > min(MAX_ELEMENTS, src.left):
            raise WireError(f"NDR: an array of {count} elements in {src.left} bytes")
        return [self.element.unpack(src) for _ in range(count)]

    def settle(self, value: Any) -> Any:
        return [self.element.settle(one) for one in value]


class Varying(Array):
    """A conformant varying array: maximum, offset and actual count in front. ``maximum`` where the interface names one."""

    def __init__(self, element: Type, maximum: int | None = None) -> None:
        super().__init__(element)
        self.maximum = maximum

    def pack(self, out: Writer, value: Any) -> None:
        for number in (len(value) if self.maximum is None else self.maximum, 0, len(value)):
            out.integer(4, number)
        for one in value:
            self.element.pack(out, one)

    def unpack(self, src: Reader) -> Any:
        maximum, offset, count = src.integer(4), src.integer(4), src.integer(4)
        if offset or count > maximum or count > min(MAX_ELEMENTS, src.left):
            raise WireError(f"NDR: elements {offset} to {offset + count} of {maximum} in {src.left} bytes")
        return [self.element.unpack(src) for _ in range(count)]


class Bytes:
    """A conformant array of bytes."""

    align = 4

    def pack(self, out: Writer, value: Any) -> None:
        out.integer(4, len(value))
        out.data += value

    def unpack(self, src: Reader) -> Any:
        return src.raw(src.integer(4))

    def settle(self, value: Any) -> Any:
        return value


class Units:
    """A conformant array of UTF-16 units, as bytes: buffers that the client sizes, packed whole."""

    align = 4

    def pack(self, out: Writer, value: Any) -> None:
        out.integer(4, len(value) // 2)
        out.data += value

    def unpack(self, src: Reader) -> Any:
        return src.raw(2 * src.integer(4))

    def settle(self, value: Any) -> Any:
        return value


class Text:
    """A conformant varying string of UTF-16 units, with its NUL unless ``counted`` (as behind RPC_UNICODE_STRING)."""

    align = 4

    def __init__(self, counted: bool = False) -> None:
        self.counted = counted

    def pack(self, out: Writer, value: Any) -> None:
        raw = (value if self.counted else value + "\0").encode("utf-16-le", errors="surrogatepass")
        for number in (len(raw) // 2, 0, len(raw) // 2):
            out.integer(4, number)
        out.data += raw

    def unpack(self, src: Reader) -> Any:
        maximum, offset, count = src.integer(4), src.integer(4), src.integer(4)
        if offset or count > maximum or 2 * count > src.left:
            raise WireError(f"NDR: a string of {count} units at {offset} of {maximum} in {src.left} bytes")
        text = src.raw(2 * count).decode("utf-16-le", errors="replace")
        return text if self.counted else text.partition("\0")[0]

    def settle(self, value: Any) -> Any:
        return value


class Switch:
    """A non-encapsulated union: its discriminant is written again in front. ``default`` is the arm of every other tag, if any."""

    def __init__(self, arms: Mapping[int, Type], tag: int = 4, default: Type | None = None) -> None:
        self.arms = dict(arms)
        self.default = default
        self.tag = tag
        self.align = max((tag, *(arm.align for arm in self.arms.values())))

    def pack(self, out: Writer, value: Any) -> None:
        tag, inner = value
        out.integer(self.tag, tag)
        arm = self.arms.get(tag, self.default)
        if arm is not None:
            arm.pack(out, inner)
        elif inner is not None:
            raise ValueError(f"a union has no arm {tag}")

    def unpack(self, src: Reader) -> Any:
        tag = src.integer(self.tag)
        arm = self.arms.get(tag, self.default)
        return tag, arm.unpack(src) if arm is not None else None

    def settle(self, value: Any) -> Any:
        tag, inner = value
        arm = self.arms.get(tag, self.default)
        return tag, arm.settle(inner) if arm is not None else None


def pack(kind: Record, values: Sequence[Any]) -> bytes:
    """A stub: the parameters in ``kind``, each whole before the next."""
    out = Writer()
    for parameter, value in zip(kind.types, values, strict=True):
        out.whole(parameter, value)
    return bytes(out.data)


def unpack(kind: Record, stub: Readable) -> Any:
    """The parameters of ``stub`` as a named tuple; ``WireError`` when they do not fit. Trailing bytes are padding."""
    src = Reader(stub)
    return kind.kind._make(src.whole(parameter) for parameter in kind.types)
