"""Sessions and tree connects: logons, reauthentication, previous sessions, what ends with them, who gets into which share."""

from __future__ import annotations

import grp
from collections.abc import Callable
from pathlib import Path

import pytest

from authd.messages import AUTHENTICATE, MAX_TOKEN, Step, pack_step
from pools.queue import AskTimeout
from smbd.sharing.messages import CLOSE_SESSION
from smbd.smb2 import constants as c
from smbd.smb2 import status
from smbd.smb2.constants import Command
from tests.wire_client import Closed, Offer, Request, WireClient
from tests.workers.house import ALICE, BOB, KEY, House, log_on, token_of

ON_ERRANDS_TOO = True

LATER = max(grp.getgrall(), key=lambda group: group.gr_gid)
"""A group that Alice is in only after her reauthentication."""


def test_a_logon_of_two_rounds(house: House) -> None:
    client, worker = house.join()
    client.negotiate()
    rounds = iter([b"more", ALICE.encode()])
    assert client.logon(lambda token: next(rounds), lambda: KEY).status == status.SUCCESS
    (session,) = worker.sessions.values()
    assert session.token == house.tokens[ALICE]
    assert client.tree_connect("data").status == status.SUCCESS


@pytest.mark.parametrize("dialect", [0x0202, 0x0210, 0x0300, 0x0302, 0x0311])
def test_every_dialect_signed(house: House, dialect: int) -> None:
    client = house.client(share="", offer=Offer(dialects=[dialect]))
    client.sign = True
    response = client.tree_connect("data")
    assert response.status == status.SUCCESS
    assert response.valid is True
    assert client.write(client.open("f"), 0, b"x").valid is True


@pytest.mark.parametrize("cipher", [1, 2, 3, 4])
def test_every_cipher(house: House, cipher: int) -> None:
    client = house.client(offer=Offer(ciphers=[cipher]))
    client.seal = True
    opened = client.open("secret")
    assert client.write(opened, 0, b"x" * 100000).encrypted
    assert client.read_data(opened, 0, 100000) == b"x" * 100000


def test_a_wrong_user_leaves_nothing(house: House) -> None:
    client, worker = house.join()
    client.negotiate()
    assert log_on(client, "mallory").status == status.LOGON_FAILURE
    assert worker.sessions == {}
    assert worker.lines[0].receiver.one_at_a_time
    assert client.tree_connect("data").status == status.USER_SESSION_DELETED


def test_a_token_that_no_authenticator_takes(house: House) -> None:
    client, worker = house.join()
    client.negotiate()
    assert client.session_setup_raw(bytes(MAX_TOKEN + 1)).status == status.INVALID_PARAMETER
    assert worker.sessions == {}


def test_an_authenticator_that_does_not_answer(house: House) -> None:
    client, _ = house.join()
    client.negotiate()

    def silence(payload: bytes) -> bytes:
        raise AskTimeout("silence")

    house_mail = house.mail_of(client)
    house_mail.replies[AUTHENTICATE.number] = silence
    assert log_on(client, ALICE).status == status.INSUFFICIENT_RESOURCES
    house_mail.replies[AUTHENTICATE.number] = house.authenticate
    assert log_on(client, ALICE).status == status.SUCCESS


def test_one_step_of_a_logon_at_a_time(house: House) -> None:
    client = house.client()
    mail = house.mail_of(client)
    del mail.replies[AUTHENTICATE.number]
    body = b"\x19\0\0\1\0\0\0\0\0\0\0\0\x58\0\5\0" + bytes(8) + b"alice"
    first, second = (client.send(Request(Command.SESSION_SETUP, body, tree_id=0))[0] for _ in range(2))
    assert client.receive(second).status == status.INVALID_PARAMETER
    mail.answer_next(pack_step(Step(status.SUCCESS, b"", KEY, house.tokens[ALICE])))
    assert client.receive(first).status == status.SUCCESS


def test_a_reauthentication_keeps_what_is_open(house: House, client: WireClient) -> None:
    opened = client.open("kept")
    assert log_on(client, ALICE, session_id=client.session_id).status == status.SUCCESS
    assert client.write(opened, 0, b"x").status == status.SUCCESS
    assert len(house.worker_of(client).sessions) == 1


def test_a_reauthentication_as_somebody_else(house: House, client: WireClient) -> None:
    assert log_on(client, BOB, session_id=client.session_id).status == status.ACCESS_DENIED


def test_a_reauthentication_with_less_rights(make_house: Callable[..., House], folder: Path) -> None:
    house = make_house(share_text=f"read list = @{LATER.gr_name}")
    (folder / "there").write_text("x")
    client = house.client()
    client.open("mine")
    house.tokens[ALICE] = token_of(ALICE, groups=(LATER.gr_gid,))
    assert log_on(client, ALICE, session_id=client.session_id).status == status.SUCCESS
    assert client.create("new").status == status.ACCESS_DENIED
    assert client.create("there", access=c.FILE_WRITE_DATA).status == status.ACCESS_DENIED


def test_a_reauthentication_with_no_rights_any_more(make_house: Callable[..., House]) -> None:
    house = make_house(share_text=f"invalid users = @{LATER.gr_name}")
    client = house.client()
    opened = client.open("mine")
    house.tokens[ALICE] = token_of(ALICE, groups=(LATER.gr_gid,))
    assert log_on(client, ALICE, session_id=client.session_id).status == status.SUCCESS
    assert client.write(opened, 0, b"x").status == status.SUCCESS  # what is open stays usable as it was granted
    assert client.create("mine").status == status.ACCESS_DENIED
    assert client.create("new").status == status.ACCESS_DENIED
    assert client.tree_connect("data").status == status.ACCESS_DENIED


