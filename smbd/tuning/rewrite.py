"""Parameters put into the [global] section of a configuration file, everything else left as it was written.

Owns: the change of the file. Invariants: the old file stays beside it as ``FILE.bak``; the new one takes its place in one step, and
only after it was read as the server would read it: what cannot be used, or would not have the wanted effect, changes nothing.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress

from pools.port import files
from smbd.config import Config, ConfigError, load
from smbd.config.reader import GLOBAL, file_text, squeeze

_GLOBALS = (GLOBAL, "globals")


def changed(text: str, wanted: Mapping[str, str]) -> str:
    """``text`` with the parameters set: where they stand already, else at the end of [global], else in a new one in front."""
    left = {squeeze(name): f"{name} = {value}" for name, value in wanted.items()}
    kept: list[str] = []
    section, end = GLOBAL, -1  # settings before the first section belong to [global]
    lines = text.split("\n")
    at = 0
    while at < len(lines):
        after = _logical_end(lines, at)
        line = lines[at].strip()
        if line.startswith("["):
            section = squeeze(line[1:].partition("]")[0])
        name = squeeze(line.partition("=")[0])
        if section in _GLOBALS and name in left and line[:1] not in ("#", ";", "["):
            indent = lines[at][: len(lines[at]) - len(lines[at].lstrip())]
            kept.append(indent + left[name])
        else:
            kept += lines[at:after]
        if section in _GLOBALS and line and line[:1] not in ("#", ";"):
            end = len(kept)
        at = after
    standing = {squeeze(line.partition("=")[0]) for line in kept if line.strip() in left.values()}
    new = [f"   {line}" for name, line in left.items() if name not in standing]
    if new and end < 0:
        return "\n".join(["[global]", *new, "", *kept])
    return "\n".join([*kept[:end], *new, *kept[end:]]) if new else "\n".join(kept)


def _logical_end(lines: list[str], at: int) -> int:
    """Behind the line that begins at ``at``: a setting that ends in a backslash goes on in the next."""
    if lines[at].strip()[:1] in ("#", ";"):
        return at + 1
    while lines[at].rstrip().endswith("\\") and at + 1 < len(lines):
        at += 1
    return at + 1


def check(path: str) -> None:
    """``ConfigError`` when ``rewrite`` could not: the file is no configuration, or its folder cannot be written to."""
    load(path)
    folder = os.path.dirname(os.path.realpath(path))
    if not files.may_access_path(folder, os.W_OK | os.X_OK):
        raise ConfigError(path, 0, f"cannot be written: this user may not change {folder}; do this as its owner or as root")


def rewrite(path: str, wanted: Mapping[str, str], holds: Callable[[Config], bool]) -> str:
    """Set the parameters in the file; the path of the backup. ``holds`` tells whether a configuration has the wanted effect.

    ``ConfigError`` or ``OSError``, and then the file is what it was.
    """
    check(path)
    target = os.path.realpath(path)
    text = changed(file_text(target), wanted)
    # In the same folder: replaced in one step, and what is included by a relative name is found.
    fd, draft = tempfile.mkstemp(prefix=".millpond-", dir=os.path.dirname(target))
    try:
        with open(fd, "w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            files.fsync(fd)
        try:
            effective = load(draft)
        except ConfigError as error:
            raise ConfigError(path, 0, f"cannot be used with {', '.join(wanted)} ({error.text}); nothing was written") from None
        if not holds(effective):
            raise ConfigError(path, 0, f"{', '.join(wanted)}: set again further down or in an included file; nothing was written")
        return _replace(target, draft)
    finally:
        with suppress(FileNotFoundError):
            files.remove_path(draft)


def _replace(target: str, draft: str) -> str:
    backup = target + ".bak"
    status = files.stat(target)
    os.chown(draft, status.st_uid, status.st_gid)
    shutil.copymode(target, draft)
    shutil.copy2(target, backup)
    files.move_path(draft, target)
    return backup
