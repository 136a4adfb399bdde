"""The short way of READ, WRITE, CLOSE and ECHO answers as the long one does, byte for byte, or not at all."""

from __future__ import annotations

import errno
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from time import monotonic

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pools.counters import BYTES_READ, BYTES_WRITTEN, COMMANDS, COMMANDS_AT, REQUESTS
from smbd.smb2 import constants as c
from smbd.smb2 import status
from smbd.smb2.constants import Command
from smbd.smb2.messages import file
from tests.wire_client import Closed, FileId, Offer, Request, WireClient, charge_of, close_body, lock_body, read_body, write_body
from tests.workers.house import ALICE, House, log_on
from workers import express
from workers.vfs.handle import PosixHandle
from workers.worker import Worker

ECHO = b"\4\0\0\0"
CONTENT = bytes(range(256)) * 400
PROTECTIONS = ("plain", "signed", "encrypted")
SIGNINGS = {"GMAC": 2, "CMAC": 1, "HMAC-SHA256": 0}


@pytest.fixture(autouse=True)
def trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    """However busy the machine is: on a slow disk no way is short."""
    monkeypatch.setattr("workers.disk.LONG", 1e9)


@dataclass
class Twin:
    """Two clients of two houses that are the same in everything but that one's worker knows no short way."""

    folders: tuple[Path, Path]
    houses: tuple[House, House]
    clients: tuple[WireClient, WireClient]
    workers: tuple[Worker, Worker]
    opened: list[tuple[FileId, FileId]] = field(default_factory=list)

    @classmethod
    def make(cls, root: Path, protection: str = "plain", share: str = "", offer: Callable[[], Offer] = Offer) -> Twin:
        folders = root / "short", root / "long"
        for folder in folders:
            folder.mkdir(mode=0o777)
            for name in ("a", "b"):
                (folder / name).write_bytes(CONTENT)
        short, long = (House(folder, share_text=share) for folder in folders)
        (one, fast), (two, slow) = short.join(), long.join()
        slow.lines[0].engine.express.off = True
        twin = cls(folders, (short, long), (one, two), (fast, slow))
        for client in twin.clients:
            assert client.negotiate(offer()).status == status.SUCCESS
            log_on(client, ALICE)
            assert client.tree_connect("data").status == status.SUCCESS
            while client.credits < 200:
                client.echo(credits=64)
            client.sign, client.seal = protection == "signed", protection == "encrypted"
        for name in ("a", "b"):
            twin.opened.append((one.open(name), two.open(name)))
        return twin

    def ids(self, index: int) -> tuple[FileId, FileId]:
        return self.opened[index]

    def exchange(self, make: Callable[[int], list[Request]]) -> tuple[list[object], list[object]]:
        """What the two answer to ``make(side)``: everything but what has to differ, the session's random id, and with it signatures."""
        answers: list[list[object]] = []
        for side, client in enumerate(self.clients):
            told: list[object] = []
            try:
                frames = b"".join(len(pdu).to_bytes(4, "big") + pdu for pdu in (client.pack([one]) for one in make(side)))
                client.transport.send(frames)
                responses = sorted((client.receive() for _ in make(side)), key=lambda one: one.header.message_id)  # some wait for the disk
                for one in responses:
                    told.append((one.header._replace(session_id=0, signature=b""), one.valid, one.encrypted, bytes(one.view[64:])))
            except Closed as error:
                told.append(str(error) if "ended" in str(error) else "closed")
            answers.append(told)
        return answers[0], answers[1]

    def counts(self, side: int) -> list[int]:
        words = self.workers[side].counters
        self.workers[side].lines[0].engine.turn_over(monotonic())
        return [words[REQUESTS], words[BYTES_READ], words[BYTES_WRITTEN], *words[COMMANDS_AT : COMMANDS_AT + COMMANDS]]

    def check(self) -> None:
        """Files, counters, credits and positions are the same."""
        for name in ("a", "b"):
            assert (self.folders[0] / name).read_bytes() == (self.folders[1] / name).read_bytes()
        assert self.counts(0) == self.counts(1)
        granted = [worker.lines[0].connection.credits for worker in self.workers]
        windows = [(one.low, one.high, one.used) for one in granted]
        assert windows[0] == windows[1]
        positions = [[one.position for one in worker.opens.values()] for worker in self.workers]
        assert positions[0] == positions[1]

    def end(self) -> None:
        for house in self.houses:
            house.end()


