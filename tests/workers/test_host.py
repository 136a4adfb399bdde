"""The host with real workers on threads, in this process: the test is the master at the other end of the pairs, and the client."""

from __future__ import annotations

import gc
import os
import resource
import select
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from pools import port
from pools.counters import CounterSegment
from pools.queue import ANSWER_GONE, HOST, RELOAD, STOP, Endpoint, Message, Service
from smbd.child import SHARING_DIRECTORY, Child
from smbd.config import Config
from smbd.config_messages import pack_config
from smbd.host_messages import ENDED, ENDED_LAYOUT, HAND_OVER, Ended, pack_hand_over, unpack_hand_over
from smbd.sharing import prepare
from smbd.smb2 import status
from tests.server import eventually
from tests.wire_client import Closed, SocketTransport, WireClient
from workers import host as host_module
from workers.host import Host
from workers.room import Room
from workers.worker import Worker

PATIENCE = 20.0


class Master:
    """What the host sees of a master: hand-overs on one pair, a pair of its own for each worker."""

    def __init__(self, directory: Path) -> None:
        lock = directory / "lock"
        lock.mkdir()
        prepare(str(lock / SHARING_DIRECTORY), 1 << 20)
        places = {"lock_directory": str(lock), "state_directory": str(directory)}
        self.config = Config(**places, pool_budget=64 << 20, netbios_name="POND", socket_options=())
        self.counters = CounterSegment.create(None, 32)
        self.ours, theirs = port.sockets.record_pair()
        self.endpoint = Endpoint(self.ours)
        self.pairs: dict[int, Endpoint] = {}
        self.host = Host(Child("host", HOST, 1, self.config, theirs, self.counters))
        handlers = {HAND_OVER.number: self.host.take, RELOAD: self.host.reload}
        service = Service(Endpoint(theirs), handlers, self.counters.row(HOST))
        self.thread = threading.Thread(target=self.host.serve, args=(service,))
        self.thread.start()

    def hand_over(self, slot: int, generation: int = 1) -> WireClient:
        """A new connection for ``slot``; its client."""
        near, far = socket.socketpair()
        ours, theirs = port.sockets.record_pair()
        self.pairs[slot] = Endpoint(ours)
        payload = pack_hand_over(slot, generation, "192.0.2.9")
        self.endpoint.send(HOST, HAND_OVER.number, payload, descriptors=[near.fileno(), theirs.fileno()])
        near.close()
        theirs.close()
        far.settimeout(PATIENCE)
        transport = object.__new__(SocketTransport)
        transport.socket = far
        return WireClient(transport)

    def hear(self) -> Message:
        """The host's next message."""
        poller = port.polling.poller()
        poller.register(self.ours.fileno(), port.READABLE)
        assert poller.poll(PATIENCE), "the host says nothing"
        poller.close()
        message = self.endpoint.receive()
        assert message is not None
        return message

    def hear_end(self) -> Ended:
        """The next message, which must say that a thread is gone."""
        message = self.hear()
        assert message.kind == ENDED.number
        return ENDED_LAYOUT.unpack(message.payload)

    def close(self) -> None:
        self.ours.close()
        for pair in self.pairs.values():
            pair.close()
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive()


@pytest.fixture
def master(tmp_path: Path) -> Iterator[Master]:
    mask = os.umask(0o077)
    made = Master(tmp_path)
    yield made
    made.close()
    os.umask(mask)


def negotiated(client: WireClient) -> WireClient:
    assert client.negotiate().status == status.SUCCESS
    return client


def test_a_hand_over_says_what_a_fork_would_inherit() -> None:
    fixed, address = unpack_hand_over(pack_hand_over(17, 3, "2001:db8::1"))
    assert (fixed.slot, fixed.generation, address) == (17, 3, "2001:db8::1")


def test_each_client_is_served_by_a_thread_with_a_row_of_its_own(master: Master) -> None:
    first, second = negotiated(master.hand_over(16)), negotiated(master.hand_over(17, 4))
    assert first.echo().status == second.echo().status == status.SUCCESS
    rows = [master.counters.row(slot) for slot in (16, 17)]
    assert [row.get("pid") for row in rows] == [os.getpid()] * 2
    assert [row.get("generation") for row in rows] == [1, 4]
    threads = {row.get("thread") for row in rows}
    assert len(threads) == 2
    assert threads <= {thread.native_id for thread in threading.enumerate()}
    assert rows[0].get("requests") > 0


def test_a_client_that_leaves_is_reported_and_its_slot_can_be_used_again(master: Master) -> None:
    negotiated(master.hand_over(16)).close_connection()
    assert master.hear_end() == Ended(16, 1, 1)
    negotiated(master.hand_over(16, 2)).close_connection()
    assert master.hear_end() == Ended(16, 2, 1)


