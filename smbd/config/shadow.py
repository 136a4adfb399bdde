"""``vfs objects = shadow_copy2`` or ``snapper``: where a share's snapshots are, and what says their times.

Owns: the options ``shadow:NAME`` of Samba's vfs_shadow_copy2, by name and meaning. Pure. Invariant: what ``read`` returns makes sense as a
whole; what does not is a ``ValueError`` whose text says what would.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from smbd.config import values

SNAPPER: Final = "snapper"
MODULES: Final = frozenset({"shadow_copy2", "shadow_copy", SNAPPER})
FORMAT: Final = "@GMT-%Y.%m.%d-%H.%M.%S"
_NAMES: Final = (
    "snapdir", "mountpoint", "basedir", "snapsharepath", "format", "snapprefix", "delimiter", "sort", "localtime", "sscanf", "fixinodes",
    "snapdirseverywhere", "crossmountpoints",
)  # fmt: skip
_SECONDS: Final = "%lu"
_PERIOD: Final = frozenset("aAbBcdHIjmMpSUwWxXyYzZ%")  # what a time can be read by


@dataclass(frozen=True, slots=True)
class Shadow:
    """One share's. ``snapdir`` is relative to the file system's root unless it begins with a slash. ``mountpoint``, ``basedir`` '': to be
    found. ``seconds``: names hold seconds since 1970, at the place of %lu. ``prefix``: which names count, by what is before ``delimiter``.
    ``snapper``: they are snapper's, which are numbers, each with a file that says its time.
    """

    snapdir: str = ".snapshots"
    mountpoint: str = ""
    basedir: str = ""
    share_path: str | None = None
    format: str = FORMAT
    prefix: str | None = None
    delimiter: str = "_GMT"
    sort: str = "desc"
    localtime: bool = False
    seconds: bool = False
    fix_inodes: bool = False
    everywhere: bool = False
    cross_mounts: bool = False
    snapper: bool = False


def read(options: Mapping[str, str]) -> Shadow:
    """What a share's parametric options say; names as ``reader.squeeze`` leaves them."""
    found = {name: options[f"shadow:{name}"] for name in _NAMES if f"shadow:{name}" in options}
    snapdir = found.get("snapdir", ".snapshots").rstrip("/") or "/"
    flags = {name: _flag(found, name) for name in ("localtime", "sscanf", "fixinodes", "snapdirseverywhere", "crossmountpoints")}
    everywhere = flags["snapdirseverywhere"] and not snapdir.startswith("/")
    pattern = found.get("format", FORMAT)
    _check_format(pattern, seconds=flags["sscanf"])
    prefix = _expression(found["snapprefix"]) if found.get("snapprefix") else None
    delimiter = found.get("delimiter", "_GMT")
    if prefix is not None and not pattern.startswith(delimiter):
        raise ValueError(f"shadow:format = {pattern} has to begin with shadow:delimiter ({delimiter}) where shadow:snapprefix is used")
    for name in ("mountpoint", "basedir"):
        if found.get(name) and not found[name].startswith("/"):
            raise ValueError(f"shadow:{name} = {found[name]} is not absolute: it has to start with /")
    # As Samba has it: looking everywhere excludes the other two ways, and a base directory the path in the snapshot.
    basedir = "" if everywhere else found.get("basedir", "").rstrip("/")
    share_path = None if everywhere or basedir else found.get("snapsharepath")
    return Shadow(
        snapdir,
        found.get("mountpoint", "").rstrip("/"),
        basedir,
        _relative(share_path),
        pattern,
        prefix,
        delimiter,
        found.get("sort", "desc").casefold(),
        flags["localtime"],
        flags["sscanf"],
        flags["fixinodes"],
        everywhere,
        everywhere and flags["crossmountpoints"],
    )


def _flag(found: Mapping[str, str], name: str) -> bool:
    try:
        return bool(values.boolean.read(found.get(name, "no")))
    except ValueError as error:
        raise ValueError(f"shadow:{name}: {error}") from None


def _relative(path: str | None) -> str | None:
    if path is None:
        return None
    if path.startswith("/") or ".." in path.split("/"):
        raise ValueError(f"shadow:snapsharepath = {path} is not a path within a snapshot")
    return path.strip("/")


def _check_format(pattern: str, *, seconds: bool) -> None:
    if "/" in pattern:
        raise ValueError(f"shadow:format = {pattern}: a snapshot's name is one name, without a slash")
    if seconds:
        if pattern.count("%") != 1 or _SECONDS not in pattern:
            raise ValueError(f"shadow:format = {pattern} has to have {_SECONDS} once where shadow:sscanf = yes")
        return
    strange = [letter for letter in re.findall(r"%(.?)", pattern.replace("%%", "")) if letter not in _PERIOD]
    if strange or "%" not in pattern:
        raise ValueError(f"shadow:format = {pattern}: no time can be read by that")


def _expression(basic: str) -> str:
    """A basic regular expression of POSIX, as Samba takes it, in Python's spelling."""
    made = re.sub(r"\\?[(){}|+?]", lambda found: found[0][1:] if len(found[0]) == 2 else "\\" + found[0], basic)
    try:
        re.compile(made)
    except re.error as error:
        raise ValueError(f"shadow:snapprefix = {basic}: {error}") from None
    return made
