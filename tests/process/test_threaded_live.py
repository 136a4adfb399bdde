"""``server mode = threaded``: all clients are threads of one process, each as it would be in a process of its own."""

from __future__ import annotations

import contextlib
import hashlib
import os
import pwd
import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
from impacket.dcerpc.v5 import srvs, transport

from bench.load.peers import ACCOUNT
from smbd.smb2 import constants as c
from smbd.smb2 import status
from tests.server import OTHER, SHARE, Server, eventually, given_settings
from tests.wire_client import Closed, WireClient

pytestmark = pytest.mark.skipif(given_settings().get("port") == "posix", reason="port = posix serves forked alone")

CLIENTS = 40
SIZE = 2 << 20
STEP = 256 << 10
ROUNDS = 50
MOST_PRIVATE = 1 << 20  # bytes an idle client may cost; measured: about half of that, and 5 MiB in a process of its own
ADMINISTRATOR = ("root", "Pond.Root-4452")
LOST = (Closed, OSError)


@pytest.fixture
def threaded(make_server: Callable[..., Server]) -> Callable[..., Server]:
    """Makes such servers."""

    def make(**options: str) -> Server:
        return make_server(settings={**options, "server mode": "threaded"}, accounts=(ACCOUNT, OTHER, ADMINISTRATOR))

    return make


def _host(server: Server) -> psutil.Process:
    (pid,) = eventually(lambda: server.pids("host"), what="no host was started")
    return psutil.Process(pid)


def _transfer(server: Server, number: int) -> str:
    data = random.Random(number).randbytes(SIZE)
    with server.client(timeout=100) as client:
        client.sign = number % 3 == 1
        client.seal = number % 3 == 2
        file = client.open(f"client {number}.bin")
        for offset in range(0, SIZE, STEP):
            assert client.write(file, offset, data[offset : offset + STEP]).status == status.SUCCESS
        assert b"".join(client.read_data(file, offset, STEP) for offset in range(0, SIZE, STEP)) == data
        client.close(file)
    return hashlib.sha256(data).hexdigest()


def test_many_clients_at_once_are_served_by_one_process(threaded: Callable[..., Server]) -> None:
    server = threaded()
    host = _host(server)
    with ThreadPoolExecutor(CLIENTS) as clients:
        sums = list(clients.map(lambda number: _transfer(server, number), range(CLIENTS)))
    for number, expected in enumerate(sums):
        assert hashlib.sha256((server.share / f"client {number}.bin").read_bytes()).hexdigest() == expected
    eventually(lambda: host.num_threads() == 1, what="threads of clients that left go on")
    eventually(lambda: server.pool_bytes() == 0, what="the pools keep their memory")
    assert server.pids("host") == [host.pid]


def test_what_came_and_went_leaves_no_descriptor(threaded: Callable[..., Server]) -> None:
    server = threaded()
    host = _host(server)
    with server.client():
        before = host.num_fds()
    for number in range(12):
        client = server.client()
        client.open(f"left open {number}.bin")
        client.close_connection()
    with server.client():
        eventually(lambda: host.num_fds() <= before, what=f"descriptors stay: {host.num_fds()}, {before} before")


def test_a_host_without_descriptors_turns_one_client_away(threaded: Callable[..., Server]) -> None:
    server = threaded()
    with server.client() as witness:
        host = _host(server)
        _, hard = host.rlimit(psutil.RLIMIT_NOFILE)
        host.rlimit(psutil.RLIMIT_NOFILE, (host.num_fds() + 400, hard))
        with server.client() as greedy:
            opened = 0
            while (answer := greedy.create(f"file {opened}")).status == status.SUCCESS:
                opened += 1
            assert answer.status == status.TOO_MANY_OPENED_FILES
            assert opened > 200
            with server.client() as other:  # there are some for who comes now
                assert other.echo().status == status.SUCCESS
            soft = host.rlimit(psutil.RLIMIT_NOFILE)[0]
            host.rlimit(psutil.RLIMIT_NOFILE, (16, hard))  # and none
            with pytest.raises(LOST), server.client():
                pass
            eventually(lambda: "cannot be started: no descriptors are left" in server.log)
            assert greedy.echo().status == witness.echo().status == status.SUCCESS
            host.rlimit(psutil.RLIMIT_NOFILE, (soft, hard))
        with server.client() as after:
            assert after.echo().status == status.SUCCESS
        assert _host(server).pid == host.pid


def test_two_users_at_once_act_each_as_himself(threaded: Callable[..., Server]) -> None:
    server = threaded()
    private = server.share / "private.bin"
    private.write_bytes(b"for one of them")
    os.chown(private, pwd.getpwnam(ACCOUNT[0]).pw_uid, -1)
    private.chmod(0o600)
    start = threading.Barrier(2)

    def work(other: bool) -> list[int]:
        with server.client(other=other, timeout=60) as client:
            start.wait(20)
            found = []
            for number in range(ROUNDS):
                client.close(client.open(f"{'other' if other else 'one'} {number}.bin"))
                answer = client.create("private.bin", access=c.FILE_READ_DATA, disposition=c.FILE_OPEN)
                found.append(answer.status)
            return found

    with ThreadPoolExecutor(2) as clients:
        mine, others = clients.map(work, (False, True))
    assert set(mine) == {status.SUCCESS}
    assert set(others) == {status.ACCESS_DENIED}
    for word, (name, _) in (("one", ACCOUNT), ("other", OTHER)):
        owners = {(server.share / f"{word} {number}.bin").stat().st_uid for number in range(ROUNDS)}
        assert owners == {pwd.getpwnam(name).pw_uid}


