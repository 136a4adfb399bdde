"""The master with real forks, real signals and small programs (``fake_server``)."""

from __future__ import annotations

import os
import re
import select
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from pools.counters import CounterSegment
from smbd.child import COUNTERS_FILE
from smbd.config import Config
from smbd.master import turn_bytes

SCRIPT = Path(__file__).with_name("fake_server.py")


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        number: int = one.getsockname()[1]
        return number


class Client:
    """A line to a worker."""

    def __init__(self, port: int) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=15)
        self.stream = self.sock.makefile("rw")

    def say(self, text: str) -> None:
        self.stream.write(text + "\n")
        self.stream.flush()

    def hear(self) -> str:
        return self.stream.readline().strip()

    def ask(self, text: str) -> str:
        self.say(text)
        return self.hear()

    def ended(self) -> bool:
        """Waits for the other side to close."""
        try:
            return self.stream.read() == ""
        except ConnectionResetError:
            return True


class Running:
    """A master and its log."""

    def __init__(self, directory: Path, *settings: str) -> None:
        self.directory = directory
        self.port = free_port()
        self.log_path = directory / "log"
        with self.log_path.open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(SCRIPT), str(directory), str(self.port), *settings], stdout=subprocess.PIPE, stderr=log, text=True
            )

    def wait(self) -> Running:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n", self.log
        return self

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    def client(self) -> Client:
        return Client(self.port)

    def log_has(self, pattern: str, seconds: float = 15.0) -> re.Match[str]:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            found = re.search(pattern, self.log)
            if found:
                return found
            select.select([], [], [], 0.02)
        raise AssertionError(f"no {pattern!r} in:\n{self.log}")

    def turn_is(self, wanted: int, seconds: float = 15.0) -> None:
        """Waits for the master to write down that so much is set aside for the turn."""
        counters = CounterSegment.attach(str(self.directory / "lock" / COUNTERS_FILE))
        deadline = time.monotonic() + seconds
        while (found := counters.row(0).get("pool_turn")) != wanted:
            assert time.monotonic() < deadline, found
            select.select([], [], [], 0.02)
        counters.close()

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(15)

    def children(self) -> list[psutil.Process]:
        return list(psutil.Process(self.process.pid).children())


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    made: list[Running] = []

    def begin(*settings: str, directory: Path = tmp_path) -> Running:
        made.append(Running(directory, *settings))
        return made[-1]

    yield begin
    for one in made:
        if one.process.poll() is None:
            one.process.kill()
            one.process.wait(5)
        assert one.process.stdout is not None
        one.process.stdout.close()


def test_each_connection_has_a_process_of_its_own_with_its_descriptors_only(start: Callable[..., Running]) -> None:
    running = start().wait()
    first, second = running.client(), running.client()
    pid, slot, generation, fds = first.ask("who").split()
    other_pid, other_slot, _, other_fds = second.ask("who").split()
    assert pid != other_pid
    assert slot != other_slot
    assert generation == "1"
    assert fds == other_fds
    assert running.stop() == 0


def test_a_slot_is_used_again_with_a_new_generation(start: Callable[..., Running]) -> None:
    running = start().wait()
    first = running.client()
    _, slot, generation, _ = first.ask("who").split()
    first.sock.close()
    first.stream.close()
    running.log_has(rf"worker {slot}\.{generation} .* ended: exit status 0")
    _, slot_again, generation_again, _ = running.client().ask("who").split()
    assert (slot_again, int(generation_again)) == (slot, int(generation) + 1)


def test_a_service_answers_and_an_absent_one_is_gone(start: Callable[..., Running]) -> None:
    client = start().wait().client()
    assert client.ask("echo hello") == "hello from 1"
    assert client.ask("absent").startswith("gone")


def test_a_request_that_was_under_way_is_answered_by_the_next_process(start: Callable[..., Running], tmp_path: Path) -> None:
    client = start().wait().client()
    marker = tmp_path / "marker"
    assert client.ask(f"echo die once {marker}") == f"die once {marker} from 2"


def test_a_request_that_kills_its_service_is_given_up(start: Callable[..., Running]) -> None:
    client = start().wait().client()
    assert client.ask("echo die").startswith("gone")
    assert client.ask("echo still there").startswith("still there from")


