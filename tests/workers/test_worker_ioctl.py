"""IOCTLs: server-side copy and its limits, sparse files, what a pipe takes; and named pipes against a fake RPC service."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from struct import pack, unpack

import pytest

from pools.queue import AskGone
from smbd.sharing.messages import OPLOCK_BREAK
from smbd.smb2 import constants as c
from smbd.smb2 import status
from smbd.smb2.constants import Command
from smbd.smb2.messages import file, ioctl, tree
from smbd.smb2.messages.create import CREATE_RESPONSE
from srvsvc.messages import CLOSE_PIPE, OPEN_PIPE, OPENED, READ_PIPE, RESULT, TRANSCEIVE_PIPE, WRITE_PIPE
from tests.wire_client import FileId, Request, Response, WireClient, create_body, ioctl_body, write_body
from tests.workers.house import House
from workers.fsctl.copychunk import MAX_CHUNK, MAX_CHUNKS, MAX_DATA
from workers.vfs.handle import PosixHandle
from workers.vfs.interface import Handle

ON_ERRANDS_TOO = True

HANDLE = 0x77


def key_of(client: WireClient, opened: FileId) -> bytes:
    return client.output(client.ioctl(c.FSCTL_SRV_REQUEST_RESUME_KEY, file_id=opened))[:24]


def copy(client: WireClient, key: bytes, target: FileId, *chunks: tuple[int, int, int], code: int = c.FSCTL_SRV_COPYCHUNK) -> Response:
    data = key + pack("<II", len(chunks), 0) + b"".join(pack("<QQII", *chunk, 0) for chunk in chunks)
    return client.ioctl(code, data, target)


def copied(response: Response) -> tuple[int, int, int]:
    answer = ioctl.IOCTL_RESPONSE.unpack(response.view, 64)
    return unpack("<III", response.part(answer.output_offset, answer.output_count))  # type: ignore[return-value]


@pytest.fixture
def pair(client: WireClient, folder: Path) -> tuple[FileId, FileId]:
    (folder / "source").write_bytes(bytes(range(256)) * 16)
    return client.open("source"), client.open("target")


def test_chunks_are_copied(client: WireClient, folder: Path, pair: tuple[FileId, FileId]) -> None:
    source, target = pair
    response = copy(client, key_of(client, source), target, (0, 10, 100), (256, 200, 50))
    assert response.status == status.SUCCESS
    assert copied(response) == (2, 0, 150)
    content = (folder / "target").read_bytes()
    assert content[10:110] == bytes(range(100))
    assert content[200:250] == bytes(range(50))


@pytest.mark.parametrize(
    "chunks", [[(0, 0, 1)] * (MAX_CHUNKS + 1), [(0, 0, MAX_CHUNK + 1)], [(0, 0, 0)], [(0, 0, MAX_CHUNK)] * (MAX_DATA // MAX_CHUNK + 1)]
)
def test_limits_are_named(client: WireClient, pair: tuple[FileId, FileId], chunks: list[tuple[int, int, int]]) -> None:
    source, target = pair
    response = copy(client, key_of(client, source), target, *chunks)
    assert response.status == status.INVALID_PARAMETER
    assert copied(response) == (MAX_CHUNKS, MAX_CHUNK, MAX_DATA)


def test_a_chunk_count_beyond_what_was_sent(client: WireClient, pair: tuple[FileId, FileId]) -> None:
    source, target = pair
    data = key_of(client, source) + pack("<II", 5, 0) + pack("<QQII", 0, 0, 1, 0)
    assert client.ioctl(c.FSCTL_SRV_COPYCHUNK, data, target).status == status.INVALID_PARAMETER


def test_a_copy_that_fails_half_way_says_how_far_it_came(client: WireClient, pair: tuple[FileId, FileId]) -> None:
    source, target = pair
    response = copy(client, key_of(client, source), target, (0, 0, 10), (1 << 20, 10, 10))
    assert response.status == status.INVALID_VIEW_SIZE
    assert copied(response) == (1, 0, 10)


def test_a_key_of_nothing_and_a_key_of_another_session(house: House, client: WireClient, pair: tuple[FileId, FileId]) -> None:
    source, target = pair
    assert copy(client, bytes(24), target, (0, 0, 1)).status == status.OBJECT_NAME_NOT_FOUND
    key = key_of(client, source)
    other = house.client()
    assert copy(other, key, other.open("elsewhere"), (0, 0, 1)).status == status.OBJECT_NAME_NOT_FOUND


def test_a_copy_needs_both_rights(client: WireClient, pair: tuple[FileId, FileId]) -> None:
    source, _ = pair
    unreadable = client.open("target", access=c.FILE_WRITE_DATA)
    key = key_of(client, source)
    assert copy(client, key, unreadable, (0, 0, 1)).status == status.ACCESS_DENIED
    assert copy(client, key, unreadable, (0, 0, 1), code=c.FSCTL_SRV_COPYCHUNK_WRITE).status == status.SUCCESS
    read_only = client.open("target", access=c.FILE_READ_DATA)
    assert copy(client, key, read_only, (0, 0, 1)).status == status.ACCESS_DENIED


def test_a_copy_from_one_share_to_another(make_house: Callable[..., House], folder: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (folder / "source").write_bytes(bytes(range(256)))
    client = make_house(share_text=f"[other]\npath = {tmp_path / 'other'}\nread only = no\n").client()
    data = client.tree_id
    source = client.open("source")
    key = key_of(client, source)
    assert client.tree_connect("other").status == status.SUCCESS
    target = client.open("target")
    assert copied(copy(client, key, target, (0, 0, 256))) == (1, 0, 256)
    assert (tmp_path / "other" / "target").read_bytes() == bytes(range(256))
    client.tree_id, other = data, client.tree_id
    assert client.close(source).status == status.SUCCESS
    client.tree_id = other
    assert copy(client, key, target, (0, 0, 1)).status == status.OBJECT_NAME_NOT_FOUND


def test_a_copy_that_fails_in_the_middle_of_its_first_chunk_is_told_to_who_caches(
    house: House, client: WireClient, folder: Path, pair: tuple[FileId, FileId], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = pair
    other = house.client()
    assert other.create("target", access=c.FILE_READ_DATA, oplock=c.OPLOCK_LEVEL_II).status == status.SUCCESS
    key = key_of(client, source)

    def full(handle: PosixHandle, source: Handle, source_offset: int, offset: int, length: int) -> int:
        handle.pwrite(memoryview(b"a part"), offset)
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(PosixHandle, "copy_range", full)
    response = copy(client, key, target, (0, 0, 4096))
    assert response.status == status.DISK_FULL
    assert (folder / "target").read_bytes() == b"a part"
    assert OPLOCK_BREAK.number in [kind for kind, _, _ in house.mail_of(client).asked]


def test_files_closed_during_a_copy(house: House, client: WireClient, pair: tuple[FileId, FileId]) -> None:
    """The close is answered, the descriptors stay open until the thread is done, and the share's root with them."""
    source, target = pair
    worker = house.worker_of(client)
    key = key_of(client, source)
    chunks = b"".join(pack("<QQII", 0, number * 4096, 4096, 0) for number in range(200))
    body = ioctl_body(c.FSCTL_SRV_COPYCHUNK, key + pack("<II", 200, 0) + chunks, target)
    opens = list(worker.opens.values())
    (copying,) = client.send(Request(Command.IOCTL, body))
    house.turn_until(lambda: opens[0].in_flight > 0)
    (ending,) = client.send(Request(Command.TREE_DISCONNECT, tree.TREE_DISCONNECT_REQUEST.pack(4, 0)))
    assert client.receive(ending).status == status.SUCCESS
    assert client.receive(copying).status in (status.FILE_CLOSED, status.SUCCESS)
    assert all(opened.orphan is None and opened.in_flight == 0 for opened in opens)
    assert opens[0].tree.vfs is None


