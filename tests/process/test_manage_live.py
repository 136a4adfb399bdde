"""``millpond kick`` and ``millpond close`` against a live server: what they end is ended, and nothing else."""

from __future__ import annotations

import os
import signal
import socket
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from smbd.control_messages import CONTROL_SOCKET, ORDER, Verb
from smbd.smb2 import status
from tests.server import Server, eventually


def control(server: Server) -> Path:
    return server.peer.base / "lock" / CONTROL_SOCKET


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server().running() as made:
        eventually(control(made).exists)  # clients are accepted without waiting for srvsvc
        yield made


def test_a_kicked_session_is_gone_and_others_go_on(server: Server) -> None:
    one, two = server.client(), server.client(other=True)
    held = one.open("kicked")
    (session,) = [row for row in server.status("sessions")["sessions"] if row["user"] == server.user]
    done = server.command("kick", session["session"])
    assert (done.returncode, done.stdout) == (0, f"millpond: session {session['session']} has ended\n"), done.stderr
    assert one.read(held, 0, 1).status == status.USER_SESSION_DELETED
    assert two.write(two.open("not kicked"), 0, b"here").status == status.SUCCESS
    assert session["session"] not in [row["session"] for row in server.status("sessions")["sessions"]]
    again = server.command("kick", session["session"])
    assert again.returncode == 1
    assert again.stderr.startswith(f"millpond: there is no session {session['session']}")


def test_a_closed_open_is_gone_and_others_go_on(server: Server) -> None:
    client = server.client()
    first, second = client.open("closed"), client.open("kept")
    (row,) = [row for row in server.status("opens")["opens"] if row["path"] == "closed"]
    done = server.command("close", row["open"])
    assert (done.returncode, done.stdout) == (0, f"millpond: open {row['open']} is closed\n"), done.stderr
    assert client.write(first, 0, b"x").status == status.FILE_CLOSED
    assert client.write(second, 0, b"x").status == status.SUCCESS
    assert server.command("close", row["open"]).returncode == 1


def test_nobody_else_may_give_orders(server: Server) -> None:
    found = control(server).stat()
    assert stat.S_ISSOCK(found.st_mode)
    assert stat.S_IMODE(found.st_mode) == 0o600
    assert found.st_uid == os.geteuid()


@pytest.mark.parametrize("sent", [b"", b"x", ORDER.pack(99, 0, 0), bytes(200)])
def test_nonsense_is_no_order_and_hurts_nobody(server: Server, sent: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as rude:
        # Another test may have ended the service that listens: the next one is about to.
        eventually(lambda: rude.connect_ex(str(control(server))) == 0, what="nobody listens")
        rude.sendall(sent)
        rude.shutdown(socket.SHUT_WR)
        rude.settimeout(10)
        with suppress(ConnectionResetError):  # of what was not read of it
            assert rude.recv(10) == b""
    assert server.command("kick", "0").returncode == 1


def test_those_who_say_nothing_do_not_keep_others_out(server: Server) -> None:
    silent = []
    try:
        for _ in range(40):
            silent.append(socket.socket(socket.AF_UNIX))  # blocking: a full queue is waited for
            silent[-1].connect(str(control(server)))
        assert "there is no session" in server.command("kick", "1").stderr
    finally:
        for one in silent:
            one.close()


def test_a_new_srvsvc_listens_again(server: Server) -> None:
    (before,) = server.pids("srvsvc")
    os.kill(before, signal.SIGKILL)
    eventually(lambda: server.pids("srvsvc") not in ([], [before]))
    eventually(lambda: "there is no open" in server.command("close", "1").stderr)


def test_an_order_is_sixteen_bytes() -> None:
    assert ORDER.size == 16
    assert ORDER.unpack(memoryview(ORDER.pack(Verb.CLOSE_OPEN, 0, 7))).id == 7
