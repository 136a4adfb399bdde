"""Create contexts of opens that outlive their connection: what is asked for, what excludes what, what is granted and answered."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pools.layout import WireError
from smbd.sharing import Lasting
from smbd.smb2 import constants as c
from smbd.smb2 import status
from smbd.smb2.dialects import DIALECTS
from smbd.smb2.messages import create_contexts as contexts
from smbd.smb2.messages.create import CREATE_RESPONSE
from smbd.smb2.status import SmbError
from tests.wire_client import Offer, Response, WireClient
from tests.workers.house import ALICE, House
from workers.reliable import (
    DEFAULT_TIMEOUT,
    DURABLE_TIMEOUT,
    LONGEST_TIMEOUT,
    NO_GUID,
    ORDINARY,
    AppInstance,
    Kind,
    Reconnect,
    Wanted,
    known,
    reconnect_of,
    wanted_of,
)

GUID = bytes(range(16))
APP = bytes(range(16, 32))
R, H, W = 1, 2, 4

DHNQ = (b"DHnQ", bytes(16))
DHNC = (b"DHnC", contexts.DURABLE_RECONNECT.pack(7, 8))
DH2C = (b"DH2C", contexts.DURABLE_RECONNECT_V2.pack(7, 8, GUID, 0))
APP_ID = (contexts.APP_INSTANCE_ID, contexts.APP_INSTANCE.pack(20, 0, APP))
APP_NUMBER = (contexts.APP_INSTANCE_VERSION, contexts.APP_VERSION.pack(24, 0, 0, 5, 6))


def dh2q(timeout: int = 0, flags: int = 0, guid: bytes = GUID) -> tuple[bytes, bytes]:
    return b"DH2Q", contexts.DURABLE_REQUEST_V2.pack(timeout, flags, 0, guid)


def lease(state: int, key: bytes = GUID) -> tuple[bytes, bytes]:
    return b"RqLs", contexts.LEASE.pack(key, state, 0, 0)


def chain(*asked: tuple[bytes, bytes], dialect: int = 0x0311) -> dict[bytes, memoryview]:
    found = contexts.parse_chain(memoryview(contexts.build_chain(asked))) if asked else {}
    return dict(known(found, DIALECTS[dialect]))


# What is asked for


@pytest.mark.parametrize(
    ("asked", "dialect", "expected"),
    [
        ((), 0x0311, ORDINARY),
        ((DHNQ,), 0x0202, Wanted(Kind.DURABLE, DURABLE_TIMEOUT)),
        ((dh2q(),), 0x0300, Wanted(Kind.DURABLE_V2, DEFAULT_TIMEOUT, create_guid=GUID)),
        ((dh2q(1),), 0x0300, Wanted(Kind.DURABLE_V2, 1, create_guid=GUID)),
        ((dh2q(0xFFFFFFFF, c.DHANDLE_FLAG_PERSISTENT),), 0x0302, Wanted(Kind.DURABLE_V2, LONGEST_TIMEOUT, True, GUID)),
        ((dh2q(),), 0x0210, ORDINARY),  # what a later dialect has brought
        ((DHNQ, dh2q()), 0x0210, Wanted(Kind.DURABLE, DURABLE_TIMEOUT)),
        ((APP_ID,), 0x0300, Wanted(app=AppInstance(APP))),
        ((APP_ID,), 0x0210, ORDINARY),
        ((APP_NUMBER,), 0x0311, ORDINARY),  # of no instance
        ((APP_ID, APP_NUMBER), 0x0302, Wanted(app=AppInstance(APP))),
        ((APP_ID, APP_NUMBER, dh2q()), 0x0311, Wanted(Kind.DURABLE_V2, DEFAULT_TIMEOUT, False, GUID, AppInstance(APP, (5, 6)))),
        (((contexts.SVHDX_OPEN_DEVICE_CONTEXT, bytes(40)),), 0x0311, ORDINARY),
    ],
)
def test_what_is_wanted(asked: tuple[tuple[bytes, bytes], ...], dialect: int, expected: Wanted) -> None:
    found = chain(*asked, dialect=dialect)
    assert reconnect_of(found) is None
    assert wanted_of(found, DIALECTS[dialect]) == expected


@pytest.mark.parametrize(
    ("asked", "dialect", "expected"),
    [
        ((DHNC,), 0x0202, Reconnect(Kind.DURABLE, 7, 8)),
        ((DHNC, DHNQ), 0x0311, Reconnect(Kind.DURABLE, 7, 8)),  # 3.3.5.9.7: the request is ignored
        ((DHNC, lease(R | H)), 0x0311, Reconnect(Kind.DURABLE, 7, 8)),
        ((DH2C,), 0x0300, Reconnect(Kind.DURABLE_V2, 7, 8, False, GUID)),
        ((DH2C, APP_ID, (b"QFid", b"")), 0x0311, Reconnect(Kind.DURABLE_V2, 7, 8, False, GUID)),
        (((b"DH2C", contexts.DURABLE_RECONNECT_V2.pack(7, 8, GUID, 2)),), 0x0311, Reconnect(Kind.DURABLE_V2, 7, 8, True, GUID)),
        ((DH2C,), 0x0210, None),
        ((DH2C, DHNC), 0x0210, Reconnect(Kind.DURABLE, 7, 8)),
    ],
)
def test_what_is_to_be_reconnected(asked: tuple[tuple[bytes, bytes], ...], dialect: int, expected: Reconnect | None) -> None:
    assert reconnect_of(chain(*asked, dialect=dialect)) == expected


@pytest.mark.parametrize(
    "asked",
    [
        (DHNC, DH2C),
        (DHNC, dh2q()),
        (DH2C, DHNQ),
        (DH2C, dh2q()),
        (DHNQ, dh2q()),
        (DHNC, DH2C, DHNQ, dh2q()),
        ((b"DHnQ", b""),),
        ((b"DHnQ", bytes(15)),),
        ((b"DHnQ", bytes(17)),),
        ((b"DHnC", bytes(15)),),
        ((b"DHnC", bytes(24)),),
        ((b"DH2Q", bytes(31)),),
        ((b"DH2Q", bytes(40)),),
        ((b"DH2C", bytes(35)),),
        ((b"DH2C", bytes(40)),),
        ((contexts.APP_INSTANCE_ID, bytes(19)),),
        ((contexts.APP_INSTANCE_ID, contexts.APP_INSTANCE.pack(19, 0, APP)),),
        (APP_ID, (contexts.APP_INSTANCE_VERSION, bytes(23))),
    ],
)
def test_what_makes_no_sense(asked: tuple[tuple[bytes, bytes], ...]) -> None:
    with pytest.raises((SmbError, WireError)) as refused:
        understood(chain(*asked))
    assert isinstance(refused.value, WireError) or refused.value.status == status.INVALID_PARAMETER  # the same to the client


def understood(found: dict[bytes, memoryview]) -> Reconnect | Wanted:
    return reconnect_of(found) or wanted_of(found, DIALECTS[0x0311])


NAMES = st.sampled_from([b"DHnQ", b"DHnC", b"DH2Q", b"DH2C", contexts.APP_INSTANCE_ID, contexts.APP_INSTANCE_VERSION, b"RqLs", b"MxAc"])
SIZES = st.sampled_from([0, 8, 16, 20, 24, 32, 36, 52]).flatmap(lambda size: st.binary(min_size=size, max_size=size))


@given(asked=st.dictionaries(NAMES, SIZES | st.binary(max_size=60)), dialect=st.sampled_from(sorted(DIALECTS)))
def test_whatever_a_client_sends(asked: dict[bytes, bytes], dialect: int) -> None:
    """It is refused, or at most one thing is asked for, with a time that the server chose or allows."""
    found = chain(*asked.items(), dialect=dialect)
    with contextlib.suppress(SmbError, WireError):
        again = reconnect_of(found)
        if again is not None:
            assert again.kind is (Kind.DURABLE if b"DHnC" in found else Kind.DURABLE_V2)
            assert b"DH2Q" not in found
            return
        wanted = wanted_of(found, DIALECTS[dialect])
        assert not (b"DHnQ" in found and b"DH2Q" in found)
        assert (wanted.kind is Kind.NONE) == (b"DHnQ" not in found and b"DH2Q" not in found)
        assert wanted.timeout <= DURABLE_TIMEOUT
        assert bool(wanted.timeout) == (wanted.kind is not Kind.NONE)
        assert wanted.create_guid == (bytes(found[b"DH2Q"][16:]) if wanted.kind is Kind.DURABLE_V2 else NO_GUID)
        assert not wanted.persistent or DIALECTS[dialect].smb3
        assert wanted.app is None or wanted.app.version is None or DIALECTS[dialect].preauth


# What a client hears


def answered(response: Response) -> dict[bytes, bytes]:
    """The contexts of a CREATE's response."""
    fields = response.parse(CREATE_RESPONSE)
    if not fields.create_contexts_length:
        return {}
    part = response.part(fields.create_contexts_offset, fields.create_contexts_length)
    return {name: bytes(data) for name, data in contexts.parse_chain(memoryview(part)).items()}


