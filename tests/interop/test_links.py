"""Symbolic links with real clients: smbprotocol makes and follows them, smbclient lists and deletes them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import smbclient as smb
from smbprotocol.exceptions import SMBLinkRedirectionError

from smbd.smb2.fscc import reparse
from tests.interop.tools import smbclient
from tests.server import SHARE, Server


@pytest.fixture
def server(make_server: Callable[..., Server]) -> Server:
    return make_server()


@pytest.fixture
def how(server: Server) -> Iterator[dict[str, Any]]:
    """The keywords every call of the library takes."""
    cache: dict[str, Any] = {}
    yield {"username": server.user, "password": server.password, "port": server.port, "connection_cache": cache}
    smb.reset_connection_cache(connection_cache=cache)


UNC = rf"\\127.0.0.1\{SHARE}"


def test_links_are_made_read_and_followed(server: Server, how: dict[str, Any]) -> None:
    smb.mkdir(rf"{UNC}\folder", **how)
    with smb.open_file(rf"{UNC}\folder\target", mode="w", **how) as file:
        file.write("content")
    smb.symlink("target", rf"{UNC}\folder\link", **how)
    assert os.readlink(server.share / "folder" / "link") == "target"
    assert smb.readlink(rf"{UNC}\folder\link", **how).endswith("target")
    with smb.open_file(rf"{UNC}\folder\link", **how) as file:
        assert file.read() == "content"
    found = smb.lstat(rf"{UNC}\folder\link", **how)
    assert found.st_reparse_tag == reparse.TAG_SYMLINK
    assert smb.stat(rf"{UNC}\folder\link", **how).st_size == len("content")
    smb.remove(rf"{UNC}\folder\link", **how)
    assert os.listdir(server.share / "folder") == ["target"]


def test_a_client_follows_what_the_server_does_not(server: Server, how: dict[str, Any]) -> None:
    """An absolute link of the client's own is kept, told, and resolved by the client."""
    (server.share / "real").mkdir()
    (server.share / "real").chmod(0o777)
    (server.share / "real" / "f").write_text("content")
    smb.symlink(rf"{UNC}\real", rf"{UNC}\link", target_is_directory=True, **how)
    assert not (server.share / "link").is_symlink()
    with smb.open_file(rf"{UNC}\link\f", **how) as file:
        assert file.read() == "content"


def test_links_that_lead_nowhere(server: Server, how: dict[str, Any]) -> None:
    (server.share / "around").symlink_to("around")
    (server.share / "out").symlink_to("/etc/passwd")
    with pytest.raises(SMBLinkRedirectionError):
        smb.open_file(rf"{UNC}\out", **how)
    listed = smbclient(server, "ls")
    assert "around" in listed
    assert "out" in listed
    assert "NT_STATUS_STOPPED_ON_SYMLINK" in smbclient(server, "get out /dev/null", ok=None)
