"""Persistent opens: the server, or everything, is killed and started again, and what was promised is still so."""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from bench.load.account import tree
from smbd.smb2 import constants as c
from smbd.smb2 import status
from smbd.smb2.constants import Command
from smbd.smb2.messages import create_contexts as contexts
from smbd.smb2.messages.create import CREATE_RESPONSE
from smbd.smb2.messages.tree import TREE_CONNECT_RESPONSE
from tests.server import SHARE, Server, eventually, tool
from tests.wire_client import FileId, Offer, Response, WireClient, create_body, lock_body

EXCLUSIVE = c.LOCKFLAG_EXCLUSIVE_LOCK | c.LOCKFLAG_FAIL_IMMEDIATELY
ONE, TWO = Offer(client_guid=b"1" * 16), Offer(client_guid=b"2" * 16)
PERSISTENT = c.DHANDLE_FLAG_PERSISTENT


@pytest.fixture
def server(make_server: Callable[..., Server]) -> Iterator[Server]:
    return make_server(share_settings={"continuous availability": "yes"})


def guid(name: str) -> bytes:
    return name.encode().ljust(16, b".")[:16]


def file_id_of(response: Response) -> FileId:
    fields = response.parse(CREATE_RESPONSE)
    return fields.file_id_persistent, fields.file_id_volatile


def asked_for(name: str, timeout: int = 60_000) -> list[tuple[bytes, bytes]]:
    return [(b"DH2Q", contexts.DURABLE_REQUEST_V2.pack(timeout, PERSISTENT, 0, guid(name)))]


def ask(client: WireClient, name: str, timeout: int = 60_000, state: int = 0, **options: object) -> Response:
    asked = asked_for(name, timeout)
    if state:
        asked.insert(0, (b"RqLs", contexts.LEASE_V2.pack(guid(name), state, 0, 0, bytes(16), 0, 0)))
        options["oplock"] = c.OPLOCK_LEVEL_LEASE
    return client.create(name, contexts=asked, **options)


def persistent(client: WireClient, name: str, timeout: int = 60_000, state: int = 0, **options: object) -> FileId:
    response = ask(client, name, timeout, state, **options)
    fields = response.parse(CREATE_RESPONSE)
    told = contexts.parse_chain(memoryview(response.part(fields.create_contexts_offset, fields.create_contexts_length)))
    assert contexts.DURABLE_RESPONSE_V2.unpack(told[b"DH2Q"]).flags == PERSISTENT
    return file_id_of(response)


def come_back(client: WireClient, name: str, file_id: FileId, *, state: int = 0) -> Response:
    asked = [(b"DH2C", contexts.DURABLE_RECONNECT_V2.pack(*file_id, guid(name), PERSISTENT))]
    if state:
        asked.insert(0, (b"RqLs", contexts.LEASE_V2.pack(guid(name), state, 0, 0, bytes(16), 0, 0)))
    return client.create(name, contexts=asked)


def kill_everything(server: Server) -> None:
    family = tree(server.pid)
    for process in family:
        with suppress(psutil.NoSuchProcess):  # a worker whose client has just gone
            process.send_signal(signal.SIGKILL)
    psutil.wait_procs(family, 10)
    assert server.peer.process is not None
    server.peer.process.wait(10)
    server.peer.launch()
    server.peer.await_ready()


def kill_the_master(server: Server) -> None:
    family = tree(server.pid)
    os.kill(server.pid, signal.SIGKILL)
    assert server.peer.process is not None
    server.peer.process.wait(10)
    psutil.wait_procs(family, 10)
    server.peer.launch()
    server.peer.await_ready()


def stop_in_order(server: Server) -> None:
    server.peer.stop()
    server.peer.launch()
    server.peer.await_ready()


def kill_the_worker(server: Server) -> None:
    for pid in server.pids("worker"):
        os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("end", [kill_everything, kill_the_master, stop_in_order, kill_the_worker])
