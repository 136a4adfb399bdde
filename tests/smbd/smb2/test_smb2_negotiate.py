"""The rules of [MS-SMB2] 3.3.5.3 and 3.3.5.4, each with the request that meets it."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pools.layout import WireError
from smbd.smb2 import constants as c
from smbd.smb2 import status
from smbd.smb2.constants import Command
from smbd.smb2.header import HEADER, PROTOCOL_ID
from smbd.smb2.messages import negotiate as wire
from smbd.smb2.messages.ioctl import VALIDATE_NEGOTIATE_INFO_REQUEST, VALIDATE_NEGOTIATE_INFO_RESPONSE
from smbd.smb2.negotiate import NegotiateSettings, choose, parse_smb1
from smbd.smb2.status import SmbError
from tests.smbd.smb2.golden import load, pdu
from tests.smbd.smb2.memory import GUID, MemoryServer, connect
from tests.wire_client import ALL_DIALECTS, Closed, Offer, Request, WireClient

SETTINGS = NegotiateSettings(GUID, capabilities=0x7F, security_blob=b"hint!")
PREAUTH = (c.PREAUTH_INTEGRITY_CAPABILITIES, struct.pack("<HHH", 1, 0, 1))
CIPHERS = (c.ENCRYPTION_CAPABILITIES, struct.pack("<HHH", 2, 1, 2))
SIGNING = (c.SIGNING_CAPABILITIES, struct.pack("<HHH", 2, 0, 1))


def request(offer: Offer) -> memoryview:
    return memoryview(HEADER.pack(PROTOCOL_ID, 64, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, bytes(16)) + offer.pack())


def refused(offer: Offer, settings: NegotiateSettings = SETTINGS) -> int:
    client = WireClient(MemoryServer(settings))
    return client.negotiate(offer).status


@pytest.mark.parametrize("dialect", ALL_DIALECTS)
def test_every_dialect(dialect: int) -> None:
    client, server = connect(Offer((dialect,)))
    answer = client.negotiated
    assert answer.dialect_revision == dialect
    assert (answer.server_guid, answer.security_mode, answer.structure_size) == (GUID, c.NEGOTIATE_SIGNING_ENABLED, 65)
    assert answer.max_read_size == (65536 if dialect == 0x0202 else 8 << 20)
    assert bool(answer.capabilities & c.CAP_LARGE_MTU) == (dialect != 0x0202)
    assert bool(answer.capabilities & c.CAP_LEASING) == (dialect != 0x0202)
    assert bool(answer.capabilities & c.CAP_MULTI_CHANNEL) == (dialect >= 0x0300)
    assert bool(answer.capabilities & c.CAP_ENCRYPTION) == (dialect in (0x0300, 0x0302))
    assert (answer.negotiate_context_count > 0) == (dialect == 0x0311)
    assert server.connection.dialect is not None
    assert server.connection.dialect.number == dialect


def test_the_greatest_common_dialect() -> None:
    assert connect(Offer((0x0311, 0x0202, 0x0302)))[0].negotiated.dialect_revision == 0x0311
    limited = NegotiateSettings(GUID, max_dialect=0x0302)
    assert connect(Offer(), limited)[0].negotiated.dialect_revision == 0x0302


@pytest.mark.parametrize(
    ("offer", "expected"),
    [
        (Offer(()), status.INVALID_PARAMETER),
        (Offer((0x0399, 0x02FF)), status.NOT_SUPPORTED),
        (Offer((0x0311,), contexts=()), status.INVALID_PARAMETER),
        (Offer((0x0311,), contexts=(CIPHERS,)), status.INVALID_PARAMETER),
        (Offer((0x0311,), contexts=(PREAUTH, PREAUTH)), status.INVALID_PARAMETER),
        (Offer((0x0311,), contexts=(PREAUTH, CIPHERS, CIPHERS)), status.INVALID_PARAMETER),
        (Offer((0x0311,), contexts=(PREAUTH, SIGNING, SIGNING)), status.INVALID_PARAMETER),
        (Offer((0x0311,), contexts=((1, struct.pack("<HHH", 1, 0, 2)),)), status.NO_PREAUTH_INTEGRITY_HASH_OVERLAP),
        (Offer((0x0311,), contexts=((1, struct.pack("<HH", 0, 0)),)), status.INVALID_PARAMETER),
        (Offer((0x0311,), contexts=((1, struct.pack("<HHH", 1, 9, 1)),)), status.INVALID_PARAMETER),
        (Offer((0x0311,), contexts=((1, b"\1"),)), status.INVALID_PARAMETER),
        (Offer((0x0311,), contexts=(PREAUTH, (2, struct.pack("<H", 0)))), status.INVALID_PARAMETER),
        (Offer((0x0311,), contexts=(PREAUTH, (2, struct.pack("<HH", 3, 1)))), status.INVALID_PARAMETER),
        (Offer((0x0311,), contexts=(PREAUTH, (8, struct.pack("<H", 0)))), status.INVALID_PARAMETER),
    ],
)
def test_refused(offer: Offer, expected: int) -> None:
    assert status.name(refused(offer)) == status.name(expected)


def test_contexts_are_only_looked_at_in_311() -> None:
    assert refused(Offer((0x0302,), contexts=((1, b""), (1, b"")))) == status.SUCCESS


@pytest.mark.parametrize(
    ("ciphers", "expected"), [((1, 2), 2), ((4,), 4), ((9, 3), 3), ((9,), 0)], ids=["gcm-first", "only-256", "one-known", "none"]
)
def test_cipher_by_our_preference(ciphers: tuple[int, ...], expected: int) -> None:
    client, server = connect(Offer(ciphers=ciphers))
    assert server.connection.choice is not None
    assert client.cipher_id == server.connection.choice.cipher_id == expected
    assert client.negotiated_contexts[c.ENCRYPTION_CAPABILITIES] == struct.pack("<HH", 1, expected)


@pytest.mark.parametrize(("signing", "expected"), [((0, 1, 2), 2), ((0, 1), 1), ((0,), 0), ((7,), 1), ((), 1)])
def test_signing_by_our_preference(signing: tuple[int, ...], expected: int) -> None:
    client, server = connect(Offer(signing=signing))
    assert server.connection.choice is not None
    assert client.signing_id == server.connection.choice.signing_id == expected
    assert (c.SIGNING_CAPABILITIES in client.negotiated_contexts) == bool(signing)


def test_no_encryption_when_it_is_off() -> None:
    off = NegotiateSettings(GUID, ciphers=())
    client, _ = connect(Offer((0x0302,)), off)
    assert client.negotiated.capabilities & c.CAP_ENCRYPTION == 0
    assert connect(Offer(), off)[0].cipher_id == 0


def test_what_is_not_answered() -> None:
    contexts = (
        PREAUTH,
        (c.COMPRESSION_CAPABILITIES, struct.pack("<HHIH", 1, 0, 0, 1)),
        (c.NETNAME_NEGOTIATE_CONTEXT_ID, "pond".encode("utf-16-le")),
        (c.TRANSPORT_CAPABILITIES, struct.pack("<I", 1)),
        (c.RDMA_TRANSFORM_CAPABILITIES, struct.pack("<HHIH", 1, 0, 0, 1)),
        (0x7777, b"future"),
    )
    client, _ = connect(Offer((0x0311,), contexts=contexts))
    assert list(client.negotiated_contexts) == [c.PREAUTH_INTEGRITY_CAPABILITIES]
    count, salt_size, algorithm = struct.unpack_from("<HHH", client.negotiated_contexts[c.PREAUTH_INTEGRITY_CAPABILITIES])
    assert (count, salt_size, algorithm) == (1, 32, c.HASH_SHA512)


def test_signing_required_is_told() -> None:
    client, _ = connect(settings=NegotiateSettings(GUID, signing_required=True))
    assert client.negotiated.security_mode == c.NEGOTIATE_SIGNING_ENABLED | c.NEGOTIATE_SIGNING_REQUIRED


def test_published_request_is_understood() -> None:
    message = memoryview(pdu(load("logon_311.txt")["negotiate_request"]))
    choice = choose(message, SETTINGS, bytes(32))
    assert choice.dialect is not None
    assert (choice.dialect.number, choice.cipher_id, choice.signing_id) == (0x0311, c.CIPHER_AES128_GCM, c.SIGNING_AES_CMAC)
    assert choice.client_dialects == ALL_DIALECTS
    assert choice.client_capabilities == 0x3F


def test_second_negotiate_disconnects() -> None:
    client, server = connect()
    with pytest.raises(Closed):
        client.negotiate()
    assert "second NEGOTIATE" in server.closed


def test_refused_negotiate_may_be_repeated() -> None:
    client = WireClient(MemoryServer(SETTINGS))
    assert client.negotiate(Offer((0x0399,))).status == status.NOT_SUPPORTED
    assert client.negotiate().status == status.SUCCESS


def test_nothing_before_negotiate() -> None:
    client = WireClient(MemoryServer(SETTINGS))
    with pytest.raises(Closed):
        client.echo()


def test_signed_negotiate_is_refused() -> None:
    client = WireClient(MemoryServer(SETTINGS))
    assert client.negotiate(flags=c.FLAGS_SIGNED).status == status.INVALID_PARAMETER


# SMB1


def test_smb1_wildcard_then_smb2() -> None:
    client = WireClient(MemoryServer(SETTINGS))
    response = client.negotiate_smb1()
    assert client.negotiated.dialect_revision == 0x02FF
    assert (response.header.message_id, response.header.credit) == (0, 1)
    assert client.negotiate().status == status.SUCCESS
    assert client.negotiated.dialect_revision == 0x0311


def test_smb1_2002_is_final() -> None:
    client = WireClient(MemoryServer(SETTINGS))
    client.negotiate_smb1((b"NT LM 0.12", b"SMB 2.002"))
    assert client.negotiated.dialect_revision == 0x0202
    assert client.echo().status == status.SUCCESS
    with pytest.raises(Closed):
        client.negotiate()


@pytest.mark.parametrize(
    ("dialects", "settings"),
    [
        ((b"NT LM 0.12",), SETTINGS),
        ((b"SMB 2.002",), NegotiateSettings(GUID, min_dialect=0x0210)),
        ((), SETTINGS),
    ],
)
def test_smb1_alone_disconnects(dialects: tuple[bytes, ...], settings: NegotiateSettings) -> None:
    client = WireClient(MemoryServer(settings))
    with pytest.raises(Closed):
        client.negotiate_smb1(dialects)


def test_smb1_after_smb2_disconnects() -> None:
    client, server = connect()
    with pytest.raises(Closed):
        client.negotiate_smb1()
    assert "SMB1" in server.closed


@given(tail=st.binary(max_size=80))
def test_smb1_noise(tail: bytes) -> None:
    try:
        parse_smb1(memoryview(b"\xffSMB\x72" + tail))
    except WireError:
        return


# hostile SMB2


@given(cut=st.integers(0, 400), tail=st.binary(max_size=60))
def test_truncation_and_tail(cut: int, tail: bytes) -> None:
    whole = bytes(request(Offer()))
    try:
        choice = choose(memoryview(whole[: min(cut, len(whole))] + tail), SETTINGS, bytes(32))
    except (WireError, SmbError):
        return
    assert choice.dialect is not None


@given(position=st.integers(64, 400), value=st.integers(0, 255))
def test_mutation(position: int, value: int) -> None:
    whole = bytearray(request(Offer()))
    whole[position % len(whole)] = value
    try:
        choose(memoryview(whole), SETTINGS, bytes(32))
    except (WireError, SmbError):
        return


def test_contexts_round_trip() -> None:
    contexts = [(1, b"abc"), (2, b""), (3, bytes(8))]
    chain = wire.build_contexts(contexts)
    start = 64 + wire.NEGOTIATE_REQUEST.size + 4
    message = memoryview(bytes(start) + chain)
    assert wire.parse_contexts(message, start, 3) == contexts
    for offset, count in ((0, 1), (start, 4), (start, 65), (1 << 31, 1)):
        with pytest.raises(WireError):
            wire.parse_contexts(message, offset, count)


# VALIDATE_NEGOTIATE_INFO


def validate(offer: Offer, **changes: int) -> bytes:
    client, server = connect(offer)
    capabilities = changes.get("capabilities", offer.capabilities)
    dialects = offer.dialects[: changes.get("dialects", len(offer.dialects))]
    data = VALIDATE_NEGOTIATE_INFO_REQUEST.pack(capabilities, offer.client_guid, offer.security_mode, len(dialects))
    data += struct.pack(f"<{len(dialects)}H", *dialects)
    server.handlers[Command.IOCTL] = lambda element: server.connection.validate_negotiate(memoryview(data), changes.get("room", 24))
    server.connection.new_channel(5, b"", None)
    response = client.receive(client.send(Request(Command.IOCTL, session_id=5))[0])
    return bytes(response.body)


def test_validate_negotiate() -> None:
    offer = Offer((0x0202, 0x0210, 0x0300, 0x0302))
    answer = VALIDATE_NEGOTIATE_INFO_RESPONSE.unpack(validate(offer))
    assert (answer.dialect, answer.guid, answer.security_mode) == (0x0302, GUID, 1)
    assert answer.capabilities & c.CAP_ENCRYPTION


@pytest.mark.parametrize("changes", [{"capabilities": 0}, {"dialects": 3}, {"room": 23}])
def test_validate_negotiate_finds_tampering(changes: dict[str, int]) -> None:
    with pytest.raises(Closed):
        validate(Offer((0x0202, 0x0210, 0x0300, 0x0302)), **changes)


def test_validate_negotiate_ends_311() -> None:
    with pytest.raises(Closed):
        validate(Offer())