def told(client: WireClient, *asked: tuple[bytes, bytes], oplock: int = 0, options: int = 0) -> dict[bytes, bytes]:
    response = client.create("file" if not options else "directory", oplock=oplock, options=options, contexts=asked)
    found = answered(response)
    fields = response.parse(CREATE_RESPONSE)
    client.close((fields.file_id_persistent, fields.file_id_volatile))
    return {name: data for name, data in found.items() if name in (b"DHnQ", b"DH2Q")}


@pytest.mark.parametrize("level", [c.OPLOCK_LEVEL_NONE, c.OPLOCK_LEVEL_II, c.OPLOCK_LEVEL_EXCLUSIVE, c.OPLOCK_LEVEL_BATCH])
def test_an_oplock_makes_it_last_if_it_is_batch(house: House, level: int) -> None:
    client = house.client()
    batch = level == c.OPLOCK_LEVEL_BATCH
    assert told(client, DHNQ, oplock=level) == ({b"DHnQ": bytes(8)} if batch else {})
    granted = contexts.DURABLE_RESPONSE_V2.pack(DEFAULT_TIMEOUT, 0)
    assert told(client, dh2q(), oplock=level) == ({b"DH2Q": granted} if batch else {})


@pytest.mark.parametrize("state", [0, R, R | W, R | H, R | H | W])
def test_a_lease_makes_it_last_if_it_has_handles(house: House, state: int) -> None:
    client = house.client()
    asked = (lease(state), dh2q(400_000))
    granted = contexts.DURABLE_RESPONSE_V2.pack(LONGEST_TIMEOUT, 0)
    assert told(client, *asked, oplock=c.OPLOCK_LEVEL_LEASE) == ({b"DH2Q": granted} if state & H else {})


