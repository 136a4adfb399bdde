"""Users' quotas with Samba's smbcquotas, which knows no port but 445, and the free space that smbclient is told of."""

from __future__ import annotations

import json
import os
import pwd
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.load.peers import Millpond
from tests.interop.tools import SIGNED, run, samba_options, smbclient
from tests.server import OTHER, SHARE, Server, given_settings, tool

MIB = 1 << 20
UID = pwd.getpwnam(OTHER[0]).pw_uid


def smbcquotas(server: Server, *words: str, ok: bool = True, **who: str) -> str:
    options = samba_options(server, SIGNED, **who)
    port = options.index("-p")
    del options[port : port + 2]
    return run([tool("smbcquotas"), f"//{server.peer.host}/{SHARE}", *options, "-n", *words], ok=ok)


def started(server: Server) -> Iterator[Server]:
    if os.geteuid():
        pytest.skip("port 445 is root's")
    server.on_port_445()
    with server.running():
        yield server


@pytest.fixture(scope="module")
def plain() -> Iterator[Server]:
    """On the machine's own file system, which has none."""
    yield from started(Server())


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("quotas") / "table.json"
    made.write_text(json.dumps({UID: (3 * MIB, 0, 8 * MIB), UID + 100_000: (MIB, MIB, 2 * MIB)}))
    return made


@pytest.fixture(scope="module")
def server(table: Path) -> Iterator[Server]:
    """The first account is an administrator of the share, the other is not."""
    if given_settings().get("port") == "posix":
        pytest.skip("port posix knows no quotas")
    made = Server(share_settings={"admin users": Server().user})

    def command() -> list[str]:
        assert isinstance(made.peer, Millpond)
        return [sys.executable, "-m", "tests.interop.quota_server", str(table), "run", "--config", str(made.peer.config)]

    made.peer.command = command  # type: ignore[method-assign]
    yield from started(made)


def numbers(line: str) -> list[int]:
    return [int(number) for number in re.findall(r"-?\d+", line.partition(":")[2])]


def test_all_are_listed_for_an_administrator(server: Server) -> None:
    found = [numbers(line) for line in smbcquotas(server, "-L").splitlines() if line.startswith("S-1-")]
    assert sorted(found) == [[MIB, MIB, 2 * MIB], [3 * MIB, (1 << 64) - 1, 8 * MIB]]


def test_an_administrator_sets_limits(server: Server, table: Path) -> None:
    smbcquotas(server, "-S", f"UQLIM:{OTHER[0]}:{4 * MIB}/{9 * MIB}")
    assert json.loads(table.read_text())[str(UID)] == [3 * MIB, 4 * MIB, 9 * MIB]
    assert numbers(smbcquotas(server, "-u", OTHER[0])) == [3 * MIB, 4 * MIB, 9 * MIB]


def test_others_know_their_own_only(server: Server, table: Path) -> None:
    who = {"user": OTHER[0], "password": OTHER[1]}
    before = table.read_text()
    assert len([line for line in smbcquotas(server, "-L", **who).splitlines() if line.startswith("S-1-")]) == 1
    assert numbers(smbcquotas(server, "-u", OTHER[0], **who))[0] == 3 * MIB
    assert "ACCESS_DENIED" in smbcquotas(server, "-u", server.user, ok=False, **who)
    assert "ACCESS_DENIED" in smbcquotas(server, "-S", f"UQLIM:{OTHER[0]}:0/0", ok=False, **who)
    assert table.read_text() == before


def test_quotas_are_kept_and_bound_the_free_space(server: Server) -> None:
    assert re.search(r"Quotas Enabled: +On\n Deny Disk: +On", smbcquotas(server, "-F"))
    told = smbclient(server, "du", SIGNED, user=OTHER[0], password=OTHER[1])
    blocks, size, available = map(int, re.findall(r"(\d+) blocks of size (\d+)\. (\d+) blocks available", told)[0])
    assert blocks * size <= 9 * MIB
    assert available * size <= 6 * MIB


def test_there_are_none_on_a_file_system_without(plain: Server) -> None:
    assert "Quotas are not supported by the server" in smbcquotas(plain, "-L")
