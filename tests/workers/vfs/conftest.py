"""A share in a temporary directory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path as HostPath

import pytest

from smbd.smb2.names import parse_text
from workers.vfs.interface import Handle, NewFile
from workers.vfs.posix import PosixVfs


class Share:
    """The VFS, the host's view of its root, and short forms."""

    def __init__(self, root: HostPath) -> None:
        self.root = root
        self.vfs = PosixVfs(str(root))

    def open(self, name: str) -> Handle:
        return self.vfs.open(parse_text(name))

    def make(self, name: str, content: bytes = b"", **new: object) -> Handle:
        handle = self.vfs.create(parse_text(name), NewFile(**new))  # type: ignore[arg-type]
        if content:
            handle.activate(True, True)
            handle.pwrite(content, 0)
        return handle

    def put(self, name: str, content: bytes = b"", **new: object) -> None:
        self.make(name, content, **new).close()

    def read(self, name: str) -> bytes:
        handle = self.open(name)
        handle.activate(True, False)
        buffer = bytearray(handle.info().size + 1)
        count = handle.pread_into(memoryview(buffer), 0)
        handle.close()
        return bytes(buffer[:count])

    def names(self, directory: str = "") -> set[str]:
        handle = self.open(directory)
        found = {name for name, _ in self.vfs.scan(handle)}
        handle.close()
        return found


@pytest.fixture
def share(tmp_path: HostPath) -> Iterator[Share]:
    before = os.umask(0)
    root = tmp_path / "share"
    root.mkdir()
    made = Share(root)
    yield made
    made.vfs.close()
    os.umask(before)