def test_zeros_and_ranges(client: WireClient, folder: Path) -> None:
    opened = client.open("sparse")
    client.write(opened, 0, b"x" * 200000)
    assert client.ioctl(c.FSCTL_SET_SPARSE, b"\1", opened).status == status.SUCCESS
    assert client.ioctl(c.FSCTL_SET_ZERO_DATA, pack("<qq", 65536, 131072), opened).status == status.SUCCESS
    assert client.ioctl(c.FSCTL_SET_ZERO_DATA, pack("<qq", 10, 5), opened).status == status.INVALID_PARAMETER
    assert (folder / "sparse").read_bytes()[65536:131072] == bytes(65536)
    ranges = client.output(client.ioctl(c.FSCTL_QUERY_ALLOCATED_RANGES, pack("<qq", 0, 200000), opened))
    assert unpack("<qq", ranges[:16])[0] == 0
    assert client.ioctl(c.FSCTL_QUERY_ALLOCATED_RANGES, pack("<qq", 0, 200000), opened, size=8).status == status.BUFFER_TOO_SMALL
    assert client.ioctl(c.FSCTL_QUERY_ALLOCATED_RANGES, pack("<qq", -1, 1), opened).status == status.INVALID_PARAMETER


def trimmed(client: WireClient, opened: FileId, *ranges: tuple[int, int], count: int | None = None) -> Response:
    data = pack("<II", 0, len(ranges) if count is None else count) + b"".join(pack("<QQ", *each) for each in ranges)
    return client.ioctl(c.FSCTL_FILE_LEVEL_TRIM, data, opened, size=4)


