"""kill -9 of any process but the master: the service recovers by itself, and nobody else notices."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
import spnego
from impacket.dcerpc.v5 import srvs, transport
from impacket.dcerpc.v5.rpcrt import DCERPC_v5

from bench.load.account import tree
from smbd.smb2 import constants as c
from smbd.smb2 import status
from tests.server import SHARE, Server, eventually
from tests.wire_client import Closed, Request, WireClient, write_body

CHUNK = 256 * 1024
KILLED = (Closed, OSError)


def _pattern(number: int) -> bytes:
    return number.to_bytes(4, "big") * (CHUNK // 4)


def _settled(server: Server) -> int:
    """Buffers in use when nothing is under way: asked until two answers agree."""
    last = -1
    while (now := server.buffers_in_use()) != last:
        last = now
    return now


@pytest.mark.isolation
def test_a_worker_dies_in_the_middle_of_a_transfer(server: Server) -> None:
    quiet = _settled(server)
    with server.client() as victim, server.client() as witness:
        mine = victim.open("victim.bin", share=0)
        theirs = witness.open("witness.bin")
        assert witness.write(theirs, 0, _pattern(7)).status == status.SUCCESS
        assert witness.create("victim.bin").status == status.SHARING_VIOLATION
        worker = server.worker_of(victim)
        witness_worker = server.worker_of(witness).pid
        acknowledged = 0
        for number in range(8):
            assert victim.write(mine, number * CHUNK, _pattern(number)).status == status.SUCCESS
            acknowledged += 1
        # several requests under way, and then half a PDU
        charge = CHUNK // 65536
        for number in range(8, 12):
            victim.send(Request(9, write_body(mine, number * CHUNK, _pattern(number)), charge=charge))
        victim.transport.send((1 << 20).to_bytes(4, "big") + b"\xfeSMB" + bytes(100_000))
        worker.send_signal(signal.SIGKILL)
        acknowledged += _answers(victim)
        assert witness.read_data(theirs, 0, CHUNK // 2) == _pattern(7)[: CHUNK // 2]
        assert server.worker_of(witness).pid == witness_worker
        again = eventually(lambda: _opened(witness, "victim.bin"), what="the dead worker's open still stands")
        for number in range(acknowledged):
            assert witness.read_data(again, number * CHUNK, CHUNK) == _pattern(number), "acknowledged data was lost"
        witness.close(again)
        witness.close(theirs)
    eventually(lambda: server.buffers_in_use() <= quiet, what="buffers are lost")
    with server.client() as later:
        assert later.echo().status == status.SUCCESS


def _answers(client: WireClient) -> int:
    """Successful answers until the connection ends."""
    count = 0
    with contextlib.suppress(*KILLED):
        while True:
            assert client.receive().status == status.SUCCESS
            count += 1
    return count


def _opened(client: WireClient, name: str) -> tuple[int, int] | None:
    with contextlib.suppress(AssertionError):
        return client.open(name, share=0, disposition=c.FILE_OPEN)
    return None


def _restarted(server: Server, role: str, old: int) -> int:
    """The pid of the process that took a dead one's place."""

    def other() -> int:
        found = [pid for pid in server.pids(role) if pid != old and psutil.pid_exists(pid)]
        return found[0] if found else 0

    pid: int = eventually(other, what=f"{role} was not started again")
    return pid


def test_authd_dies_during_a_logon(server: Server) -> None:
    with server.client() as witness, server.negotiated(timeout=60) as half:
        held = witness.open("steady.bin")
        authd = server.pids("authd")[0]
        token = _first_token(server)
        answer = half.session_setup_raw(token)
        assert answer.status == status.MORE_PROCESSING_REQUIRED
        os.kill(authd, signal.SIGKILL)
        # whatever comes of the second leg, it is an answer, and no logon
        answer = half.session_setup_raw(b"\xa1\x05\x30\x03\xa2\x01\x00", answer.header.session_id)
        assert status.is_error(answer.status), status.name(answer.status)
        assert witness.write(held, 0, b"on and on").status == status.SUCCESS
        _restarted(server, "authd", authd)
        assert half.echo().status in (status.SUCCESS, status.USER_SESSION_DELETED)
        with server.client() as fresh:
            assert fresh.read_data(fresh.open("steady.bin"), 0, 9) == b"on and on"


def _first_token(server: Server) -> bytes:
    token = spnego.client(server.user, server.password, hostname="127.0.0.1", service="cifs").step()
    assert token
    return token


def _bound(server: Server) -> DCERPC_v5:
    pipe = transport.DCERPCTransportFactory(r"ncacn_np:127.0.0.1[\pipe\srvsvc]")
    pipe.set_dport(server.port)
    pipe.set_credentials(server.user, server.password)
    pipe.setRemoteHost("127.0.0.1")
    pipe.set_connect_timeout(20)
    rpc = pipe.get_dce_rpc()
    rpc.connect()
    rpc.bind(srvs.MSRPC_UUID_SRVS)
    return rpc


