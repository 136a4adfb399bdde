"""A DFS namespace with smbclient: a link is followed to another share, which it finds by asking."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.interop.tools import SIGNED, smbclient
from tests.server import Server

LOWEST_FREE_PORT = int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())


@pytest.fixture
def server() -> Iterator[Server]:
    """At port 445 of a loopback address of its own: that is where clients look for the targets of links."""
    if os.geteuid() and LOWEST_FREE_PORT > 445:
        pytest.skip("clients follow links to port 445, which takes root here")
    made = Server(share_settings={"msdfs root": "yes"})
    second = made.peer.base / "second"
    made.peer.shares["second"] = {"path": str(second), "read only": "no"}
    made.on_port_445()
    with made.running():
        second.mkdir()
        second.chmod(0o777)
        os.symlink(f"msdfs:127.0.0.9\\nothing,{made.peer.host}\\second", made.share / "link")
        (made.share / "here").mkdir()
        (made.share / "here").chmod(0o777)
        yield made


def test_a_link_leads_to_another_share(server: Server, tmp_path: Path) -> None:
    listed = smbclient(server, "ls")
    assert "link" in listed
    assert "D" in next(line for line in listed.splitlines() if "link" in line).split()[1]
    (tmp_path / "content").write_text("through the link")
    os.unlink(server.share / "link")
    os.symlink(f"msdfs:{server.peer.host}\\second", server.share / "link")
    output = smbclient(server, f"cd link; put {tmp_path / 'content'} new; ls; mkdir folder; showconnect", SIGNED)
    assert "new" in output, output
    assert (server.peer.base / "second" / "new").exists(), output
    assert (server.peer.base / "second" / "new").read_text() == "through the link"
    assert (server.peer.base / "second" / "folder").is_dir()
    assert smbclient(server, f"get link\\new {tmp_path / 'back'}", SIGNED)
    assert (tmp_path / "back").read_text() == "through the link"


def test_what_lies_in_the_namespace_itself(server: Server, tmp_path: Path) -> None:
    (tmp_path / "content").write_text("in the root")
    smbclient(server, f"cd here; put {tmp_path / 'content'} one; rename one two; mkdir d; get two {tmp_path / 'back'}", SIGNED)
    assert sorted(os.listdir(server.share / "here")) == ["d", "two"]
    assert (tmp_path / "back").read_text() == "in the root"
    smbclient(server, "cd here; del two; rmdir d", SIGNED)
    assert os.listdir(server.share / "here") == []
