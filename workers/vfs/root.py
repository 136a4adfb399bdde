"""A share's root: its descriptor, its settings, and the way from wire names to disk names beneath it.

Owns: the root descriptor. Invariant: a relative path made here never leads through a reserved directory, in which large streams lie.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

from pools.port import files
from pools.port.interface import Place
from smbd.smb2.names import Path, display, matcher
from workers import identity

RESERVED = ".millpond"
_RESERVED_FOLDED = RESERVED.casefold()


@dataclass(frozen=True, slots=True)
class VfsSettings:
    """What a share's configuration says to its file system; names and defaults as in smb.conf."""

    create_mask: int = 0o744
    force_create_mode: int = 0
    directory_mask: int = 0o755
    force_directory_mode: int = 0
    hide_dot_files: bool = True
    hide_files: tuple[str, ...] = ()
    mangled_names: str = "illegal"
    store_dos_attributes: bool = True
    follow_symlinks: bool = True


class Root:
    """The root descriptor (O_PATH or for reading) and what every handle beneath it needs."""

    __slots__ = ("_hidden", "attributes", "fd", "memory", "settings")

    def __init__(self, fd: int, settings: VfsSettings) -> None:
        self.fd = fd
        self.settings = settings
        self.attributes = files.attributes(fd, identity.as_root)
        self._hidden = tuple(matcher(pattern) for pattern in settings.hide_files)
        self.memory: dict[int, bool] = {}  # by device, of those that do not know RWF_NOWAIT: whether they are memory, and need not

    def hides(self, name: str) -> bool:
        """Whether a name alone makes a file HIDDEN (``hide dot files``, ``hide files``)."""
        return (name[:1] == "." and self.settings.hide_dot_files) or (bool(self._hidden) and any(match(name) for match in self._hidden))

    def relative(self, fd: int, known: bytes) -> bytes | None:
        """Where ``fd`` is now, relative to the root (b"" is the root itself); None: outside, deleted or reserved. ``known``: where it was
        found.
        """
        relative = files.where(fd, Place(self.fd, known))
        return None if relative is None or _is_ours(os.fsdecode(part) for part in relative.split(b"/")) else relative


def is_reserved(path: Path) -> bool:
    """Whether a client asks for what is ours. At every depth: another share's root may lie beneath this one."""
    return _is_ours(path.components)


def _is_ours(names: Iterable[str]) -> bool:
    return any(name.casefold() == _RESERVED_FOLDED for name in names)


def displayed(real: bytes) -> Path:
    """The client's view of a relative path on disk."""
    return Path(tuple(display(os.fsdecode(part)) for part in real.split(b"/"))) if real else Path()
