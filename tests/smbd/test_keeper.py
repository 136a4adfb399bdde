"""The keeper: what is answered when, what is one write, and what stands again at a start."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from shutil import rmtree
from threading import Event
from types import SimpleNamespace
from typing import Any

import lmdb
import pytest

from pools.queue import Deferred, Message
from smbd.broker.keeper import Keeper
from smbd.sharing import DurableClaim, FileKey, Lasting, OpenClaim, Sharing, prepare
from smbd.sharing.images import Kept
from smbd.sharing.messages import KEEP, KEEP_LAYOUT, STATUS_ANSWER
from smbd.sharing.vault import Vault
from smbd.smb2 import status
from smbd.smb2.status import SmbError

CLAIM = DurableClaim(Lasting.PERSISTENT, 2, 60_000, b"C" * 16, b"G" * 16, birth=5)


class Slow(Vault):
    """A vault that writes when it is told to, and may be full."""

    def __init__(self, directory: str) -> None:
        super().__init__(directory)
        self.may_write = Event()
        self.may_write.set()
        self.full = False
        self.writes: list[set[int]] = []

    def write(self, changes: Mapping[int, bytes | None]) -> None:
        self.may_write.wait(10)
        self.writes.append(set(changes))
        if self.full:
            raise OSError(28, "no room")
        super().write(changes)


@pytest.fixture
def sharing() -> Iterator[Sharing]:
    directory = tempfile.mkdtemp(dir="/dev/shm", prefix="millpond-test-")
    prepare(directory, 8 << 20, max_readers=64)
    made = Sharing(directory, 16, 1, None, lambda slot, generation: False)
    yield made
    made.close_environment()
    rmtree(directory)


@pytest.fixture
def vault(tmp_path: Path) -> Slow:
    return Slow(str(tmp_path / "vault"))


@pytest.fixture
def keeper(sharing: Sharing, vault: Slow) -> Iterator[Keeper]:
    made = Keeper(sharing, vault)
    yield made
    vault.may_write.set()
    made.close()


def opened(sharing: Sharing, file_id: int) -> None:
    guid = bytes([file_id]) * 16
    claim = OpenClaim(file_id, 1, 7, f"file{file_id}", "data", durable=CLAIM._replace(create_guid=guid))
    assert sharing.open(FileKey(1, file_id), claim).lasting


def asked(keeper: Keeper, file_id: int) -> list[int]:
    """Ask as a worker does; the answer's status will be in the list."""
    answers: list[int] = []
    deferred = keeper.keep(Message(KEEP.number, 17, 1, file_id, KEEP_LAYOUT.pack(file_id)))
    assert isinstance(deferred, Deferred)

    class Service:
        def answer(self, request: Message, answer: Any) -> None:
            answers.append(STATUS_ANSWER.unpack(answer.payload).status)

    deferred.bind(Service(), Message(KEEP.number, 17, 1, file_id, b""))  # type: ignore[arg-type]
    return answers


def test_an_answer_means_that_it_is_on_the_disk(sharing: Sharing, keeper: Keeper, vault: Slow) -> None:
    vault.may_write.clear()
    opened(sharing, 1)
    answers = asked(keeper, 1)
    assert answers == []
    assert vault.images() == {}
    vault.may_write.set()
    keeper.written()
    assert answers == [status.SUCCESS]
    assert vault.images() == {1: sharing.image(1)}
    sharing.close(FileKey(1, 1), 1)
    answers = asked(keeper, 1)
    keeper.written()
    assert answers == [status.SUCCESS]
    assert vault.images() == {}


def test_what_is_asked_meanwhile_is_one_write(sharing: Sharing, keeper: Keeper, vault: Slow) -> None:
    vault.may_write.clear()
    answers = []
    for file_id in range(1, 6):
        opened(sharing, file_id)
        answers.append(asked(keeper, file_id))
    sharing.close(FileKey(1, 5), 5)
    vault.may_write.set()
    keeper.written()
    keeper.written()
    assert vault.writes == [{1}, {2, 3, 4, 5}]
    assert answers == [[status.SUCCESS]] * 5
    assert sorted(vault.images()) == [1, 2, 3, 4]  # the last word counts


