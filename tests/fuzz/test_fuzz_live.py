"""Bytes that no client sends, at a live server: it answers with an error or hangs up, logs one line, and goes on serving.

Every example ends in one of two ways within the time: the ECHO behind it is answered, or the connection is closed. A time-out is a
hung worker. A witness connected all the while must notice nothing.
"""

from __future__ import annotations

import random
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smbd.smb2 import constants as c
from smbd.smb2 import status
from smbd.smb2.constants import Command
from tests import wire_client as wire
from tests.fuzz.target import LIVE, TIMEOUT, Target, half_close
from tests.server import eventually
from tests.wire_client import Closed, Request, WireClient

COMMANDS = st.integers(0, 28)


def _packed(target: Target, index: int) -> bytearray:
    """The PDU of one valid request with the message id the client is at."""
    request = target.requests()[index]
    request.message_id = target.client.next_message_id
    return bytearray(target.client.pack([request]))


@LIVE
@given(index=COMMANDS, data=st.data())
def test_fuzz_truncated(target: Target, index: int, data: st.DataObject) -> None:
    pdu = _packed(target, index)
    target.throw(bytes(pdu[: data.draw(st.integers(0, len(pdu) - 1), "length")]))
    target.check()


@LIVE
@given(index=COMMANDS, data=st.data())
def test_fuzz_announced_longer_than_sent(target: Target, index: int, data: st.DataObject) -> None:
    pdu = _packed(target, index)
    cut = data.draw(st.integers(0, len(pdu)), "length")
    assert not target.throw(bytes(pdu[:cut]), announced=len(pdu) + data.draw(st.integers(1, 1 << 20), "more"))
    target.check()


@LIVE
@given(index=COMMANDS, seed=st.integers(0, 2**32), flips=st.integers(1, 6), header=st.booleans())
def test_fuzz_mutated(target: Target, index: int, seed: int, flips: int, header: bool) -> None:
    pdu = _packed(target, index)
    numbers = random.Random(seed)
    for _ in range(flips):
        at = numbers.randrange(4 if header else 64, max(65, len(pdu)))
        pdu[min(at, len(pdu) - 1)] = numbers.choice((0, 1, 0x7F, 0x80, 0xFF, numbers.randrange(256)))
    target.throw(bytes(pdu))
    target.check()


@LIVE
@given(index=COMMANDS, seed=st.integers(0, 2**32))
def test_fuzz_words_at_their_limits(target: Target, index: int, seed: int) -> None:
    """Offsets and lengths at the edges of their range."""
    pdu = _packed(target, index)
    numbers = random.Random(seed)
    for _ in range(numbers.randrange(1, 4)):
        size = numbers.choice((2, 4, 8))
        if len(pdu) - size <= 66:
            continue
        at = numbers.randrange(66, len(pdu) - size) & ~1
        edge = numbers.choice((0, 1, 64, len(pdu), len(pdu) - 1, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 2**63 - 1, 2**63, 2**64 - 1))
        pdu[at : at + size] = (edge & ((1 << 8 * size) - 1)).to_bytes(size, "little")
    target.throw(bytes(pdu))
    target.check()


@LIVE
@given(parts=st.lists(COMMANDS, min_size=2, max_size=5), seed=st.integers(0, 2**32))
def test_fuzz_compounds(target: Target, parts: list[int], seed: int) -> None:
    requests = [target.requests()[index] for index in parts]
    client = target.client
    for place, request in enumerate(requests):
        request.message_id = client.next_message_id + place
        if place and seed & (1 << place):
            request.flags |= c.FLAGS_RELATED_OPERATIONS
    pdu = bytearray(client.pack(requests))
    numbers = random.Random(seed)
    if seed & 1:
        at = numbers.choice((16, 20, 20, 21, 24))  # flags, NextCommand, MessageId
        pdu[at] = numbers.randrange(256)
    client.next_message_id += len(parts)
    target.throw(bytes(pdu))
    target.check()


@LIVE
@given(junk=st.binary(max_size=300), prefix=st.sampled_from([b"", b"\xfeSMB", b"\xfdSMB", b"\xfcSMB", b"\xffSMB", b"\xfeSMB\x40\0"]))
def test_fuzz_random(target: Target, junk: bytes, prefix: bytes) -> None:
    target.throw(prefix + junk)
    target.check()


@LIVE
@given(junk=st.binary(max_size=400), prefix=st.sampled_from([b"", b"\xfeSMB\x40\0", b"\xffSMB\x72", b"\xfdSMB"]), first=st.booleans())
def test_fuzz_before_any_session(target: Target, junk: bytes, prefix: bytes, first: bool) -> None:
    """Nobody is logged on: an error or a hang-up, never silence."""
    with WireClient((target.server.peer.host, target.server.port), TIMEOUT) as client:
        try:
            if not first:
                assert client.negotiate().status == status.SUCCESS
            client.send_frame(prefix + junk)
            half_close(client)
            for _ in range(10):
                client.transport.receive()
        except (Closed, ConnectionError):
            pass
    target.check()


@pytest.mark.parametrize("size", [(64 << 10) + 65536, 16 << 20, 0xFFFFFF, 0xFF000000 | 100])
def test_fuzz_oversized_before_a_session(target: Target, size: int) -> None:
    """Before authentication a PDU has at most 64 KiB: the announcement alone ends the connection."""
    with target.server.negotiated(timeout=TIMEOUT) as client:
        client.transport.send(size.to_bytes(4, "big") + b"\xfeSMB" + bytes(1000))
        with pytest.raises((Closed, ConnectionError)):
            client.transport.receive()
    target.check()


def test_fuzz_oversized_in_a_session(target: Target) -> None:
    with target.server.client(timeout=TIMEOUT) as client:
        client.transport.send((0xFFFFFF).to_bytes(4, "big") + b"\xfeSMB" + bytes(1000))
        with pytest.raises((Closed, ConnectionError)):
            client.transport.receive()
    target.check()


def test_fuzz_bad_signature_is_refused(target: Target) -> None:
    """[MS-SMB2] 3.3.5.2.4: ACCESS_DENIED, and the request is not carried out."""

    def spoil(view: memoryview) -> None:
        view[50] ^= 1

    with target.server.client(timeout=TIMEOUT) as client:
        client.sign = True
        answer = client.call(Command.CREATE, wire.create_body("never made.bin"), corrupt=spoil)
        assert answer.status == status.ACCESS_DENIED
    assert not (target.server.share / "never made.bin").exists()
    target.check()


def test_fuzz_tampered_ciphertext_ends_the_connection(target: Target) -> None:
    with target.server.client(timeout=TIMEOUT) as client:
        client.seal = True
        assert client.echo().status == status.SUCCESS
        pdu = bytearray(client.pack([Request(Command.ECHO, struct.pack("<HH", 4, 0))]))
        pdu[-1] ^= 1
        client.send_frame(bytes(pdu))
        with pytest.raises((Closed, ConnectionError)):
            client.receive()
    target.check()


def test_fuzz_a_slow_pdu_does_not_hold_anybody_up(target: Target) -> None:
    with target.server.client(timeout=TIMEOUT) as client:
        client.transport.send((1 << 20).to_bytes(4, "big") + b"\xfeSMB")
        target.check()
    eventually(lambda: target.witness.echo().status == status.SUCCESS)