@pytest.mark.parametrize("state", [0, 7])
def test_it_stands_again(server: Server, end: Callable[[Server], None], state: int) -> None:
    client = server.client(offer=ONE)
    held = persistent(client, "kept", state=state, share=c.FILE_SHARE_READ)
    assert client.write(held, 0, b"what was acknowledged").status == status.SUCCESS
    assert client.lock(held, (0, 4, EXCLUSIVE), (10, 1, EXCLUSIVE), sequence=0x13).status == status.SUCCESS
    client.transport.close()
    end(server)
    other = server.client(offer=TWO)
    assert other.create("kept").status == status.FILE_NOT_AVAILABLE
    if not state:
        reader = other.open("kept", access=c.FILE_READ_DATA)
        assert other.read(reader, 0, 1).status == status.FILE_LOCK_CONFLICT
    back = server.client(offer=ONE)
    assert come_back(server.client(other=True, offer=ONE), "kept", held, state=state).status == status.ACCESS_DENIED
    again = come_back(back, "kept", held, state=state)
    assert again.status == status.SUCCESS
    now = file_id_of(again)
    assert now[0] == held[0]
    assert back.read_data(now, 0, 21) == b"what was acknowledged"
    assert back.lock(now, (0, 4, EXCLUSIVE), (10, 1, EXCLUSIVE), sequence=0x13).status == status.SUCCESS  # the same once more: it has it
    assert back.lock(now, (0, 4, c.LOCKFLAG_UNLOCK), (10, 1, c.LOCKFLAG_UNLOCK)).status == status.SUCCESS
    if not state:
        assert other.create("kept").status == status.SHARING_VIOLATION
    back.close(now)
    back.transport.close()
    stop_in_order(server)
    assert server.client(offer=TWO).create("kept").status == status.SUCCESS  # what was closed is kept no longer


def test_time_ends_it_after_a_restart_too(server: Server) -> None:
    persistent(server.client(offer=ONE), "brief", timeout=500, options=c.FILE_DELETE_ON_CLOSE, share=0)
    kill_everything(server)
    eventually(lambda: not (server.peer.share / "brief").exists(), what="it is still there")
    assert server.client(offer=TWO).create("brief", share=0).status == status.SUCCESS


def test_a_file_that_was_replaced_while_the_server_was_away(server: Server) -> None:
    client = server.client(offer=ONE)
    held = persistent(client, "replaced")
    client.transport.close()
    path = server.share / "replaced"
    server.peer.stop()
    path.rename(path.with_name("away"))
    path.write_bytes(b"another")
    server.peer.launch()
    server.peer.await_ready()
    back = server.client(offer=ONE)
    assert come_back(back, "replaced", held).status == status.OBJECT_NAME_NOT_FOUND
    assert back.read_data(back.open("replaced", access=c.FILE_READ_DATA), 0, 7) == b"another"


def test_the_broker_dies_while_opens_are_made(server: Server) -> None:
    client = server.client(offer=ONE, timeout=60)
    first = persistent(client, "first")
    (broker,) = server.pids("broker")
    os.kill(broker, signal.SIGKILL)
    second = persistent(client, "second")
    assert client.close(first).status == status.SUCCESS
    client.transport.close()
    kill_everything(server)
    back = server.client(offer=ONE)
    assert come_back(back, "first", first).status == status.OBJECT_NAME_NOT_FOUND
    assert come_back(back, "second", second).status == status.SUCCESS


def test_only_where_it_was_promised(server: Server, make_server: Callable[..., Server]) -> None:
    answer = server.client(offer=ONE).tree_connect(SHARE).parse(TREE_CONNECT_RESPONSE)
    assert answer.capabilities & c.SHARE_CAP_CONTINUOUS_AVAILABILITY
    old = server.client(offer=Offer((0x0210,)))
    assert not old.tree_connect(SHARE).parse(TREE_CONNECT_RESPONSE).capabilities
    plain = make_server().client(offer=ONE)
    assert not plain.tree_connect(SHARE).parse(TREE_CONNECT_RESPONSE).capabilities
    response = ask(plain, "plain")
    assert not response.parse(CREATE_RESPONSE).create_contexts_length


