"""The names of snapshots, on the disk and on the wire: both are a time, in seconds.

Owns: the token ``@GMT-YYYY.MM.DD-HH.MM.SS`` ([MS-SMB2] 2.2.32.2) and the reading of what snapshots are called. Pure. Invariant: a path
beneath a snapshot has the token for its first component, and nowhere else; so its parents, its children and its streams have it too.
"""

from __future__ import annotations

import calendar
import datetime
import re
import time
from collections.abc import Callable
from typing import Final

from smbd.config.shadow import FORMAT, Shadow
from smbd.smb2.names import Path
from workers.vfs.interface import Handle

# Loaded now, while the process may read its library: see smbd.smb2.names.
time.strptime("2000", "%Y")

PREFIX: Final = "@GMT-"
_TOKEN: Final = re.compile(r"@GMT-(\d{4})\.(\d\d)\.(\d\d)-(\d\d)\.(\d\d)\.(\d\d)")
_DATE: Final = re.compile(rb"<date>\s*(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)\s*</date>")
_EPOCH_1601: Final = 11_644_473_600  # seconds from 1601 to 1970
_LAST: Final = 253_402_300_799  # of the year 9999, beyond which no token goes


def token(seconds: int) -> str:
    """What clients call the snapshot of that time."""
    year, month, day, hour, minute, second = time.gmtime(seconds)[:6]
    return f"{PREFIX}{year:04}.{month:02}.{day:02}-{hour:02}.{minute:02}.{second:02}"


def token_of_filetime(filetime: int) -> str | None:
    """The same from 100 ns since 1601, as in SMB2_CREATE_TIMEWARP_TOKEN; None where no snapshot can be of that time."""
    seconds = filetime // 10_000_000 - _EPOCH_1601
    return token(seconds) if 0 <= seconds <= _LAST else None


def seconds_of(name: str) -> int | None:
    """The time that a token says; None for what is none."""
    match = _TOKEN.fullmatch(name)
    if match is None:
        return None
    try:
        return calendar.timegm(datetime.datetime(*map(int, match.groups())).timetuple())  # type: ignore[arg-type]  # six of them
    except ValueError:
        return None


def canonical(path: Path) -> Path:
    """``path`` with its token, wherever it stands, in front. The first of several counts; the others are names like any other."""
    components = path.components
    for at, name in enumerate(components):
        if name.startswith(PREFIX) and seconds_of(name) is not None:
            return path if not at else path._replace(components=(name, *components[:at], *components[at + 1 :]))
    return path


def depth_as_asked(path: Path, depth: int) -> int:
    """How many components of a path with a token lead where ``depth`` of its canonical form do; the token is behind them if it may be."""
    at = next(place for place, name in enumerate(path.components) if name.startswith(PREFIX) and seconds_of(name) is not None)
    return depth if at < depth - 1 else depth - 1


def moment(path: Path) -> int | None:
    """The time of the snapshot that a canonical path leads into; None: it leads to what is."""
    components = path.components
    return seconds_of(components[0]) if components and components[0].startswith(PREFIX) else None


def within(path: Path) -> Path:
    """A canonical path that leads into a snapshot, without its token."""
    return path._replace(components=path.components[1:])


def shown(handle: Handle) -> Path:
    """Where a client is told that the file is: what was at a time is where it was then."""
    return within(handle.path) if handle.read_only and moment(handle.path) is not None else handle.path


def seconds_of_info(info: bytes) -> int | None:
    """The time, in UTC, that snapper has written down for a snapshot: in its ``info.xml``."""
    match = _DATE.search(info)
    try:
        return None if match is None else calendar.timegm(time.strptime(match[1].decode("ascii"), "%Y-%m-%d %H:%M:%S"))
    except ValueError:
        return None


Reader = Callable[[str], int | None]


def reader(shadow: Shadow) -> Reader:
    """The function that tells the time of a snapshot by its name on the disk; None for what is no snapshot."""
    prefix = None if shadow.prefix is None else re.compile(shadow.prefix)
    read = _by_seconds(shadow.format) if shadow.seconds else _by_time(shadow.format, local=shadow.localtime)

    def read_prefixed(name: str) -> int | None:
        before, delimiter, rest = name.partition(shadow.delimiter)
        assert prefix is not None
        return read(delimiter + rest) if delimiter and prefix.search(before) else None

    return read if prefix is None else read_prefixed


def _by_seconds(pattern: str) -> Reader:
    before, _, after = pattern.partition("%lu")
    match = re.compile(re.escape(before) + r"(\d{1,12})" + re.escape(after)).fullmatch

    def read(name: str) -> int | None:
        found = match(name)
        seconds = int(found[1]) if found is not None else _LAST + 1
        return seconds if seconds <= _LAST else None

    return read


def _by_time(pattern: str, *, local: bool) -> Reader:
    if pattern == FORMAT and not local:
        return seconds_of  # five times as fast

    def read(name: str) -> int | None:
        try:
            parts = time.strptime(name, pattern)
            seconds = int(time.mktime((*parts[:8], -1))) if local else calendar.timegm(parts)  # -1: summer time as it was then
        except (ValueError, OverflowError):
            return None
        return seconds if 0 <= seconds <= _LAST else None

    return read
