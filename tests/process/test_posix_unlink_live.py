"""POSIX semantics between workers: names that go while others have the file open, and what is left when the one who asked is killed."""

from __future__ import annotations

import os
from collections.abc import Callable
from struct import pack

import pytest

from smbd.smb2 import constants as c
from smbd.smb2 import status
from smbd.smb2.fscc import change
from tests.server import Server, eventually, given_settings
from tests.wire_client import FileId, WireClient

POSIX_DELETE = change.FILE_DISPOSITION_DELETE | change.FILE_DISPOSITION_POSIX_SEMANTICS
REPLACING = change.FILE_RENAME_REPLACE_IF_EXISTS | change.FILE_RENAME_POSIX_SEMANTICS


@pytest.fixture
def server(make_server: Callable[..., Server]) -> Server:
    return make_server()


def dispose(client: WireClient, file_id: FileId, flags: int) -> int:
    return client.set_info(file_id, c.INFO_FILE, change.FILE_DISPOSITION_INFORMATION_EX, pack("<I", flags)).status


def written(client: WireClient, name: str, content: bytes) -> FileId:
    file_id = client.open(name)
    assert client.write(file_id, 0, content).status == status.SUCCESS
    return file_id


def test_a_name_goes_while_another_worker_has_the_file_open(server: Server) -> None:
    with server.client() as one, server.client() as two:
        held = written(one, "f", b"still here")
        doomed = two.open("f")
        assert dispose(two, doomed, POSIX_DELETE) == status.SUCCESS
        assert status.name(one.create("f").status) == "DELETE_PENDING"
        assert two.close(doomed).status == status.SUCCESS
        assert not (server.share / "f").exists()
        assert one.read_data(held, 0, 100) == b"still here"
        assert one.write(held, 0, b"STILL").status == status.SUCCESS
        two.close(written(two, "f", b"another file"))
        assert one.close(held).status == status.SUCCESS
        assert (server.share / "f").read_bytes() == b"another file"


def test_without_posix_semantics_it_goes_with_the_last(server: Server) -> None:
    with server.client() as one, server.client() as two:
        held = written(one, "f", b"still here")
        doomed = two.open("f")
        assert dispose(two, doomed, change.FILE_DISPOSITION_DELETE) == status.SUCCESS
        assert two.close(doomed).status == status.SUCCESS
        assert (server.share / "f").exists()
        assert status.name(two.create("f").status) == "DELETE_PENDING"
        assert one.close(held).status == status.SUCCESS
        assert not (server.share / "f").exists()


def test_it_is_taken_back_before_the_close(server: Server) -> None:
    with server.client() as one, server.client() as two:
        held = written(one, "f", b"content")
        doomed = two.open("f")
        assert dispose(two, doomed, POSIX_DELETE) == status.SUCCESS
        assert dispose(two, doomed, 0) == status.SUCCESS
        two.close(doomed)
        one.close(held)
        assert (server.share / "f").read_bytes() == b"content"


def test_an_open_file_is_replaced(server: Server) -> None:
    with server.client() as one, server.client() as two:
        held = written(one, "old", b"old content")
        moved = written(two, "new", b"new content")
        raw = "old".encode("utf-16-le")

        def rename(flags: int) -> int:
            data = pack("<I4xQI", flags, 0, len(raw)) + raw
            return two.set_info(moved, c.INFO_FILE, change.FILE_RENAME_INFORMATION_EX, data).status

        assert rename(change.FILE_RENAME_REPLACE_IF_EXISTS) == status.ACCESS_DENIED
        assert rename(REPLACING) == status.SUCCESS
        assert one.read_data(held, 0, 100) == b"old content"
        one.close(held)
        two.close(moved)
        assert (server.share / "old").read_bytes() == b"new content"
        assert os.listdir(server.share) == ["old"]


@pytest.mark.skipif(given_settings().get("server mode") == "threaded", reason="threads are not killed one by one")
def test_who_asked_is_killed_before_the_close(server: Server) -> None:
    """What was marked is deleted with the last open, as ever; nothing is left pending."""
    with server.client() as one:
        two = server.client()
        held = written(one, "f", b"content")
        assert dispose(two, two.open("f"), POSIX_DELETE) == status.SUCCESS
        server.worker_of(two).kill()
        assert one.close(held).status == status.SUCCESS
        eventually(lambda: not (server.share / "f").exists(), timeout=30)
        eventually(lambda: one.create("f").status == status.SUCCESS, timeout=30)
