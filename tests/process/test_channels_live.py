"""Several connections of one client, in processes and in threads: how they come together, and what their ends and others' deaths leave."""

from __future__ import annotations

import contextlib
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
import spnego

from smbd.smb2 import constants as c
from smbd.smb2 import status
from smbd.smb2.constants import Command
from smbd.smb2.header import HEADER_SIZE
from smbd.smb2.messages import session
from tests.server import Server, eventually, given_settings
from tests.wire_client import Closed, Offer, Request, Response, WireClient
from workers.binding import MAX_FORGERIES

LOST = (Closed, OSError)
SIZE, STEP = 4 << 20, 64 << 10
FORGERS = 60
SERVER_MODES = ["forked"] if given_settings().get("port") == "posix" else ["forked", "threaded"]
one_by_one = pytest.mark.skipif(given_settings().get("server mode") == "threaded", reason="threads are not killed one by one")


@pytest.fixture(params=SERVER_MODES, scope="module")
def lake(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server in each mode."""
    with Server(settings={"server mode": request.param}).running() as made:
        yield made


def offer(guid: bytes, **options: object) -> Offer:
    return Offer(client_guid=guid, **options)  # type: ignore[arg-type]


def bind(server: Server, client: WireClient, other: WireClient) -> Response:
    """Bind ``other``'s session to ``client``'s connection, with the same user's password."""
    context = spnego.client(server.user, server.password, hostname="localhost", service="cifs", protocol="negotiate")
    return client.bind(other, lambda token: context.step(token) or b"", lambda: context.session_key)


def pair(server: Server, **options: object) -> tuple[WireClient, WireClient]:
    """A client with a session and a tree connect, and a second connection of it that is only negotiated."""
    guid = os.urandom(16)
    first = server.client(offer=offer(guid, **options))
    first.sign = True
    return first, server.negotiated(offer=offer(guid, **options))


def echo(client: WireClient) -> int:
    return client.call(Command.ECHO, b"\4\0\0\0").status


@pytest.mark.parametrize("dialect", [0x0300, 0x0302, 0x0311])
def test_a_channel_is_served_where_its_session_is(lake: Server, dialect: int) -> None:
    first, second = pair(lake, dialects=(dialect,))
    with first, second:
        before = lake.worker_of(second)
        answer = bind(lake, second, first)
        assert (answer.status, answer.valid) == (status.SUCCESS, True)
        assert lake.worker_of(second) == lake.worker_of(first)
        if before != lake.worker_of(first):
            eventually(lambda: not before.is_running(), what="the process that the connection was in does not end")
        file = first.open(f"channel {dialect:x}")
        second.sign = True
        assert second.write(file, 0, b"on one, and on the other").status == status.SUCCESS
        assert first.read_data(file, 8, 3) == b"and"
        assert first.close(file).status == status.SUCCESS


def test_both_channels_carry_data_at_once(lake: Server) -> None:
    first, second = pair(lake)
    data = random.Random(1).randbytes(SIZE)
    with first, second:
        assert bind(lake, second, first).status == status.SUCCESS
        file = first.open("both ways")
        second.seal = True

        def carry(client: WireClient, start: int) -> None:
            for offset in range(start, SIZE, 2 * STEP):
                assert client.write(file, offset, data[offset : offset + STEP]).status == status.SUCCESS
                assert client.read_data(file, offset, STEP) == data[offset : offset + STEP]

        with ThreadPoolExecutor(2) as threads:
            list(threads.map(carry, (first, second), (0, STEP)))
        assert b"".join(first.read_data(file, offset, STEP) for offset in range(0, SIZE, STEP)) == data
        first.close(file)


def channels_of(server: Server, client: WireClient) -> list[tuple[bool, str, str]]:
    rows = server.status("channels")["channels"]
    return [(row["bound"], row["client"], row["server"]) for row in rows if row["session"] == f"{client.session_id:016x}"]


def test_status_shows_which_connections_a_session_has(lake: Server) -> None:
    first, second = pair(lake)
    with second:
        assert [bound for bound, *_ in channels_of(lake, first)] == [False]
        assert bind(lake, second, first).status == status.SUCCESS
        assert channels_of(lake, first) == [(False, "127.0.0.1", "127.0.0.1"), (True, "127.0.0.1", "127.0.0.1")]
        assert {row["interface"] for row in lake.status("channels")["channels"]} == {"lo"}
        first.close_connection()
        eventually(lambda: [bound for bound, *_ in channels_of(lake, second)] == [True], what="the lost connection is still shown")


def test_a_lost_connection_is_made_up_for_by_another(lake: Server) -> None:
    first, second = pair(lake)
    with second:
        file = first.open("outlives its connection")
        assert bind(lake, second, first).status == status.SUCCESS
        second.sign = True
        first.close_connection()
        assert second.write(file, 0, b"still here").status == status.SUCCESS
        assert second.read_data(file, 0, 10) == b"still here"
        assert second.close(file).status == status.SUCCESS


def test_a_session_that_is_ended_ends_on_every_channel(lake: Server) -> None:
    first, second = pair(lake)
    with first, second:
        assert bind(lake, second, first).status == status.SUCCESS
        second.sign = True
        done = lake.command("kick", f"{first.session_id:#x}")
        assert done.returncode == 0, done.stderr
        assert [echo(client) for client in (first, second)] == [status.USER_SESSION_DELETED] * 2
        assert second.session_setup(lake.user, lake.password).status == status.SUCCESS


def test_connections_of_one_client_and_user_come_together(lake: Server) -> None:
    guid = os.urandom(16)
    clients = [lake.client(offer=offer(guid)) for _ in range(3)]
    with contextlib.ExitStack() as stack:
        for client in clients:
            stack.enter_context(client)
        assert len({lake.worker_of(client) for client in clients}) == 1
        third = stack.enter_context(lake.negotiated(offer=offer(guid)))
        for client in clients:
            assert bind(lake, third, client).status == status.SUCCESS
        files = [client.open(f"of {number}") for number, client in enumerate(clients)]
        for client, file in zip(clients, files, strict=True):
            third.session_id, third.tree_id, third.sign = client.session_id, client.tree_id, True
            assert third.write(file, 0, b"by the third").status == status.SUCCESS


def test_connections_that_come_at_the_same_moment_do_not_send_each_other_away(lake: Server) -> None:
    for _ in range(3):
        terms = offer(os.urandom(16))
        with ThreadPoolExecutor(8) as threads, contextlib.ExitStack() as stack:
            clients = list(threads.map(lambda _, terms=terms: lake.client(offer=terms), range(8)))
            for client in clients:
                stack.enter_context(client)
                client.sign = True
            assert {echo(client) for client in clients} == {status.SUCCESS}


def test_a_client_that_leaves_in_the_middle_leaves_nothing(lake: Server) -> None:
    first, spare = pair(lake)
    with first, spare:
        session_id = first.session_id
        for _ in range(30):
            leaving = lake.negotiated(offer=offer(os.urandom(16)))
            leaving.channels[session_id] = first.first[session_id]
            leaving.send(setup(session_id))
            leaving.close_connection()
        assert bind(lake, spare, first).status == status.SUCCESS
        assert echo(first) == echo(spare) == status.SUCCESS
        eventually(lambda: len(lake.status("sessions")["sessions"]) == 1, what="sessions are left")


def setup(session_id: int) -> Request:
    """The first SESSION_SETUP of a binding."""
    context = spnego.client("nobody", "at all", hostname="localhost", service="cifs", protocol="negotiate")
    token = context.step() or b""
    start = HEADER_SIZE + session.SESSION_SETUP_REQUEST.size
    fixed = session.SESSION_SETUP_REQUEST.pack(25, c.SESSION_FLAG_BINDING, 1, 1, 0, start, len(token), 0)
    return Request(Command.SESSION_SETUP, fixed + token, session_id=session_id, tree_id=0, sign=True)


def test_forgers_disturb_nobody(lake: Server) -> None:
    """Who knows a client's GUID and its SessionId, but not its key, gets nowhere near it, however often he tries."""
    guid = os.urandom(16)
    victim, stranger = lake.client(offer=offer(guid)), lake.client()
    with victim, stranger:
        victim.sign = True
        file = victim.open("a victim's")
        process, held = lake.worker_of(victim), lake.buffers_in_use()
        for _ in range(FORGERS):
            with lake.negotiated(offer=offer(guid)) as forger:
                forger.channels[victim.session_id] = stranger.first[stranger.session_id]
                for _ in range(MAX_FORGERIES):
                    assert forger.compound(setup(victim.session_id))[0].status == status.ACCESS_DENIED
                with pytest.raises(LOST):
                    forger.compound(setup(victim.session_id))
        assert lake.worker_of(victim) == process
        assert victim.write(file, 0, b"as before").status == status.SUCCESS
        eventually(lambda: lake.buffers_in_use() <= held, 30, "buffers are left")  # an idle worker gives its own back each ten seconds


# what others' deaths leave; a thread cannot be killed


@one_by_one
def test_the_owner_dies_while_it_is_asked(server: Server) -> None:
    first, second = pair(server)
    with second:
        owner = server.worker_of(first)
        owner.suspend()
        answers: list[int] = []
        waiting = threading.Thread(target=lambda: answers.append(bind(server, second, first).status))
        waiting.start()
        time.sleep(0.2)
        owner.kill()
        waiting.join(20)
        assert answers == [status.USER_SESSION_DELETED]
        assert second.session_setup(server.user, server.password).status == status.SUCCESS
    with pytest.raises(LOST):
        first.receive()


@one_by_one
@pytest.mark.parametrize("victim", ["the owner", "the other"])
def test_a_death_at_any_moment_of_the_hand_over(server: Server, victim: str) -> None:
    """Whoever is left goes on, and everything can be done again."""
    moments = random.Random(7)
    for _ in range(12):
        first, second = pair(server)
        with first, second:
            process = server.worker_of(first if victim == "the owner" else second)
            timer = threading.Timer(moments.uniform(0, 0.06), kill, (process,))
            timer.start()
            with contextlib.suppress(*LOST):
                bind(server, second, first)
            timer.join()
            if victim == "the other":
                assert echo(first) == status.SUCCESS
        again, channel = pair(server)
        with again, channel:
            assert bind(server, channel, again).status == status.SUCCESS
    assert "unexpected error" not in server.log


def kill(process: psutil.Process) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.kill()


def test_a_channel_may_be_refused(make_server: Callable[..., Server]) -> None:
    server = make_server(settings={"server multi channel support": "no"})
    first, second = pair(server)
    with first, second:
        answer = bind(server, second, first)
        assert (answer.status, answer.valid) == (status.REQUEST_NOT_ACCEPTED, True)
        assert second.session_setup(server.user, server.password).status == status.SUCCESS
        assert [row["bound"] for row in server.status("channels")["channels"]] == [False, False]
