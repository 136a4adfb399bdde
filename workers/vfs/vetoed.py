"""``delete veto files``: what no client sees goes with the directory that it lies in.

Owns: nothing. Invariant: each step is a single name in a directory opened beneath the one before; symlinks are removed, never followed.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from pools.port import files

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
DEEPEST = 64
"""Directories within each other: what lies deeper stays, and its directory with it."""


def remove(directory: int, chosen: Callable[[str], bool], depth: int = 0) -> None:
    """Remove what ``chosen`` says of the directory, with all that is beneath it. ``OSError`` when the user may not."""
    descriptor = files.open_beneath(directory, b".", _DIRECTORY)
    try:
        with files.scandir(descriptor) as found:
            names = [(os.fsencode(entry.name), entry.is_dir(follow_symlinks=False)) for entry in found if chosen(entry.name)]
        for name, is_directory in names:
            if is_directory and depth < DEEPEST:
                below = files.open_beneath(descriptor, name, _DIRECTORY)
                try:
                    remove(below, lambda _: True, depth + 1)
                finally:
                    files.close(below)
            files.remove(descriptor, name, is_directory=is_directory)
    finally:
        files.close(descriptor)
