"""Every layout of the protocol: size, round trip, every truncation; the golden captures field by field; create context chains."""

from __future__ import annotations

import importlib
import pkgutil
from struct import calcsize
from typing import Any, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

import smbd.smb2.messages
from pools.layout import Layout, WireError
from smbd.smb2 import header, status
from smbd.smb2.messages import create_contexts, file, negotiate, session
from smbd.smb2.messages.create_contexts import CREATE_CONTEXT, build_chain, parse_chain
from tests.smbd.smb2.golden import load, pdu

MODULES = [header] + [
    importlib.import_module(f"smbd.smb2.messages.{module.name}") for module in pkgutil.iter_modules(smbd.smb2.messages.__path__)
]
LAYOUTS = {name: value for module in MODULES for name, value in vars(module).items() if isinstance(value, Layout)}
SIZES = {name: value for module in MODULES for name, value in vars(module).items() if name.endswith("_STRUCTURE_SIZE")}


def field_sizes(layout: Layout[Any]) -> list[int]:
    return [calcsize("<" + hint.__metadata__[0]) for hint in get_type_hints(layout.kind, include_extras=True).values()]


@pytest.mark.parametrize("name", sorted(LAYOUTS))
@given(data=st.data())
def test_round_trip_and_truncation(name: str, data: st.DataObject) -> None:
    layout = LAYOUTS[name]
    wire = data.draw(st.binary(min_size=layout.size, max_size=layout.size))
    tail = data.draw(st.binary(max_size=5))
    fields = layout.unpack(wire + tail)
    assert layout.pack(*fields) == wire
    buffer = bytearray(layout.size + 3)
    layout.pack_into(buffer, 3, *fields)
    assert buffer[3:] == wire
    for size in range(layout.size):
        with pytest.raises(WireError):
            layout.unpack(wire[:size])


@pytest.mark.parametrize("name", sorted(SIZES))
def test_structure_size_is_the_layout_and_a_byte_of_what_follows(name: str) -> None:
    layout = LAYOUTS.get(name.removesuffix("_STRUCTURE_SIZE"))
    if layout is None:
        layout = LAYOUTS[name.removesuffix("_STRUCTURE_SIZE") + "_REQUEST"]
    expected = layout.size + file.LOCK_ELEMENT.size if name == "LOCK_REQUEST_STRUCTURE_SIZE" else layout.size
    assert SIZES[name] in (expected, expected + 1)


GOLDEN = [
    ("logon_311.txt", "negotiate_request", (header.HEADER, negotiate.NEGOTIATE_REQUEST)),
    ("logon_311.txt", "negotiate_response", (header.HEADER, negotiate.NEGOTIATE_RESPONSE)),
    ("logon_311.txt", "session_setup_request_1", (header.HEADER, session.SESSION_SETUP_REQUEST)),
    ("logon_311.txt", "session_setup_response_2", (header.HEADER, session.SESSION_SETUP_RESPONSE)),
    ("encryption.txt", "write_request_311", (header.HEADER, file.WRITE_REQUEST)),
    ("encryption.txt", "write_response_311", (header.HEADER, file.WRITE_RESPONSE)),
    ("encryption.txt", "write_request_311_sealed", (header.TRANSFORM_HEADER,)),
]


@pytest.mark.parametrize(("capture", "message", "layouts"), GOLDEN)
def test_golden_fields(capture: str, message: str, layouts: tuple[Layout[Any], ...]) -> None:
    expected = load(capture)[message]
    wire = memoryview(pdu(expected))
    offset = 0
    for layout in layouts:
        fields = layout.unpack(wire, offset)
        for name, value, size in zip(fields._fields, fields, field_sizes(layout), strict=True):
            raw = value if isinstance(value, bytes) else value.to_bytes(size, "little")
            assert (name, raw) == expected.pop(0)
        offset += layout.size


def test_status_names() -> None:
    assert status.name(status.ACCESS_DENIED) == "ACCESS_DENIED"
    assert status.name(0xC0FFEE00) == "0xC0FFEE00"
    assert status.name(0) == "SUCCESS"
    assert status.is_error(status.ACCESS_DENIED)
    assert not status.is_error(status.BUFFER_OVERFLOW)
    assert str(status.SmbError(status.FILE_CLOSED)) == "FILE_CLOSED"


def test_error_body() -> None:
    assert bytes.fromhex("0900 0000 00000000 00".replace(" ", "")) == header.ERROR_BODY
    assert header.error_body(b"abc") == bytes.fromhex("09000000030000006162 63".replace(" ", ""))


NAMES = st.one_of(st.binary(min_size=4, max_size=4), st.binary(min_size=16, max_size=16))


@given(contexts=st.dictionaries(NAMES, st.binary(max_size=60), min_size=1, max_size=6))
def test_create_contexts_round_trip(contexts: dict[bytes, bytes]) -> None:
    chain = build_chain(contexts.items())
    assert {name: bytes(data) for name, data in parse_chain(memoryview(chain)).items()} == contexts


CONTEXTS = st.dictionaries(NAMES, st.binary(max_size=30), min_size=1, max_size=3)


@given(contexts=CONTEXTS, cut=st.integers(0, 999), tail=st.binary(max_size=40))
def test_create_contexts_of_a_hostile_client(contexts: dict[bytes, bytes], cut: int, tail: bytes) -> None:
    chain = build_chain(contexts.items())
    try:
        found = parse_chain(memoryview(chain[: cut % (len(chain) + 1)] + tail))
    except WireError:
        return
    assert all(len(data) <= len(chain) + len(tail) for data in found.values())


@given(chain=st.binary(max_size=200))
def test_create_contexts_of_noise(chain: bytes) -> None:
    try:
        parse_chain(memoryview(chain))
    except WireError:
        return


@pytest.mark.parametrize(
    "fields",
    [
        (12, 16, 4, 0, 0, 0),  # Next not a multiple of 8
        (8, 16, 4, 0, 0, 0),  # Next inside the element's own header
        (400, 16, 4, 0, 0, 0),  # Next beyond the chain
        (0, 8, 4, 0, 0, 0),  # the name in the header
        (0, 16, 0, 0, 0, 0),  # no name
        (0, 16, 400, 0, 0, 0),  # the name beyond
        (0, 16, 4, 0, 8, 4),  # the data in the header
        (0, 16, 4, 0, 24, 400),  # the data beyond
    ],
)
def test_create_contexts_refused(fields: tuple[int, ...]) -> None:
    with pytest.raises(WireError):
        parse_chain(memoryview(CREATE_CONTEXT.pack(*fields) + bytes(48)))


def test_create_contexts_without_an_end() -> None:
    loop = build_chain([(b"MxAc", b"")] * (create_contexts.MAX_CONTEXTS + 1))
    with pytest.raises(WireError):
        parse_chain(memoryview(loop))
