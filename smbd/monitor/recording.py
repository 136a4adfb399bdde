"""What the pools of a running server are asked for, over time: the sampling, and the file it goes to.

Owns: the sample and its form in JSON (a head line, then a line for each sample), reading and writing. Looking is all that is done to the
server: the counters are read where they lie. Invariants: every line is written whole and at once, so a recording that was cut off is good
up to there; a recording takes at most the room it was given, the oldest half going first; a file that is there is never written to.

What counts events counts them since the server started, dead connections' too: differences of two samples are exact whatever came and went
between them.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pools.buffer import CAPACITIES, CLASSES
from pools.counters import GROWING, CounterSegment, Reading
from pools.pool import MODES
from pools.port import files, processes
from smbd.monitor.snapshot import classes_in_use
from smbd.version import VERSION

KIND = "millpond pools"
FORMAT = 1
_SLABS = ("leased", "committed", "in_use")
_OLD = ".1"


class RecordingError(Exception):
    """A file that is no recording, or of another format."""


class Head(NamedTuple):
    """What the server's pools are like. Sizes in bytes, times in seconds, ``started`` since 1970; ``classes`` are sizes of buffers."""

    started: float
    interval: float
    mode: str
    budget: int
    ceiling: int
    turn: int
    decay: float
    classes: tuple[int, ...]


class ClassSample(NamedTuple):
    """One size: slabs, buffers out, events, of all connections together; ``high_water`` (buffers) and ``reserve`` (slabs) of the connection
    that has most; ``users`` is how many have needed any.
    """

    leased: int = 0
    committed: int = 0
    in_use: int = 0
    high_water: int = 0
    reserve: int = 0
    users: int = 0
    misses: int = 0
    waits: int = 0
    asks: int = 0
    refusals: int = 0
    no_room: int = 0


class Sample(NamedTuple):
    """One look. ``at``: seconds since the recording began. ``largest``: bytes that the connection with most has leased. ``requests`` and
    ``requested`` by the power of two that a size fits into: how many there were, and their bytes.
    """

    at: float
    connections: int
    largest: int
    leased_bytes: int
    reserved: int
    lease_waits: int
    lease_refusals: int
    requests: dict[int, int]
    requested: dict[int, int]
    classes: dict[int, ClassSample]


class Recording(NamedTuple):
    """A whole recording, or one look at a server since its start."""

    head: Head
    samples: tuple[Sample, ...]


# -- looking ---------------------------------------------------------------------------------------------------------------------


def look(counters: CounterSegment, began: float, interval: float = 0.0) -> tuple[Head, Sample]:
    """The counters as they are now. ``began``: Unix seconds when the recording began."""
    rows = tuple(counters.read_rows())
    used = classes_in_use(rows)
    words = next((reading.words for reading in rows if reading.role == "master"), None)
    if words is None:
        raise FileNotFoundError(2, "the server is just starting", "counters")
    head = Head(
        began, interval, MODES[words["pool_mode"]], words["budget"], words["pool_ceiling"], words["pool_turn"], words["pool_decay"] / 1000,
        tuple(CAPACITIES[number] for number in used),
    )  # fmt: skip
    workers = [reading for reading in rows if reading.role == "worker"]
    requests, requested = _sums([reading.histogram for reading in rows]), _sums([reading.requested for reading in rows])
    held = list(map(_leased_bytes, workers))
    # The master writes its figures down once a second; what is held beyond them has been leased since.
    leased = max(words["leased_bytes"], sum(held) - words["reserved"])
    sample = Sample(
        max(0.0, time.time() - began), len(workers), max(held, default=0),
        leased, words["reserved"], words["lease_waits"], words["lease_refusals"], requests, requested,
        {CAPACITIES[number]: _class_sample(number, rows, workers) for number in range(len(CLASSES))},
    )  # fmt: skip
    return head, sample


def _sums(columns: list[tuple[int, ...]]) -> dict[int, int]:
    return {1 << bits: total for bits, total in enumerate(map(sum, zip(*columns, strict=True))) if total}


def _leased_bytes(reading: Reading) -> int:
    return sum(row["leased"] * shape.slab_bytes for row, shape in zip(reading.classes, CLASSES, strict=True))


def _class_sample(number: int, rows: tuple[Reading, ...], workers: list[Reading]) -> ClassSample:
    everyone = [reading.classes[number] for reading in rows]
    own = [reading.classes[number] for reading in workers]
    sums = {column: sum(row[column] for row in everyone) for column in (*_SLABS, *GROWING)}
    return ClassSample(
        **sums,
        high_water=max((row["high_water"] for row in own), default=0),
        reserve=max((row["reserve"] for row in own), default=0),
        users=sum(1 for row in own if row["high_water"] or row["in_use"]),
    )