def requests(twin: Twin, wishes: list[tuple[int, ...]]) -> Callable[[int], list[Request]]:
    """(kind, file, offset, length, minimum, credits, flags): the same for both sides."""

    def make(side: int) -> list[Request]:
        made = []
        for kind, index, offset, length, minimum, credits, flags in wishes:
            opened = twin.ids(index)[side]
            if kind == 0:
                body, command = read_body(opened, offset, length, minimum), Command.READ
            elif kind == 1:
                body, command = write_body(opened, offset, CONTENT[1 : 1 + length], flags & 1), Command.WRITE
            elif kind == 3:
                body, command = close_body(opened), Command.CLOSE
            else:
                body, command = ECHO, Command.ECHO
            charge = charge_of(length) if flags < 0x70 else 1  # which is too little for some
            made.append(Request(command, body, credits=credits, charge=charge, flags=flags & c.FLAGS_PRIORITY_MASK))
        return made

    return make


offsets = st.sampled_from([0, 1, 4096, 60000, len(CONTENT) - 1, len(CONTENT), len(CONTENT) + 10, 0x7FFFFFFFFFFFFFFF, (1 << 64) - 1])
lengths = st.sampled_from([0, 1, 4096, express.LARGEST, express.LARGEST + 1, 65536, 65537, 300000])
wish = st.tuples(
    st.sampled_from([0, 0, 1, 1, 2, 3]), st.integers(0, 1), offsets, lengths, st.sampled_from([0, 0, 1, 5000]),
    st.sampled_from([0, 1, 3, 500]), st.sampled_from([0, 1, 0x10, 0x70]),
)  # fmt: skip


@pytest.mark.parametrize("protection", PROTECTIONS)
@given(rounds=st.lists(st.lists(wish, min_size=1, max_size=8), min_size=1, max_size=4))
def test_both_ways_answer_alike(protection: str, rounds: list[list[tuple[int, ...]]]) -> None:
    root = Path(mkdtemp())
    twin = Twin.make(root, protection)
    try:
        for wishes in rounds:
            first, second = twin.exchange(requests(twin, wishes))
            assert first == second
            twin.check()
    finally:
        twin.end()
        rmtree(root)


@pytest.mark.parametrize("algorithm", SIGNINGS)
def test_every_signing_algorithm(tmp_path: Path, algorithm: str) -> None:
    twin = Twin.make(tmp_path, protection="signed", offer=lambda: Offer(signing=(SIGNINGS[algorithm],)))
    wishes = [(kind, 0, 4096, 4096, 0, 1, 0) for kind in (0, 1, 2, 0)]
    first, second = twin.exchange(requests(twin, wishes))
    assert first == second
    assert all(valid for _, valid, _, _ in first)  # type: ignore[misc]
    twin.end()