def test_no_room_to_keep_it(make_server: Callable[..., Server]) -> None:
    """The place where opens are kept is a file: nothing can be kept there, and nothing else suffers."""
    server = make_server(share_settings={"continuous availability": "yes"}, start=False)
    (server.peer.base / "state").mkdir(exist_ok=True)
    (server.peer.base / "state" / "persistent").write_bytes(b"")
    server.start()
    client = server.client(offer=ONE)
    assert ask(client, "refused").status == status.INSUFFICIENT_RESOURCES
    assert not (server.share / "refused").exists()
    assert client.create("usual").status == status.SUCCESS


def test_a_create_whose_answer_was_lost_with_the_server_is_sent_again(server: Server) -> None:
    """smb2.replay.replay5, and more of it: the client has no FileId, only the GUID of its CREATE."""
    with server.client(offer=ONE) as client:
        held = persistent(client, "answer lost", oplock=c.OPLOCK_LEVEL_BATCH)
        assert client.lock(held, (0, 10, EXCLUSIVE)).status == status.SUCCESS
        kill_everything(server)
    wish = create_body("answer lost", oplock=c.OPLOCK_LEVEL_BATCH, contexts=asked_for("answer lost"))
    with server.client(offer=ONE) as client, server.client(offer=TWO) as stranger:
        assert client.call(Command.CREATE, wish).status == status.DUPLICATE_OBJECTID
        assert stranger.call(Command.CREATE, wish, flags=c.FLAGS_REPLAY_OPERATION).status == status.FILE_NOT_AVAILABLE  # no GUID of its own
        answer = client.call(Command.CREATE, wish, flags=c.FLAGS_REPLAY_OPERATION, channel_sequence=1)
        fields = answer.parse(CREATE_RESPONSE)
        assert (fields.create_action, fields.oplock_level) == (c.FILE_CREATED, c.OPLOCK_LEVEL_BATCH)
        assert fields.file_id_persistent == held[0]
        told = contexts.parse_chain(memoryview(answer.part(fields.create_contexts_offset, fields.create_contexts_length)))
        assert contexts.DURABLE_RESPONSE_V2.unpack(told[b"DH2Q"]).flags == PERSISTENT
        # It may be asked for as long as it is there.
        assert bytes(client.call(Command.CREATE, wish, flags=c.FLAGS_REPLAY_OPERATION, channel_sequence=1).body) == bytes(answer.body)
        again = file_id_of(answer)
        assert client.call(Command.LOCK, lock_body(again, (0, 10, c.LOCKFLAG_UNLOCK)), channel_sequence=1).status == status.SUCCESS
        assert client.close(again).status == status.SUCCESS
        assert client.call(Command.CREATE, wish).status == status.SUCCESS


@pytest.mark.parametrize("channels", ["yes", "no"])
def test_one_whose_other_connection_is_not_known_to_be_lost_is_to_come_again(make_server: Callable[..., Server], channels: str) -> None:
    """With channels both connections of the client are one worker's, without them each has its own."""
    server = make_server(settings={"server multi channel support": channels}, share_settings={"continuous availability": "yes"})
    lost = server.client(offer=ONE)
    with server.client(offer=ONE) as client:
        held = persistent(lost, "not known")
        wish = create_body("not known", contexts=asked_for("not known"))
        assert client.call(Command.CREATE, wish).status == status.DUPLICATE_OBJECTID
        assert client.call(Command.CREATE, wish, flags=c.FLAGS_REPLAY_OPERATION).status == status.FILE_NOT_AVAILABLE
        lost.close_connection()
        answer = eventually(lambda: _found(client.call(Command.CREATE, wish, flags=c.FLAGS_REPLAY_OPERATION)))
        assert file_id_of(answer)[0] == held[0]
        assert client.close(file_id_of(answer)).status == status.SUCCESS