def test_a_directory_does_not_last(house: House) -> None:
    client = house.client()
    asked = (lease(R | H), dh2q(1000))
    assert told(client, *asked, oplock=c.OPLOCK_LEVEL_LEASE, options=c.FILE_DIRECTORY_FILE) == {}


def test_the_second_version_is_not_of_older_dialects(house: House) -> None:
    client = house.client(offer=Offer((0x0210,)))
    assert told(client, dh2q(), oplock=c.OPLOCK_LEVEL_BATCH) == {}
    assert told(client, DHNQ, oplock=c.OPLOCK_LEVEL_BATCH) == {b"DHnQ": bytes(8)}


def test_a_share_may_do_without(make_house: Callable[..., House]) -> None:
    client = make_house(share_text="durable handles = no").client()
    assert told(client, DHNQ, oplock=c.OPLOCK_LEVEL_BATCH) == {}
    assert told(client, dh2q(), oplock=c.OPLOCK_LEVEL_BATCH) == {}


def test_the_shared_state_knows_what_lasts(house: House) -> None:
    """And what its client calls it; an open without caches has its names all the same."""
    guid = b"C" * 16
    client = house.client(offer=Offer(client_guid=guid))
    assert house.sharing is not None
    opened = client.open("file", oplock=c.OPLOCK_LEVEL_BATCH, contexts=[dh2q(1234), APP_ID, APP_NUMBER], options=c.FILE_WRITE_THROUGH)
    found = house.sharing.find_created(guid, GUID)
    assert found is not None
    (same,) = house.sharing.find_app(APP)
    assert same == found == house.sharing.find(opened[0])
    claim = found.claim
    assert (claim.lasting, claim.version, claim.timeout, claim.options) == (Lasting.DURABLE, 2, 1234, c.FILE_WRITE_THROUGH)
    assert (claim.client_guid, claim.create_guid, claim.app_instance, claim.app_high, claim.app_low) == (guid, GUID, APP, 5, 6)
    assert claim.sid == str(house.tokens[ALICE].user_sid)
    assert client.close(opened).status == status.SUCCESS
    assert house.sharing.find(opened[0]) is None
    opened = client.open("file", contexts=[dh2q(guid=APP)])
    found = house.sharing.find(opened[0])
    assert found is not None
    assert (found.claim.lasting, found.claim.create_guid) == (0, APP)


def test_a_reconnect_cares_for_nothing_else_in_its_request(house: House) -> None:
    """3.3.5.9.7: the fields of a new open are not looked at; there is none to be found here."""
    client = house.client()
    senseless = {"access": 0, "disposition": 77, "options": 0x7FFFFFFF, "attributes": 0x12345678}
    for asked in (DHNC, DH2C):
        assert client.create("..\\*", contexts=[asked], **senseless).status == status.OBJECT_NAME_NOT_FOUND
    assert client.create("file", contexts=[DHNC, DH2C]).status == status.INVALID_PARAMETER