def short_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever takes the long way fails."""

    def never(*_: object) -> None:
        raise AssertionError("the long way was taken")

    monkeypatch.setattr("smbd.smb2.connection.Connection.receive", never)
    monkeypatch.setattr("smbd.smb2.connection.Connection.receive_plain", never)


@pytest.mark.parametrize("protection", PROTECTIONS)
def test_what_is_usual_takes_the_short_way(tmp_path: Path, protection: str, monkeypatch: pytest.MonkeyPatch) -> None:
    twin = Twin.make(tmp_path, protection=protection)
    client, opened = twin.clients[0], twin.ids(0)[0]
    short_only(monkeypatch)
    assert client.read_data(opened, 100, 4096) == CONTENT[100:4196]
    assert client.write(opened, 100, b"x" * 4096).status == status.SUCCESS
    assert client.read_data(opened, 99, 3) == CONTENT[99:100] + b"xx"
    assert client.echo().status == status.SUCCESS
    assert client.close(opened).status == status.SUCCESS
    assert client.close(twin.ids(1)[0], c.CLOSE_FLAG_POSTQUERY_ATTRIB).parse(file.CLOSE_RESPONSE).end_of_file == len(CONTENT)
    monkeypatch.undo()
    assert client.close(opened).status == status.FILE_CLOSED
    twin.end()


@pytest.mark.parametrize("form", ["user", "kernel"])
def test_large_ones_take_the_short_way(tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    twin = Twin.make(tmp_path)
    client, worker, opened = twin.clients[0], twin.workers[0], twin.ids(0)[0]
    monkeypatch.setattr(worker, "leaves_from", 40_000 if form == "kernel" else 1 << 30)
    short_only(monkeypatch)
    assert client.read_data(opened, 100, 65536) == CONTENT[100:65636]
    assert client.read_data(opened, 65536, 65536) == CONTENT[65536:]
    assert client.write(opened, 1, CONTENT[:65536]).status == status.SUCCESS
    monkeypatch.undo()
    assert (twin.folders[0] / "a").read_bytes()[:65537] == CONTENT[:1] + CONTENT[:65536]
    twin.end()


def test_a_close_deletes_what_is_to_be_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    twin = Twin.make(tmp_path)
    client = twin.clients[0]
    doomed = client.open("c", access=c.DELETE, options=c.FILE_DELETE_ON_CLOSE)
    assert (twin.folders[0] / "c").exists()
    short_only(monkeypatch)
    assert client.close(doomed).status == status.SUCCESS
    monkeypatch.undo()
    assert not (twin.folders[0] / "c").exists()
    twin.end()


def test_what_a_close_fails_with_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network's file system tells of a full disk only when the file is closed."""
    twin = Twin.make(tmp_path)
    close = PosixHandle.close

    def full(handle: PosixHandle) -> None:
        close(handle)
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(PosixHandle, "close", full)
    first, second = twin.exchange(lambda side: [Request(Command.CLOSE, close_body(twin.ids(0)[side]))])
    monkeypatch.undo()
    assert first == second
    assert first[0][0].status == status.DISK_FULL  # type: ignore[index]
    twin.check()
    twin.end()


@pytest.mark.parametrize("command", [Command.READ, Command.WRITE, Command.ECHO, Command.CLOSE])
def test_a_forged_signature_is_refused_and_the_bytes_are_as_they_came(tmp_path: Path, command: Command) -> None:
    twin = Twin.make(tmp_path, protection="signed")

    def forge(view: memoryview) -> None:
        view[50] ^= 1

    def make(side: int) -> list[Request]:
        opened = twin.ids(0)[side]
        body = {
            Command.READ: read_body(opened, 0, 10), Command.WRITE: write_body(opened, 0, b"forged"), Command.ECHO: ECHO,
            Command.CLOSE: close_body(opened),
        }[command]  # fmt: skip
        return [Request(command, body, corrupt=forge)]

    first, second = twin.exchange(make)
    assert first == second
    assert first[0][0].status == status.ACCESS_DENIED  # type: ignore[index]
    twin.check()
    assert (twin.folders[0] / "a").read_bytes() == CONTENT
    twin.end()


def _set(at: int, value: bytes) -> Callable[[memoryview], None]:
    def corrupt(view: memoryview) -> None:
        view[at : at + len(value)] = value

    return corrupt


CORRUPTIONS = {
    "ProtocolId": _set(0, b"\xfeSMC"),
    "StructureSize": _set(4, b"\x41"),
    "Command": _set(13, b"\1"),
    "SERVER_TO_REDIR": _set(16, b"\1"),
    "ASYNC": _set(16, b"\2"),
    "RELATED": _set(16, b"\4"),
    "SIGNED": _set(16, b"\x08"),
    "NextCommand": _set(20, b"\x08"),
    "MessageId": _set(24, b"\xff\xff\xff"),
    "MessageId of the past": _set(24, bytes(8)),
    "TreeId": _set(36, b"\x77"),
    "SessionId": _set(40, b"\x77\x77\x77\x77\x77"),
    "body's StructureSize": _set(64, b"\x09"),
    "DataOffset": _set(66, b"\x01\x00"),
    "DataOffset beyond": _set(66, b"\x01\x01"),
    "Length": _set(68, b"\xff\x7f"),
    "Offset": _set(72, b"\xff" * 8),
    "FileId.Persistent": _set(80, b"\x01" * 8),
    "FileId.Volatile": _set(88, b"\x01" * 8),
    "Channel": _set(96, b"\x01"),
    "Channel of READ": _set(100, b"\x01"),
}