def test_a_full_disk_is_told_and_the_next_try_counts(sharing: Sharing, keeper: Keeper, vault: Slow) -> None:
    vault.full = True
    opened(sharing, 1)
    answers = asked(keeper, 1)
    keeper.written()
    assert answers == [status.DISK_FULL]
    vault.full = False
    keeper.compare()
    keeper.written()
    assert sorted(vault.images()) == [1]
    keeper.compare()
    assert len(vault.writes) == 2  # nothing has changed


def test_the_log_says_once_that_it_is_full_and_once_that_it_is_not(
    sharing: Sharing, keeper: Keeper, vault: Slow, caplog: pytest.LogCaptureFixture
) -> None:
    opened(sharing, 1)
    for full in (True, True, True, False, False, True):
        vault.full = full
        asked(keeper, 1)
        keeper.written()
    said = [record.getMessage() for record in caplog.records]
    assert [vault.directory in text for text in said] == [True] * 3
    assert ["no room" in text for text in said] == [True, False, True]


def test_a_state_is_loaded_once(sharing: Sharing, vault: Slow, tmp_path: Path) -> None:
    opened(sharing, 1)
    opened(sharing, 2)
    opened(sharing, 4)
    images = {1: sharing.image(1), 2: sharing.image(2), 3: b"rubbish", 4: sharing.image(4)}
    vault.write(images)
    for file_id in (1, 2, 4):
        sharing.close(FileKey(1, file_id), file_id)

    def find(kept: Kept) -> FileKey:
        if kept.path == "file2":
            raise FileNotFoundError(2, "gone")
        if kept.path == "file4":
            raise SmbError(status.INSUFFICIENT_RESOURCES)  # the state is full, or the file has become something else
        return FileKey(9, kept.ino)

    keeper = Keeper(sharing, vault)
    keeper.load(vault.images(), find)
    keeper.written()
    assert [(row.file_id, row.key.dev) for row in sharing.opens()] == [(1, 9)]
    assert sorted(vault.images()) == [1]
    sharing.end_disconnected([1])
    keeper.close()
    opened_again = Slow(str(tmp_path / "vault"))
    again = Keeper(sharing, opened_again)
    again.load(opened_again.images(), find)  # a broker that was killed: the state knows better
    again.written()
    assert sharing.opens() == []
    again.close()
    assert Vault(str(tmp_path / "vault")).images() == {}


def test_a_vault_that_is_full_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smbd.sharing.vault.SIZE", 1 << 16)
    vault = Vault(str(tmp_path / "small"))
    vault.write({1: b"x" * 100})
    with pytest.raises(OSError, match="MDB_MAP_FULL"):
        vault.write({2: b"x" * (1 << 20)})
    assert vault.images() == {1: b"x" * 100}
    vault.close()


@pytest.mark.parametrize("size", [0, 100, 4096])
def test_a_vault_that_was_made_on_a_full_disk_is_made_anew(tmp_path: Path, size: int) -> None:
    Vault(str(tmp_path / "vault")).close()
    os.truncate(tmp_path / "vault" / "data.mdb", size)
    vault = Vault(str(tmp_path / "vault"))
    vault.write({1: b"x"})
    assert vault.images() == {1: b"x"}
    vault.close()


def test_what_has_failed_is_opened_again(tmp_path: Path) -> None:
    vault = Vault(str(tmp_path / "vault"))
    vault.write({1: b"x"})
    whole = vault._environment
    assert whole is not None

    def broken(*_args: Any, **_options: Any) -> None:
        raise lmdb.PanicError("its first pages could not be written")

    vault._environment = SimpleNamespace(begin=broken, close=whole.close)  # type: ignore[assignment]
    with pytest.raises(OSError, match="first pages"):
        vault.write({2: b"y"})
    vault.write({3: b"z"})
    assert vault.images() == {1: b"x", 3: b"z"}
    vault.close()


def test_what_cannot_be_read_is_an_error_of_the_disk(tmp_path: Path) -> None:
    """A page that points nowhere: LMDB finds that only when it comes there."""
    vault = Vault(str(tmp_path / "vault"))
    vault.write(dict.fromkeys(range(32), b"x" * 1000))
    vault.close()
    with open(tmp_path / "vault" / "data.mdb", "r+b") as data:
        data.seek(2 * 4096)
        data.write(b"\0" * (os.path.getsize(data.name) - 2 * 4096))
    with pytest.raises(OSError, match="MDB_"):
        vault.images()
