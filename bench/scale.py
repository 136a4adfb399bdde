"""``python -m bench.scale``: what a server costs with 1, 10, 100 and 500 connected clients.

Owns: the connections, made one after the other, and the figures. For each number of clients: connects per second and their CPU; private
memory of a client that is silent; CPU per operation when one client works and the others are silent, and when all take turns. Beside it
what a bare fork of this interpreter keeps for itself. With --directory the raw data (``scale-DATE.json``) and the drawing go there.
Invariant: a server is stopped and its folder removed whatever happens; nothing waits longer than a connection's time-out, and no server
takes longer than its part of --limit: what it has shown until then is kept, and the rest is said to be missing.
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
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from bench.drawing import Panel, drawing
from bench.load.account import cpu_seconds
from bench.load.peers import PEERS, Peer, PeerError
from bench.load.run import settled
from bench.load.wire import ECHO, ECHO_BODY, READ, Connection, WireFault, read_body
from bench.load.workloads import GENERIC_READ_DATA, KIB, MIB

# A figure's name in the raw data, and what it is called in the drawing.
ROWS = {
    "connects_per_second": "connects per second, one after the other",
    "connect_cpu_us": "server CPU per connect, µs",
    "private_kib": "private memory of a silent client, KiB",
    "read_one_cpu_us": "server CPU per 4 KiB read, one client works, µs",
    "read_all_cpu_us": "server CPU per 4 KiB read, all take turns, µs",
    "echo_all_cpu_us": "server CPU per ECHO, all take turns, µs",
}
USUAL = ("millpond", "millpond-threaded", "samba")


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


class Pace(NamedTuple):
    """How long a sample takes, and when (monotonic seconds) a server has to be done with all of them."""

    seconds: float
    until: float

    def check(self) -> None:
        """``PeerError`` when it is too late."""
        if time.monotonic() > self.until:
            raise PeerError("not done in time: see --limit")


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
    usual = ",".join(USUAL)
    parser.add_argument("--peers", default=usual, help=f"of {', '.join(PEERS)} (default {usual})")
    parser.add_argument("--seconds", type=float, default=1.5, help="length of one sample (default 1.5)")
    parser.add_argument("--limit", type=float, default=330.0, help="seconds that all of it may take (default 330)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a global parameter for millpond")
    parser.add_argument("--directory", type=Path, metavar="DIR", help="write raw data and drawing there")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Measures, prints, writes; 1 when a server did not start or came to no end, with what there is shown and written all the same."""
    asked = options(argv)
    counts = sorted({int(text) for text in asked.clients.split(",")})
    titles = asked.peers.split(",")
    unknown = set(titles) - set(PEERS)
    if unknown:
        print(f"no such server: {', '.join(sorted(unknown))}", file=sys.stderr)
        return 1
    _allow_files(2 * counts[-1] + 200)
    steps: list[Step] = []
    missing: list[str] = []
    for title in titles:
        settings = dict(text.split("=", 1) for text in asked.set) if title.startswith("millpond") else {}
        try:
            for step in measure(title, counts, Pace(asked.seconds, time.monotonic() + asked.limit / len(titles)), settings):
                steps.append(step)
                print(f"{title}: {step.clients} clients done", file=sys.stderr, flush=True)
        except (PeerError, OSError, WireFault) as error:
            missing.append(f"{title}: {error}")
            print(missing[-1], file=sys.stderr)
    found = document(steps, bare_fork(), asked.set, missing)
    print(table(found))
    if asked.directory:
        write(asked.directory, found)
    return 1 if missing else 0