def test_a_worker_whose_stream_the_master_ends_lets_go_of_its_client(master: Master) -> None:
    client, witness = negotiated(master.hand_over(16)), negotiated(master.hand_over(17))
    master.pairs[16].close()
    with pytest.raises(Closed):
        client.receive()
    assert master.hear_end() == Ended(16, 1, 1)
    assert witness.echo().status == status.SUCCESS


def test_an_error_ends_its_own_connection_and_gives_everything_back(
    master: Master, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(self: Worker, command: int) -> None:
        if self.slot == 16:
            raise RuntimeError("a bug")

    victim, witness = master.hand_over(16), negotiated(master.hand_over(17))
    negotiated(victim)
    before = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(Worker, "count_request", fail)
    with suppress(OSError, Closed):
        victim.echo()
    assert master.hear_end() == Ended(16, 1, 0)
    assert "RuntimeError: a bug" in caplog.text
    assert "worker 16.1 of 192.0.2.9: unexpected error, this connection ends" in caplog.text
    monkeypatch.undo()
    assert witness.echo().status == status.SUCCESS
    assert len(os.listdir("/proc/self/fd")) < before


def test_what_an_ended_worker_had_mapped_is_unmapped(master: Master) -> None:
    def mapped() -> int:
        gc.collect()
        lines = Path("/proc/self/maps").read_text().splitlines()
        return sum(("/dev/shm/" in line or "memfd:" in line) and line.endswith("(deleted)") for line in lines)

    before = mapped()
    clients = [negotiated(master.hand_over(16 + number)) for number in range(4)]
    assert mapped() > before
    for client in clients:
        client.close_connection()
        master.hear_end()
    eventually(lambda: mapped() == before)  # the end is told first


def test_a_client_that_cannot_be_served_is_reported(master: Master, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    client = master.hand_over(16)
    assert master.hear_end() == Ended(16, 1, 0)
    monkeypatch.undo()
    with pytest.raises((Closed, OSError)):
        client.receive()
    negotiated(master.hand_over(17))


def test_a_client_whose_descriptors_did_not_fit_is_reported(master: Master, caplog: pytest.LogCaptureFixture) -> None:
    witness = negotiated(master.hand_over(17))
    near, far = socket.socketpair()
    ours, theirs = port.sockets.record_pair()
    far.settimeout(PATIENCE)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free + 1, hard))  # one of the two has room
    try:
        payload = pack_hand_over(16, 1, "192.0.2.9")
        master.endpoint.send(HOST, HAND_OVER.number, payload, descriptors=[near.fileno(), theirs.fileno()])
        assert select.select([master.ours], [], [], PATIENCE)[0], "the host says nothing"
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert master.hear_end() == Ended(16, 1, 0)
    assert "worker 16.1 of 192.0.2.9 cannot be started: no descriptors are left" in caplog.text
    for end in (near, theirs):
        end.close()
    assert far.recv(1) == b""  # nobody has the other end
    assert ours.recv(1) == b""
    for end in (far, ours):
        end.close()
    assert witness.echo().status == status.SUCCESS
    negotiated(master.hand_over(16, 2))


def test_all_threads_get_one_configuration(master: Master, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[Config] = []
    changed = threading.Event()

    def reload(_worker: Worker, config: Config) -> None:
        heard.append(config)
        if len(heard) == 2:
            changed.set()

    monkeypatch.setattr(Worker, "reload", reload)
    clients = [negotiated(master.hand_over(slot)) for slot in (16, 17)]
    payload = pack_config(replace(master.config, server_string="better"))
    for pair in (master.endpoint, *master.pairs.values()):
        pair.send(0, RELOAD, payload)
    assert changed.wait(PATIENCE)
    assert all(client.echo().status == status.SUCCESS for client in clients)
    assert heard[0] is heard[1]
    assert heard[0].server_string == "better"
    rooms: list[Room] = []
    monkeypatch.setattr(host_module, "serve", rooms.append)
    master.hand_over(18)
    assert master.hear_end() == Ended(18, 1, 1)
    assert rooms[0].config is heard[0]


def test_stop_ends_a_worker_and_then_the_host(master: Master) -> None:
    client = negotiated(master.hand_over(16))
    master.pairs[16].send(0, STOP)
    with pytest.raises(Closed):
        client.receive()
    assert master.hear_end() == Ended(16, 1, 1)
    master.endpoint.send(0, STOP)
    master.thread.join(PATIENCE)
    assert not master.thread.is_alive()


def test_without_a_master_all_threads_end(master: Master) -> None:
    client = negotiated(master.hand_over(16))
    for pair in master.pairs.values():
        pair.send(0, ANSWER_GONE)  # what makes no sense is no reason to end
        pair.close()
    master.ours.close()
    with pytest.raises(Closed):
        client.receive()
    master.thread.join(PATIENCE)
    assert not master.thread.is_alive()
