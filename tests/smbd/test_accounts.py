"""SIDs and Unix ids, the machine SID, and the messages of the look-ups."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pools.layout import WireError
from smbd import accounts
from smbd.accounts import Account, IdMap, SidType, UserRecord
from smbd.smb2.dtyp.sid import SID

MAP = IdMap(SID.parse("S-1-5-21-1-2-3"), "M")


def test_the_arithmetic() -> None:
    assert str(MAP.user_sid(1000)) == "S-1-5-21-1-2-3-3000"
    assert str(MAP.group_sid(100)) == "S-1-5-21-1-2-3-1201"
    assert MAP.uid_of(SID.parse("S-1-22-1-1000")) == 1000
    assert MAP.gid_of(SID.parse("S-1-22-2-1000")) == 1000
    for foreign in ("S-1-5-21-1-2-4-3000", "S-1-5-21-1-2-3-500", "S-1-5-21-1-2-3", "S-1-1-0", "S-1-5-32-544"):
        assert MAP.uid_of(SID.parse(foreign)) is None
        assert MAP.gid_of(SID.parse(foreign)) is None


@given(st.integers(0, 2**32 - 1))
def test_there_and_back(number: int) -> None:
    assert MAP.uid_of(MAP.user_sid(number)) == number
    assert MAP.gid_of(MAP.group_sid(number)) == number
    assert MAP.gid_of(MAP.user_sid(number)) is None
    assert MAP.uid_of(MAP.group_sid(number)) is None
    assert SID.unpack(MAP.user_sid(number).pack()) == MAP.user_sid(number)


def _ask(directory: str, answers: multiprocessing.SimpleQueue[str]) -> None:
    answers.put(str(accounts.machine_sid(directory)))


def test_the_machine_sid_is_made_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    processes = [context.Process(target=_ask, args=(str(tmp_path), answers)) for _ in range(4)]
    for process in processes:
        process.start()
    found = {answers.get() for _ in processes}
    for process in processes:
        process.join()
    assert found == {str(accounts.machine_sid(tmp_path))}
    assert [entry.name for entry in tmp_path.iterdir()] == ["machine.sid"]


@pytest.mark.parametrize("text", ["", "S-1-5-32", "S-1-5-21-1-2", "S-1-5-21-1-2-99999999999", "\xff"])
def test_a_spoilt_machine_sid_is_not_replaced(tmp_path: Path, text: str) -> None:
    (tmp_path / "machine.sid").write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match="not a machine SID"):
        accounts.machine_sid(tmp_path)


TEXT = st.text(st.characters(blacklist_categories=["Cs"]), max_size=30)


@given(st.lists(TEXT, max_size=20))
def test_questions(texts: list[str]) -> None:
    packed = accounts.pack_texts(texts)
    assert accounts.unpack_texts(packed) == texts
    for end in range(len(packed)):
        with pytest.raises(WireError):
            accounts.unpack_texts(packed[:end])


@given(st.lists(st.builds(Account, TEXT, st.integers(1, 10), TEXT, TEXT), max_size=10))
def test_answers(found: list[Account]) -> None:
    assert accounts.unpack_accounts(accounts.pack_accounts(found)) == found


def test_users_come_in_pages() -> None:
    users = [UserRecord(f"user{number}", number, number % 2 == 0, "Full Name " * 4) for number in range(2000)]
    seen: list[UserRecord] = []
    pages = 0
    while len(seen) < 2000:
        total, page = accounts.unpack_users(accounts.pack_users(len(seen), users))
        assert total == 2000
        seen += page
        pages += 1
    assert seen == users
    assert pages > 1


def test_too_many_names_and_bad_text() -> None:
    with pytest.raises(WireError):
        accounts.unpack_texts(accounts.pack_texts(["x"] * (accounts.MAX_ASKED + 1)))
    with pytest.raises(WireError):
        accounts.unpack_texts(accounts.COUNT.pack(1) + accounts.COUNT.pack(accounts.MAX_TEXT + 1) + b"x" * (accounts.MAX_TEXT + 1))
    with pytest.raises(WireError):
        accounts.unpack_texts(b"\x01\x00\x01\x00\xff")


@pytest.mark.parametrize("name", ["a" * 70000, "漢" * 20000, "😀" * 300, "\ud800" * 600])
def test_what_clients_ask_for_fits_records(name: str) -> None:
    """A client's names are as long as it likes; a record that is too large would end the service that sends it."""
    asked = list(accounts.questions([name] * accounts.MAX_LOOKUP))
    assert all(len(question) <= accounts.LOOKUP_NAMES.max_payload for question in asked)
    texts = [accounts.unpack_texts(question) for question in asked]
    assert sum(map(len, texts)) == accounts.MAX_LOOKUP
    for part in texts:
        answer = accounts.pack_accounts([Account("S-1-5-21" + "-4294967295" * 15, 8, "D" * 15, text) for text in part])
        assert len(answer) <= accounts.LOOKUP_NAMES_ANSWER.max_payload


def test_well_known_names() -> None:
    assert accounts.WELL_KNOWN_NAMES["builtin\\users"].sid == "S-1-5-32-545"
    assert accounts.WELL_KNOWN_NAMES["everyone"].kind == SidType.WELL_KNOWN_GROUP
    assert accounts.WELL_KNOWN_NAMES["builtin"].kind == SidType.DOMAIN
    assert all(sid == account.sid == str(SID.parse(sid)) for sid, account in accounts.WELL_KNOWN.items())
