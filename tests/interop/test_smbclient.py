"""Samba's smbclient: every dialect, plain, signed and encrypted."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Protocol

import pytest

from tests.interop.tools import CASES, DIALECTS, NEWEST, Case, digests, plant, run, samba_options, smbclient
from tests.server import IS_SAMBA, SHARE, Server, tool


@pytest.mark.parametrize("case", CASES, ids=str)
def test_tree_goes_in_and_comes_out_unchanged(server: Server, tmp_path: Path, case: Case) -> None:
    source, back = tmp_path / "source", tmp_path / "back"
    source.mkdir()
    back.mkdir()
    before = plant(source)
    folder = f"in-{case}"
    smbclient(server, f'mkdir "{folder}"; cd "{folder}"; lcd "{source}"; recurse; prompt; mput *', case)
    assert digests(server.share / folder) == before
    assert (server.share / folder / "empty folder").is_dir()
    smbclient(server, f'cd "{folder}"; lcd "{back}"; recurse; prompt; mget *', case)
    assert digests(back) == before
    smbclient(server, f'deltree "{folder}"', case)
    assert not (server.share / folder).exists()


@pytest.mark.parametrize("case", [Case(dialect, protection) for dialect in DIALECTS for protection in ("off", "sign")], ids=str)
def test_shares_are_listed(server: Server, case: Case) -> None:
    listing = smbclient_list(server, case)
    assert re.search(rf"^\s*{SHARE}\s+Disk", listing, re.MULTILINE), listing
    assert re.search(r"^\s*IPC\$\s+IPC", listing, re.MULTILINE), listing


def smbclient_list(server: Server, case: Case) -> str:
    """``smbclient -L``."""
    return run([tool("smbclient"), "-L", "//127.0.0.1", *samba_options(server, case)])


class Ask(Protocol):
    """smbclient in one dialect and protection."""

    def __call__(self, commands: str, *, ok: bool | None = True) -> str: ...


@pytest.fixture(params=CASES, ids=str)
def ask(server: Server, request: pytest.FixtureRequest) -> Ask:
    """One of every dialect, plain, signed and encrypted."""

    def call(commands: str, *, ok: bool | None = True) -> str:
        return smbclient(server, commands, request.param, ok=ok)

    return call


def test_rename_delete_and_directories(server: Server, ask: Ask) -> None:
    (server.share / "rd").mkdir(mode=0o777, exist_ok=True)
    (server.share / "rd").chmod(0o777)
    ask('cd rd; put /etc/hostname one.txt; rename one.txt "zwei ü.txt"; mkdir sub; rename "zwei ü.txt" sub\\three.txt')
    assert [path.name for path in (server.share / "rd" / "sub").iterdir()] == ["three.txt"]
    refused = ask("cd rd; rmdir sub", ok=None)
    assert "NT_STATUS_DIRECTORY_NOT_EMPTY" in refused
    ask("cd rd; del sub\\three.txt; rmdir sub")
    assert list((server.share / "rd").iterdir()) == []
    assert "NT_STATUS_NO_SUCH_FILE" in ask("ls absent.txt", ok=None)
    assert "NT_STATUS_OBJECT_NAME_NOT_FOUND" in ask("get absent.txt /dev/null", ok=None)
    assert "NT_STATUS_OBJECT_PATH_NOT_FOUND" in ask("get no\\way\\absent.txt /dev/null", ok=None)
    assert "NT_STATUS_OBJECT_NAME_COLLISION" in ask("mkdir rd", ok=None)


def test_attributes(server: Server, ask: Ask) -> None:
    ask("put /etc/hostname attr.txt; setmode attr.txt +h; setmode attr.txt +s")
    assert re.search(r"attr\.txt\s+\S*HS\b|attr\.txt\s+\S*H\S*S", ask("ls attr.txt")), ask("ls attr.txt")
    info = ask("allinfo attr.txt")
    assert re.search(r"attributes: \S*H\S*S|attributes: \S*S\S*H|attributes: .*\(.*6\)|attributes:.*HS", info), info
    ask("setmode attr.txt +r")
    assert "NT_STATUS_CANNOT_DELETE" in ask("del attr.txt", ok=None)
    ask("setmode attr.txt -rsh; del attr.txt")
    assert not (server.share / "attr.txt").exists()


def test_times(ask: Ask) -> None:
    ask('put /etc/hostname times.txt; utimes times.txt "2001:02:03-04:05:06" "2002:03:04-05:06:07" "2003:04:05-06:07:08" -1')
    info = ask("allinfo times.txt")
    assert re.search(r"create_time:.*Feb\s+3.*2001", info), info
    assert re.search(r"access_time:.*Mar\s+4.*2002", info), info
    assert re.search(r"write_time:.*Apr\s+5.*2003", info), info


def test_streams(ask: Ask, tmp_path: Path) -> None:
    payload = tmp_path / "payload"
    size = 2048 if IS_SAMBA else 76800  # Samba's streams share the file's 4 KiB of extended attributes
    payload.write_bytes(bytes(range(256)) * (size // 256))
    ask(f'put /etc/hostname s.txt; put "{payload}" s.txt:notes; put /etc/hostname s.txt:Zone.Identifier')
    info = ask("allinfo s.txt")
    assert f":notes:$DATA], {size} bytes" in info, info
    assert ":Zone.Identifier:$DATA]" in info, info
    ask(f'get s.txt:notes "{tmp_path / "back"}"')
    assert (tmp_path / "back").read_bytes() == payload.read_bytes()
    ask("rename s.txt t.txt")
    assert ":Zone.Identifier:$DATA]" in ask("allinfo t.txt")
    ask("del t.txt")


def test_wildcards_and_case(server: Server, ask: Ask) -> None:
    folder = server.share / "wild"
    folder.mkdir(exist_ok=True)
    folder.chmod(0o777)
    for name in ("Alpha.txt", "beta.TXT", "gamma.bin", "no extension"):
        (folder / name).touch()

    def listed(pattern: str) -> set[str]:
        out = ask(f'cd wild; ls "{pattern}"')
        return {path.name for path in folder.iterdir() if path.name in out}

    assert listed("*.txt") == {"Alpha.txt", "beta.TXT"}
    assert listed("?????.txt") == {"Alpha.txt"}
    assert listed("GAMMA*") == {"gamma.bin"}
    assert listed("*") == {"Alpha.txt", "beta.TXT", "gamma.bin", "no extension"}
    assert "getting file" in ask("get WILD\\ALPHA.TXT /dev/null")


def test_server_side_copy_and_free_space(server: Server, ask: Ask, tmp_path: Path) -> None:
    source = tmp_path / "big"
    source.write_bytes(bytes(range(251)) * 20000)
    ask(f'put "{source}" a.bin; scopy a.bin b.bin')
    assert (server.share / "b.bin").read_bytes() == source.read_bytes()
    assert re.search(r"\d+ blocks of size \d+\. \d+ blocks available", ask("ls a.bin"))
    ask("del a.bin; del b.bin")


def test_wrong_password_and_missing_share(server: Server) -> None:
    assert "NT_STATUS_LOGON_FAILURE" in smbclient(server, "ls", ok=None, password="wrong")
    assert "NT_STATUS_LOGON_FAILURE" in smbclient(server, "ls", ok=None, user="nosuchuser")
    assert "NT_STATUS_BAD_NETWORK_NAME" in smbclient(server, "ls", ok=None, share="nosuchshare")
    assert "NT_STATUS_LOGON_FAILURE" not in smbclient(server, "ls", NEWEST)


def test_a_big_listing_is_complete(server: Server) -> None:
    folder = server.share / "many"
    folder.mkdir()
    names = {f"entry {number:05} größe.txt" for number in range(3000)}
    for name in names:
        (folder / name).touch()
    out = smbclient(server, "ls many\\*")
    assert sum(1 for name in names if name in out) == len(names)
