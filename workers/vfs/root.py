"""A share's root: its descriptor, its settings, and the way from wire names to disk names beneath it.

Owns: the root descriptor. Invariant: a relative path made here never leads through a reserved directory, in which large streams lie.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

from pools.port import files
from pools.port.interface import Place
from smbd.smb2.names import Path, display
from workers import identity
from workers.vfs.namelists import NameList

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
    acl_name: str = ""  # the xattr of descriptors, where it is not the usual one
    mangled_names: str = "illegal"
    veto_files: tuple[str, ...] = ()
    delete_veto_files: bool = False
    store_dos_attributes: bool = True
    follow_symlinks: bool = True
    msdfs_root: bool = False  # its symlinks to "msdfs:server\\share" are links of a DFS namespace

    def masked(self, mode: int, directory: bool) -> int:
        """What the share's masks leave of permissions, and add to them."""
        if directory:
            return mode & self.directory_mask | self.force_directory_mode
        return mode & self.create_mask | self.force_create_mode


class Root:
    """The root descriptor (O_PATH or for reading) and what every handle beneath it needs."""

    __slots__ = ("_abilities", "_hidden", "attributes", "fd", "memory", "settings", "vetoed")

    def __init__(self, fd: int, settings: VfsSettings) -> None:
        self.fd = fd
        self.settings = settings
        self.attributes = files.attributes(fd, identity.as_root)
        self._abilities: tuple[bool, bool] | None = None
        self._hidden = NameList(settings.hide_files) if settings.hide_files else None
        self.vetoed = NameList(settings.veto_files) if settings.veto_files else None
        self.memory: dict[int, bool] = {}  # by device, of those that do not know RWF_NOWAIT: whether they are memory, and need not

    @property
    def abilities(self) -> tuple[bool, bool]:
        """Whether its file system may share blocks, and may compress files: of what kind it is does not change."""
        if self._abilities is None:
            self._abilities = files.may_share_blocks(self.fd), files.may_compress(self.fd)
        return self._abilities

    def hides(self, name: str) -> bool:
        """Whether a name alone makes a file HIDDEN (``hide dot files``, ``hide files``)."""
        return (name[:1] == "." and self.settings.hide_dot_files) or (self._hidden is not None and name in self._hidden)

    def conceals(self, path: Path) -> bool:
        """Whether no client can reach ``path``: it is ours, or the share has forbidden the name of it or of a directory above."""
        return is_reserved(path) or (self.vetoed is not None and any(name in self.vetoed for name in path.components))

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
