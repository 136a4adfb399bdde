"""What a share's parameters keep from sight: names that are hidden, vetoed or not listed, and what nobody may cache."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smbd.smb2 import constants as c
from smbd.smb2 import status
from smbd.smb2.dtyp.descriptor import DACL_AUTO_INHERIT_REQ, DACL_AUTO_INHERITED, SecurityDescriptor
from smbd.smb2.dtyp.sddl import parse_sddl
from smbd.smb2.messages import create
from smbd.smb2.messages.create_contexts import LEASE_V2, REQUEST_LEASE, SD_BUFFER
from smbd.smb2.names import short_name
from tests.wire_client import FileId, Response, WireClient
from tests.workers.house import ALICE, House
from workers.vfs.namelists import NameList

ON_ERRANDS_TOO = True

NAMES, BOTH = 0x0C, 0x03
DIRECTORY = c.FILE_DIRECTORY_FILE
DISPOSITION, RENAME, LINK = 13, 10, 11
KEY = b"K" * 16
NOT_THERE = (status.OBJECT_NAME_NOT_FOUND, status.OBJECT_PATH_NOT_FOUND, status.OBJECT_NAME_INVALID)
Make = Callable[..., House]


def listed(client: WireClient, path: str = "", pattern: str = "*", info_class: int = NAMES) -> set[str]:
    """The names in a directory, without '.' and '..'."""
    opened = client.open(path, options=DIRECTORY, access=0x120089)
    found: set[str] = set()
    while (answer := client.query_directory(opened, pattern, info_class)).status == status.SUCCESS:
        raw, at = client.output(answer), 0
        name_at = 12 if info_class == NAMES else 94
        length_at = 8 if info_class == NAMES else 60
        while True:
            length = int.from_bytes(raw[at + length_at : at + length_at + 4], "little")
            found.add(raw[at + name_at : at + name_at + length].decode("utf-16-le"))
            following = int.from_bytes(raw[at : at + 4], "little")
            if not following:
                break
            at += following
    client.close(opened)
    return found - {".", ".."}


def level_of(answer: Response) -> int:
    return int(answer.parse(create.CREATE_RESPONSE).oplock_level)


def rename_body(target: str) -> bytes:
    name = target.encode("utf-16-le")
    return bytes(16) + len(name).to_bytes(4, "little") + name


@pytest.mark.parametrize(
    ("patterns", "there", "not_there"),
    [
        (["*.tmp"], ["a.tmp", ".TMP", "a.b.Tmp"], ["tmp", "a.tmpx", "a.tm"]),
        (["~$?"], ["~$a"], ["~$", "~$ab"]),
        (["a[b]", "(c"], ["A[B]", "(c"], ["ab", "c"]),
        (["größe*"], ["GRÖßE.txt"], ["grosse"]),
        (["*\n*"], ["a\nb"], ["ab"]),
    ],
)
def test_patterns(patterns: list[str], there: list[str], not_there: list[str]) -> None:
    names = NameList(patterns)
    assert [name for name in there if name not in names] == []
    assert [name for name in not_there if name in names] == []


def test_vetoed_names_are_out_of_reach(make_house: Make, folder: Path) -> None:
    (folder / "Secret.KEY").write_text("a")
    (folder / "plain").write_text("b")
    (folder / "private").mkdir()
    (folder / "private" / "inside").write_text("c")
    client = make_house(share_text="veto files = /*.key/private/").client()
    assert listed(client) == {"plain"}
    assert listed(client, pattern="secret.key") == set()
    for name, expected in (
        ("secret.key", status.OBJECT_NAME_NOT_FOUND),
        ("private", status.OBJECT_NAME_NOT_FOUND),
        ("private\\inside", status.OBJECT_PATH_NOT_FOUND),
        ("PRIVATE\\deeper\\inside", status.OBJECT_PATH_NOT_FOUND),
    ):
        assert client.create(name, disposition=c.FILE_OPEN).status == expected, name
    for name in ("new.key", "Private"):
        assert client.create(name, disposition=c.FILE_CREATE).status == status.ACCESS_DENIED
    opened = client.open("plain")
    for info_class in (RENAME, LINK):
        assert client.set_info(opened, c.INFO_FILE, info_class, rename_body("other.key")).status == status.ACCESS_DENIED
    assert sorted(os.listdir(folder)) == ["Secret.KEY", "plain", "private"]


def delete(client: WireClient, opened: FileId) -> int:
    code = client.set_info(opened, c.INFO_FILE, DISPOSITION, b"\1").status
    client.close(opened)
    return code


@pytest.mark.parametrize("along", [False, True])
def test_what_nobody_sees_keeps_its_directory_or_goes_with_it(make_house: Make, folder: Path, along: bool) -> None:
    for name in ("full", "full/._a", "full/._a/below", "full/._a/below/deeper"):
        (folder / name).mkdir()
    (folder / "full/._file").write_text("x")
    (folder / "full/._a/._b").symlink_to("/etc")
    client = make_house(share_text=f"veto files = /._*/\ndelete veto files = {along}").client()
    assert listed(client, "full") == set()
    assert delete(client, client.open("full", options=DIRECTORY)) == (status.SUCCESS if along else status.DIRECTORY_NOT_EMPTY)
    assert (folder / "full").exists() is not along
    (folder / "kept").mkdir()
    (folder / "kept" / "seen").write_text("x")
    (folder / "kept" / "._unseen").write_text("x")
    assert delete(client, client.open("kept", options=DIRECTORY)) == status.DIRECTORY_NOT_EMPTY
    assert (folder / "kept" / "._unseen").exists()
    assert Path("/etc").exists()


def test_hidden_names_have_the_attribute(make_house: Make, folder: Path) -> None:
    for name in ("desktop.ini", ".dot", "plain"):
        (folder / name).write_text("a")
    client = make_house(share_text="hide files = /Desktop.ini/\nhide dot files = no").client()
    assert listed(client) == {"desktop.ini", ".dot", "plain"}
    found = {}
    for name in ("desktop.ini", ".dot", "plain"):
        found[name] = client.create(name, disposition=c.FILE_OPEN).parse(create.CREATE_RESPONSE).file_attributes
        opened = client.open("", options=DIRECTORY)
        entry = client.output(client.query_directory(opened, name, BOTH))
        assert int.from_bytes(entry[56:60], "little") == found[name]
        client.close(opened)
    assert [name for name, attributes in found.items() if attributes & c.FILE_ATTRIBUTE_HIDDEN] == ["desktop.ini"]


def test_unwriteable_files_are_not_listed_but_directories_are(make_house: Make) -> None:
    house = make_house()
    owner = house.client()
    for name in ("writable", "readable"):
        owner.close(owner.open(name))
    owner.close(owner.open("folder", options=DIRECTORY))
    only_read = make_house(share_text="hide unwriteable files = yes\nread only = yes").client()
    assert listed(only_read) == {"folder"}
    assert listed(make_house(share_text="hide unwriteable files = yes").client()) == {"writable", "readable", "folder"}


@pytest.mark.parametrize("info_class", [NAMES, BOTH])
def test_what_may_still_be_arriving_is_not_listed(make_house: Make, folder: Path, info_class: int) -> None:
    for name, age in (("new", 0), ("old", 3600)):
        (folder / name).write_text("a")
        then = time.time() - age
        os.utime(folder / name, (then, then))
    (folder / "folder").mkdir()
    client = make_house(share_text="hide new files timeout = 60").client()
    assert listed(client, info_class=info_class) == {"old", "folder"}
    assert listed(client, pattern="new", info_class=info_class) == set()
    assert listed(client, pattern="old", info_class=info_class) == {"old"}
    assert client.create("new", disposition=c.FILE_OPEN).status == status.SUCCESS


def test_some_directories_show_nothing(make_house: Make, folder: Path) -> None:
    for name in ("closed", "closed/below", "open", "open/closed"):
        (folder / name).mkdir()
    client = make_house(share_text="dont descend = ./Closed, /elsewhere").client()
    assert listed(client, "closed") == set()
    assert listed(client, "open") == {"closed"}
    assert client.create("closed\\below", options=DIRECTORY, disposition=c.FILE_OPEN).status == status.SUCCESS


def test_some_names_are_never_cached(make_house: Make) -> None:
    client = make_house(share_text="veto oplock files = /*.MDB/").client()
    lease = {"oplock": c.OPLOCK_LEVEL_LEASE, "contexts": [(REQUEST_LEASE, LEASE_V2.pack(KEY, 7, 0, 0, bytes(16), 0, 0))]}
    assert level_of(client.create("a.mdb", oplock=c.OPLOCK_LEVEL_BATCH)) == c.OPLOCK_LEVEL_NONE
    assert level_of(client.create("b.mdb", **lease)) == c.OPLOCK_LEVEL_NONE
    assert level_of(client.create("c.mdbx", **lease)) == c.OPLOCK_LEVEL_LEASE


def test_a_share_without_level_2(make_house: Make) -> None:
    client = make_house(share_text="level2 oplocks = no").client()
    assert level_of(client.create("second", oplock=c.OPLOCK_LEVEL_II)) == c.OPLOCK_LEVEL_NONE
    client.create("shared")
    assert level_of(client.create("shared", oplock=c.OPLOCK_LEVEL_BATCH)) == c.OPLOCK_LEVEL_NONE
    assert level_of(client.create("alone", oplock=c.OPLOCK_LEVEL_BATCH)) == c.OPLOCK_LEVEL_BATCH
    lease = {"oplock": c.OPLOCK_LEVEL_LEASE, "contexts": [(REQUEST_LEASE, LEASE_V2.pack(KEY, 1, 0, 0, bytes(16), 0, 0))]}
    assert level_of(client.create("leased", **lease)) == c.OPLOCK_LEVEL_LEASE


@pytest.mark.parametrize(
    ("rights", "shown"),
    [
        (c.FILE_GENERIC_READ, True),
        (c.FILE_GENERIC_READ & ~c.FILE_READ_EA, False),
        (c.FILE_GENERIC_READ & ~c.FILE_READ_ATTRIBUTES, False),
        (c.FILE_GENERIC_READ & ~c.FILE_READ_DATA, False),
    ],
)
def test_what_is_listed_can_be_read_in_full(make_house: Make, rights: int, shown: bool) -> None:
    """The directory lends READ_ATTRIBUTES to those who open a file, but makes nothing readable."""
    house = make_house(share_text="hide unreadable = yes")
    client = house.client()
    sid = house.tokens[ALICE].user_sid
    client.close(client.open("file", contexts=[(SD_BUFFER, parse_sddl(f"O:{sid}D:P(A;;{rights:#x};;;{sid})").pack())]))
    assert listed(client) == ({"file"} if shown else set())


@pytest.mark.parametrize("canonical", [True, False])
@pytest.mark.parametrize("asked", [True, False])
def test_the_mark_of_an_inherited_list(make_house: Make, asked: bool, canonical: bool) -> None:
    client = make_house(share_text=f"acl flag inherited canonicalization = {canonical}").client()
    opened = client.open("file")
    given = parse_sddl("D:(A;;FA;;;WD)")
    given = given._replace(control=given.control | DACL_AUTO_INHERITED | (DACL_AUTO_INHERIT_REQ if asked else 0))
    assert client.set_info(opened, c.INFO_SECURITY, 0, given.pack(), c.DACL_SECURITY_INFORMATION).status == status.SUCCESS
    answer = client.output(client.query_info(opened, c.INFO_SECURITY, 0, additional=c.DACL_SECURITY_INFORMATION))
    kept = SecurityDescriptor.unpack(answer).control
    assert bool(kept & DACL_AUTO_INHERITED) == (asked or not canonical)
    assert not kept & DACL_AUTO_INHERIT_REQ


def test_a_short_name_leads_to_nothing_that_is_vetoed(make_house: Make, folder: Path) -> None:
    (folder / "a secret thing.key").write_text("kept")
    (folder / "private folder").mkdir()
    (folder / "private folder" / "inside").write_text("kept")
    client = make_house(share_text="veto files = /*.key/private folder/").client()
    opened = client.open("plain")
    for long in ("a secret thing.key", "private folder"):
        short = short_name(long)
        assert short
        assert client.create(short, disposition=c.FILE_OPEN).status == status.OBJECT_NAME_NOT_FOUND
        assert client.create(f"{short}\\inside", disposition=c.FILE_OPEN).status == status.OBJECT_PATH_NOT_FOUND
        replacing = b"\1" + rename_body(short)[1:]
        for info_class in (RENAME, LINK):
            assert client.set_info(opened, c.INFO_FILE, info_class, replacing).status == status.ACCESS_DENIED
    assert (folder / "a secret thing.key").read_text() == "kept"


@pytest.mark.parametrize("pattern", ["folder\\inner\\..", "folder/inner/..", "folder/../folder", "folder/inner/../../folder"])
def test_a_pattern_that_is_a_path_finds_nothing(make_house: Make, folder: Path, pattern: str) -> None:
    (folder / "folder" / "inner").mkdir(parents=True)
    client = make_house().client()
    assert client.query_directory(client.open("", options=DIRECTORY), pattern).status == status.NO_SUCH_FILE


@given(st.lists(st.text("ab*?", min_size=1, max_size=8), min_size=1, max_size=3), st.text("ab", max_size=9))
def test_patterns_mean_what_they_say(patterns: list[str], name: str) -> None:
    """As the plain translation of each of them, which may take for ever."""
    plain = ("".join({"*": ".*", "?": "."}.get(one, one) for one in pattern) for pattern in patterns)
    assert (name in NameList(patterns)) is any(re.fullmatch(one, name) for one in plain)


@pytest.mark.timeout(20)
def test_no_name_makes_a_pattern_take_long() -> None:
    names = NameList(["*a*a*a*a*a*a*a*a*b", "*" * 40 + "b", "*?a?*?a?*?a?*?a?*?a?*b"])
    assert "a" * 255 not in names
    assert "a" * 254 + "b" in names


@pytest.mark.parametrize("way", ["below\\..\\", "below/../", "none\\..\\", "below\\..\\none\\..\\"])
def test_a_search_is_for_a_name_and_no_path(make_house: Make, folder: Path, way: str) -> None:
    """A search expression that leads somewhere finds nothing: not what is vetoed, nor what is ours."""
    (folder / "below").mkdir()
    (folder / ".millpond").mkdir(exist_ok=True)
    (folder / "secret.key").write_text("kept")
    client = make_house(share_text="veto files = /*.key/").client()
    opened = client.open("", options=DIRECTORY)
    for name in ("secret.key", "SECRET.KEY", ".millpond", ".MILLPOND"):
        assert client.query_directory(opened, way + name, BOTH, flags=c.REOPEN).status == status.NO_SUCH_FILE, name


@pytest.mark.parametrize("name", ["a link of a long name.key", "private folder\\link", "private folder\\.\\link"])
def test_where_a_vetoed_symlink_leads_is_not_told(make_house: Make, folder: Path, name: str) -> None:
    (folder / "private folder").mkdir()
    for link in ("a link of a long name.key", "private folder/link"):
        (folder / link).symlink_to("/nowhere/at/all")
    client = make_house(share_text="veto files = /a link of*/private folder/").client()
    first, _, rest = name.partition("\\")
    short = short_name(first) + ("\\" + rest if rest else "")
    assert client.create("seen\\behind", disposition=c.FILE_OPEN).status == status.OBJECT_PATH_NOT_FOUND
    for path in (name, short, f"{name}\\behind", f"{short}\\behind"):
        answer = client.create(path, disposition=c.FILE_OPEN)
        assert answer.status in NOT_THERE, (path, status.name(answer.status))
        assert "nowhere".encode("utf-16-le") not in bytes(answer.view)


def test_a_vetoed_name_is_not_made_by_its_short_name(make_house: Make, folder: Path) -> None:
    """Who has looked for a file by its short name and makes that anew means the long one: not one that is forbidden."""
    vetoed = folder / "a secret thing.key"
    vetoed.write_text("kept")
    client = make_house(share_text="veto files = /a secret*/").client()
    short = short_name(vetoed.name)
    assert client.create(short, disposition=c.FILE_OPEN).status == status.OBJECT_NAME_NOT_FOUND
    vetoed.unlink()
    assert client.create(short, disposition=c.FILE_CREATE).status == status.ACCESS_DENIED
    assert not vetoed.exists()
