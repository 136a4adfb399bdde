"""A connection from both ends: protection, sessions, compounds, asynchronous replies, and what ends it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smbd.smb2 import constants as c
from smbd.smb2 import status
from smbd.smb2.connection import Disconnect
from smbd.smb2.constants import Command
from smbd.smb2.header import ERROR_BODY, HEADER, PROTOCOL_ID, TRANSFORM_HEADER
from smbd.smb2.messages import control, file
from smbd.smb2.negotiate import NegotiateSettings
from smbd.smb2.reply import Reply, pack_in_place, pack_replies, pack_success, pack_success_in_place
from tests.smbd.smb2.memory import FRONT, GUID, MemoryServer, connect, log_on
from tests.wire_client import ALL_DIALECTS, LAST, Closed, Offer, Request, WireClient, read_body

ECHO = control.ECHO_REQUEST.pack(4, 0)
SMB3 = (0x0300, 0x0302, 0x0311)


def session(offer: Offer | None = None, key: bytes = bytes(range(32)), **settings: object) -> tuple[WireClient, MemoryServer]:
    made = NegotiateSettings(GUID, capabilities=0x7F, **settings)  # type: ignore[arg-type]
    client, server = connect(offer, made, key)
    assert log_on(client, server).status == status.SUCCESS
    return client, server


def channel(server: MemoryServer, client: WireClient):  # type: ignore[no-untyped-def]
    return server.connection.channels[client.session_id]


# protection


@pytest.mark.parametrize("dialect", ALL_DIALECTS)
def test_signed_session_of_every_dialect(dialect: int) -> None:
    client, server = session(Offer((dialect,)))
    client.sign = True
    channel(server, client).require(signing=True)
    response = client.tree_connect("share")
    assert (response.status, response.valid) == (status.SUCCESS, True)
    assert client.echo().valid is True


@pytest.mark.parametrize("signing", [0, 1, 2])
def test_signed_session_of_every_algorithm(signing: int) -> None:
    client, _server = session(Offer(signing=(signing,)))
    client.sign = True
    assert client.signing_id == signing
    assert client.echo().valid is True


def test_final_session_setup_response_is_signed() -> None:
    client, server = connect()
    assert log_on(client, server).valid is True


def test_plain_session_is_not_signed() -> None:
    client, _server = session(Offer((0x0302,)))
    response = client.echo()
    assert (response.status, response.valid, response.encrypted) == (status.SUCCESS, None, False)


@pytest.mark.parametrize("dialect", SMB3)
@pytest.mark.parametrize("cipher", [1, 2, 3, 4])
def test_encrypted_session(dialect: int, cipher: int) -> None:
    client, server = session(Offer((dialect,), ciphers=(cipher,)))
    assert client.cipher_id == (cipher if dialect == 0x0311 else c.CIPHER_AES128_CCM)
    client.seal = True
    assert client.tree_connect("share").encrypted
    file_data = client.call(Command.READ, read_body((1, 2), 0, 5000))
    assert file_data.encrypted
    assert file_data.valid is None
    assert file_data.part(80, 5000) == bytes(5000)
    assert server.elements[-1].encrypted


def test_bad_signature() -> None:
    client, _server = session()
    client.sign = True

    def flip(view: memoryview) -> None:
        view[50] ^= 1

    response = client.call(Command.ECHO, ECHO, corrupt=flip)
    assert (response.status, response.valid) == (status.ACCESS_DENIED, True)
    assert client.echo().status == status.SUCCESS


def test_unsigned_where_signing_is_required() -> None:
    client, server = session()
    channel(server, client).require(signing=True)
    response = client.echo()
    assert (response.status, response.valid) == (status.ACCESS_DENIED, True)
    client.seal = True
    assert client.echo().status == status.SUCCESS


def test_unencrypted_where_encryption_is_required() -> None:
    client, server = session()
    channel(server, client).require(encryption=True)
    for client.sign in (False, True):
        response = client.echo()
        assert (response.status, response.encrypted) == (status.ACCESS_DENIED, True)
    client.seal = True
    assert client.echo().status == status.SUCCESS


def test_signed_for_an_unknown_session() -> None:
    client, _server = session()
    response = client.call(Command.ECHO, ECHO, session_id=77, flags=c.FLAGS_SIGNED)
    assert response.status == status.USER_SESSION_DELETED
    setup = client.call(Command.SESSION_SETUP, bytes(24), session_id=77, flags=c.FLAGS_SIGNED)
    assert setup.status != status.USER_SESSION_DELETED  # whether it binds is judged above the connection


def test_tree_connect_of_311_must_be_protected() -> None:
    client, server = session()
    with pytest.raises(Closed):
        client.tree_connect("share", sign=False)
    assert "TREE_CONNECT" in server.closed


@pytest.mark.parametrize("flag", [c.SESSION_FLAG_IS_GUEST, c.SESSION_FLAG_IS_NULL])
def test_guest_and_anonymous_have_no_keys(flag: int) -> None:
    client, server = connect()
    server.session_flags = flag
    assert log_on(client, server).valid is None
    assert client.tree_connect("share").status == status.SUCCESS
    assert client.call(Command.ECHO, ECHO, flags=c.FLAGS_SIGNED).status == status.ACCESS_DENIED


# encryption that ends the connection


def sealed(client: WireClient, body: bytes = ECHO) -> bytearray:
    client.seal = True
    return bytearray(client.pack([Request(Command.ECHO, body)]))


@pytest.mark.parametrize("position", [4, 20, 36, 42, 44, 60])
def test_tampered_transform_ends_the_connection(position: int) -> None:
    client, server = session()
    frame = sealed(client)
    frame[position] ^= 1
    with pytest.raises(Disconnect):
        server.frame(memoryview(frame))


def test_encrypted_with_a_session_without_keys() -> None:
    client, server = session()
    frame = sealed(client)
    server.connection.channels.clear()
    with pytest.raises(Disconnect):
        server.frame(memoryview(frame))


def test_another_session_inside() -> None:
    client, server = session()
    client.seal = True
    frame = bytearray(client.pack([Request(Command.ECHO, ECHO, session_id=client.session_id + 1)]))
    with pytest.raises(Disconnect, match="inside"):
        server.frame(memoryview(frame))


@pytest.mark.parametrize("inner", [b"\xfdSMB", b"\xffSMB", b"\xfcSMB"])
def test_what_an_encrypted_message_may_not_be(inner: bytes) -> None:
    client, server = session()
    view = memoryview(bytearray(52 + 80 + 16))
    view[52:56] = inner
    cipher = client.channels[client.session_id].cipher
    assert cipher is not None
    with pytest.raises(Disconnect):
        server.frame(cipher.seal(view, 52, 132))


def test_encrypted_message_shorter_than_a_header() -> None:
    client, server = session()
    view = memoryview(bytearray(52 + 80 + 16))
    cipher = client.channels[client.session_id].cipher
    assert cipher is not None
    for size in (0, 1, 63):
        with pytest.raises(Disconnect):
            server.frame(memoryview(bytearray(cipher.seal(view, 52, 52 + size))))


def test_unseal_in_a_batch_keeps_the_next_frame() -> None:
    client, server = session()
    first, second = sealed(client), sealed(client)
    batch = memoryview(bytearray(first + second))
    middle = len(first)
    assert server.connection.receive(batch, 0, middle)[0].header.command == Command.ECHO
    assert bytes(batch[middle:]) == second
    assert server.connection.receive(batch, middle)[0].header.command == Command.ECHO


# headers


@pytest.mark.parametrize(
    "change",
    [
        {"structure_size": 63},
        {"command": 19},
        {"command": 0xFFFF},
        {"flags": c.FLAGS_SERVER_TO_REDIR},
        {"protocol_id": b"\xfcSMB"},
        {"protocol_id": b"HTTP"},
        {"message_id": 1 << 40},
        {"message_id": 0},
        {"message_id": 0xFFFFFFFFFFFFFFFF},
        {"credit_charge": 60000},
        {"next_command": 4},
        {"next_command": 1 << 20},
    ],
)
def test_what_ends_the_connection(change: dict[str, int]) -> None:
    client, server = session()
    header = HEADER.unpack(client.pack([Request(Command.ECHO, ECHO)]))
    frame = HEADER.pack(*header._replace(**change)) + ECHO  # type: ignore[arg-type]
    with pytest.raises(Disconnect):
        server.connection.receive(memoryview(bytearray(frame)))


@given(size=st.integers(0, 63))
def test_shorter_than_a_header(size: int) -> None:
    _, server = connect()
    with pytest.raises(Disconnect):
        server.connection.receive(memoryview(bytearray(PROTOCOL_ID.ljust(64, b"\0")[:size])))


def test_async_flag_on_what_is_not_cancel() -> None:
    client, _ = session(Offer((0x0302,)))
    assert client.call(Command.ECHO, ECHO, async_id=5).status == status.INVALID_PARAMETER


@given(noise=st.binary(max_size=200), prefix=st.sampled_from([b"", PROTOCOL_ID, b"\xfdSMB", b"\xffSMB", PROTOCOL_ID + b"\x40\0"]))
def test_noise(noise: bytes, prefix: bytes) -> None:
    _, server = session()
    try:
        elements = server.connection.receive(memoryview(bytearray(prefix + noise)))
    except Disconnect:
        return
    assert elements


@given(data=st.data())
def test_mutated_frames(data: st.DataObject) -> None:
    client, server = session()
    client.sign, client.seal = data.draw(st.sampled_from([(False, False), (True, False), (False, True)]))
    frame = bytearray(client.pack([Request(Command.ECHO, ECHO), Request(Command.READ, read_body((1, 2), 0, 10))]))
    for _ in range(data.draw(st.integers(1, 4))):
        frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    frame = frame[: data.draw(st.integers(len(frame) - 20, len(frame)))] + data.draw(st.binary(max_size=20))
    try:
        elements = server.connection.receive(memoryview(frame))
    except Disconnect:
        return
    assert all(element.view[:4] == PROTOCOL_ID for element in elements)


# compounds


@pytest.mark.parametrize("mode", ["plain", "sign", "seal"])
def test_compound(mode: str) -> None:
    client, server = session()
    client.sign, client.seal = mode == "sign", mode == "seal"
    responses = client.compound(
        Request(Command.ECHO, ECHO),
        Request(Command.READ, read_body((1, 2), 0, 13)),
        Request(Command.ECHO, ECHO),
    )
    assert [response.status for response in responses] == [status.SUCCESS] * 3
    assert len(server.answers) == 0
    assert [response.valid for response in responses] == [True if mode == "sign" else None] * 3
    assert [response.encrypted for response in responses] == [mode == "seal"] * 3
    assert responses[0].header.next_command == 72
    assert responses[1].header.next_command == 96
    assert len(responses[1].view) == 96
    assert bytes(responses[1].view[93:96]) == bytes(3)


def test_related_elements_take_the_session_before_them() -> None:
    client, server = session()
    client.sign = True
    client.compound(
        Request(Command.READ, read_body((1, 2), 0, 1)),
        Request(Command.READ, read_body(LAST, 0, 1), session_id=c.RELATED_ID, tree_id=c.RELATED_TREE_ID),
        Request(Command.READ, read_body(LAST, 0, 1), session_id=c.RELATED_ID, tree_id=c.RELATED_TREE_ID),
        related=True,
    )
    assert [element.header.session_id for element in server.elements[-3:]] == [client.session_id] * 3
    assert [element.error for element in server.elements[-3:]] == [0] * 3


@pytest.mark.parametrize("named", [0, 0xDEAD, c.RELATED_ID])
def test_related_elements_need_the_protection_of_the_session_before_them(named: int) -> None:
    """Another SessionId in a related element must not take it out of the signing that its session requires."""
    client, server = session()
    channel(server, client).require(signing=True)
    first = Request(Command.ECHO, ECHO, sign=True)
    forged = Request(Command.READ, read_body(LAST, 0, 1), flags=c.FLAGS_RELATED_OPERATIONS, session_id=named, sign=False)
    client.compound(first, forged)
    assert [element.error for element in server.elements[-2:]] == [0, status.ACCESS_DENIED]


def test_related_first_element() -> None:
    client, _ = session()
    responses = client.compound(Request(Command.ECHO, ECHO, flags=c.FLAGS_RELATED_OPERATIONS), Request(Command.ECHO, ECHO))
    assert [response.status for response in responses] == [status.INVALID_PARAMETER, status.SUCCESS]


def test_unknown_command_in_a_compound() -> None:
    client, _server = session()
    responses = client.compound(Request(Command.ECHO, ECHO), Request(0xFF, ECHO))
    assert [response.status for response in responses] == [status.SUCCESS, status.INVALID_PARAMETER]


def test_one_bad_signature_in_a_compound() -> None:
    client, _server = session()
    client.sign = True

    def flip(view: memoryview) -> None:
        view[-1] ^= 1  # the padding is signed too

    responses = client.compound(Request(Command.ECHO, ECHO, corrupt=flip), Request(Command.ECHO, ECHO))
    assert [response.status for response in responses] == [status.ACCESS_DENIED, status.SUCCESS]


# credits


def test_cancel_takes_no_message_id() -> None:
    client, server = session()
    low = server.connection.credits.low
    client.cancel(low)
    client.cancel(0, async_id=0x123456789A)
    assert server.connection.credits.low == low
    assert [element.error for element in server.elements[-2:]] == [0, 0]
    assert client.echo().status == status.SUCCESS


@pytest.mark.parametrize(("dialect", "charged"), [(0x0202, 1), (0x0210, 3)])
def test_credit_charge_counts_from_21_on(dialect: int, charged: int) -> None:
    client, server = session(Offer((dialect,)))
    client.echo(credits=100)
    before = server.connection.credits.low
    client.send(Request(Command.ECHO, ECHO, charge=3))
    assert server.connection.credits.low - before == charged


def test_payload_beyond_the_charge() -> None:
    client, _ = session(Offer((0x0210,)))
    client.echo(credits=10)
    assert client.call(Command.READ, read_body((1, 2), 0, 65537)).status == status.INVALID_PARAMETER
    assert client.call(Command.READ, read_body((1, 2), 0, 65537), charge=2).status == status.SUCCESS


# replies


def make_reply(client: WireClient, code: int = 0, body: bytes = ERROR_BODY) -> Reply:
    header = HEADER.unpack(client.pack([Request(Command.READ, b"")]))
    return Reply(header, code, body, 1)


@pytest.mark.parametrize("seal", [False, True])
def test_interim_and_final_response(seal: bool) -> None:
    client, server = session()
    keys = channel(server, client)
    pending = make_reply(client, status.PENDING)
    pending.async_id = final_id = 0xABCDEF0123456789
    final = make_reply(client, status.CANCELLED)
    final.async_id, final.sign = final_id, keys
    for reply in (pending, final):
        server.transmit([reply], keys if seal else None)
    first, second = client.receive(interim=True), client.receive()
    assert (first.interim, first.async_id, first.valid, first.encrypted) == (True, final_id, None, seal)
    assert (second.status, second.async_id, second.valid) == (status.CANCELLED, final_id, None if seal else True)


@pytest.mark.parametrize("mode", ["plain", "sign", "seal"])
def test_reply_in_place(mode: str) -> None:
    client, server = session()
    keys = channel(server, client)
    payload = bytes(range(256)) * 16
    view = memoryview(bytearray(FRONT + len(payload) + 16))
    view[FRONT : FRONT + len(payload)] = payload
    reply = make_reply(client)
    reply.sign = keys if mode == "sign" else None
    fixed = file.READ_RESPONSE.pack(17, 80, 0, len(payload), 0, 0)
    frame = pack_in_place(view, FRONT, len(payload), fixed, reply, seal=keys if mode == "seal" else None)
    assert frame.obj is view.obj
    server.answers.append(bytes(frame))
    response = client.receive()
    assert response.part(80, len(payload)) == payload
    assert (response.valid, response.encrypted) == (True if mode == "sign" else None, mode == "seal")


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("size", [0, 1, 4, 16, 1000])
def test_the_short_way_packs_what_the_long_one_does(signed: bool, size: int) -> None:
    client, server = session()
    keys = channel(server, client) if signed else None
    header = HEADER.unpack(client.pack([Request(Command.READ, b"", flags=0x30, charge=3)]))
    body = bytes(range(256)) * 4
    reply = Reply(header, 0, body[:size], 7, keys)
    long, short = memoryview(bytearray(2000)), memoryview(bytearray(2000))
    assert pack_success(short, 13, header, body[:size], (7, keys, None)) == pack_replies(long, 13, [reply])
    assert short.tobytes() == long.tobytes()
    for view in (long, short):
        view[300 : 300 + size] = body[:size]
    fixed = file.READ_RESPONSE.pack(17, 80, 0, size, 0, 0)
    assert pack_success_in_place(short, (300, size), fixed, header, (7, keys, None)) == pack_in_place(long, 300, size, fixed, reply)


def test_the_short_way_seals_what_the_long_one_does() -> None:
    client, server = session()
    keys = channel(server, client)
    header = HEADER.unpack(client.pack([Request(Command.READ, b"", flags=0x30, charge=3)]))
    view = memoryview(bytearray(2000))
    server.answers.append(bytes(pack_success(view, FRONT, header, b"body", (7, None, keys))))
    server.answers.append(bytes(pack_replies(view, FRONT, [Reply(header, 0, b"body", 7)], keys)))
    short, long = client.receive(), client.receive()
    assert bytes(short.view) == bytes(long.view)
    assert short.encrypted
    assert long.encrypted


def test_oplock_break_notification() -> None:
    client, server = session()
    server.transmit([Reply.notification(Command.OPLOCK_BREAK, control.OPLOCK_BREAK.pack(24, 1, 0, 0, 3, 4))])
    response = client.receive()
    assert response.header.message_id == c.UNSOLICITED_MESSAGE_ID
    assert (response.header.session_id, response.header.tree_id, response.valid) == (0, 0, None)


def test_reply_echoes_what_it_must() -> None:
    client, _ = session()
    flags = c.FLAGS_RELATED_OPERATIONS | c.FLAGS_SIGNED | c.FLAGS_DFS_OPERATIONS | 0x30
    header = HEADER.unpack(client.pack([Request(Command.READ, b"", flags=flags, charge=2)]))
    reply = Reply(header, 0, b"", 5)
    assert reply.flags == c.FLAGS_SERVER_TO_REDIR | c.FLAGS_RELATED_OPERATIONS | 0x30
    assert (reply.message_id, reply.tree_id, reply.credit_charge) == (header.message_id, header.tree_id, 2)


def test_sealed_frames_name_their_session() -> None:
    client, server = session()
    client.seal = True
    client.send(Request(Command.ECHO, ECHO))
    frame = server.answers[-1][4:]
    assert TRANSFORM_HEADER.unpack(frame).session_id == client.session_id