def test_the_broker_hears_of_every_death(start: Callable[..., Running]) -> None:
    running = start().wait()
    victim, witness = running.client(), running.client()
    pid, slot, generation, _ = victim.ask("who").split()
    os.kill(int(pid), signal.SIGKILL)
    assert victim.ended()
    running.log_has("ended: killed by SIGKILL")
    assert f"{slot}.{generation}" in witness.ask("dead").split()


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("forbidden", "FORBIDDEN, which a worker may not send"),
        ("malformed", "malformed LEASE_ASK"),
        ("transaction", "inside a transaction"),
    ],
)
def test_who_breaks_a_rule_is_killed_and_nobody_else_notices(start: Callable[..., Running], command: str, reason: str) -> None:
    running = start().wait()
    victim, witness = running.client(), running.client()
    assert witness.ask("echo a") == "a from 1"
    victim.say(command)
    assert victim.ended()
    assert reason in running.log
    assert witness.ask("echo b") == "b from 1"
    assert running.stop() == 0


def test_whatever_a_worker_has_counted_ends_itself_only(start: Callable[..., Running]) -> None:
    running = start().wait()
    witness = running.client()
    assert witness.ask("echo a") == "a from 1"
    for generation in (1, 2):  # the second sum does not fit into a word
        victim = running.client()
        victim.say("spoil")
        assert victim.ended()
        running.log_has(rf"worker 17\.{generation} .* ended")
    assert witness.ask("echo b") == "b from 1"
    assert running.stop() == 0


def test_an_error_in_a_worker_is_logged_with_its_traceback(start: Callable[..., Running]) -> None:
    running = start().wait()
    client = running.client()
    client.say("raise")
    assert client.ended()
    running.log_has("RuntimeError: a bug")
    running.log_has("ended: exit status 1")


def test_leases_are_answered(start: Callable[..., Running]) -> None:
    client = start().wait().client()
    assert client.ask("lease 2 3") == "Lease(class_index=2, slabs=3, turn=0)"
    assert client.ask("lease 99 1") == "Lease(class_index=99, slabs=0, turn=0)"


def test_a_descriptor_travels_with_its_true_sender(start: Callable[..., Running]) -> None:
    running = start().wait()
    sender, receiver = running.client(), running.client()
    _, slot, generation, _ = sender.ask("who").split()
    _, other, _, _ = receiver.ask("who").split()
    assert sender.ask(f"pass {other}") == f"hello from {other}, sent by {slot}.{generation}"


def test_a_flooded_service_leaves_busy_to_the_flooder(start: Callable[..., Running]) -> None:
    running = start().wait()
    jam, flooder, witness = running.client(), running.client(), running.client()
    jam.say("echo stop reading")
    assert int(flooder.ask("flood 3000")) > 1000
    assert witness.ask("lease 0 1") == "Lease(class_index=0, slabs=1, turn=0)"


def test_reload_reaches_workers_and_a_bad_file_changes_nothing(start: Callable[..., Running], tmp_path: Path) -> None:
    running = start().wait()
    client = running.client()
    client.ask("who")
    (tmp_path / "new").write_text("bad")
    running.process.send_signal(signal.SIGHUP)
    running.log_has("the configuration stays as it is: new:1: is bad")
    (tmp_path / "new").write_text("better")
    running.process.send_signal(signal.SIGHUP)
    assert client.hear() == "reload better"


def test_reload_keeps_what_is_of_the_start_and_takes_the_rest(start: Callable[..., Running], tmp_path: Path) -> None:
    running = start("max_smbd_processes=4").wait()
    first = running.client()
    first.ask("who")
    directories = dict.fromkeys(("lock_directory", "pid_directory", "state_directory"), tmp_path / "elsewhere")
    wanted = directories | {"max_smbd_processes": 5, "server_mode": "threaded", "pool_reserve": 1 << 20}
    (tmp_path / "new").write_text("\n".join(["better", *(f"{name}={value}" for name, value in wanted.items())]))
    running.process.send_signal(signal.SIGHUP)
    assert first.hear() == "reload better"
    for name in (*directories, "server_mode"):
        running.log_has(f"`{name.replace('_', ' ')}` changes when the server is started again")
    running.log_has("`max smbd processes`: there is room for 4 until the server is started again")
    assert running.client().ask("kept") == f"{tmp_path / 'lock'} forked"
    running.turn_is(1 << 20)
    # Half of a small budget is all there is for the turn, until the budget grows again.
    for budget, turn in ((1 << 20, 1 << 19), (64 << 20, turn_bytes(Config()))):
        (tmp_path / "new").write_text(f"better\npool_budget={budget}")
        running.process.send_signal(signal.SIGHUP)
        running.turn_is(turn)
    assert running.stop() == 0
    assert not (tmp_path / "elsewhere").exists()


