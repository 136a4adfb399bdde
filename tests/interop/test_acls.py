"""Access control lists through smbcacls, and that they count."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.interop.tools import CASES, Case, smbcacls, smbclient
from tests.server import Server

LOWEST_FREE_PORT = int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())
NO_FLAGS = "(0x0)?"  # smbcacls looks at the byte before an empty string, and writes nothing for 0 if that happens to be a '|'


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A server at port 445 of a loopback address of its own: smbcacls knows no other port."""
    if os.geteuid() and LOWEST_FREE_PORT > 445:
        pytest.skip("smbcacls knows only port 445, which takes root here")
    made = Server()
    made.on_port_445()
    with made.running():
        yield made


@pytest.mark.parametrize("case", CASES, ids=str)
def test_read_set_add_delete(server: Server, case: Case) -> None:
    smbclient(server, "put /etc/hostname acl.txt", case)
    text = smbcacls(server, "acl.txt", case=case)
    assert re.search(rf"OWNER:.*\\{server.user}", text), text
    assert "ACL:" in text, text
    smbcacls(server, "acl.txt", "--set", f"ACL:{server.user}:ALLOWED/0x0/FULL,ACL:Everyone:ALLOWED/0x0/READ", case=case)
    text = smbcacls(server, "acl.txt", case=case)
    assert re.search(rf"ACL:\S*Everyone:ALLOWED/{NO_FLAGS}/READ", text), text
    smbcacls(server, "acl.txt", "--add", f"ACL:{server.other_user}:DENIED/0x0/WD", case=case)
    assert re.search(rf"ACL:\S*{server.other_user}:DENIED/{NO_FLAGS}/", smbcacls(server, "acl.txt", case=case))
    smbcacls(server, "acl.txt", "--delete", "ACL:Everyone:ALLOWED/0x0/READ", case=case)
    assert "Everyone" not in smbcacls(server, "acl.txt", case=case)
    smbclient(server, "del acl.txt", case)


def test_sids_in_numbers(server: Server) -> None:
    smbclient(server, "put /etc/hostname num.txt")
    assert re.search(r"OWNER:S-1-5-21-\d+-\d+-\d+-\d+", smbcacls(server, "num.txt", "--numeric"))


def test_a_denied_user_is_denied(server: Server) -> None:
    smbclient(server, "put /etc/hostname secret.txt")
    other = {"user": server.other_user, "password": server.other_password}
    assert "getting file" in smbclient(server, "get secret.txt /dev/null", **other)
    smbcacls(server, "secret.txt", "--set", f"ACL:{server.user}:ALLOWED/0x0/FULL")
    assert "NT_STATUS_ACCESS_DENIED" in smbclient(server, "get secret.txt /dev/null", ok=None, **other)
    assert "getting file" in smbclient(server, "get secret.txt /dev/null")


def test_children_inherit(server: Server) -> None:
    smbclient(server, "mkdir heirs")
    smbcacls(server, "heirs", "--set", f"ACL:{server.user}:ALLOWED/OI|CI/FULL,ACL:Everyone:ALLOWED/OI|CI/READ")
    smbclient(server, "cd heirs; put /etc/hostname child.txt; mkdir sub")
    child = smbcacls(server, "heirs\\child.txt")
    assert re.search(r"ACL:\S*Everyone:ALLOWED/I?/?.*READ", child), child
    assert re.search(r"ACL:\S*Everyone:ALLOWED/OI\|CI(\|I)?/READ", smbcacls(server, "heirs\\sub"))