def _allow_files(wanted: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted and (hard == resource.RLIM_INFINITY or hard >= wanted):
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def measure(title: str, counts: Sequence[int], pace: Pace, settings: dict[str, str]) -> Iterator[Step]:
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
        yield from _steps(peer, counts, pace)
    finally:
        peer.stop()
        peer.remove()


def _steps(peer: Peer, counts: Sequence[int], pace: Pace) -> Iterator[Step]:
    buffer = bytearray(MIB)  # one for all: they take turns
    guests: list[Guest] = []
    with contextlib.ExitStack() as stack:
        # Two more are connected all the while: pages that only one process has count as its own, so a server would seem to shrink when its
        # first client's process, and that when the second's, comes to share them.
        for _ in range(2):
            stack.callback(_arrive(peer, buffer).connection.close)
        base = settled(peer)
        for count in counts:
            cpu, begin = cpu_seconds(peer.pid), time.perf_counter()
            arrived = count - len(guests)
            while len(guests) < count:
                pace.check()
                guests.append(_arrive(peer, buffer))
                stack.callback(guests[-1].connection.close)
            spent, elapsed = cpu_seconds(peer.pid) - cpu, time.perf_counter() - begin
            private = (settled(peer) - base) / count / KIB
            yield Step(
                peer.title, count, arrived / elapsed, spent / arrived * 1e6, private, _cost(peer, guests[:1], pace, Guest.read),
                _cost(peer, guests, pace, Guest.read), _cost(peer, guests, pace, Guest.echo),
            )  # fmt: skip


def _arrive(peer: Peer, buffer: bytearray) -> Guest:
    connection = Connection(peer.where, "plain", buffer)
    connection.open(gather=False)
    return Guest(connection, connection.create("data0.bin", access=GENERIC_READ_DATA))


def _cost(peer: Peer, guests: Sequence[Guest], pace: Pace, act: Callable[[Guest], None]) -> float:
    """Server CPU in microseconds per operation while the guests take turns, each with one request at a time."""
    for guest in guests:
        pace.check()
        act(guest)
    done, turns = 0, itertools.cycle(guests)
    before, until = cpu_seconds(peer.pid), time.perf_counter() + pace.seconds
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


def document(steps: Sequence[Step], floor: float, settings: Sequence[str], missing: Sequence[str]) -> dict[str, Any]:
    """The raw data."""
    return {
        "taken": datetime.now(UTC).isoformat(timespec="seconds"), "python": platform.python_version(), "kernel": platform.release(),
        "processors": os.cpu_count(), "settings": list(settings), "bare_fork_kib": round(floor, 1), "missing": list(missing),
        "steps": [step._asdict() | {name: round(getattr(step, name), 1) for name in ROWS} for step in steps],
    }  # fmt: skip


def table(found: dict[str, Any]) -> str:
    """One line for each server and number of clients."""
    lines = [f"{'server':<20}{'clients':>8}" + "".join(f"{name.replace('_', ' '):>22}" for name in ROWS)]
    for step in found["steps"]:
        lines.append(f"{step['peer']:<20}{step['clients']:>8}" + "".join(f"{step[name]:>22,.1f}" for name in ROWS))
    lines.append(f"\nA bare fork of this interpreter keeps {found['bare_fork_kib']:,.0f} KiB for itself.")
    lines += [f"missing: {text}" for text in found["missing"]]
    return "\n".join(lines)


def figure(found: dict[str, Any]) -> str:
    """A panel for each figure, a line for each server."""
    peers = list(dict.fromkeys(step["peer"] for step in found["steps"]))
    panels = [
        Panel(
            title, {peer: [(step["clients"], step[name]) for step in found["steps"] if step["peer"] == peer] for peer in peers},
            "connected clients", log=True, dots=True,
        )
        for name, title in ROWS.items()
    ]  # fmt: skip
    about = (
        f"{found['taken'][:10]}, Linux {found['kernel']}, CPython {found['python']}, {found['processors']} processors, "
        f"shared with the client; a bare fork of the interpreter keeps {found['bare_fork_kib']:,.0f} KiB"
    )
    return drawing("What connected clients cost", panels, [about, *(f"missing: {text.splitlines()[0]}" for text in found["missing"])])


def write(directory: Path, found: dict[str, Any]) -> None:
    """Raw data and drawing."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / f"scale-{found['taken'][:10]}.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    (directory / "scale.svg").write_text(figure(found), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
