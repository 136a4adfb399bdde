"""A small btrfs in a file, for what no usual file system of a test machine can.

Owns: the image, its mount and the end of both. Invariant: nothing stays mounted, whatever became of the test.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.server import tool

_BYTES = 128 << 20  # mkfs.btrfs wants 109 MiB; the file is sparse


@contextmanager
def mounted() -> Iterator[Path]:
    """Its root, where everybody may come and write."""
    if os.geteuid() or "btrfs" not in Path("/proc/filesystems").read_text():
        pytest.skip("mounting a small btrfs takes root and a kernel that knows it")
    with tempfile.TemporaryDirectory(prefix="btrfs-") as base:
        image, root = Path(base, "image"), Path(base, "root")
        Path(base).chmod(0o755)
        with image.open("wb") as made:
            made.truncate(_BYTES)
        run("mkfs.btrfs", "-q", image)
        root.mkdir()
        run("mount", "-o", "loop", image, root)
        try:
            root.chmod(0o777)
            yield root
        finally:
            run("umount", "-l", root)


def run(program: str, *words: str | Path) -> str:
    """What a program says that must succeed."""
    return subprocess.run([tool(program), *words], capture_output=True, text=True, check=True).stdout