def _found(answer: Response) -> Response | None:
    if answer.status == status.FILE_NOT_AVAILABLE:
        return None
    assert answer.status == status.SUCCESS
    return answer


class Place:
    """A small file system of its own, where persistent opens are kept."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.fillers: list[Path] = []

    def mount(self, options: str) -> None:
        subprocess.run([tool("mount"), "-t", "tmpfs", "-o", f"mode=0700,{options}", "tmpfs", str(self.folder)], check=True)

    def fill(self) -> None:
        """To the last byte."""
        filler = self.folder / "filler"
        self.fillers.append(filler)
        with filler.open("wb", buffering=0) as file, suppress(OSError):
            while file.tell() < 1 << 20:
                file.write(bytes(4096))
        assert filler.stat().st_size < 1 << 20

    def use_up_inodes(self) -> None:
        names = [self.folder / f"name{number}" for number in range(64)]
        with suppress(OSError):
            for name in names:
                name.touch()
                self.fillers.append(name)
        assert len(self.fillers) < len(names)

    def free(self) -> None:
        for filler in self.fillers:
            filler.unlink()
        self.fillers.clear()


@pytest.fixture
def place() -> Iterator[Place]:
    if os.geteuid():
        pytest.skip("mounting a small file system takes root")
    folder = Path(tempfile.mkdtemp(prefix="millpond-small-"))
    made = Place(folder)
    try:
        yield made
    finally:
        while os.path.ismount(folder):
            subprocess.run([tool("umount"), "-l", str(folder)], check=True)
        folder.rmdir()


@pytest.fixture
def put(place: Place, make_server: Callable[..., Server]) -> Server:
    """A server, not started, whose persistent opens are kept in ``place``: that is let go of after the server has ended."""
    server = make_server(share_settings={"continuous availability": "yes"}, start=False)
    state = server.peer.base / "state"
    state.mkdir(mode=0o700)
    (state / "persistent").symlink_to(place.folder)
    return server


@pytest.mark.parametrize("scarce", ["bytes", "a page is left", "inodes"])
def test_a_server_that_starts_on_a_full_disk(place: Place, put: Server, scarce: str) -> None:
    """Nothing is persistent, all else goes on, and there is no need to start again when there is room."""
    server = put
    place.mount("size=256k,nr_inodes=8")
    if scarce == "inodes":
        place.use_up_inodes()
    else:
        place.fill()
    if scarce == "a page is left":
        os.truncate(place.fillers[0], place.fillers[0].stat().st_size - 3 * 4096)
    server.start()
    brokers = server.pids("broker")
    client = server.client(offer=ONE)
    for _ in range(3):
        assert ask(client, "refused").status in (status.INSUFFICIENT_RESOURCES, status.DISK_FULL)
    assert not (server.share / "refused").exists()
    usual = client.open("usual")
    assert client.write(usual, 0, b"acknowledged").status == status.SUCCESS
    assert client.lock(usual, (0, 4, EXCLUSIVE)).status == status.SUCCESS
    assert server.pids("broker") == brokers, "it was killed"
    told = [line for line in server.log.splitlines() if "persistent" in line]
    assert len(told) == 1, told
    assert "state directory" in told[0]
    place.free()
    held = persistent(client, "kept")
    assert client.lock(held, (0, 4, EXCLUSIVE)).status == status.SUCCESS
    assert server.log.count("can be kept in") == 1
    client.transport.close()
    kill_everything(server)
    back = server.client(offer=ONE)
    again = come_back(back, "kept", held)
    assert again.status == status.SUCCESS
    assert back.lock(file_id_of(again), (0, 4, c.LOCKFLAG_UNLOCK)).status == status.SUCCESS


def test_a_disk_that_is_full_in_the_middle(place: Place, put: Server) -> None:
    """A lock is acknowledged when it is kept: those that were stand after everything was killed, the one that was not is nobody's."""
    server = put
    place.mount("size=256k")
    server.start()
    client, other = server.client(offer=ONE), server.client(offer=TWO)
    held = persistent(client, "kept")
    assert client.write(held, 0, b"acknowledged").status == status.SUCCESS
    place.fill()
    taken = 0
    while (answer := client.lock(held, *((100 * taken + n, 1, EXCLUSIVE) for n in range(100)))).status == status.SUCCESS:
        taken += 1
        assert taken < 64
    assert answer.status == status.DISK_FULL
    opened = 0  # there may still be some pages in the file
    while (answer := ask(client, f"another {opened}")).status == status.SUCCESS:
        opened += 1
        assert opened < 64
    assert answer.status == status.DISK_FULL
    assert not (server.share / f"another {opened}").exists()
    assert client.write(held, 12, b", and more").status == status.SUCCESS
    reader = other.open("kept", access=c.FILE_READ_DATA)
    free = (100 * taken, 100, EXCLUSIVE)
    assert other.lock(reader, free).status == status.SUCCESS  # what was refused is nobody's
    assert other.lock(reader, (100 * taken, 100, c.LOCKFLAG_UNLOCK)).status == status.SUCCESS
    assert server.log.count("cannot be kept in") == 1
    client.transport.close()
    other.transport.close()
    kill_everything(server)  # and started, the disk still full
    back = server.client(offer=ONE)
    again = come_back(back, "kept", held)
    assert again.status == status.SUCCESS
    now = file_id_of(again)
    assert back.read_data(now, 0, 22) == b"acknowledged, and more"
    rows = {row["path"]: row["locks"] for row in server.status("opens")["opens"]}
    assert rows == {"kept": 100 * taken} | {f"another {number}": 0 for number in range(opened)}
    place.free()
    assert back.lock(now, free).status == status.SUCCESS
    persistent(back, "with room")
    assert back.close(now).status == status.SUCCESS
    kill_everything(server)
    assert server.client(offer=TWO).create("kept").status == status.SUCCESS  # what was closed is kept no longer