def test_an_orderly_stop_leaves_nothing(start: Callable[..., Running], tmp_path: Path) -> None:
    running = start().wait()
    client = running.client()
    client.ask("who")
    children = running.children()
    assert (tmp_path / "pid" / "millpond.pid").read_text().strip() == str(running.process.pid)
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700
    assert running.stop() == 0
    assert client.ended()
    assert not psutil.wait_procs(children, 5)[1]
    assert not (tmp_path / "pid" / "millpond.pid").exists()


def test_who_does_not_stop_is_made_to(start: Callable[..., Running]) -> None:
    running = start("stubborn").wait()
    client = running.client()
    client.ask("who")
    assert running.stop() == 0
    assert "sending SIGTERM" in running.log


def test_children_end_when_the_master_is_killed(start: Callable[..., Running]) -> None:
    running = start().wait()
    client = running.client()
    client.ask("who")
    children = running.children()
    running.process.kill()
    assert not psutil.wait_procs(children, 5)[1]


def test_a_second_instance_says_who_is_there(start: Callable[..., Running], tmp_path: Path) -> None:
    first = start().wait()
    second = start()
    assert second.process.wait(10) == 1
    assert f"as process {first.process.pid}" in second.log
    assert first.client().ask("echo a") == "a from 1"


def test_a_port_in_use_is_one_clear_line(start: Callable[..., Running], tmp_path: Path) -> None:
    first = start().wait()
    other = tmp_path / "other"
    other.mkdir()
    log = (other / "log").open("w")
    done = subprocess.run([sys.executable, str(SCRIPT), str(other), str(first.port)], stderr=log, timeout=10, check=False)
    log.close()
    text = (other / "log").read_text()
    assert done.returncode == 1
    assert text.count("\n") == 1
    assert f"cannot listen on 127.0.0.1:{first.port}: Address already in use" in text


def test_the_limit_of_processes_closes_the_door(start: Callable[..., Running]) -> None:
    running = start("max_smbd_processes=2").wait()
    first, second = running.client(), running.client()
    first.ask("who")
    second.ask("who")
    assert running.client().ended()
    running.log_has("`max smbd processes` allows no more")
    first.stream.close()
    first.sock.close()
    running.log_has("worker 16.1 .* ended")
    assert running.client().ask("echo a") == "a from 1"


def test_a_budget_without_room_for_a_reserve_closes_the_door(start: Callable[..., Running]) -> None:
    running = start("pool_budget=524288", "pool_reserve=1").wait()
    clients = [running.client() for _ in range(4)]
    assert clients[0].ask("echo a") == "a from 1"
    assert clients[3].ended()
    running.log_has("has no room for another connection's reserve")


def test_who_may_not_connect_is_not_read(start: Callable[..., Running]) -> None:
    running = start("hosts_deny=127.0.0.1").wait()
    assert running.client().ended()
    running.log_has(r"127.0.0.1:\d+ refused: `hosts allow` and `hosts deny`")
    assert not [child for child in running.children() if "worker" in " ".join(child.cmdline())]


def test_connections_with_nobody_logged_on_are_few_for_one_address(start: Callable[..., Running]) -> None:
    running = start("max_smbd_processes=40").wait()
    first = [running.client() for _ in range(16)]
    for client in first:
        client.ask("who")
    assert running.client().ended()
    running.log_has("16 connections are open from this address with nobody logged on")
    assert first[0].ask("sessions 1") == "noted"
    assert running.client().ask("echo a") == "a from 1"


def test_who_asks_and_does_not_listen_cannot_fill_the_master(start: Callable[..., Running]) -> None:
    running = start().wait()
    flooder, bystander = running.client(), running.client()
    before = psutil.Process(running.process.pid).memory_info().rss
    flooder.say("ping")
    assert flooder.ended()
    running.log_has("asked and read none of 4096 messages; killed")
    assert bystander.ask("echo a") == "a from 1"
    assert psutil.Process(running.process.pid).memory_info().rss - before < 64 << 20


# --- server mode = threaded: workers are threads of the host -----------------------------------------------------------

THREADED = "server_mode=threaded"


