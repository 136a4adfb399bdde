"""What a worker does not let pass: strangers with many requests, sessions that change hands."""

from __future__ import annotations

import pytest

from smbd.smb2 import status
from smbd.smb2.constants import SESSION_FLAG_IS_GUEST, SESSION_FLAG_IS_NULL, Command
from smbd.smb2.messages import control
from tests.wire_client import Closed
from tests.workers.house import ALICE, BOB, House, log_on, token_of
from workers.worker import MAX_LOGONS

ON_ERRANDS_TOO = True

ECHO = control.ECHO_REQUEST.pack(4, 0)
GUEST, NOBODY = "guest", "nobody"


@pytest.fixture
def strangers(house: House) -> House:
    """A house that lets guests and anonymous clients in."""
    house.tokens[GUEST] = token_of(GUEST, guest=True)
    house.tokens[NOBODY] = token_of(NOBODY, anonymous=True)
    return house


def test_strangers_get_one_credit_at_a_time(house: House) -> None:
    client, _ = house.join()
    assert client.negotiate(credits=500).header.credit == 1
    assert client.call(Command.ECHO, ECHO, credits=500, session_id=0).header.credit == 1
    assert client.session_setup_raw(b"more").header.credit == 1
    assert log_on(client, "mallory").header.credit == 1
    assert log_on(client, ALICE).header.credit == 32
    assert client.call(Command.ECHO, ECHO, credits=500).header.credit == 500


@pytest.mark.parametrize("first", [GUEST, NOBODY])
def test_a_session_without_keys_never_becomes_a_users(strangers: House, first: str) -> None:
    """Or a relayed logon would need no key: signing that the server requires would protect nothing."""
    client, worker = strangers.join()
    client.negotiate()
    assert log_on(client, first).status == status.SUCCESS
    session_id = client.session_id
    assert log_on(client, ALICE, session_id=session_id).status == status.ACCESS_DENIED
    token = worker.sessions[session_id].token
    assert token is not None
    assert token.name == first


def test_a_users_session_never_becomes_another_users(strangers: House) -> None:
    """The keys stay the first user's, who would then hold those of the second."""
    client = strangers.client()
    client.sign = True
    assert log_on(client, BOB, session_id=client.session_id).status == status.ACCESS_DENIED
    session = strangers.worker_of(client).sessions[client.session_id]
    assert session.token == strangers.tokens[ALICE]
    assert client.create("mine").status == status.SUCCESS


def test_a_user_may_prove_himself_again_or_give_up_his_name(strangers: House) -> None:
    client = strangers.client()
    client.sign = True
    assert log_on(client, ALICE, session_id=client.session_id).status == status.SUCCESS
    assert log_on(client, NOBODY, session_id=client.session_id).status == status.SUCCESS
    assert client.session_flags & SESSION_FLAG_IS_NULL
    assert log_on(client, BOB, session_id=client.session_id).status == status.ACCESS_DENIED
    assert log_on(client, ALICE, session_id=client.session_id).status == status.SUCCESS
    assert not client.session_flags & (SESSION_FLAG_IS_NULL | SESSION_FLAG_IS_GUEST)


def test_a_connection_that_was_logged_off_does_not_stay(house: House) -> None:
    client = house.client()
    worker = house.worker_of(client)
    worker.lines[0]._expect_session()
    assert client.logoff().status == status.SUCCESS
    worker.lines[0]._expect_session()
    assert not worker.ended  # it may log on again
    worker.lines[0]._expect_session()
    assert worker.ended


def test_one_client_has_so_many_logons_under_way(house: House) -> None:
    client = house.client()
    for _ in range(MAX_LOGONS):
        assert client.session_setup_raw(b"more").status == status.MORE_PROCESSING_REQUIRED
    assert client.session_setup_raw(b"more").status == status.INSUFFICIENT_RESOURCES
    assert client.echo().status == status.SUCCESS
    waiting = next(number for number in house.worker_of(client).sessions if number != client.session_id)
    assert log_on(client, "mallory", session_id=waiting).status == status.LOGON_FAILURE
    assert client.session_setup_raw(b"more").status == status.MORE_PROCESSING_REQUIRED


def test_a_frame_too_short_for_anything_at_the_very_end_of_the_buffer(house: House) -> None:
    """It ends the connection as any other that is too short."""
    client = house.client()
    worker = house.worker_of(client)
    client.echo()
    assert worker.lines[0].receiver.buffer is not None
    size = len(worker.lines[0].receiver.buffer.view)
    client.transport.send(b"\x85\0\0\0" * (size // 4 - 2) + b"\0\0\0\4\xfeSMB")
    with pytest.raises(Closed):
        client.receive()
    assert worker.ended