@pytest.mark.skipif(os.geteuid() != 0, reason="identities are switched as root only")
@pytest.mark.parametrize("share", ["%U", "homes"])
def test_a_folder_of_the_user_s_own(make_server: Callable[..., Server], share: str) -> None:
    """Its path is known with its client only, and is kept as it was; it is looked into with the user's rights."""
    server = make_server(start=False)
    mine = server.peer.base / "own" / server.user
    (mine / "shut").mkdir(parents=True)
    for folder in (mine, mine / "shut"):
        os.chown(folder, pwd.getpwnam(server.user).pw_uid, -1)
        folder.chmod(0o700)
    settings = {"path": str(mine.parent / "%U"), "read only": "no", "continuous availability": "yes"}
    server.peer.shares["homes" if share == "homes" else "own"] = settings
    server.start()
    name = server.user if share == "homes" else "own"
    client = server.client(offer=ONE)
    assert client.tree_connect(name).status == status.SUCCESS
    held = persistent(client, "kept")
    assert client.lock(held, (0, 4, EXCLUSIVE)).status == status.SUCCESS
    shut = persistent(client, "shut\\kept")
    client.transport.close()
    server.peer.stop()
    os.chown(mine / "shut", 0, -1)
    server.peer.launch()
    server.peer.await_ready()
    back = server.client(offer=ONE)
    assert back.tree_connect(name).status == status.SUCCESS
    again = come_back(back, "kept", held)
    assert again.status == status.SUCCESS
    assert back.lock(file_id_of(again), (0, 4, c.LOCKFLAG_UNLOCK)).status == status.SUCCESS
    assert come_back(back, "shut\\kept", shut).status == status.OBJECT_NAME_NOT_FOUND