def _shares(rpc: DCERPC_v5) -> set[str]:
    answer = srvs.hNetrShareEnum(rpc, 1)["InfoStruct"]["ShareInfo"]["Level1"]["Buffer"]
    return {share["shi1_netname"].rstrip("\0") for share in answer}


def test_srvsvc_dies_during_an_enumeration(server: Server) -> None:
    with server.client() as witness:
        held = witness.open("steady2.bin")
        rpc = _bound(server)
        assert SHARE in _shares(rpc)
        srvsvc = server.pids("srvsvc")[0]
        os.kill(srvsvc, signal.SIGKILL)
        # the pipe's state died with it: the client hears so, at once
        with pytest.raises(Exception, match=r"STATUS_|DCERPC|rpc"):
            _shares(rpc)
        assert witness.write(held, 0, b"on and on").status == status.SUCCESS
        _restarted(server, "srvsvc", srvsvc)

        assert SHARE in _shares(_bound(server))


def test_srvsvc_dies_with_a_request_in_its_hands(server: Server) -> None:
    with server.client() as witness, ThreadPoolExecutor(1) as clients:
        rpc = _bound(server)
        srvsvc = server.pids("srvsvc")[0]
        os.kill(srvsvc, signal.SIGSTOP)  # from here on it answers nothing
        asked = clients.submit(_shares, rpc)
        assert witness.echo().status == status.SUCCESS
        os.kill(srvsvc, signal.SIGKILL)
        # the request is told to its successor, who does not know the pipe: the client hears so and is not left waiting
        with pytest.raises(Exception, match=r"STATUS_|DCERPC|rpc"):
            asked.result(30)
        _restarted(server, "srvsvc", srvsvc)
        assert SHARE in _shares(_bound(server))


@pytest.mark.isolation
def test_the_broker_dies(server: Server) -> None:
    with server.client() as witness, server.client() as victim:
        broker = server.pids("broker")[0]
        os.kill(broker, signal.SIGKILL)
        _restarted(server, "broker", broker)
        victim.open("swept.bin", share=0)
        assert witness.create("swept.bin").status == status.SHARING_VIOLATION
        server.worker_of(victim).kill()
        eventually(lambda: _opened(witness, "swept.bin"), what="nobody sweeps any more")


def test_services_killed_over_and_over(make_server: Callable[..., Server]) -> None:
    server = make_server()
    with server.client() as witness:
        for role in ("authd", "srvsvc", "broker") * 2:
            pid = server.pids(role)[0]
            os.kill(pid, signal.SIGKILL)
            _restarted(server, role, pid)
            assert witness.echo().status == status.SUCCESS
    with server.client() as fresh:
        assert fresh.echo().status == status.SUCCESS


def test_everything_ends_with_the_master_and_starts_again(make_server: Callable[..., Server]) -> None:
    server = make_server()
    client = server.client()
    held = client.open("kept.bin")
    assert client.write(held, 0, b"kept").status == status.SUCCESS
    family = tree(server.pid)
    assert len(family) >= 5
    family[0].kill()
    assert server.peer.process is not None
    server.peer.process.wait(10)
    _gone, alive = psutil.wait_procs(family, timeout=10)
    assert not alive, [process.cmdline() for process in alive]
    client.close_connection()
    server.peer.launch()
    server.peer.await_ready()
    with server.client() as again:
        assert again.read_data(again.open("kept.bin"), 0, 4) == b"kept"


def test_sigterm_lets_a_transfer_finish(make_server: Callable[..., Server]) -> None:
    server = make_server()
    client = server.client()
    held = client.open("finish.bin")
    done: list[int] = []
    go_on = threading.Event()

    def pump() -> None:
        with contextlib.suppress(*KILLED):
            for number in range(10_000):
                if client.write(held, number * CHUNK % (64 * CHUNK), _pattern(number)).status == status.SUCCESS:
                    done.append(number)
                if number == 20:
                    go_on.set()

    thread = threading.Thread(target=pump)
    thread.start()
    assert go_on.wait(20)
    server.finish()
    thread.join(20)
    assert not thread.is_alive()
    last = done[-1]
    with (server.share / "finish.bin").open("rb") as file:
        file.seek(last * CHUNK % (64 * CHUNK))
        assert file.read(4) == last.to_bytes(4, "big"), "the last acknowledged write was lost"


def test_reload_adds_a_share_and_a_bad_file_changes_nothing(make_server: Callable[..., Server]) -> None:
    server = make_server()
    extra = server.peer.base / "extra"
    extra.mkdir()
    extra.chmod(0o777)
    with server.client() as before:
        assert before.tree_connect("more").status == status.BAD_NETWORK_NAME
        server.peer.shares["more"] = {"path": str(extra), "read only": "no"}
        server.peer.write_config()
        assert server.command("reload").returncode == 0

        def there() -> bool:
            with server.client() as probe:
                return probe.tree_connect("more").status == status.SUCCESS

        eventually(there, what="the new share does not appear")
        assert before.echo().status == status.SUCCESS
        server.peer.config.write_text("[global\nthis is no configuration\n")
        os.kill(server.pid, signal.SIGHUP)
        eventually(lambda: "smb.conf" in server.log, what="the bad file is not reported")
        assert there()
