"""Files over 4 GiB: offsets that need more than 32 bits, in and out, with their SHA-256."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
from pathlib import Path

import pytest

from smbd.smb2 import status
from tests.interop.tools import NEWEST, Case, digest, samba_options, smbclient
from tests.server import SHARE, Server, tool

GIB = 1 << 30
SIZE = 4 * GIB + 77 * (1 << 20) + 5


def _sparse(path: Path, size: int) -> None:
    """A file with data at its ends, around 4 GiB and here and there, and holes between."""
    numbers = random.Random(4)
    with path.open("wb") as file:
        file.truncate(size)
        for offset in (0, 1 << 20, 2 * GIB - 5, 4 * GIB - 70000, 4 * GIB, size - 4096):
            file.seek(offset)
            file.write(numbers.randbytes(min(140_000, size - offset)))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("case", [Case("SMB3_11", "sign"), NEWEST], ids=str)
def test_over_four_gigabytes_in_and_out(server: Server, tmp_path: Path, case: Case) -> None:
    source = tmp_path / "large.bin"
    _sparse(source, SIZE)
    expected = digest(source)
    smbclient(server, f'put "{source}" large.bin', case, timeout=400)
    stored = server.share / "large.bin"
    assert stored.stat().st_size == SIZE
    assert digest(stored) == expected
    source.unlink()
    assert _digest_of_get(server, "large.bin", case) == expected
    smbclient(server, "del large.bin", case)
    assert not stored.exists()


def _digest_of_get(server: Server, name: str, case: Case) -> str:
    """The SHA-256 of what smbclient gets, through a pipe: no second copy on disk."""
    reader, writer = os.pipe()
    fetch = f"get {name} /dev/fd/{writer}"
    command = [tool("smbclient"), f"//{server.peer.host}/{SHARE}", *samba_options(server, case), "-t", "100", "-c", fetch]
    found = hashlib.sha256()
    with open(reader, "rb") as pipe:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, pass_fds=(writer,))
        os.close(writer)
        while chunk := pipe.read(1 << 20):
            found.update(chunk)
        _out, errors = child.communicate(timeout=100)
    assert child.returncode == 0, errors
    return found.hexdigest()


def test_offsets_beyond_four_gigabytes(server: Server) -> None:
    """The same without the bytes between: a hole is read as zeros, and the size and the places are right."""
    numbers = random.Random(9)
    with server.client() as client:
        file = client.open("holes.bin")
        pieces = {offset: numbers.randbytes(70_000) for offset in (0, 4 * GIB - 30_000, 6 * GIB + 1, 100 * GIB)}
        for offset, data in pieces.items():
            assert client.write(file, offset, data).status == status.SUCCESS
        for offset, data in pieces.items():
            assert client.read_data(file, offset, len(data)) == data
        assert client.read_data(file, 50 * GIB, 65536) == bytes(65536)
        client.close(file)
    assert (server.share / "holes.bin").stat().st_size == 100 * GIB + 70_000
    (server.share / "holes.bin").unlink()
