"""impacket's SMB client, in every dialect it speaks."""

from __future__ import annotations

import hashlib
import io
import random

import pytest
from impacket.smbconnection import SessionError, SMBConnection

from tests.server import SHARE, Server

DIALECTS = {"2.0.2": 0x0202, "2.1": 0x0210, "3.0": 0x0300, "3.1.1": 0x0311}
PAYLOAD = random.Random(3).randbytes((3 << 20) + 11)


def connected(server: Server, dialect: int) -> SMBConnection:
    """A logged-on connection."""
    connection = SMBConnection("MILLPOND", "127.0.0.1", sess_port=server.port, preferredDialect=dialect, timeout=20)
    connection.login(server.user, server.password)
    return connection


@pytest.mark.parametrize("dialect", DIALECTS)
def test_files_and_folders(server: Server, dialect: str) -> None:
    connection = connected(server, DIALECTS[dialect])
    assert connection.getDialect() == DIALECTS[dialect]
    assert {SHARE, "IPC$"} <= {share["shi1_netname"].rstrip("\0") for share in connection.listShares()}
    folder, name = f"imp {dialect}", "Ünï 日本 🐟.bin"
    connection.createDirectory(SHARE, folder)
    connection.putFile(SHARE, rf"{folder}\{name}", io.BytesIO(PAYLOAD).read)
    assert hashlib.sha256((server.share / folder / name).read_bytes()).digest() == hashlib.sha256(PAYLOAD).digest()
    back = io.BytesIO()
    connection.getFile(SHARE, rf"{folder}\{name}", back.write)
    assert hashlib.sha256(back.getvalue()).digest() == hashlib.sha256(PAYLOAD).digest()
    entries = {entry.get_longname(): entry.get_filesize() for entry in connection.listPath(SHARE, rf"{folder}\*")}
    assert entries[name] == len(PAYLOAD)
    assert {".", ".."} <= set(entries)
    connection.rename(SHARE, rf"{folder}\{name}", rf"{folder}\renamed.bin")
    connection.deleteFile(SHARE, rf"{folder}\renamed.bin")
    connection.deleteDirectory(SHARE, folder)
    assert not (server.share / folder).exists()
    connection.close()


def test_encryption_that_a_share_requires(make_server) -> None:  # type: ignore[no-untyped-def]
    server = make_server(share_settings={"smb encrypt": "required"})
    connection = connected(server, 0x0311)
    connection.putFile(SHARE, "sealed.bin", io.BytesIO(PAYLOAD).read)
    assert (server.share / "sealed.bin").read_bytes() == PAYLOAD
    connection.close()
    plain = connected(server, 0x0210)
    with pytest.raises(SessionError, match="ACCESS_DENIED"):
        plain.connectTree(SHARE)
    plain.close()


def test_wrong_password(server: Server) -> None:
    connection = SMBConnection("MILLPOND", "127.0.0.1", sess_port=server.port)
    with pytest.raises(SessionError, match="LOGON_FAILURE"):
        connection.login(server.user, "wrong")
    connection.close()
