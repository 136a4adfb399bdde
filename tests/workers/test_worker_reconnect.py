"""An open whose connection is lost and that its client comes back for: what is kept, who gets it, and what is refused."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from struct import pack
from typing import Any

import pytest

from pools.port import files
from pools.queue import BROKER
from smbd.sharing import DISCONNECTED
from smbd.sharing.messages import SWEEP
from smbd.smb2 import constants as c
from smbd.smb2 import status
from smbd.smb2.dtyp import SID
from smbd.smb2.dtyp.sddl import parse_sddl
from smbd.smb2.messages import create_contexts as contexts
from smbd.smb2.messages.create import CREATE_RESPONSE
from tests.wire_client import FileId, Offer, Response, WireClient
from tests.workers.house import BOB, House, token_of

GUID, OTHER = bytes(range(16)), bytes(range(16, 32))
KEY = b"K" * 16
R, H, W = 1, 2, 4
EXCLUSIVE = c.LOCKFLAG_EXCLUSIVE_LOCK | c.LOCKFLAG_FAIL_IMMEDIATELY
DHNQ = (b"DHnQ", bytes(16))
MACHINE = Offer(client_guid=b"M" * 16)


def dh2q(timeout: int = 60_000, guid: bytes = GUID) -> tuple[bytes, bytes]:
    return b"DH2Q", contexts.DURABLE_REQUEST_V2.pack(timeout, 0, 0, guid)


def dhnc(file_id: FileId) -> tuple[bytes, bytes]:
    return b"DHnC", contexts.DURABLE_RECONNECT.pack(*file_id)


def dh2c(file_id: FileId, guid: bytes = GUID, flags: int = 0) -> tuple[bytes, bytes]:
    return b"DH2C", contexts.DURABLE_RECONNECT_V2.pack(*file_id, guid, flags)


def lease(state: int = R | H | W, key: bytes = KEY) -> tuple[bytes, bytes]:
    return b"RqLs", contexts.LEASE_V2.pack(key, state, 0, 0, bytes(16), 0, 0)


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    house = House(tmp_path)
    yield house
    house.end()


def drop(house: House, client: WireClient) -> None:
    """The network is gone: the worker ends."""
    worker = house.worker_of(client)
    client.transport.close()
    house.turn_until(lambda: worker.ended)
    worker.close()
    house.segment.row(worker.slot).set("pid", 0)


def file_id_of(response: Response) -> FileId:
    fields = response.parse(CREATE_RESPONSE)
    return fields.file_id_persistent, fields.file_id_volatile


def durable(client: WireClient, name: str = "file", *asked: tuple[bytes, bytes], **options: Any) -> FileId:
    level = c.OPLOCK_LEVEL_LEASE if any(tag == b"RqLs" for tag, _ in asked) else c.OPLOCK_LEVEL_BATCH
    response = client.create(name, oplock=level, contexts=asked or [DHNQ], **options)
    assert response.status == status.SUCCESS
    return file_id_of(response)


def again(client: WireClient, *asked: tuple[bytes, bytes], name: str = "") -> int:
    return client.create(name, contexts=asked).status


def test_what_was_asked_to_be_kept_for_a_file_is_told_again(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where nothing can be reserved beyond a file's end."""

    def nothing(*_: int) -> None:
        raise OSError(errno.EOPNOTSUPP, "no")

    monkeypatch.setattr(files, "preallocate", nothing)
    client = house.client()
    file_id = durable(client, "file", DHNQ, (b"AlSi", pack("<Q", 5000)))
    drop(house, client)
    again = house.client().create("file", contexts=[dhnc(file_id)])
    assert again.parse(CREATE_RESPONSE).allocation_size == 8192


def test_it_gives_way_to_who_needs_what_it_caches(house: House) -> None:
    client = house.client()
    first = durable(client)
    drop(house, client)
    assert house.client().create("file", share=0).status == status.SUCCESS
    assert again(house.client(), dhnc(first)) == status.OBJECT_NAME_NOT_FOUND


def test_everything_of_it_comes_back(house: House) -> None:
    client = house.client()
    first = durable(client)
    client.write(first, 0, b"what was written")
    assert client.lock(first, (0, 4, EXCLUSIVE)).status == status.SUCCESS
    assert client.set_info(first, c.INFO_FILE, 14, (9).to_bytes(8, "little")).status == status.SUCCESS
    drop(house, client)
    assert house.sharing is not None
    (row,) = house.sharing.opens()
    assert (row.slot, row.locks) == (DISCONNECTED, 1)
    back = house.client()
    response = back.create("", contexts=[dhnc(first)])
    assert response.status == status.SUCCESS
    fields = response.parse(CREATE_RESPONSE)
    assert (fields.oplock_level, fields.create_action, fields.file_id_persistent) == (c.OPLOCK_LEVEL_BATCH, c.FILE_OPENED, first[0])
    assert not fields.create_contexts_length
    second = file_id_of(response)
    assert second[1] != first[1]
    assert back.output(back.query_info(second, c.INFO_FILE, 14))[:8] == (9).to_bytes(8, "little")
    assert back.read_data(second, 0, 4) == b"what"
    assert back.lock(second, (0, 4, c.LOCKFLAG_UNLOCK)).status == status.SUCCESS
    assert again(house.client(), dhnc(first)) == status.OBJECT_NAME_NOT_FOUND  # somebody has it
    drop(house, back)
    third = house.client()
    assert again(third, dhnc(second)) == status.SUCCESS  # as often as it takes