def test_threads_have_slots_and_generations_of_their_own(start: Callable[..., Running]) -> None:
    running = start(THREADED).wait()
    first, second = running.client(), running.client()
    pid, slot, generation, _ = first.ask("who").split()
    other_pid, other_slot, _, _ = second.ask("who").split()
    assert pid == other_pid != str(running.process.pid)
    assert slot != other_slot
    first.stream.close()
    first.sock.close()
    running.log_has(rf"worker {slot}\.{generation} \(a thread of process {pid}, client 127.0.0.1\) ended: by itself")
    assert slot + "." + generation in second.ask("dead").split()
    _, slot_again, generation_again, _ = running.client().ask("who").split()
    assert (slot_again, int(generation_again)) == (slot, int(generation) + 1)
    assert running.stop() == 0


def test_an_error_in_a_thread_ends_its_connection_only(start: Callable[..., Running]) -> None:
    running = start(THREADED).wait()
    victim, witness = running.client(), running.client()
    pid = witness.ask("who").split()[0]
    victim.say("raise")
    assert victim.ended()
    running.log_has("RuntimeError: a bug")
    running.log_has("ended: unexpected error")
    assert witness.ask("who").split()[0] == pid
    assert running.client().ask("who").split()[0] == pid


@pytest.mark.parametrize(
    ("command", "reason"), [("forbidden", "FORBIDDEN, which a worker may not send"), ("malformed", "malformed LEASE_ASK")]
)
def test_a_thread_that_breaks_a_rule_is_told_to_end(start: Callable[..., Running], command: str, reason: str) -> None:
    running = start(THREADED).wait()
    victim, witness = running.client(), running.client()
    pid = witness.ask("who").split()[0]
    victim.say(command)
    assert victim.ended()
    running.log_has(f"{reason}.*; told to end")
    running.log_has("ended: by itself")
    assert witness.ask("who").split()[0] == pid
    assert running.stop() == 0


@pytest.mark.parametrize(
    ("command", "reason"), [("transaction", "is inside a transaction since"), ("forbidden_and_stay", "was told to end 5 s ago")]
)
def test_a_thread_that_cannot_be_ended_takes_its_process_with_it(start: Callable[..., Running], command: str, reason: str) -> None:
    running = start(THREADED).wait()
    victim, witness = running.client(), running.client()
    pid = witness.ask("who").split()[0]
    victim.say(command)
    assert witness.ended()
    assert victim.ended()
    running.log_has(rf"host 5\.1 .* has a thread, worker 16\.1, client 127.0.0.1, that {reason}.*: 2 connections end with it; killed")
    assert running.client().ask("who").split()[0] != pid
    assert running.stop() == 0


def test_a_killed_host_is_started_again_and_all_its_threads_count_as_dead(start: Callable[..., Running]) -> None:
    running = start(THREADED).wait()
    clients = [running.client() for _ in range(3)]
    pid, *_ = {client.ask("who").split()[0] for client in clients}
    os.kill(int(pid), signal.SIGKILL)
    assert all(client.ended() for client in clients)
    fresh = running.client()
    assert fresh.ask("who").split()[0] != pid
    assert {"16.1", "17.1", "18.1"} <= set(fresh.ask("dead").split())
    assert fresh.ask("echo hello") == "hello from 1"
    running.log_has("3 connections have ended with the process that served them")
    assert running.stop() == 0


def test_a_host_that_keeps_dying_keeps_the_door_shut_and_then_opens_it(start: Callable[..., Running]) -> None:
    running = start(THREADED).wait()
    for _ in range(3):
        client = running.client()
        os.kill(int(client.ask("who").split()[0]), signal.SIGKILL)
        assert client.ended()
    running.log_has(r"host .* starting it again in 0\.50 s")
    assert running.client().ask("echo a") == "a from 1"
    assert "refused" not in running.log


def test_threads_hear_of_reload_and_of_stop(start: Callable[..., Running], tmp_path: Path) -> None:
    running = start(THREADED).wait()
    client = running.client()
    client.ask("who")
    (tmp_path / "new").write_text("better")
    running.process.send_signal(signal.SIGHUP)
    assert client.hear() == "reload better"
    children = running.children()
    assert running.stop() == 0
    assert client.ended()
    assert not psutil.wait_procs(children, 5)[1]
    assert "Traceback" not in running.log


def test_threads_that_do_not_stop_are_made_to(start: Callable[..., Running]) -> None:
    running = start("stubborn", THREADED).wait()
    client = running.client()
    client.ask("who")
    assert running.stop() == 0
    assert "sending SIGTERM" in running.log


def test_threads_end_when_the_master_is_killed(start: Callable[..., Running]) -> None:
    running = start(THREADED).wait()
    running.client().ask("who")
    children = running.children()
    running.process.kill()
    assert not psutil.wait_procs(children, 10)[1]
