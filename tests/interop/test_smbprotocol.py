"""The smbprotocol library: low level for dialects, its ``smbclient`` module for the rest."""

from __future__ import annotations

import hashlib
import random
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import smbclient as smb
import smbclient.shutil as smb_shutil
from smbprotocol.connection import Connection, Dialects
from smbprotocol.open import (
    CreateDisposition,
    CreateOptions,
    DirectoryAccessMask,
    FileAttributes,
    FileInformationClass,
    FilePipePrinterAccessMask,
    ImpersonationLevel,
    Open,
    ShareAccess,
)
from smbprotocol.session import Session
from smbprotocol.tree import TreeConnect

from tests.server import SHARE, Server

DIALECTS = {
    "2.0.2": Dialects.SMB_2_0_2,
    "2.1": Dialects.SMB_2_1_0,
    "3.0": Dialects.SMB_3_0_0,
    "3.0.2": Dialects.SMB_3_0_2,
    "3.1.1": Dialects.SMB_3_1_1,
}
CASES = [(name, mode) for name in DIALECTS for mode in ("plain", "signed", "encrypted") if mode != "encrypted" or name[0] == "3"]
# [MS-SMB2] 3.3.5.7: a 3.1.1 TREE_CONNECT must be signed or sealed, and without require_signing this library does neither.
CASES.remove(("3.1.1", "plain"))
PAYLOAD = random.Random(5).randbytes((2 << 20) + 5)


@contextmanager
def tree(server: Server, dialect: str, mode: str) -> Iterator[TreeConnect]:
    """A tree connect in one dialect under one protection."""
    connection = Connection(uuid.uuid4(), "127.0.0.1", server.port, require_signing=mode == "signed")
    connection.connect(DIALECTS[dialect], timeout=20)
    try:
        session = Session(connection, server.user, server.password, require_encryption=mode == "encrypted")
        session.connect()
        connected = TreeConnect(session, rf"\\127.0.0.1\{SHARE}")
        connected.connect(require_secure_negotiate=dialect != "3.1.1")
        yield connected
        connected.disconnect()
        session.disconnect()
    finally:
        connection.disconnect()


def opened(connected: TreeConnect, name: str, disposition: int, access: int, options: int) -> Open:
    """An open file or folder."""
    handle = Open(connected, name)
    share = ShareAccess.FILE_SHARE_READ | ShareAccess.FILE_SHARE_WRITE | ShareAccess.FILE_SHARE_DELETE
    handle.create(ImpersonationLevel.Impersonation, access, FileAttributes.FILE_ATTRIBUTE_NORMAL, share, disposition, options)
    return handle


@pytest.mark.parametrize(("dialect", "mode"), CASES)
def test_write_read_list_delete(server: Server, dialect: str, mode: str) -> None:
    name = f"smbp-{dialect}-{mode}-ü🐟.bin"
    access = FilePipePrinterAccessMask.GENERIC_READ | FilePipePrinterAccessMask.GENERIC_WRITE | FilePipePrinterAccessMask.DELETE
    with tree(server, dialect, mode) as connected:
        assert connected.session.connection.dialect == DIALECTS[dialect]
        handle = opened(connected, name, CreateDisposition.FILE_CREATE, access, CreateOptions.FILE_NON_DIRECTORY_FILE)
        step = 65536 if dialect == "2.0.2" else 1 << 20
        for offset in range(0, len(PAYLOAD), step):
            handle.write(PAYLOAD[offset:offset + step], offset)
        handle.flush()
        back = b"".join(handle.read(offset, min(step, len(PAYLOAD) - offset)) for offset in range(0, len(PAYLOAD), step))
        assert hashlib.sha256(back).digest() == hashlib.sha256(PAYLOAD).digest()
        handle.close(get_attributes=True)
        assert handle.end_of_file == len(PAYLOAD)
        folder = opened(
            connected, "", CreateDisposition.FILE_OPEN, DirectoryAccessMask.FILE_LIST_DIRECTORY, CreateOptions.FILE_DIRECTORY_FILE
        )
        listed = folder.query_directory("*", FileInformationClass.FILE_NAMES_INFORMATION)
        assert name in {entry["file_name"].get_value().decode("utf-16-le") for entry in listed}
        folder.close()
        gone = opened(connected, name, CreateDisposition.FILE_OPEN, access, CreateOptions.FILE_DELETE_ON_CLOSE)
        gone.close()
    assert hashlib.sha256(PAYLOAD).digest() == hashlib.sha256(back).digest()
    assert not (server.share / name).exists()