@pytest.mark.parametrize("protection", ["plain", "encrypted"])
@pytest.mark.parametrize("command", [Command.READ, Command.WRITE, Command.ECHO])
@pytest.mark.parametrize("what", CORRUPTIONS)
def test_what_is_wrong_in_one_field_is_judged_alike(tmp_path: Path, what: str, command: Command, protection: str) -> None:
    twin = Twin.make(tmp_path, protection=protection)

    def corrupt(view: memoryview) -> None:
        if len(view) > 100 or what not in ("FileId.Persistent", "FileId.Volatile", "Channel", "Channel of READ", "Offset", "Length"):
            CORRUPTIONS[what](view)

    def make(side: int) -> list[Request]:
        opened = twin.ids(0)[side]
        body = {Command.READ: read_body(opened, 0, 10), Command.WRITE: write_body(opened, 0, b"0123456789"), Command.ECHO: ECHO}[command]
        return [Request(command, body, corrupt=corrupt)]

    first, second = twin.exchange(make)
    assert first == second
    twin.check()
    twin.end()


def test_every_truncation_is_judged_alike(tmp_path: Path) -> None:
    """A frame that ends in the middle of its request, or of its payload."""
    for cut in (1, 17, 46, 48, 49, 52):
        root = tmp_path / str(cut)
        root.mkdir()
        twin = Twin.make(root)
        told = []
        for side, client in enumerate(twin.clients):
            pdu = client.pack([Request(Command.WRITE, write_body(twin.ids(0)[side], 0, b"abcd"))])[:-cut]
            client.transport.send(len(pdu).to_bytes(4, "big") + pdu)
            try:
                told.append(client.receive().status)
            except Closed:
                told.append(-1)
        assert told[0] == told[1]
        twin.check()
        twin.end()


def test_a_lock_of_somebody_else_is_seen(tmp_path: Path) -> None:
    twin = Twin.make(tmp_path)
    for house in twin.houses:
        other = house.client()
        opened = other.open("a")
        assert other.call(Command.LOCK, lock_body(opened, (0, 10, 0x12))).status == status.SUCCESS
    first, second = twin.exchange(requests(twin, [(0, 0, 0, 10, 0, 1, 0), (1, 0, 5, 10, 0, 1, 0), (0, 0, 10, 10, 0, 1, 0)]))
    assert first == second
    assert [told[0].status for told in first] == [status.FILE_LOCK_CONFLICT, status.FILE_LOCK_CONFLICT, status.SUCCESS]  # type: ignore[index]
    twin.end()


@pytest.mark.parametrize("access", [c.FILE_READ_ATTRIBUTES, c.FILE_READ_DATA, c.FILE_WRITE_DATA, c.FILE_APPEND_DATA, c.FILE_EXECUTE])
def test_what_the_open_does_not_grant_is_refused(tmp_path: Path, access: int) -> None:
    twin = Twin.make(tmp_path)
    twin.opened[0] = twin.clients[0].open("b", access=access), twin.clients[1].open("b", access=access)
    first, second = twin.exchange(requests(twin, [(0, 0, 0, 10, 0, 1, 0), (1, 0, 5, 10, 0, 1, 0)]))
    assert first == second
    twin.end()


def test_an_encrypted_share_takes_nothing_plain(tmp_path: Path) -> None:
    twin = Twin.make(tmp_path, protection="encrypted", share="smb encrypt = required")
    for client in twin.clients:
        client.seal = False
    first, second = twin.exchange(requests(twin, [(0, 0, 0, 10, 0, 1, 0), (1, 0, 0, 10, 0, 1, 0)]))
    assert first == second
    assert {told[0].status for told in first} == {status.ACCESS_DENIED}  # type: ignore[index]
    twin.end()


def test_a_full_disk_is_the_answer_and_nothing_is_counted_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    twin = Twin.make(tmp_path)

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("workers.vfs.handle.PosixHandle.pwrite", full)
    first, second = twin.exchange(requests(twin, [(1, 0, 0, 10, 0, 1, 0), (2, 0, 0, 0, 0, 1, 0)]))
    assert first == second
    assert first[0][0].status == status.DISK_FULL  # type: ignore[index]
    twin.check()
    twin.end()


