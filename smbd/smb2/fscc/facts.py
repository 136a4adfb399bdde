"""The facts of one file that the packers need.

Owns: two shapes, no behaviour. Invariant: times are FILETIMEs, attributes [MS-FSCC] 2.6 values; nothing here says how a server knows them.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol


class Facts(Protocol):
    """One file, directory or stream."""

    @property
    def ino(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def allocation(self) -> int: ...
    @property
    def links(self) -> int: ...
    @property
    def directory(self) -> bool: ...
    @property
    def attributes(self) -> int: ...
    @property
    def creation_time(self) -> int: ...
    @property
    def last_access_time(self) -> int: ...
    @property
    def last_write_time(self) -> int: ...
    @property
    def change_time(self) -> int: ...
    @property
    def ea_size(self) -> int: ...
    @property
    def reparse_tag(self) -> int: ...


class OpenState(NamedTuple):
    """A file as one open sees it. ``name`` is ``Path.wire()``: no backslash in front; ``short_name`` may be ''; ``volume`` is its serial
    number.
    """

    facts: Facts
    name: str
    access: int = 0
    mode: int = 0
    position: int = 0
    delete_pending: bool = False
    ea_size: int = 0
    volume: int = 0
    short_name: str = ""