@pytest.fixture
def how(server: Server) -> Iterator[dict[str, object]]:
    """The keywords every call of the high-level module takes."""
    cache: dict[str, Connection] = {}
    yield {"username": server.user, "password": server.password, "port": server.port, "connection_cache": cache}
    smb.reset_connection_cache(connection_cache=cache)


UNC = rf"\\127.0.0.1\{SHARE}"


def test_folders_rename_replace_and_walk(server: Server, how: dict[str, object]) -> None:
    smb.makedirs(rf"{UNC}\walk\a\b", **how)
    for name in ("one", "two"):
        with smb.open_file(rf"{UNC}\walk\a\{name}", mode="w", encoding="utf-8", **how) as file:
            file.write(name)
    smb.replace(rf"{UNC}\walk\a\one", rf"{UNC}\walk\a\two", **how)
    with smb.open_file(rf"{UNC}\walk\a\two", mode="r", encoding="utf-8", **how) as file:
        assert file.read() == "one"
    smb.rename(rf"{UNC}\walk\a", rf"{UNC}\walk\c", **how)
    seen = [(path.rpartition("\\")[2], sorted(folders), sorted(files)) for path, folders, files in smb.walk(rf"{UNC}\walk", **how)]
    assert seen == [("walk", ["c"], []), ("c", ["b"], ["two"]), ("b", [], [])]
    with pytest.raises(OSError, match=r"STATUS_DIRECTORY_NOT_EMPTY|not empty"):
        smb.rmdir(rf"{UNC}\walk\c", **how)
    smb_shutil.rmtree(rf"{UNC}\walk", **how)
    assert not (server.share / "walk").exists()


def test_stat_times_truncate(server: Server, how: dict[str, object]) -> None:
    path = rf"{UNC}\stat.bin"
    with smb.open_file(path, mode="wb", **how) as file:
        file.write(b"x" * 5000)
    smb.truncate(path, 123, **how)
    smb.utime(path, (1_000_000_000, 1_100_000_000), **how)
    found = smb.stat(path, **how)
    assert found.st_size == 123
    assert (int(found.st_atime), int(found.st_mtime)) == (1_000_000_000, 1_100_000_000)
    assert found.st_ino == (server.share / "stat.bin").stat().st_ino
    smb.remove(path, **how)


def test_extended_attributes(server: Server, how: dict[str, object]) -> None:
    path = rf"{UNC}\ea.bin"
    with smb.open_file(path, mode="wb", **how) as file:
        file.write(b"data")
    smb.setxattr(path, b"FIRST", b"\x00\x01value", **how)
    smb.setxattr(path, b"SECOND", b"s" * 500, **how)
    assert smb.getxattr(path, b"FIRST", **how) == b"\x00\x01value"
    assert {name.upper() for name in smb.listxattr(path, **how)} == {b"FIRST", b"SECOND"}
    smb.setxattr(path, b"FIRST", b"changed", **how)
    assert smb.getxattr(path, b"FIRST", **how) == b"changed"
    smb.removexattr(path, b"SECOND", **how)
    assert {name.upper() for name in smb.listxattr(path, **how)} == {b"FIRST"}


def test_streams(server: Server, how: dict[str, object]) -> None:
    path = rf"{UNC}\streams.bin"
    with smb.open_file(path, mode="wb", **how) as file:
        file.write(b"main")
    with smb.open_file(f"{path}:side", mode="wb", **how) as file:
        file.write(b"side data")
    with smb.open_file(f"{path}:side", mode="rb", **how) as file:
        assert file.read() == b"side data"
    with smb.open_file(path, mode="rb", **how) as file:
        assert file.read() == b"main"
    with smb.open_file(f"{path}:gone", mode="wb", **how) as file:
        file.write(b"x")
    smb.remove(f"{path}:gone", **how)
    with pytest.raises(OSError, match=r"NAME_NOT_FOUND|No such file"):
        smb.open_file(f"{path}:gone", mode="rb", **how)
    assert smb.stat(path, **how).st_size == 4
    smb.remove(path, **how)
    with pytest.raises(OSError, match=r"NAME_NOT_FOUND|No such file"):
        smb.open_file(f"{path}:side", mode="rb", **how)


def test_server_side_copy(server: Server, how: dict[str, object]) -> None:
    with smb.open_file(rf"{UNC}\copy-from.bin", mode="wb", **how) as file:
        file.write(PAYLOAD)
    smb.copyfile(rf"{UNC}\copy-from.bin", rf"{UNC}\copy-to.bin", **how)
    assert (server.share / "copy-to.bin").read_bytes() == PAYLOAD