def test_an_idle_client_costs_little(threaded: Callable[..., Server]) -> None:
    server = threaded()
    host = _host(server)
    with contextlib.ExitStack() as clients:
        clients.enter_context(server.client())
        before = host.memory_full_info().uss
        for _ in range(20):
            clients.enter_context(server.client())
        each = (host.memory_full_info().uss - before) / 20
    assert each < MOST_PRIVATE, f"{each / 1024:.0f} KiB"


def test_a_killed_host_under_load(threaded: Callable[..., Server]) -> None:
    server = threaded()
    host = _host(server)
    running = [threading.Event() for _ in range(4)]

    def pump(number: int) -> int:
        """Numbered blocks until the connection ends; how many were acknowledged."""
        done = 0
        with contextlib.suppress(*LOST), server.client(timeout=60) as client:
            file = client.open(f"pumped {number}.bin", share=0)
            while client.write(file, done * STEP, done.to_bytes(4, "big") * (STEP // 4)).status == status.SUCCESS:
                done += 1
                if done == 10:
                    running[number].set()
        return done

    with ThreadPoolExecutor(4) as clients:
        counts = [clients.submit(pump, number) for number in range(4)]
        for event in running:
            assert event.wait(20)
        host.kill()
        acknowledged = [count.result(30) for count in counts]
    with server.client() as again:
        assert server.pids("host") != [host.pid]
        for number, count in enumerate(acknowledged):
            file = eventually(lambda n=number: _opened(again, f"pumped {n}.bin"), what="a dead thread's open still stands")
            for block in range(count):
                assert again.read_data(file, block * STEP, 4) == block.to_bytes(4, "big"), "acknowledged data was lost"
    assert "4 connections have ended with the process that served them" in server.log


def _opened(client: WireClient, name: str) -> tuple[int, int] | None:
    with contextlib.suppress(AssertionError):
        return client.open(name, share=0, disposition=c.FILE_OPEN)
    return None


def test_a_session_ended_by_the_administrator(threaded: Callable[..., Server]) -> None:
    server = threaded()
    with server.client() as witness, server.client(other=True) as victim:
        victim.open("kept by the victim.bin")
        pipe = transport.DCERPCTransportFactory(r"ncacn_np:127.0.0.1[\pipe\srvsvc]")
        pipe.set_dport(server.port)
        pipe.set_credentials(*ADMINISTRATOR)
        pipe.setRemoteHost("127.0.0.1")
        rpc = pipe.get_dce_rpc()
        rpc.connect()
        rpc.bind(srvs.MSRPC_UUID_SRVS)
        srvs.hNetrSessionDel(rpc, "\\\\127.0.0.1\0", OTHER[0] + "\0")
        assert victim.create("more.bin").status == status.USER_SESSION_DELETED
        assert witness.create("more.bin").status == status.SUCCESS


def test_status_knows_threads_from_processes(threaded: Callable[..., Server]) -> None:
    server = threaded()
    with server.client(), server.client(other=True):
        rows = server.status("processes")["processes"]
        (host,) = [row for row in rows if row["role"] == "host"]
        workers = [row for row in rows if row["role"] == "worker"]
        assert {row["pid"] for row in workers} == {host["pid"]}
        assert {row["thread"] for row in workers} <= {thread.id for thread in psutil.Process(host["pid"]).threads()}
        assert {row["title"] for row in workers} == {f"127.0.0.1 {ACCOUNT[0]}", f"127.0.0.1 {OTHER[0]}"}
        assert {row["private"] for row in workers} == {0}
        assert host["private"] > 0
        assert len({row["session"] for row in server.status("sessions")["sessions"]}) == 2


def test_stop_lets_a_transfer_finish(threaded: Callable[..., Server]) -> None:
    server = threaded()
    client = server.client(timeout=60)
    file = client.open("finish.bin")
    begun = threading.Event()
    done: list[int] = []

    def pump() -> None:
        with contextlib.suppress(*LOST):
            for number in range(10_000):
                if client.write(file, number * STEP % (64 * STEP), number.to_bytes(4, "big") * (STEP // 4)).status == status.SUCCESS:
                    done.append(number)
                if number == 20:
                    begun.set()

    thread = threading.Thread(target=pump)
    thread.start()
    assert begun.wait(20)
    idle = server.client()
    server.finish()
    with pytest.raises(LOST):
        idle.receive()
    thread.join(20)
    with (server.share / "finish.bin").open("rb") as file_on_disk:
        file_on_disk.seek(done[-1] * STEP % (64 * STEP))
        assert file_on_disk.read(4) == done[-1].to_bytes(4, "big"), "the last acknowledged write was lost"


def test_reload_reaches_who_is_there_and_who_comes(threaded: Callable[..., Server]) -> None:
    server = threaded()
    extra = server.peer.base / "extra"
    extra.mkdir()
    extra.chmod(0o777)
    with server.client() as before:
        assert before.tree_connect("more").status == status.BAD_NETWORK_NAME
        server.peer.shares["more"] = {"path": str(extra), "read only": "no"}
        server.peer.write_config()
        assert server.command("reload").returncode == 0
        eventually(lambda: before.tree_connect("more").status == status.SUCCESS, what="the new share does not appear")
        with server.client() as after:
            assert after.tree_connect("more").status == status.SUCCESS
            assert after.tree_connect(SHARE).status == status.SUCCESS


def test_mode_and_port_change_with_a_restart_only(threaded: Callable[..., Server]) -> None:
    server = threaded()
    server.peer.settings |= {"server mode": "forked", "port": "posix"}
    server.peer.write_config()
    assert server.command("reload").returncode == 0
    eventually(lambda: "`server mode` changes when the server is started again" in server.log)
    eventually(lambda: "`port` changes when the server is started again" in server.log)
    with server.client() as client:
        assert server.worker_of(client).pid == _host(server).pid