def test_a_trim_gives_whole_pages_back(client: WireClient, folder: Path) -> None:
    (folder / "f").write_bytes(b"x" * 65536)
    opened = client.open("f")
    assert client.output(trimmed(client, opened, (4000, 8500), (32768, 1 << 20))) == pack("<I", 2)
    content = (folder / "f").read_bytes()
    assert len(content) == 65536
    assert content[:4096] == b"x" * 4096
    assert content[4096:12288] in (bytes(8192), b"x" * 8192)
    assert content[12288:32768] == b"x" * 20480
    assert trimmed(client, opened, (0, 4095)).status == status.NO_RANGES_PROCESSED


def test_trims_that_make_no_sense(client: WireClient, folder: Path) -> None:
    (folder / "f").write_bytes(b"x" * 65536)
    opened = client.open("f")
    assert trimmed(client, opened).status == status.INVALID_PARAMETER
    assert trimmed(client, opened, (0, 4096), count=2).status == status.INVALID_PARAMETER
    assert trimmed(client, opened, (0, 4096), count=0xFFFFFFFF).status == status.INVALID_PARAMETER
    assert trimmed(client, opened, (1 << 63, 1)).status == status.INTEGER_OVERFLOW
    assert trimmed(client, opened, (0xFFFFFFFFFFFFFFFF, 0xFFFFFFFFFFFFFFFF)).status == status.INTEGER_OVERFLOW
    assert trimmed(client, client.open("f", access=c.FILE_READ_DATA), (0, 4096)).status == status.ACCESS_DENIED
    locker = client.open("f")
    assert client.lock(locker, (0, 1, c.LOCKFLAG_EXCLUSIVE_LOCK)).status == status.SUCCESS
    assert trimmed(client, opened, (0, 4096)).status == status.FILE_LOCK_CONFLICT
    assert (folder / "f").read_bytes() == b"x" * 65536


def test_what_a_file_system_may_leave_out(client: WireClient) -> None:
    opened = client.open("f")
    for code in (c.FSCTL_OFFLOAD_READ, c.FSCTL_OFFLOAD_WRITE, c.FSCTL_GET_INTEGRITY_INFORMATION, c.FSCTL_SET_INTEGRITY_INFORMATION):
        assert client.ioctl(code, bytes(64), opened).status == status.INVALID_DEVICE_REQUEST, hex(code)


def test_a_file_id_where_none_belongs(client: WireClient) -> None:
    opened = client.open("f")
    for code in (c.FSCTL_QUERY_NETWORK_INTERFACE_INFO, c.FSCTL_VALIDATE_NEGOTIATE_INFO, c.FSCTL_DFS_GET_REFERRALS):
        assert client.ioctl(code, bytes(24), opened).status == status.INVALID_PARAMETER, hex(code)
        assert client.ioctl(code, bytes(24), (5, 5)).status == status.INVALID_PARAMETER, hex(code)


def test_codes_nobody_knows(client: WireClient) -> None:
    opened = client.open("f")
    assert client.ioctl(0x00099999, b"", (5, 5)).status == status.FILE_CLOSED
    assert client.ioctl(0x00099999, b"", opened).status == status.INVALID_DEVICE_REQUEST
    assert client.ioctl(c.FSCTL_PIPE_TRANSCEIVE, b"x", opened).status == status.INVALID_DEVICE_REQUEST
    assert client.ioctl(c.FSCTL_SRV_REQUEST_RESUME_KEY).status == status.FILE_CLOSED


