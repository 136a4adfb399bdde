"""The association: binding, fragments both ways, faults, and bytes that are no RPC."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pools.layout import WireError
from srvsvc import pdu
from srvsvc.association import MAX_STUB, Association, Interface, Operation, RpcFault
from srvsvc.ndr import Bytes, Record
from srvsvc.types import U32

IDENTIFIER = uuid.UUID("11111111-2222-3333-4444-555555555555").bytes_le
NDR64 = pdu.SYNTAX.pack(uuid.UUID("71710533-beba-4937-8319-b5dbef9ccc36").bytes_le, 1)
ONE = pdu.FIRST_FRAG | pdu.LAST_FRAG


def echo(server: Any, args: Any) -> tuple[Any, ...]:
    if args.data == b"fault":
        raise RpcFault(5)
    return args.data * server, len(args.data)


ECHO = Operation("Echo", Record("Q", data=Bytes()), Record("R", data=Bytes(), length=U32), echo)
INTERFACE = Interface("echo", IDENTIFIER, 2, {3: ECHO})


def context(number: int, identifier: bytes = IDENTIFIER, version: int = 2, *transfers: bytes) -> bytes:
    transfers = transfers or (pdu.NDR,)
    return pdu.CONTEXT_ELEMENT.pack(number, len(transfers), 0, identifier, version) + b"".join(transfers)


def bind(*contexts: bytes, ptype: int = pdu.BIND, size: int = 4280) -> bytes:
    return pdu.build(ptype, 1, pdu.BIND_BODY.pack(size, size, 0, len(contexts), 0, 0) + b"".join(contexts))


def results(answer: bytes) -> list[tuple[int, int, bytes]]:
    head = pdu.BIND_ACK_BODY.unpack(answer, 16)
    offset = 16 + pdu.BIND_ACK_BODY.size + head.sec_addr_length
    offset += -offset % 4
    count = pdu.RESULT_LIST.unpack(answer, offset).n_results
    rows = [pdu.RESULT.unpack(answer, offset + 4 + 24 * index) for index in range(count)]
    assert len(answer) == offset + 4 + 24 * count
    return [(row.result, row.reason, pdu.SYNTAX.pack(row.transfer_uuid, row.transfer_version)) for row in rows]


def request(stub: bytes, flags: int = ONE, call_id: int = 7, context_id: int = 0, opnum: int = 3) -> bytes:
    return pdu.build(pdu.REQUEST, call_id, pdu.REQUEST_BODY.pack(len(stub), context_id, opnum) + stub, flags)


def stub(data: bytes) -> bytes:
    return len(data).to_bytes(4, "little") + data


@pytest.fixture
def association() -> Association:
    made = Association((INTERFACE,), "echo", 0x55, 1)
    made.feed(bind(context(0)))
    return made


def fault_status(answers: list[bytes]) -> int:
    (answer,) = answers
    assert answer[2] == pdu.FAULT
    return pdu.FAULT_BODY.unpack(answer, 16).status


def test_bind() -> None:
    association = Association((INTERFACE,), "echo", 0x55, 1)
    features = pdu.SYNTAX.pack(pdu.FEATURE_PREFIX + b"\x03" + bytes(7), 1)
    (answer,) = association.feed(
        bind(
            context(0),
            context(1, IDENTIFIER, 2, NDR64),
            context(2, IDENTIFIER, 2, features),
            context(3, bytes(16)),
            context(4, IDENTIFIER, 1),
            context(5, IDENTIFIER, 2, NDR64, pdu.NDR),
        )
    )
    head = pdu.BIND_ACK_BODY.unpack(answer, 16)
    assert (answer[2], head.max_xmit_frag, head.assoc_group_id) == (pdu.BIND_ACK, 4280, 0x55)
    assert answer[26 : 26 + head.sec_addr_length] == b"\\PIPE\\echo\0"
    assert results(answer) == [
        (pdu.ACCEPTANCE, 0, pdu.NDR),
        (pdu.PROVIDER_REJECTION, pdu.TRANSFER_SYNTAXES_NOT_SUPPORTED, pdu.NULL_SYNTAX),
        (pdu.NEGOTIATE_ACK, 2, pdu.NULL_SYNTAX),
        (pdu.PROVIDER_REJECTION, pdu.ABSTRACT_SYNTAX_NOT_SUPPORTED, pdu.NULL_SYNTAX),
        (pdu.PROVIDER_REJECTION, pdu.ABSTRACT_SYNTAX_NOT_SUPPORTED, pdu.NULL_SYNTAX),
        (pdu.ACCEPTANCE, 0, pdu.NDR),
    ]


def test_alter_context(association: Association) -> None:
    assert fault_status(association.feed(request(stub(b"x"), context_id=9))) == pdu.UNKNOWN_INTERFACE
    (answer,) = association.feed(bind(context(9), ptype=pdu.ALTER_CONTEXT))
    assert answer[2] == pdu.ALTER_CONTEXT_RESP
    assert results(answer) == [(pdu.ACCEPTANCE, 0, pdu.NDR)]
    assert association.feed(request(stub(b"x"), context_id=9))[0][2] == pdu.RESPONSE


def test_a_bind_with_authentication_is_refused() -> None:
    whole = bytearray(bind(context(0)) + bytes(8 + 16))
    whole[8:12] = len(whole).to_bytes(2, "little") + (16).to_bytes(2, "little")
    (answer,) = Association((INTERFACE,), "echo", 1, 1).feed(bytes(whole))
    assert (answer[2], pdu.BIND_NAK_BODY.unpack(answer, 16).provider_reject_reason) == (pdu.BIND_NAK, pdu.NAK_AUTHENTICATION_TYPE)


def test_a_call(association: Association) -> None:
    (answer,) = association.feed(request(stub(b"four")))
    assert answer[2] == pdu.RESPONSE
    assert answer[24:] == stub(b"four") + (4).to_bytes(4, "little")


def test_an_object_uuid_is_skipped(association: Association) -> None:
    (answer,) = association.feed(request(bytes(16) + stub(b"four"), ONE | pdu.OBJECT_UUID))
    assert answer[24:32] == stub(b"four")


@given(st.lists(st.integers(1, 60), max_size=6), st.integers(1, 50))
def test_a_call_in_fragments_and_pieces(cuts: list[int], step: int) -> None:
    association = Association((INTERFACE,), "echo", 0x55, 1)
    association.feed(bind(context(0)))
    whole = stub(bytes(range(200)))
    parts, start = [], 0
    for cut in cuts:
        parts.append(whole[start : start + cut])
        start += cut
    parts.append(whole[start:])
    wire = b"".join(
        request(part, (pdu.FIRST_FRAG if index == 0 else 0) | (pdu.LAST_FRAG if index == len(parts) - 1 else 0))
        for index, part in enumerate(parts)
    )
    answers = [answer for at in range(0, len(wire), step) for answer in association.feed(wire[at : at + step])]
    assert [answer[24:-4] for answer in answers] == [whole]


def test_a_long_answer_comes_in_fragments() -> None:
    association = Association((INTERFACE,), "echo", 0x55, 1000)
    association.feed(bind(context(0), size=2000))
    answers = association.feed(request(stub(b"0123456789")))
    assert [answer[3] for answer in answers] == [pdu.FIRST_FRAG, 0, 0, 0, 0, pdu.LAST_FRAG]
    assert all(len(answer) <= 2000 for answer in answers)
    assert b"".join(answer[24:] for answer in answers) == stub(b"0123456789" * 1000) + (10).to_bytes(4, "little")
    assert len(answers[0]) == int.from_bytes(answers[0][8:10], "little")


def test_faults(association: Association) -> None:
    assert fault_status(association.feed(request(stub(b"x"), opnum=4))) == pdu.OP_RANGE_ERROR
    assert fault_status(association.feed(request(b"\xff\xff\xff\xff"))) == pdu.BAD_STUB_DATA
    assert fault_status(association.feed(request(stub(b"fault")))) == 5
    assert fault_status(association.feed(request(stub(b"x"), pdu.LAST_FRAG))) == pdu.PROTOCOL_ERROR


def test_a_cancelled_call_is_forgotten(association: Association) -> None:
    association.feed(request(stub(b"1234")[:4], pdu.FIRST_FRAG))
    assert association.feed(pdu.build(pdu.ORPHANED, 7, b"")) == []
    assert fault_status(association.feed(request(b"1234", pdu.LAST_FRAG))) == pdu.PROTOCOL_ERROR


@pytest.mark.parametrize(
    "data",
    [
        b"\x04" + bytes(15),
        pdu.build(pdu.RESPONSE, 1, b""),
        pdu.build(pdu.BIND, 1, b"short"),
        b"\x05\x00\x00\x03\x00\x00\x00\x00\x20\x00\x00\x00\x01\x00\x00\x00",
        b"\x05\x00\x00\x03\x10\x00\x00\x00\x0f\x00\x00\x00\x01\x00\x00\x00",
        bind(context(0)),
    ],
)
def test_what_is_no_rpc_breaks_the_pipe(association: Association, data: bytes) -> None:
    with pytest.raises(WireError):
        association.feed(data)


def test_a_request_has_a_largest_size(association: Association) -> None:
    part = request(bytes(60000), pdu.FIRST_FRAG)
    association.feed(part)
    for _ in range(MAX_STUB // 60000 - 1):
        association.feed(request(bytes(60000), 0))
    with pytest.raises(WireError):
        association.feed(request(bytes(60000), 0))


@given(st.binary(max_size=300), st.booleans())
def test_random_bytes(data: bytes, headed: bool) -> None:
    association = Association((INTERFACE,), "echo", 0x55, 1)
    association.feed(bind(context(0)))
    if headed:
        data = b"\x05\x00" + data[:2] + pdu.LITTLE_ENDIAN + (16 + len(data)).to_bytes(2, "little") + bytes(6) + data
    try:
        association.feed(data)
    except WireError:
        return
