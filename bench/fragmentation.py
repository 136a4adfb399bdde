"""``python -m bench.fragmentation``: what the pools waste in each mode under requests of 4 KiB to 8 MiB, on one recorded workload.

Owns: the workload, its recording and its replay. The workload is run once against a server and recorded by ``millpond record``; the
recording is then replayed on a pool of each mode in a process of its own: as many requests as recorded in each interval, of the recorded
sizes, as many out at once as up to the recorded high water; which before which and for how long is drawn, the same way for all modes.

*Requested*: bytes asked for and out. *Handed out*: the buffers they are in, headroom and all. *Committed*: memory that is gone for others.
Internal fragmentation is the part of what is handed out that nobody asked for, external what is committed and not handed out.
Invariant: the figure has nothing that is not in the raw data beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bench.drawing import Panel, drawing
from bench.load.peers import ROOT, Millpond, Peer, PeerError
from bench.load.wire import READ, WRITE, Connection, WireFault, charge_of, read_body, write_body
from bench.load.workloads import GENERIC_READ_WRITE, KIB, MIB
from pools.arena import Arena
from pools.buffer import CAPACITIES, HEADROOM, PDU, TAILROOM, Buffer
from pools.counters import Row
from pools.pool import MODES, BufferPool, PoolExhausted, open_pool
from pools.port import memory
from smbd.monitor import recording
from smbd.monitor.recording import Recording, Sample

FIGURES = Path(__file__).resolve().parent / "figures"
RECORDING, RAW, FIGURE = "fragmentation-recording.jsonl", "fragmentation.jsonl", "fragmentation.svg"
INTERVAL = 0.25
# Seconds of each phase of the workload, and the sizes asked for in it: usual ones, whole files of any size, large ones, nothing.
PHASES = (
    (2.0, "small"), (2.0, "files"), (2.0, "large"), (3.0, ""), (2.0, "files"), (1.0, "small"), (7.0, ""), (2.0, "large"), (2.0, "files"),
)  # fmt: skip
DECAY = 3.0  # shorter than the pauses, so that the figure shows what goes back
_WINDOW, _BURST = 8, 24 * MIB
_LARGE = CAPACITIES[PDU]
_EVERY = 16  # requests between two measurements


# -- the workload --------------------------------------------------------------------------------------------------------------------


def sizes(phase: str, draw: random.Random) -> int:
    """One size. Files are of any size, each tenfold as likely as the next, and read or written in one go up to 8 MiB."""
    if phase == "small":
        return draw.choice((4, 4, 4, 16, 32, 64)) * KIB
    if phase == "large":
        return draw.choice((1, 1, 1, 2, 4, 8)) * MIB
    return int(4 * KIB * 2 ** draw.uniform(0, 11))


def work(peer: Peer) -> None:
    """The phases, one client, several requests under way."""
    draw = random.Random(4450)
    connection = Connection(peer.where, "plain")
    try:
        connection.open()
        file = connection.create("data.bin", access=GENERIC_READ_WRITE)
        payload = random.Random(1).randbytes(8 * MIB)
        for seconds, phase in PHASES:
            until = time.monotonic() + seconds
            if not phase:
                time.sleep(seconds)  # a pause of the client: it is the workload
            while phase and time.monotonic() < until:
                _burst(connection, file, payload, [sizes(phase, draw) for _ in range(draw.randint(1, _WINDOW))])
    finally:
        connection.close()


def _burst(connection: Connection, file: bytes, payload: bytes, wanted: Sequence[int]) -> None:
    """Every other request a write; as many at once as credits allow."""
    sent = total = 0
    for number, size in enumerate(wanted):
        charge = charge_of(size)
        total += size
        if sent and (total > _BURST or charge > connection.credits):
            break
        body = write_body(file, 0, payload[:size]) if number % 2 else read_body(file, 0, size)
        connection.frame((WRITE if number % 2 else READ, body, charge), credits=charge).send()
        sent += 1
    while sent:
        for reply in connection.replies():
            if reply.status:
                raise WireFault(f"status 0x{reply.status:08x}")
            sent -= 1


def record(path: Path) -> None:
    """The workload on a server in user format, recorded into ``path``."""
    peer = Millpond(settings={"data path": "user", "pool decay": f"{DECAY:g}"})
    try:
        with (peer.share / "data.bin").open("wb") as file:
            file.truncate(8 * MIB)
        (peer.share / "data.bin").chmod(0o666)
        peer.start()
        command = [
            sys.executable, "-m", "smbd", "record", "--config", str(peer.config), "--output", str(path), "--interval", str(INTERVAL),
            "--time", str(sum(seconds for seconds, _ in PHASES) + 8),
        ]  # fmt: skip
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) as recorder:
            try:
                _await(path, recorder)
                work(peer)
            finally:
                recorder.send_signal(2)
                recorder.wait(20)
    finally:
        peer.stop()
        peer.remove()


def _await(path: Path, recorder: subprocess.Popen[bytes]) -> None:
    """Until the first sample is written."""
    deadline = time.monotonic() + 20
    while not (path.exists() and path.stat().st_size):
        if recorder.poll() is not None or time.monotonic() > deadline:
            raise PeerError("the recording did not begin")
        time.sleep(0.05)


# -- the replay ------------------------------------------------------------------------------------------------------------------------


class Point(NamedTuple):
    """Bytes at a moment, the mean of an interval. ``*_large``: of requests above 64 KiB."""

    mode: str
    at: float
    requested: int
    handed_out: int
    committed: int
    requested_large: int
    handed_out_large: int


class Out(NamedTuple):
    """A buffer that is out and what was asked for."""

    buffer: Buffer
    size: int


class Replay:
    """One pool, the buffers that are out by class, and the sums of the interval under way."""

    def __init__(self, mode: str, given: Recording) -> None:
        self.mode = mode
        self.arena = Arena.create(given.head.ceiling) if mode != "malloc" else None
        if self.arena is not None:
            self.arena.map()
        self.row = Row.private()
        self.asked: list[tuple[int, int]] = []
        self.pool: BufferPool = open_pool(
            mode, self.arena, self.row, lambda *ask: self.asked.append(ask), lambda *_back: None,
            ceiling=given.head.ceiling, decay=given.head.decay,
        )  # fmt: skip
        self.out: dict[int, deque[Out]] = {size: deque() for size in given.head.classes}
        self.draw = random.Random(4450)
        self.sums = [0, 0, 0, 0, 0]
        self.measured = 0
        self.base = _resident()

    def interval(self, before: Sample, after: Sample) -> Point:
        """What was recorded between two samples."""
        wanted = list(self._wanted(before, after))
        self.draw.shuffle(wanted)
        for number, (size, own) in enumerate(wanted):
            self._one(size, own, max(1, after.classes[own].high_water))
            if number % _EVERY == 0:
                self._measure()
        for own, held in self.out.items():
            while len(held) > after.classes[own].in_use:
                held.popleft().buffer.release()
        self._measure()
        self.pool.tick(after.at)
        self._grant()
        means = [total // self.measured for total in self.sums]
        self.sums, self.measured = [0] * len(self.sums), 0
        return Point(self.mode, after.at, *means)

    def _wanted(self, before: Sample, after: Sample) -> Iterator[tuple[int, int]]:
        """Sizes with the recorded number and mean of each power of two, and the class that serves each."""
        for power, total in after.requests.items():
            count = total - before.requests.get(power, 0)
            if count <= 0 or power > max(self.out):
                continue
            mean = (after.requested[power] - before.requested.get(power, 0)) / count
            low = max(power / 2, 2 * mean - power)
            own = next(size for size in self.out if size >= power)
            for _ in range(count):
                yield max(1, round(self.draw.uniform(low, 2 * mean - low))), own

    def _one(self, size: int, own: int, most: int) -> None:
        held = self.out[own]
        while len(held) >= self.draw.randint(1, most):
            held.popleft().buffer.release()
        buffer = self._allocate(size)
        buffer.view[:: memory.PAGE] = bytes(-(-len(buffer.view) // memory.PAGE))  # a buffer is filled, so its pages are there
        held.append(Out(buffer, size))
        self._grant()

    def _allocate(self, size: int) -> Buffer:
        """As a server waits for a buffer: for a lease, then for others to come home."""
        while True:
            try:
                return self.pool.allocate(size)
            except PoolExhausted:
                if self.asked:
                    self._grant()
                    continue
                next(held for held in self.out.values() if held and held[0].buffer.capacity >= size).popleft().buffer.release()

    def _grant(self) -> None:
        asked, self.asked = self.asked, []
        for number, slabs in asked:
            self.pool.granted(number, slabs)

    def _measure(self) -> None:
        out = [one for held in self.out.values() for one in held]
        large = [one for one in out if one.size > _LARGE]
        committed = self.arena.committed_bytes() if self.arena is not None else max(0, _resident() - self.base)
        figures = (_asked(out), _handed(out), committed, _asked(large), _handed(large))
        self.sums = [total + figure for total, figure in zip(self.sums, figures, strict=True)]
        self.measured += 1


def _asked(out: Sequence[Out]) -> int:
    return sum(one.size for one in out)


def _handed(out: Sequence[Out]) -> int:
    return sum(HEADROOM + one.buffer.capacity + TAILROOM for one in out)


def _resident() -> int:
    """Bytes of this process in memory that no file stands behind."""
    resident, shared = Path("/proc/self/statm").read_text(encoding="ascii").split()[1:3]
    return (int(resident) - int(shared)) * memory.PAGE


def replay(mode: str, path: Path) -> None:
    """Prints a line of JSON for each interval."""
    memory.map_large_allocations()  # as the server does
    given = recording.read(path)
    made = Replay(mode, given)
    for before, after in zip(given.samples, given.samples[1:], strict=False):
        print(json.dumps(made.interval(before, after)._asdict()))


# -- the figure --------------------------------------------------------------------------------------------------------------------------


def summary(points: Sequence[Point]) -> dict[str, float]:
    """Parts of 1, over the whole time: internal of all and of requests above 64 KiB, external; mean and highest committed bytes."""
    sums = {name: sum(getattr(point, name) for point in points) for name in Point._fields[2:]}
    return {
        "internal": 1 - sums["requested"] / max(1, sums["handed_out"]),
        "internal_large": 1 - sums["requested_large"] / max(1, sums["handed_out_large"]),
        "external": max(0.0, 1 - sums["handed_out"] / max(1, sums["committed"])),
        "committed_mean": sums["committed"] / max(1, len(points)),
        "committed_high": float(max((point.committed for point in points), default=0)),
    }


def figure(points: Sequence[Point], about: str) -> str:
    """A panel for each mode, and what it comes to in words."""
    panels, notes = [], []
    highest = max((max(point[2:5]) / MIB for point in points), default=0.0)
    for mode in dict.fromkeys(point.mode for point in points):
        own = [point for point in points if point.mode == mode]
        series = {
            name.replace("_", " "): [(one.at, getattr(one, name) / MIB) for one in own] for name in ("committed", "handed_out", "requested")
        }
        panels.append(Panel(f"{mode}: MiB", series, "seconds", highest=highest))
        notes.append(f"{mode}: {words(summary(own))}")
    return drawing("Fragmentation under requests of 4 KiB to 8 MiB, one connection", panels, [*notes, about])


def words(found: dict[str, float]) -> str:
    """A summary in a line."""
    return (
        f"internal {found['internal']:.0%} (above 64 KiB {found['internal_large']:.0%}), external {found['external']:.0%}, "
        f"committed {found['committed_mean'] / MIB:.1f} MiB on average, {found['committed_high'] / MIB:.1f} at most"
    )


def read_raw(path: Path) -> tuple[list[Point], str]:
    """The points of a raw file, and what its head says of how they came about."""
    head, *lines = path.read_text(encoding="utf-8").splitlines()
    about: dict[str, Any] = json.loads(head)
    machine = f"{about['date']}, Linux {about['kernel']}, CPython {about['python']}"
    return [Point(*json.loads(line)) for line in lines], f"{machine}; one recording, replayed on each mode; decay {about['decay']:g} s"


def make(directory: Path, *, anew: bool = True) -> None:
    """Records (unless what lies there will do), replays and draws. ``PeerError`` or ``OSError`` when the server did not start."""
    path = directory / RECORDING
    if anew or not path.exists():
        path.unlink(missing_ok=True)
        record(path)
    points: list[Point] = []
    for mode in MODES:
        done = subprocess.run(
            [sys.executable, "-m", "bench.fragmentation", "--replay", mode, "--directory", str(directory)],
            cwd=ROOT, capture_output=True, text=True, timeout=300, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        if done.returncode:
            raise PeerError(f"replay of {mode}: {done.stderr[-2000:]}")
        points += [Point(**json.loads(line)) for line in done.stdout.splitlines()]
    about = {"date": time.strftime("%Y-%m-%d"), "kernel": platform.release(), "python": platform.python_version(), "decay": DECAY}
    with (directory / RAW).open("w", encoding="utf-8") as raw:
        raw.write(json.dumps({**about, "recording": RECORDING, "columns": Point._fields}) + "\n")
        raw.writelines(json.dumps(point) + "\n" for point in points)
    (directory / FIGURE).write_text(figure(*read_raw(directory / RAW)), encoding="utf-8")
    for mode in MODES:
        print(f"{mode:10}{words(summary([point for point in points if point.mode == mode]))}")


def main(argv: Sequence[str] | None = None) -> int:
    """1 when a server did not start."""
    plain = argparse.RawTextHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m bench.fragmentation", description=__doc__, formatter_class=plain)
    parser.add_argument("--directory", type=Path, default=FIGURES, help=f"where recording, raw data and drawing go (default {FIGURES})")
    parser.add_argument("--again", action="store_true", help="replay the recording that lies there")
    parser.add_argument("--replay", choices=MODES, help="one mode alone, in this process: a line of JSON for each interval")
    asked = parser.parse_args(argv)
    try:
        if asked.replay:
            replay(asked.replay, asked.directory / RECORDING)
        else:
            make(asked.directory, anew=not asked.again)
    except (PeerError, OSError, WireFault, recording.RecordingError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
