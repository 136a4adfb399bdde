"""``python -m bench.scale``: what a server costs with 1, 10, 100 and 500 connected clients.

Owns: the connections, made one after the other, and the figures. For each number of clients: connects per second and their CPU; private
memory of a client that is silent; CPU per operation when one client works and the others are silent, and when all take turns. Beside it
what a bare fork of this interpreter keeps for itself.
Invariant: a server is stopped and its folder removed whatever happens; nothing waits longer than a connection's time-out.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import platform
import resource
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import psutil

from bench.load.account import cpu_seconds
from bench.load.peers import PEERS, Peer, PeerError
from bench.load.run import settled
from bench.load.wire import ECHO, ECHO_BODY, READ, Connection, WireFault, read_body
from bench.load.workloads import GENERIC_READ_DATA, KIB, MIB

ROWS = ("connects_per_second", "connect_cpu_us", "private_kib", "read_one_cpu_us", "read_all_cpu_us", "echo_all_cpu_us")


class Step(NamedTuple):
    """The figures of one server with ``clients`` connected ones; CPU in microseconds per operation, memory in KiB per client."""

    peer: str
    clients: int
    connects_per_second: float
    connect_cpu_us: float
    private_kib: float
    read_one_cpu_us: float
    read_all_cpu_us: float
    echo_all_cpu_us: float


class Guest(NamedTuple):
    """A connected client with a file open."""

    connection: Connection
    file_id: bytes

    def read(self) -> None:
        """4 KiB, always the same."""
        self.connection.call(READ, read_body(self.file_id, 0, 4 * KIB))

    def echo(self) -> None:
        """The least a server can do."""
        self.connection.call(ECHO, ECHO_BODY)


def options(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The parsed command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.scale", description="What a server costs with many connected clients.")
    parser.add_argument("--clients", default="1,10,100,500", help="numbers of clients, ascending (default 1,10,100,500)")
    parser.add_argument("--peers", default="millpond,samba", help=f"of {', '.join(PEERS)} (default millpond,samba)")
    parser.add_argument("--seconds", type=float, default=1.5, help="length of one sample (default 1.5)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a global parameter for millpond")
    parser.add_argument("--json", type=Path, metavar="FILE", help="append the figures, one line for each step")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Measures, prints, appends; 1 when a server did not start."""
    asked = options(argv)
    counts = sorted({int(text) for text in asked.clients.split(",")})
    titles = asked.peers.split(",")
    unknown = set(titles) - set(PEERS)
    if unknown:
        print(f"no such server: {', '.join(sorted(unknown))}", file=sys.stderr)
        return 1
    _allow_files(2 * counts[-1] + 200)
    steps: list[Step] = []
    try:
        for title in titles:
            settings = dict(text.split("=", 1) for text in asked.set) if title.startswith("millpond") else {}
            steps += measure(title, counts, asked.seconds, settings)
    except (PeerError, OSError, WireFault) as error:
        print(error, file=sys.stderr)
        return 1
    floor = bare_fork()
    print(table(steps, floor))
    if asked.json:
        append(asked.json, steps, floor, asked.set)
    return 0


def _allow_files(wanted: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted and (hard == resource.RLIM_INFINITY or hard >= wanted):
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def measure(title: str, counts: Sequence[int], seconds: float, settings: dict[str, str]) -> list[Step]:
    """One server with each number of clients in turn; those that are connected stay for the next number."""
    peer = PEERS[title]()
    try:
        file = peer.share / "data0.bin"
        file.write_bytes(bytes(MIB))
        file.chmod(0o666)
        if hasattr(peer, "settings"):
            # all clients come from one address, which may have three quarters of the places
            peer.settings.update({"max smbd processes": str(max(1000, 2 * counts[-1])), **settings})
        peer.start()
        return list(_steps(peer, counts, seconds))
    finally:
        peer.stop()
        peer.remove()


def _steps(peer: Peer, counts: Sequence[int], seconds: float) -> list[Step]:
    buffer = bytearray(MIB)  # one for all: they take turns
    guests: list[Guest] = []
    steps = []
    with contextlib.ExitStack() as stack:
        _arrive(peer, buffer).connection.close()  # what the first client alone brings about is not counted
        base = settled(peer)
        for count in counts:
            cpu, begin = cpu_seconds(peer.pid), time.perf_counter()
            arrived = count - len(guests)
            while len(guests) < count:
                guests.append(_arrive(peer, buffer))
                stack.callback(guests[-1].connection.close)
            spent, elapsed = cpu_seconds(peer.pid) - cpu, time.perf_counter() - begin
            private = (settled(peer) - base) / count / KIB
            steps.append(
                Step(
                    peer.title, count, arrived / elapsed, spent / arrived * 1e6, private, _cost(peer, guests[:1], seconds, Guest.read),
                    _cost(peer, guests, seconds, Guest.read), _cost(peer, guests, seconds, Guest.echo),
                )
            )
            print(f"{peer.title}: {count} clients done", file=sys.stderr, flush=True)
    return steps


def _arrive(peer: Peer, buffer: bytearray) -> Guest:
    connection = Connection(peer.where, "plain", buffer)
    connection.open(gather=False)
    return Guest(connection, connection.create("data0.bin", access=GENERIC_READ_DATA))


def _cost(peer: Peer, guests: Sequence[Guest], seconds: float, act: object) -> float:
    """Server CPU in microseconds per operation while the guests take turns, each with one request at a time."""
    assert callable(act)
    for guest in guests:
        act(guest)
    done, turns = 0, itertools.cycle(guests)
    before, until = cpu_seconds(peer.pid), time.perf_counter() + seconds
    while time.perf_counter() < until:
        act(next(turns))
        done += 1
    return (cpu_seconds(peer.pid) - before) / done * 1e6


def bare_fork() -> float:
    """KiB that a child of a plain fork keeps for itself when it does nothing but wait: a floor."""
    ready, ready_end = os.pipe()
    stay_end, stay = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.close(stay)
            os.write(ready_end, b".")
            os.read(stay_end, 1)  # until the parent is done, or gone
        finally:
            os._exit(0)
    try:
        os.close(stay_end)
        os.close(ready_end)
        os.read(ready, 1)
        return float(psutil.Process(child).memory_full_info().uss) / KIB
    finally:
        os.close(stay)
        os.close(ready)
        os.waitpid(child, 0)


def table(steps: Sequence[Step], floor: float) -> str:
    """One line for each server and number of clients."""
    lines = [f"{'server':<20}{'clients':>8}" + "".join(f"{name.replace('_', ' '):>22}" for name in ROWS)]
    for step in steps:
        lines.append(f"{step.peer:<20}{step.clients:>8}" + "".join(f"{getattr(step, name):>22,.1f}" for name in ROWS))
    lines.append(f"\nA bare fork of this interpreter keeps {floor:,.0f} KiB for itself.")
    return "\n".join(lines)


def append(path: Path, steps: Sequence[Step], floor: float, settings: Sequence[str]) -> None:
    """One line of JSON for each step."""
    about = {
        "taken": datetime.now(UTC).isoformat(timespec="seconds"), "python": platform.python_version(), "kernel": platform.release(),
        "processors": os.cpu_count(), "settings": list(settings), "bare_fork_kib": round(floor, 1),
    }
    with path.open("a", encoding="utf-8") as file:
        for step in steps:
            file.write(json.dumps(about | step._asdict()) + "\n")


if __name__ == "__main__":
    sys.exit(main())