def test_a_lease_comes_back_to_its_client(house: House) -> None:
    client = house.client(offer=MACHINE)
    first = durable(client, "file", lease(), dh2q())
    client.close(client.open("other"))
    drop(house, client)
    stranger = house.client()
    assert again(stranger, lease(), dh2c(first), name="file") == status.OBJECT_NAME_NOT_FOUND
    back = house.client(offer=MACHINE)
    assert again(back, dh2c(first), name="file") == status.OBJECT_NAME_NOT_FOUND  # without its lease
    assert again(back, lease(key=OTHER), dh2c(first), name="file") == status.OBJECT_NAME_NOT_FOUND
    assert again(back, lease(), dh2c(first, OTHER), name="file") == status.OBJECT_NAME_NOT_FOUND
    assert again(back, lease(), dh2c(first), name="other") == status.INVALID_PARAMETER
    response = back.create("FILE", contexts=[lease(), dh2c(first)])
    fields = response.parse(CREATE_RESPONSE)
    assert fields.oplock_level == c.OPLOCK_LEVEL_LEASE
    told = contexts.parse_chain(memoryview(response.part(fields.create_contexts_offset, fields.create_contexts_length)))
    assert list(told) == [b"RqLs"]
    assert contexts.LEASE_V2.unpack(told[b"RqLs"]).lease_state == R | H | W


def test_only_its_user_gets_it(house: House) -> None:
    client = house.client()
    first = durable(client)
    drop(house, client)
    assert again(house.client(BOB), dhnc(first)) == status.ACCESS_DENIED
    assert again(house.client(), dhnc(first)) == status.SUCCESS


def test_only_on_its_share(tmp_path: Path) -> None:
    house = House(tmp_path, share_text=f"[more]\npath = {tmp_path}\nread only = no")
    client = house.client()
    first = durable(client)
    drop(house, client)
    assert again(house.client(share="more"), dhnc(first)) == status.OBJECT_NAME_NOT_FOUND
    house.end()


def test_a_file_that_was_replaced_is_another(house: House) -> None:
    client = house.client()
    first = durable(client)
    drop(house, client)
    (house.share / "file").rename(house.share / "away")
    back = house.client()
    assert again(back, dhnc(first)) == status.OBJECT_NAME_NOT_FOUND
    (house.share / "file").write_bytes(b"another")
    assert again(back, dhnc(first)) == status.OBJECT_NAME_NOT_FOUND
    (house.share / "away").rename(house.share / "file")
    assert again(back, dhnc(first)) == status.SUCCESS


