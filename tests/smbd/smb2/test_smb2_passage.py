"""A connection that travels is the same at the other end, and nothing else is taken for one."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pools.layout import WireError
from smbd.smb2 import constants as c
from smbd.smb2 import passage
from smbd.smb2.connection import Connection
from smbd.smb2.credits import CreditWindow, Disconnect
from smbd.smb2.crypto import PreauthHash
from smbd.smb2.dialects import DIALECTS
from smbd.smb2.messages.create_contexts import POSIX
from smbd.smb2.negotiate import Choice, NegotiateSettings

OURS = NegotiateSettings(server_guid=bytes(16), signing_required=True, max_read_size=1 << 20, max_credits=64)
NUMBERS = st.integers(0, 0xFFFF)
CHOICES = st.builds(
    Choice,
    st.sampled_from(list(DIALECTS.values())),
    st.integers(0, 0xFFFFFFFF),
    st.sampled_from(passage.CIPHERS),
    st.sampled_from(passage.SIGNINGS),
    st.binary(min_size=16, max_size=16),
    st.integers(0, 0xFFFFFFFF),
    NUMBERS,
    st.lists(NUMBERS, max_size=255).map(tuple),
    st.sampled_from([(), ((c.POSIX_EXTENSIONS_AVAILABLE, POSIX),)]),
)


def connected(choice: Choice, low: int = 5, high: int = 9) -> Connection:
    made = Connection(OURS, bytes)
    made.resume(choice, PreauthHash(bytes(range(64))), (low, high))
    return made


@given(CHOICES, st.integers(0, 1 << 40), st.integers(0, 8192), st.binary(max_size=40))
def test_what_arrives_is_what_left(choice: Choice, low: int, span: int, rest: bytes) -> None:
    sent = connected(choice, low, low + span)
    packed = passage.pack(sent)
    came, size = passage.unpack(packed + rest, NegotiateSettings(server_guid=bytes(16)), bytes)
    assert size == len(packed)
    assert came.choice == choice
    assert (came.dialect, came.multi_credit) == (sent.dialect, sent.multi_credit)
    assert came.preauth.value == sent.preauth.value
    assert (came.credits.low, came.credits.high, came.credits.maximum) == (low, low + span, 64)
    assert came.settings == OURS


@pytest.mark.parametrize(
    "changes",
    [
        {"cipher_id": 5}, {"signing_id": 3}, {"low": 10}, {"high": 1 << 20}, {"max_credits": 0}, {"max_credits": 1 << 16},
        {"max_read_size": 8 << 20 | 1}, {"max_write_size": 1 << 31}, {"max_transact_size": 0xFFFFFFFF}, {"dialect": 0x0210 + 1},
    ],
)  # fmt: skip
def test_what_no_negotiation_ends_with_is_no_connection(changes: dict[str, int]) -> None:
    packed = passage.pack(connected(Choice(DIALECTS[c.DIALECT_311], 0)))
    told = passage.PASSAGE.unpack(packed)
    passage.unpack(packed, OURS, bytes)
    with pytest.raises(WireError):
        passage.unpack(passage.PASSAGE.pack(*told._replace(**changes)) + packed[passage.PASSAGE.size :], OURS, bytes)


def test_no_truncation_is_taken_for_a_connection() -> None:
    packed = passage.pack(connected(Choice(DIALECTS[c.DIALECT_311], 0, client_dialects=(1, 2, 3))))
    for size in range(len(packed)):
        with pytest.raises(WireError):
            passage.unpack(packed[:size], OURS, bytes)


@given(st.binary(max_size=200))
def test_bytes_that_are_no_connection(noise: bytes) -> None:
    try:
        passage.unpack(noise, OURS, bytes)
    except WireError:
        return
    assert struct.unpack_from("<H", noise)[0] in DIALECTS


def test_who_may_not_travel() -> None:
    assert not passage.may_travel(Connection(OURS, bytes))
    assert not passage.may_travel(connected(Choice(None, 0)))
    assert not passage.may_travel(connected(Choice(DIALECTS[c.DIALECT_311], 0, client_dialects=(1,) * 256)))
    late = connected(Choice(DIALECTS[c.DIALECT_311], 0))
    assert passage.may_travel(late)
    late.credits.charge(6, 1)
    assert not passage.may_travel(late)


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 4)), max_size=12), st.integers(0, 60), st.integers(1, 4), st.integers(1, 9))
def test_a_charge_is_taken_back(before: list[tuple[int, int]], message_id: int, charge: int, asked: int) -> None:
    window = CreditWindow(64)
    window.grant(40)
    for one in before:
        try:
            window.charge(*one)
        except Disconnect:
            continue
    known = window.low, window.high, set(window.used)
    try:
        window.charge(message_id, charge)
    except Disconnect:
        return
    window.give_back(message_id, charge, window.grant(asked))
    assert (window.low, window.high, window.used) == known
    window.charge(message_id, charge)