def test_a_cold_page_is_read_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    twin = Twin.make(tmp_path)
    warm = twin.workers[0].opens[twin.ids(0)[0][1]].handle.__class__.pread_into  # type: ignore[union-attr]

    def cold(self: object, view: memoryview, offset: int, nowait: bool = False) -> int:
        if nowait:
            raise BlockingIOError(11, "cold")
        return warm(self, view, offset)  # type: ignore[arg-type]

    monkeypatch.setattr("workers.vfs.handle.PosixHandle.pread_into", cold)
    first, second = twin.exchange(requests(twin, [(0, 0, 50, 100, 0, 1, 0)]))
    assert first == second
    assert first[0][3][16:] == CONTENT[50:150]  # type: ignore[index]
    twin.end()


def test_ids_out_of_order_are_all_answered_once(tmp_path: Path) -> None:
    twin = Twin.make(tmp_path)
    told = []
    for client in twin.clients:
        base = client.next_message_id
        frames = [client.pack([Request(Command.ECHO, ECHO, message_id=base + number)]) for number in (1, 0, 3, 2, 4)]
        client.next_message_id += 5
        client.transport.send(b"".join(len(pdu).to_bytes(4, "big") + pdu for pdu in frames))
        told.append([client.receive().header.message_id - base for _ in frames])
    assert told == [[1, 0, 3, 2, 4]] * 2
    twin.check()
    twin.end()


def test_who_watches_hears_of_a_write_and_who_caches_is_told(tmp_path: Path) -> None:
    """Breaks are sent from within a WRITE of the short way: its answer and theirs do not get into each other's bytes."""
    twin = Twin.make(tmp_path)
    client = twin.clients[0]
    reader = client.create("b", access=c.FILE_READ_DATA, oplock=c.OPLOCK_LEVEL_II)
    assert reader.status == status.SUCCESS
    pdu = [client.pack([one]) for one in requests(twin, [(1, 1, 0, 4096, 0, 1, 0), (0, 1, 0, 4096, 0, 1, 0), (2, 0, 0, 0, 0, 1, 0)])(0)]
    client.transport.send(b"".join(len(one).to_bytes(4, "big") + one for one in pdu))
    got = [client.receive() for _ in range(4)]
    broken = [one for one in got if one.header.command == Command.OPLOCK_BREAK]
    others = [one for one in got if one.header.command != Command.OPLOCK_BREAK]
    assert len(broken) == 1
    assert [one.header.command for one in others] == [Command.WRITE, Command.READ, Command.ECHO]
    assert bytes(others[1].view[80:]) == CONTENT[1:4097]
    twin.end()


def test_a_batch_larger_than_the_buffer(tmp_path: Path) -> None:
    twin = Twin.make(tmp_path)
    wishes = [(0, number % 2, 0, express.LARGEST, 0, 1, 0) for number in range(12)]
    first, second = twin.exchange(requests(twin, wishes))
    assert first == second
    assert all(told[3][16:] == CONTENT[: express.LARGEST] for told in first)  # type: ignore[index]
    twin.end()


def test_random_frames_are_judged_alike(tmp_path: Path) -> None:
    """A valid READ with bytes replaced, a few hundred times; a connection that ends is made anew."""
    source = random.Random(5)
    twin = Twin.make(tmp_path)
    for number in range(150):
        places = [source.randrange(112) for _ in range(source.randint(1, 3))]
        values = [source.choice([0, 1, 4, 0x7F, 0x80, 0xFF]) for _ in places]
        told: list[object] = []
        for side, client in enumerate(twin.clients):
            pdu = bytearray(client.pack([Request(Command.READ, read_body(twin.ids(0)[side], 0, 64), message_id=client.next_message_id)]))
            for at, value in zip(places, values, strict=True):
                if not 40 <= at < 48 and not 80 <= at < 96:  # ids that differ between the two
                    pdu[at] = value
            try:
                behind = client.pack([Request(Command.ECHO, ECHO, message_id=client.next_message_id + 1)])
                client.transport.send(b"".join(len(one).to_bytes(4, "big") + one for one in (bytes(pdu), behind)))
                told.append([client.receive().status])
            except Closed:
                told.append("closed")
            client.next_message_id += 1
        assert told[0] == told[1], (number, places, values)
        if "closed" in told:
            twin.end()
            root = tmp_path / str(number)
            root.mkdir()
            twin = Twin.make(root)
        else:
            for client in twin.clients:
                client._waiting.clear()
    twin.end()