def test_an_inode_that_is_used_again_is_another(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    client = house.client()
    first = durable(client)
    drop(house, client)
    monkeypatch.setattr("workers.reconnect.birth_of", lambda handle: 1)
    assert again(house.client(), dhnc(first)) == status.OBJECT_NAME_NOT_FOUND


def test_a_file_may_have_become_read_only(house: House) -> None:
    client = house.client()
    first = durable(client)
    drop(house, client)
    os.chmod(house.share / "file", 0o444)
    back = house.client()
    response = back.create("", contexts=[dhnc(first)])
    assert back.write(file_id_of(response), 0, b"still mine").status == status.SUCCESS


def test_time_and_close_end_it(house: House) -> None:
    client = house.client()
    first, second = durable(client, "one", dh2q(1)), durable(client, "two")
    client.close(second)
    drop(house, client)
    back = house.client()
    for _ in range(20):
        house.turn()
    assert again(back, dh2c(first)) == status.OBJECT_NAME_NOT_FOUND
    assert again(back, dhnc(second)) == status.OBJECT_NAME_NOT_FOUND


def test_a_logoff_preserves_and_a_tree_disconnect_does_not(house: House) -> None:
    for end, expected in (("logoff", status.SUCCESS), ("tree_disconnect", status.OBJECT_NAME_NOT_FOUND)):
        client = house.client()
        first = durable(client, end)
        getattr(client, end)()
        assert again(house.client(), dhnc(first)) == expected


def test_without_durable_handles_nothing_is_left(tmp_path: Path) -> None:
    house = House(tmp_path, share_text="durable handles = no")
    client = house.client()
    first = durable(client)
    drop(house, client)
    assert again(house.client(), dhnc(first)) == status.OBJECT_NAME_NOT_FOUND
    house.end()


def test_a_stopping_server_leaves_nothing(house: House) -> None:
    client = house.client()
    durable(client, options=c.FILE_DELETE_ON_CLOSE)
    house.worker_of(client).drain()
    drop(house, client)
    assert not (house.share / "file").exists()


def test_what_one_user_leaves_has_a_limit(tmp_path: Path) -> None:
    house = House(tmp_path, "max disconnected opens per user = 3")
    client = house.client()
    ids = [durable(client, f"file{number}", options=c.FILE_DELETE_ON_CLOSE) for number in range(5)]
    drop(house, client)
    assert (BROKER, SWEEP.number, b"") in house.mail_of(client).sent
    back = house.client()
    assert [again(back, dhnc(one)) for one in ids].count(status.SUCCESS) == 3
    assert house.sharing is not None
    doomed = house.sharing.sweep_closing().doomed
    assert len(doomed) == 2
    house.sharing.finish_sweep(doomed)
    house.end()


def test_who_has_too_many_files_open_gets_none_back(tmp_path: Path) -> None:
    house = House(tmp_path, "max open files = 16")
    client = house.client()
    first = durable(client)
    drop(house, client)
    back = house.client()
    held = [back.open(f"file{number}") for number in range(16)]
    assert again(back, dhnc(first)) == status.TOO_MANY_OPENED_FILES
    back.close(held[0])
    assert again(back, dhnc(first)) == status.SUCCESS
    house.end()


def test_what_the_number_of_an_open_of_others_gives(house: House) -> None:
    """FileIds are no secret: whoever guesses one gets nothing by it."""
    client = house.client()
    plain = client.open("plain")
    held = durable(client)
    back = house.client()
    for file_id in (plain, held, (0, 0), (2**64 - 1, 2**64 - 1)):
        assert again(back, dhnc(file_id)) == status.OBJECT_NAME_NOT_FOUND


def test_two_servers_of_one_machine_give_different_numbers(house: House, tmp_path: Path) -> None:
    other = House(tmp_path)
    numbers = [each.client().open("file")[0] for each in (house, other)]
    assert numbers[0] != numbers[1]
    other.end()


@pytest.mark.skipif(os.geteuid() != 0, reason="identities are switched as root only")
@pytest.mark.parametrize("resilient", [False, True])
def test_what_was_withheld_from_it_is_not_given_back(house: House, resilient: bool) -> None:
    """The descriptor lets the user write, the file's mode does not: MAXIMUM_ALLOWED means reading, and does when it comes back."""
    path = house.share / "file"
    path.write_bytes(b"root's")
    path.chmod(0o644)
    house.share.chmod(0o755)
    for above in house.share.parents[:5]:
        above.chmod(above.stat().st_mode | 0o011)
    house.tokens["reader"] = token_of("reader", uid=1002, gid=1002, user_sid=SID.parse("S-1-5-21-1-2-3-3004"))
    admin = house.client()
    opened = admin.open("file", access=c.WRITE_DAC)
    everybody = parse_sddl("D:(A;;FA;;;WD)").pack()
    assert admin.set_info(opened, c.INFO_SECURITY, 0, everybody, c.DACL_SECURITY_INFORMATION).status == status.SUCCESS
    admin.close(opened)
    client = house.client("reader")
    asked = [] if resilient else [DHNQ]
    level = 0 if resilient else c.OPLOCK_LEVEL_BATCH
    response = client.create("file", access=c.MAXIMUM_ALLOWED, disposition=c.FILE_OPEN, oplock=level, contexts=asked)
    first = file_id_of(response)
    if resilient:
        assert client.ioctl(c.FSCTL_LMR_REQUEST_RESILIENCY, pack("<II", 60_000, 0), first).status == status.SUCCESS
    assert client.write(first, 0, b"mine").status == status.ACCESS_DENIED
    drop(house, client)
    back = house.client("reader")
    response = back.create("", contexts=[dhnc(first)])
    assert response.status == status.SUCCESS
    second = file_id_of(response)
    assert back.write(second, 0, b"mine").status == status.ACCESS_DENIED
    assert back.read_data(second, 0, 10) == b"root's"


@pytest.mark.parametrize("asked", [[DHNQ], [dh2q()], [lease(), dh2q()]])
def test_a_symlink_is_opened_and_outlives_nothing(house: House, asked: list[tuple[bytes, bytes]]) -> None:
    """Windows asks for a durable open of whatever it opens, of what it is about to delete too."""
    os.symlink("nowhere", house.share / "file")
    client = house.client(offer=MACHINE)
    link = durable(client, "file", *asked, options=c.FILE_OPEN_REPARSE_POINT, disposition=c.FILE_OPEN)
    assert client.ioctl(c.FSCTL_LMR_REQUEST_RESILIENCY, pack("<II", 60_000, 0), link).status == status.NOT_SUPPORTED
    drop(house, client)
    assert house.sharing is not None
    assert house.sharing.opens() == []