def test_a_logoff_while_the_authenticator_is_at_work(house: House, client: WireClient) -> None:
    mail = house.mail_of(client)
    del mail.replies[AUTHENTICATE.number]
    body = b"\x19\0\0\1\0\0\0\0\0\0\0\0\x58\0\5\0" + bytes(8) + b"alice"
    (again,) = client.send(Request(Command.SESSION_SETUP, body, tree_id=0))
    assert client.logoff().status == status.SUCCESS
    mail.answer_next(pack_step(Step(status.SUCCESS, b"", KEY, house.tokens[ALICE])))
    assert client.receive(again).status == status.USER_SESSION_DELETED
    assert house.sharing is not None
    assert list(house.sharing.sessions()) == []


def test_logoff_ends_everything_of_the_session(house: House, client: WireClient, folder: Path) -> None:
    client.open("doomed", options=c.FILE_DELETE_ON_CLOSE)
    assert client.logoff().status == status.SUCCESS
    worker = house.worker_of(client)
    assert not worker.opens
    assert not worker.sessions
    assert not (folder / "doomed").exists()
    assert client.echo().status == status.SUCCESS
    assert client.create("x").status == status.USER_SESSION_DELETED


def test_two_sessions_do_not_see_each_others_trees_and_opens(house: House, client: WireClient) -> None:
    opened = client.open("mine")
    tree, first = client.tree_id, client.session_id
    assert log_on(client, BOB).status == status.SUCCESS
    assert client.session_id != first
    assert client.read(opened, 0, 1).status == status.NETWORK_NAME_DELETED
    assert client.tree_connect("data").status == status.SUCCESS
    assert client.tree_id != tree
    assert client.read(opened, 0, 1).status == status.FILE_CLOSED


def test_a_previous_session_of_the_same_user_ends(house: House, client: WireClient) -> None:
    old = client.session_id
    fresh, _ = house.join()
    fresh.negotiate()
    mail = house.mail_of(fresh)
    told: list[bytes] = []

    def close_session(payload: bytes) -> bytes:
        told.append(payload)
        return bytes(4)

    mail.replies[CLOSE_SESSION.number] = close_session
    assert log_on(fresh, BOB, previous=old).status == status.SUCCESS
    assert told == []  # another user's
    assert log_on(fresh, ALICE, previous=old).status == status.SUCCESS
    assert len(told) == 1


def test_guests_and_anonymous_have_no_keys(make_house: Callable[..., House]) -> None:
    house = make_house(share_text="guest ok = yes")
    house.tokens["guest"] = token_of("guest", guest=True)
    client = house.client("guest")
    assert client.session_flags & c.SESSION_FLAG_IS_GUEST
    assert client.open("f")


def test_a_guest_stays_out_where_guests_are_not_wanted(house: House) -> None:
    house.tokens["guest"] = token_of("guest", guest=True)
    client = house.client("guest", share="")
    assert client.tree_connect("data").status == status.ACCESS_DENIED


def test_shares_that_are_not_there(house: House, client: WireClient) -> None:
    for name in ("nowhere", "\\\\server", "\\\\server\\", "\\\\server\\data\\more", "\\\\s\\a\0b"):
        assert client.tree_connect(name).status == status.BAD_NETWORK_NAME, name
    raw = b"\\\0\\\0s\0\\\0" + b"\0\xd8"
    body = b"\x09\0\0\0\x48\0" + len(raw).to_bytes(2, "little") + raw
    answered = client.call(Command.TREE_CONNECT, body, tree_id=0, sign=True)
    assert answered.status in (status.BAD_NETWORK_NAME, status.OBJECT_NAME_INVALID)


def test_a_share_that_insists_on_encryption(make_house: Callable[..., House]) -> None:
    house = make_house(share_text="smb encrypt = required")
    client = house.client()
    assert client.create("f").status == status.ACCESS_DENIED
    client.seal = True
    assert client.create("f").status == status.SUCCESS
    assert house.client(share="", offer=Offer(dialects=[0x0210])).tree_connect("data").status == status.ACCESS_DENIED


def test_a_bad_signature(house: House, client: WireClient) -> None:
    client.sign = True

    def corrupt(view: memoryview) -> None:
        view[50] ^= 1

    assert client.call(Command.ECHO, b"\4\0\0\0", corrupt=corrupt).status == status.ACCESS_DENIED
    assert client.echo().status == status.SUCCESS


def test_without_a_session_in_time_the_connection_ends(house: House) -> None:
    client, worker = house.join()
    client.negotiate()
    worker.lines[0]._expect_session()
    assert worker.ended
    other = house.client()
    house.worker_of(other).lines[0]._expect_session()
    assert other.echo().status == status.SUCCESS


def test_a_session_before_the_negotiation(house: House) -> None:
    client, worker = house.join()
    with pytest.raises(Closed):
        client.session_setup_raw(b"alice")
    assert worker.ended


def test_too_many_sessions_end_the_connection(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.worker.MAX_SESSIONS", 3)
    client, worker = house.join()
    client.negotiate()
    for _ in range(3):
        assert client.session_setup_raw(b"more").status == status.MORE_PROCESSING_REQUIRED
    with pytest.raises(Closed):
        client.session_setup_raw(b"more")
    assert worker.ended


def test_too_many_tree_connects_end_the_connection(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is a record in what all share, whichever of the connection's sessions has it."""
    monkeypatch.setattr("workers.worker.MAX_TREES", 3)
    client = house.client()
    worker = house.worker_of(client)
    assert log_on(client, BOB).status == status.SUCCESS
    for _ in range(2):
        assert client.tree_connect("data").status == status.SUCCESS
    assert client.tree_disconnect().status == status.SUCCESS
    assert client.tree_connect("data").status == status.SUCCESS
    with pytest.raises(Closed):
        client.tree_connect("data")
    assert worker.ended