# -- the file --------------------------------------------------------------------------------------------------------------------


def head_line(head: Head) -> str:
    """The first line of each file."""
    return json.dumps({"recording": KIND, "format": FORMAT, "millpond": VERSION, **head._asdict()})


def sample_line(sample: Sample) -> str:
    """A sample; zeros are left out."""
    classes = {str(size): {name: value for name, value in row._asdict().items() if value} for size, row in sample.classes.items()}
    found = {**sample._asdict(), "at": round(sample.at, 3), "classes": {size: row for size, row in classes.items() if row}}
    return json.dumps(found, separators=(",", ":"))


class Writer:
    """The file ``path``, new, and when half of ``room`` bytes is full ``path.1`` with what was in it."""

    def __init__(self, path: Path, room: int) -> None:
        self.path = path
        self._half = room // 2
        self._begin()

    def write(self, head: Head, sample: Sample) -> None:
        """One sample more; ``OSError`` when the disk is full, with the recording good up to here."""
        line = sample_line(sample) + "\n"
        if self._size and self._size + len(line) > self._half:
            files.close(self._fd)
            files.move_path(self.path, f"{self.path}{_OLD}")
            self._begin()
        if not self._size:
            line = head_line(head) + "\n" + line
        self._size += files.write(self._fd, line.encode())

    def close(self) -> None:
        """Nothing more comes."""
        files.close(self._fd)

    def _begin(self) -> None:
        self._fd = files.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)
        self._size = 0


class Course(NamedTuple):
    """A sample every ``interval`` seconds, for ``seconds``; ``told`` hears what part is done."""

    interval: float
    seconds: float
    told: Callable[[float], None]


def record(counters: CounterSegment, master: int, writer: Writer, course: Course) -> tuple[int, str]:
    """How many samples were taken, and what ended it: ``time``, ``interrupt`` (Ctrl-C) or ``server``, whose end is awaited."""
    began, clock = time.time(), time.monotonic()
    taken, why = 0, ""
    with processes.watched(master) as ended:
        try:
            while not why:
                writer.write(*look(counters, began, course.interval))
                taken += 1
                passed = time.monotonic() - clock
                course.told(min(1.0, passed / course.seconds))
                due = min(taken * course.interval, course.seconds) - passed
                if passed >= course.seconds:
                    why = "time"
                elif ended(max(0.0, due)):
                    why = "server"
        except KeyboardInterrupt:
            why = "interrupt"
    return taken, why


def read(path: Path) -> Recording:
    """The recording in ``path``, with what went into ``path.1``. ``RecordingError`` or ``OSError`` when it is none."""
    head, samples = _read_file(path)
    old = Path(f"{path}{_OLD}")
    if old.exists():
        older, earlier = _read_file(old)
        if older.started == head.started:  # else it is of another recording
            samples = [*earlier, *samples]
    if not samples:
        raise RecordingError(f"{path}: a recording without a sample: record for longer")
    return Recording(head, tuple(samples))


def _read_file(path: Path) -> tuple[Head, list[Sample]]:
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    if lines and lines[-1]:
        lines.pop()  # cut off in the middle: whoever wrote it was killed, or the disk was full
    found: list[Sample] = []
    head = _head(path, lines[0] if lines else "")
    for number, line in enumerate(lines[1:], 2):
        if line:
            try:
                found.append(_sample(json.loads(line)))
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                raise RecordingError(f"{path}:{number}: not a sample: {error}") from error
    return head, found


def _head(path: Path, line: str) -> Head:
    try:
        found = json.loads(line)
        if found["recording"] != KIND:
            raise ValueError(found["recording"])
        if found["format"] != FORMAT:
            raise RecordingError(f"{path}: of Millpond {found.get('millpond')}, in a form this version does not read: record anew")
        return Head(**{name: found[name] for name in Head._fields})._replace(classes=tuple(map(int, found["classes"])))
    except (ValueError, TypeError, KeyError) as error:
        raise RecordingError(f"{path}: not a recording of 'millpond record'") from error


def _sample(found: dict[str, Any]) -> Sample:
    classes = {size: ClassSample() for size in CAPACITIES}
    classes |= {int(size): ClassSample(**row) for size, row in found["classes"].items()}
    numbers = dict(_numbers(found))
    return Sample(**{**{name: found[name] for name in Sample._fields}, **numbers, "classes": classes})


def _numbers(found: dict[str, Any]) -> Iterator[tuple[str, dict[int, int]]]:
    for name in ("requests", "requested"):
        yield name, {int(size): int(value) for size, value in found[name].items()}
