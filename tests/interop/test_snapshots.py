"""Previous versions with Samba's smbclient: snapshots in a directory that only root may go to."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.interop.tools import SIGNED, smbclient
from tests.server import Server, given_settings, tool

TOKENS = ("@GMT-2021.01.01-00.00.00", "@GMT-2020.09.13-12.26.40")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A share with a file that has a named stream, and two snapshots of it."""
    snapshots = tmp_path_factory.mktemp("snapshots")
    made = Server(share_settings={"vfs objects": "shadow_copy2 streams_xattr acl_xattr", "shadow:snapdir": str(snapshots)})
    made.peer.share_settings["shadow:basedir"] = str(made.share)
    with made.running():
        for token in reversed(TOKENS):
            with made.client() as client:
                for name, size in (("note.txt", 0), ("note.txt:small", 10)):
                    opened = client.open(name)
                    client.write(opened, 0, token.encode()[: size or None].ljust(size))
                    client.close(opened)
            subprocess.run([tool("cp"), "-a", str(made.share), str(snapshots / token)], check=True)
        (made.share / "note.txt").write_text("what is")
        os.chmod(snapshots, 0o700)
        yield made


def test_snapshots_are_listed(server: Server) -> None:
    told = smbclient(server, "allinfo note.txt", SIGNED)
    assert all(token in told for token in TOKENS), told
    assert told.index(TOKENS[0]) < told.index(TOKENS[1])


@pytest.mark.parametrize("token", TOKENS)
def test_a_file_comes_back_as_it_was(server: Server, tmp_path: Path, token: str) -> None:
    smbclient(server, f'lcd {tmp_path}; get "{token}\\note.txt" back', SIGNED)
    assert (tmp_path / "back").read_text() == token
    listed = smbclient(server, f'ls "{token}\\*"', SIGNED)
    assert "note.txt" in listed


@pytest.mark.skipif(given_settings().get("port") == "posix", reason="it keeps attributes by the files' numbers, copies have others")
def test_a_stream_comes_back_as_it_was(server: Server, tmp_path: Path) -> None:
    for token in TOKENS:
        smbclient(server, f'lcd {tmp_path}; get "{token}\\note.txt:small" back', SIGNED)
        assert (tmp_path / "back").read_text() == token[:10]


def test_nothing_is_put_there(server: Server) -> None:
    assert "NT_STATUS_MEDIA_WRITE_PROTECTED" in smbclient(server, f'put /etc/hostname "{TOKENS[0]}\\new"', SIGNED, ok=None)
    assert "NT_STATUS_MEDIA_WRITE_PROTECTED" in smbclient(server, f'del "{TOKENS[0]}\\note.txt"', SIGNED, ok=None)
