"""Users' quotas ([MS-SMB2] 2.2.37.1, 3.3.5.20.4, [MS-FSCC] 2.4.41) through a worker in memory; the file system keeps them in a table."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pools.port import choice, files
from pools.port.interface import Quota
from pools.port.linux import quotas as linux
from smbd.accounts import IdMap
from smbd.smb2 import constants as c
from smbd.smb2 import status
from smbd.smb2.dtyp import SID
from smbd.smb2.fscc import filesystem
from smbd.smb2.fscc.quota import GET_QUOTA, NO_LIMIT, QUOTA, UserQuota, pack_quotas, parse_quotas, parse_sids
from smbd.smb2.header import HEADER_SIZE
from smbd.smb2.messages import create, info
from smbd.smb2.status import SmbError
from tests.btrfs import run
from tests.wire_client import Response, WireClient
from tests.workers.house import MACHINE, OURSELVES, House
from workers import identity

QUOTA_FILE = "$Extend\\$Quota:$Q:$INDEX_ALLOCATION"
IDS = IdMap(MACHINE, "MILLPOND")
OWN = os.geteuid()
OTHERS = (OWN + 1, OWN + 7, OWN + 100)
ADMIN = f"admin users = {OURSELVES} alice"
Table = dict[int, Quota]


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> Table:
    kept = {uid: Quota(uid + 1000, 0, (uid + 1) << 20) for uid in (OWN, *OTHERS)}

    def next_quota(_fd: int, uid: int) -> tuple[int, Quota] | None:
        return min(((one, quota) for one, quota in kept.items() if one >= uid), default=None)

    def set_quota(_fd: int, uid: int, soft: int, hard: int) -> None:
        kept[uid] = Quota(kept.get(uid, Quota(0, 0, 0)).used, soft, hard)

    monkeypatch.setattr(files, "quota", lambda _fd, uid: kept.get(uid, Quota(0, 0, 0)))
    monkeypatch.setattr(files, "next_quota", next_quota)
    monkeypatch.setattr(files, "set_quota", set_quota)
    return kept


@pytest.fixture
def admin(make_house: Callable[..., House], table: Table) -> WireClient:
    return make_house(share_text=ADMIN).client()


@pytest.fixture
def user(make_house: Callable[..., House], table: Table, monkeypatch: pytest.MonkeyPatch) -> WireClient:
    monkeypatch.setattr(identity, "ROOT", identity.Identity(12345, 12345))  # the tests' own user may be root
    return make_house().client()


def ask(client: WireClient, *, single: int = 0, restart: int = 0, sids: bytes = b"", start: SID | None = None, size: int = 999) -> Response:
    begin = start.pack() if start is not None else b""
    fixed = info.QUERY_QUOTA_INFO.pack(single, restart, 0, len(sids), len(begin), 0)
    return ask_raw(client, fixed + (sids or begin), size)


def ask_raw(client: WireClient, data: bytes, size: int = 65536) -> Response:
    at = HEADER_SIZE + info.QUERY_INFO_REQUEST.size
    handle = client.open(QUOTA_FILE, disposition=c.FILE_OPEN, access=c.FILE_READ_DATA) if not hasattr(client, "quotas") else client.quotas
    client.quotas = handle  # type: ignore[attr-defined]
    body = info.QUERY_INFO_REQUEST.pack(41, c.INFO_QUOTA, 0, size, at, 0, len(data), 0, 0, *handle) + (data or b"\0")
    return client.call(c.Command.QUERY_INFO, body)


def told(client: WireClient, answer: Response) -> dict[int, tuple[int, int, int]]:
    found = {}
    for quota in parse_quotas(client.output(answer)):
        uid = IDS.uid_of(quota.sid)
        assert uid is not None
        found[uid] = quota.used, quota.threshold, quota.limit
    return found


def wanted(*uids: int) -> bytes:
    entries = [IDS.user_sid(uid).pack() for uid in uids]
    packed = b""
    for number, sid in enumerate(entries):
        step = GET_QUOTA.size + len(sid)
        padded = step + -step % 8
        last = number == len(entries) - 1
        packed += (GET_QUOTA.pack(0 if last else padded, len(sid)) + sid).ljust(step if last else padded, b"\0")
    return packed


def test_the_file_that_stands_for_quotas(user: WireClient) -> None:
    answer = user.create(QUOTA_FILE, disposition=c.FILE_OPEN, access=c.FILE_READ_DATA | c.FILE_READ_ATTRIBUTES)
    seen = answer.parse(create.CREATE_RESPONSE)
    assert (seen.creation_time, seen.last_write_time, seen.file_attributes) == (0, 0, 0x36)
    handle = seen.file_id_persistent, seen.file_id_volatile
    assert user.read(handle, 0, 10).status == status.INVALID_DEVICE_REQUEST
    assert user.close(handle).status == status.SUCCESS
    assert user.create("other\\$Quota:$Q:$INDEX_ALLOCATION", disposition=c.FILE_OPEN).status == status.OBJECT_NAME_INVALID


def test_an_administrator_is_told_of_all(admin: WireClient, table: Table) -> None:
    answer = ask(admin, restart=1)
    assert told(admin, answer) == {uid: (quota.used, NO_LIMIT, quota.hard) for uid, quota in table.items()}
    assert ask(admin).status == status.NO_MORE_ENTRIES
    assert told(admin, ask(admin, single=1, restart=1)) == {OWN: (OWN + 1000, NO_LIMIT, (OWN + 1) << 20)}
    assert list(told(admin, ask(admin))) == list(OTHERS)
    assert list(told(admin, ask(admin, start=IDS.user_sid(OTHERS[1])))) == list(OTHERS[1:])


def test_what_does_not_fit_comes_next(admin: WireClient) -> None:
    one = QUOTA.size + IDS.user_sid(OWN).size
    assert ask(admin, restart=1, size=one - 1).status == status.BUFFER_TOO_SMALL
    seen = [uid for _ in range(4) for uid in told(admin, ask(admin, size=one + 8))]
    assert seen == [OWN, *OTHERS]
    assert ask(admin, size=one).status == status.NO_MORE_ENTRIES


def test_those_that_are_named(admin: WireClient) -> None:
    answer = ask(admin, sids=wanted(OTHERS[1], 55555, OWN))
    assert list(told(admin, answer)) == [OTHERS[1], 55555, OWN]
    assert told(admin, answer)[55555] == (0, NO_LIMIT, NO_LIMIT)
    assert list(told(admin, ask(admin, single=1, sids=wanted(*OTHERS)))) == [OTHERS[0]]


def test_others_know_their_own_only(user: WireClient, table: Table) -> None:
    assert list(told(user, ask(user, restart=1))) == [OWN]
    assert ask(user).status == status.NO_MORE_ENTRIES
    assert list(told(user, ask(user, sids=wanted(OWN)))) == [OWN]
    assert ask(user, sids=wanted(OTHERS[0])).status == status.ACCESS_DENIED
    before = dict(table)
    assert change(user, [UserQuota(IDS.user_sid(OWN), 0, 1, 2)]).status == status.ACCESS_DENIED
    assert table == before


def change(client: WireClient, quotas: list[UserQuota]) -> Response:
    handle = client.open(QUOTA_FILE, disposition=c.FILE_OPEN, access=c.FILE_READ_DATA | c.FILE_WRITE_DATA)
    return client.set_info(handle, c.INFO_QUOTA, 0, pack_quotas(quotas, 65536)[0])


def test_an_administrator_sets_limits(admin: WireClient, table: Table) -> None:
    wishes = [UserQuota(IDS.user_sid(OTHERS[0]), 0, 5 << 20, 6 << 20), UserQuota(IDS.user_sid(77777), 0, NO_LIMIT, NO_LIMIT - 1)]
    assert change(admin, wishes).status == status.SUCCESS
    assert table[OTHERS[0]] == (OTHERS[0] + 1000, 5 << 20, 6 << 20)
    assert table[77777] == (0, 0, 0)
    before = dict(table)
    assert change(admin, [wishes[0]._replace(limit=1), UserQuota(SID.parse("S-1-5-32-544"), 0, 1, 1)]).status == status.NO_SUCH_USER
    assert table == before


def test_what_a_user_may_still_use_is_the_room_he_is_told_of(user: WireClient, table: Table) -> None:
    table[OWN] = Quota(1 << 20, 0, 3 << 20)
    handle = user.open("")
    answer = user.query_info(handle, c.INFO_FILESYSTEM, filesystem.FILE_FS_FULL_SIZE_INFORMATION)
    room = filesystem.FULL_SIZE.unpack(user.output(answer))
    unit = room.sectors_per_allocation_unit * room.bytes_per_sector
    assert room.total_allocation_units * unit == 3 << 20
    assert room.caller_available_allocation_units * unit == 2 << 20
    assert room.actual_available_allocation_units > room.caller_available_allocation_units
    table[OWN] = Quota(9 << 20, 4 << 20, 0)
    room = filesystem.SIZE.unpack(user.output(user.query_info(handle, c.INFO_FILESYSTEM, filesystem.FILE_FS_SIZE_INFORMATION)))
    assert room.available_allocation_units == 0
    flags = filesystem.ATTRIBUTE.unpack(user.output(user.query_info(handle, c.INFO_FILESYSTEM, filesystem.FILE_FS_ATTRIBUTE_INFORMATION)))
    assert flags.file_system_attributes & filesystem.FILE_VOLUME_QUOTAS


def test_there_are_none_on_most_file_systems(client: WireClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "quota", lambda _fd, _uid: None)
    assert ask(client, restart=1).status == status.NOT_SUPPORTED
    assert change(client, [UserQuota(IDS.user_sid(OWN), 0, 1, 2)]).status == status.NOT_SUPPORTED


def test_there_are_none_on_btrfs(make_house: Callable[..., House], btrfs: Path) -> None:
    """Its quotas are of subvolumes, whosever the files in them are."""
    run("btrfs", "quota", "enable", btrfs)
    run("btrfs", "qgroup", "limit", "64M", btrfs)
    client = make_house(share_text=f"[there]\npath = {btrfs}\nread only = no\n{ADMIN}").client(share="there")
    assert ask(client, restart=1).status == status.NOT_SUPPORTED
    assert change(client, [UserQuota(IDS.user_sid(OWN), 0, 1, 2)]).status == status.NOT_SUPPORTED
    seen = client.output(client.query_info(client.open("f"), c.INFO_FILESYSTEM, filesystem.FILE_FS_ATTRIBUTE_INFORMATION))
    assert not filesystem.ATTRIBUTE.unpack(seen).file_system_attributes & filesystem.FILE_VOLUME_QUOTAS


@pytest.mark.parametrize(
    "data",
    [
        b"",
        bytes(15),
        info.QUERY_QUOTA_INFO.pack(0, 0, 0, 1000, 0, 0),
        info.QUERY_QUOTA_INFO.pack(0, 0, 0, 0, 28, 0xFFFFFFFF) + bytes(28),
        info.QUERY_QUOTA_INFO.pack(0, 0, 0, 0, 28, 0) + bytes(28),
        info.QUERY_QUOTA_INFO.pack(0, 0, 0, 8, 0, 0) + GET_QUOTA.pack(0, 0xFFFFFFFF),
        info.QUERY_QUOTA_INFO.pack(0, 0, 0, 8, 0, 0) + GET_QUOTA.pack(0xFFFFFFF8, 0),
    ],
)
def test_what_makes_no_sense_is_refused(admin: WireClient, data: bytes) -> None:
    assert ask_raw(admin, data).status in (status.INVALID_PARAMETER, status.INVALID_SID)
    assert told(admin, ask(admin, restart=1))


@given(st.binary(max_size=200))
def test_lists_of_strangers_end(data: bytes) -> None:
    for parse in (parse_sids, parse_quotas):
        with suppress(SmbError):
            parse(data)


def test_the_kernels_structure() -> None:
    """struct if_dqblk: limits in KiB, use in bytes; which of them are valid."""
    assert linux.pack(1, 1025).hex() == "0200000000000000" + "0100000000000000" + "00" * 48 + "01000000" + "00000000"
    raw = bytes.fromhex("0200000000000000" + "0100000000000000" + "0500000000000000" + "00" * 40 + "3f000000" + "e8030000")
    assert linux.unpack(raw) == (1000, Quota(5, 1024, 2048))


def test_a_file_system_without_quotas(tmp_path: os.PathLike[str]) -> None:
    fd = os.open("/proc", os.O_RDONLY)
    for name in choice.NAMES:
        port = choice.load(name).files
        assert port.quota(fd, 0) is None
        assert port.next_quota(fd, 0) is None
        with pytest.raises(OSError, match="not supported"):
            port.set_quota(fd, 0, 0, 0)
    os.close(fd)