# Pipes


@pytest.fixture
def piped(house: House) -> WireClient:
    client = house.client(share="IPC$")
    replies = house.mail_of(client).replies
    replies[OPEN_PIPE.number] = lambda payload: OPENED.pack(0, HANDLE)
    replies[WRITE_PIPE.number] = lambda payload: RESULT.pack(0, 5)
    replies[READ_PIPE.number] = lambda payload: RESULT.pack(0, 0) + b"answer"
    replies[TRANSCEIVE_PIPE.number] = lambda payload: RESULT.pack(status.BUFFER_OVERFLOW, 0) + b"part"
    return client


def closes(house: House, client: WireClient) -> int:
    return sum(kind == CLOSE_PIPE.number for _, kind, _ in house.mail_of(client).sent)


def test_a_pipe_is_opened_written_read_and_closed(house: House, piped: WireClient) -> None:
    opened = piped.open("srvsvc")
    assert piped.write(opened, 0, b"hello").status == status.SUCCESS
    read = piped.read(opened, 0, 1024)
    answer = read.parse(file.READ_RESPONSE)
    assert read.part(answer.data_offset, answer.data_length) == b"answer"
    response = piped.ioctl(c.FSCTL_PIPE_TRANSCEIVE, b"question", opened)
    assert response.status == status.BUFFER_OVERFLOW
    assert piped.close(opened).status == status.SUCCESS
    assert closes(house, piped) == 1


def test_a_pipe_begins_with_the_channel_sequence_of_its_create(piped: WireClient) -> None:
    fields = piped.call(Command.CREATE, create_body("srvsvc"), channel_sequence=0x9000).parse(CREATE_RESPONSE)
    opened = fields.file_id_persistent, fields.file_id_volatile
    assert piped.call(Command.WRITE, write_body(opened, 0, b"hello"), channel_sequence=0x9000).status == status.SUCCESS
    assert piped.call(Command.WRITE, write_body(opened, 0, b"hello"), channel_sequence=0x8FFF).status == status.FILE_NOT_AVAILABLE
    assert piped.close(opened).status == status.SUCCESS


def test_what_makes_no_sense_on_a_pipe(piped: WireClient) -> None:
    opened = piped.open("srvsvc")
    assert piped.lock(opened, (0, 1, c.LOCKFLAG_EXCLUSIVE_LOCK)).status == status.INVALID_PARAMETER
    assert piped.query_directory(opened).status == status.INVALID_PARAMETER
    assert piped.set_info(opened, c.INFO_FILE, 20, bytes(8)).status == status.NOT_SUPPORTED
    assert piped.query_info(opened, c.INFO_FILESYSTEM, 1).status == status.NOT_SUPPORTED
    assert piped.flush(opened).status == status.SUCCESS


def test_a_pipe_name_that_is_none(piped: WireClient) -> None:
    body = bytearray(create_body("ab"))
    body[56:60] = b"\0\xd8\0\xd8"
    assert piped.call(Command.CREATE, bytes(body)).status == status.OBJECT_NAME_INVALID


def test_an_rpc_service_that_is_away(house: House, piped: WireClient) -> None:
    def gone(payload: bytes) -> bytes:
        raise AskGone("restarting")

    house.mail_of(piped).replies[OPEN_PIPE.number] = gone
    assert piped.create("srvsvc").status == status.PIPE_NOT_AVAILABLE


def test_a_tree_that_ends_while_a_pipe_is_being_opened(house: House, piped: WireClient) -> None:
    mail = house.mail_of(piped)
    del mail.replies[OPEN_PIPE.number]
    (opening,) = piped.send(Request(Command.CREATE, create_body("srvsvc")))
    assert piped.tree_disconnect().status == status.SUCCESS
    mail.answer_next(OPENED.pack(0, HANDLE))
    assert piped.receive(opening).status == status.NETWORK_NAME_DELETED
    assert closes(house, piped) == 1
    assert not house.worker_of(piped).opens


def test_the_end_of_the_tree_closes_its_pipes(house: House, piped: WireClient) -> None:
    piped.open("srvsvc")
    piped.tree_disconnect()
    assert closes(house, piped) == 1
