"""The user database: format, atomic replacement, one writer at a time."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authd.users import FIRST_FREE_ID, User, UserDatabase, UserError, format_line, nt_hash, parse_line
from pools.port import files


def test_nt_hash() -> None:
    # [MS-NLMP] 4.2.2.1.2
    assert nt_hash("Password").hex() == "a4f49c406510bdcab6824ee7c30fd852"


def test_golden_line() -> None:
    user = User("alice", 1000, nt_hash("Password"), "U", 0x5EBA0B01)
    assert format_line(user) == f"alice:1000:{'X' * 32}:A4F49C406510BDCAB6824EE7C30FD852:[U          ]:LCT-5EBA0B01:"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("bob:1001:" + "X" * 32 + ":" + "0" * 32 + ":[DU         ]:LCT-00000000:", User("bob", 1001, bytes(16), "DU", 0)),
        ("bob:1001:" + "X" * 32 + ":" + "X" * 32 + ":[U          ]:LCT-00000001:", User("bob", 1001, b"", "U", 1)),
        ("bob:1001:" + "X" * 32 + ":" + "0" * 32 + ":[NU         ]:LCT-00000000:", User("bob", 1001, b"", "NU", 0)),
        ("bob:1001:" + "X" * 32 + ":" + "0" * 32, User("bob", 1001, bytes(16), "U", 0)),
        ("pc$:1001:" + "X" * 32 + ":" + "0" * 32 + ":[W          ]:LCT-00000000:", None),
        ("# a comment:1:2:3", None),
        ("", None),
        ("bob", None),
        ("bob:x:y:z", None),
    ],
)
def test_lines(line: str, expected: User | None) -> None:
    assert parse_line(line) == expected


@given(st.text(max_size=200))
def test_no_line_raises(line: str) -> None:
    parse_line(line)


NAMES = st.text(st.characters(blacklist_characters=":\r\n\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029", blacklist_categories=["Cs"]), min_size=1)


@given(
    NAMES.filter(lambda name: not name.startswith("#")),
    st.integers(0, 2**32 - 1),
    st.binary(min_size=16, max_size=16),
    st.booleans(),
    st.integers(0, 2**40),
)
def test_round_trip(name: str, uid: int, digest: bytes, disabled: bool, changed: int) -> None:
    user = User(name, uid, digest, "DU" if disabled else "U", changed)
    assert parse_line(format_line(user)) == user


def test_life_of_a_user(tmp_path: Path) -> None:
    path = tmp_path / "private" / "smbpasswd"
    one, other = UserDatabase(path), UserDatabase(path)
    assert one.users() == []
    made = one.add("Zoë", "first")
    assert made.uid >= FIRST_FREE_ID
    assert other.find("zOË") == made
    assert other.set_password("zoë", "second").nt_hash == nt_hash("second")
    assert one.enable("zoë", False).disabled
    assert not one.enable("zoë", True).disabled
    assert one.add("second", "x").uid == made.uid + 1
    assert one.add("root", "x").uid == 0
    one.remove("zoë")
    assert [user.name for user in other.users()] == ["second", "root"]
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["smbpasswd", "smbpasswd.lock"]


def test_what_cannot_be_done(tmp_path: Path) -> None:
    database = UserDatabase(tmp_path / "smbpasswd")
    database.add("alice", "x")
    for name in ("", "a:b", "a/b", "#a", " a", "a\n", "x" * 65, "a\\b"):
        with pytest.raises(UserError, match="cannot be a user name"):
            database.add(name, "x")
    with pytest.raises(UserError, match="exists already"):
        database.add("ALICE", "x")
    for change in (database.remove, lambda name: database.set_password(name, "x"), lambda name: database.enable(name, True)):
        with pytest.raises(UserError, match="no user 'bob'"):
            change("bob")
    assert len(database.users()) == 1


def test_comments_stay(tmp_path: Path) -> None:
    path = tmp_path / "smbpasswd"
    path.write_text("# kept\npc$:1:X:Y:[W          ]:LCT-0:\n")
    UserDatabase(path).add("alice", "x")
    UserDatabase(path).remove("alice")
    assert path.read_text() == "# kept\npc$:1:X:Y:[W          ]:LCT-0:\n"


def test_import(tmp_path: Path) -> None:
    source = tmp_path / "other"
    lines = [format_line(User(name, 5, nt_hash("x"), "U", 1)) for name in ("alice", "nobody-here")]
    source.write_text("\n".join(["# samba", *lines]))
    database = UserDatabase(tmp_path / "smbpasswd")
    database.add("ALICE", "old")
    taken = database.import_file(source)
    assert [user.name for user in taken] == ["alice", "nobody-here"]
    assert {user.name: user.nt_hash for user in database.users()} == {"alice": nt_hash("x"), "nobody-here": nt_hash("x")}
    # Another machine's ids mean other people here.
    assert all(user.uid >= FIRST_FREE_ID for user in database.users())
    assert len({user.uid for user in database.users()}) == 2
    source.write_text("nothing\n")
    with pytest.raises(UserError, match="no user in smbpasswd format"):
        database.import_file(source)
    source.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="not a text file"):
        database.import_file(source)


def _add(path: str, first: int) -> None:
    database = UserDatabase(path)
    for number in range(first, first + 10):
        database.add(f"user{number}", "x")


def test_writers_wait_for_each_other(tmp_path: Path) -> None:
    path = str(tmp_path / "smbpasswd")
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_add, args=(path, 10 * number)) for number in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    users = UserDatabase(path).users()
    assert len(users) == 30
    assert len({user.uid for user in users}) == 30


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    database = UserDatabase(tmp_path / "smbpasswd")
    database.add("alice", "x")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        database.add("bob", "x")
    assert [user.name for user in database.users()] == ["alice"]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["smbpasswd", "smbpasswd.lock"]


def test_the_lock_beside_it_is_no_symlink(tmp_path: Path) -> None:
    (tmp_path / "smbpasswd.lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match=r"smbpasswd\.lock"):
        UserDatabase(tmp_path / "smbpasswd").add("alice", "x")
    assert not (tmp_path / "elsewhere").exists()


def test_a_hash_is_not_shown() -> None:
    user = User("alice", 1, nt_hash("x"), "U", 0)
    assert nt_hash("x").hex() not in repr(user)
    assert repr(nt_hash("x")) not in f"{user}"
