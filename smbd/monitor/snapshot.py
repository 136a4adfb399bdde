"""One look at a server: sessions, opens and locks from the shared state, pools from the counters, processes from the system.

Owns: the names and units of what is reported; they are the JSON's, so they stay. Sizes are bytes, times Unix seconds.
Invariants: rows of dead processes do not appear, whether or not their records were swept yet; what concerns the whole server is read in
the master's row alone, and a process that went wrong can spoil its own figures only.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import psutil

from pools.buffer import CLASSES, USUAL
from pools.counters import CLASS_COLUMNS, PAST, CounterSegment, Reading
from smbd.child import COUNTERS_FILE, SHARING_DIRECTORY
from smbd.config import Config
from smbd.sharing import DISCONNECTED, Environment, Lasting, OpenRow, SessionRecord, Sharing
from smbd.version import VERSION, form

Row = dict[str, Any]
Snapshot = dict[str, Any]

_EPOCH = 11644473600  # [MS-DTYP] 2.3.3: FILETIME counts 100 ns from 1601
_DIALECTS = {0x0202: "2.0.2", 0x0210: "2.1", 0x0300: "3.0", 0x0302: "3.0.2", 0x0311: "3.1.1"}
# [MS-SMB2] 2.2.3.1.2 and 2.2.3.1.7
_CIPHERS = {0: "none", 1: "AES-128-CCM", 2: "AES-128-GCM", 3: "AES-256-CCM", 4: "AES-256-GCM"}
_SIGNATURES = {0: "HMAC-SHA256", 1: "AES-CMAC", 2: "AES-GMAC"}
# [MS-SMB2] 2.2.13.1.1 and 2.2.13: what an access mask and a share access allow, in the order they are written
_ACCESS = (("r", 0x1 | 0x20), ("w", 0x2 | 0x4), ("d", 0x10000))
_SHARE = (("r", 0x1), ("w", 0x2), ("d", 0x4))
_LASTING = ((Lasting.PERSISTENT, "persistent"), (Lasting.RESILIENT, "resilient"), (Lasting.DURABLE, "durable"))


class State:
    """What the sections are made from. ``slots`` maps a slot to its living process's row."""

    def __init__(self, counters: CounterSegment, sharing: Sharing) -> None:
        self.rows = {reading.slot: reading for reading in counters.read_rows()}
        self.opens = [one for one in sharing.opens() if self._lives(one.slot, one.generation)]
        self.sessions = [one for one in sharing.sessions() if self._lives(one.slot, one.generation)]
        self.channels = [one for one in sharing.channels() if self._lives(one.slot, one.generation)]
        self.promises = sharing.promises()
        self.trees = [one for one in sharing.trees() if self._lives(one.slot, one.generation)]
        self.locks = [(key, one) for key, one in sharing.locks() if self._lives(one.slot, one.generation)]

    def _lives(self, slot: int, generation: int) -> bool:
        found = self.rows.get(slot)
        return slot == DISCONNECTED or (found is not None and found.words["generation"] == generation)

    def pid(self, slot: int) -> int:
        """The process behind a slot; 0 for what lost connections have left."""
        return 0 if slot == DISCONNECTED else self.rows[slot].words["pid"]


def take(config: Config, master: int, sections: Iterable[str] = ()) -> Snapshot:
    """The snapshot of the server whose master is process ``master``; all sections unless some are named.

    ``FileNotFoundError`` when the server is just starting or has just ended, ``WireError`` when it is of another version.
    """
    directory = Path(config.lock_directory)
    counters = CounterSegment.attach(str(directory / COUNTERS_FILE))
    try:
        # Slot and generation matter to writers only.
        sharing = Sharing(Environment(str(directory / SHARING_DIRECTORY), readonly=True), 0, 0, None, counters.is_alive)
        try:
            state = State(counters, sharing)
        finally:
            sharing.close_environment()
    finally:
        counters.close()
    found: Snapshot = {"version": VERSION, "form": form(), "master": master, "started": _created(master), "taken": round(time.time(), 3)}
    found["totals"] = totals(state.rows.values())
    return found | {name: SECTIONS[name](state) for name in sections or SECTIONS}


def totals(rows: Iterable[Reading]) -> dict[str, int]:
    """Since the server started, ended connections' included; ``pool_bytes`` and ``budget`` are of now."""
    found = dict.fromkeys((*PAST, "workers", "pool_bytes", "budget"), 0)
    for reading in rows:
        words = reading.words
        for name in PAST:
            found[name] += words[name] + words[f"past_{name}"]
        found["workers"] += words["past_workers"] + (reading.role == "worker")
        found["pool_bytes"] += _pool_bytes(reading)
        if reading.role == "master":
            found["budget"] = words["budget"]
    return found


def _pool_bytes(reading: Reading) -> int:
    return sum(row["committed"] * shape.slab_bytes for row, shape in zip(reading.classes, CLASSES, strict=True))


def _created(pid: int) -> float:
    try:
        return round(float(psutil.Process(pid).create_time()), 3)
    except psutil.NoSuchProcess:
        return 0.0


def unix_time(filetime: int) -> float:
    """FILETIME -> seconds since 1970, 0 for 'unknown'."""
    return round(filetime / 10_000_000 - _EPOCH, 3) if filetime else 0.0


def _letters(bits: int, table: tuple[tuple[str, int], ...]) -> str:
    return "".join(letter if bits & mask else "-" for letter, mask in table)


def sessions(state: State) -> list[Row]:
    """One row for each session."""
    return [_session(state, one) for one in sorted(state.sessions, key=lambda one: one.started)]


def _session(state: State, one: SessionRecord) -> Row:
    return {
        "session": f"{one.session_id:016x}",
        "user": one.user,
        "domain": one.domain,
        "client": one.client,
        "machine": one.machine,
        "dialect": _DIALECTS.get(one.dialect, f"{one.dialect:#06x}"),
        "signing": _SIGNATURES.get(one.signing, str(one.signing)),
        "encryption": _CIPHERS.get(one.cipher, str(one.cipher)),
        "shares": sorted({tree.share for tree in state.trees if tree.session_id == one.session_id}),
        "opens": sum(1 for entry in state.opens if entry.session_id == one.session_id),
        "channels": sum(1 for entry in state.channels if entry.session_id == one.session_id),
        "since": unix_time(one.started),
        "pid": state.pid(one.slot),
    }


def channels(state: State) -> list[Row]:
    """One row for each connection of each session. ``server``: our address on it; ``interface``: which has that address, "" for none here.

    ``bound``: it was bound to the session later; false for the connection that the session was set up on.
    """
    interfaces = _interfaces()
    users = {one.session_id: one.user for one in state.sessions}
    return [
        {
            "session": f"{one.session_id:016x}",
            "user": users.get(one.session_id, ""),
            "client": one.client,
            "server": one.server,
            "interface": interfaces.get(_plain_address(one.server), ""),
            "bound": bool(one.bound),
            "since": unix_time(one.since),
            "pid": state.pid(one.slot),
        }
        for one in sorted(state.channels, key=lambda one: (one.session_id, one.bound, one.since, one.number))
    ]


def _interfaces() -> dict[str, str]:
    """Address -> name of the interface, as the system has them now."""
    found = psutil.net_if_addrs()
    return {_plain_address(one.address): name for name, addresses in found.items() for one in addresses}


def _plain_address(text: str) -> str:
    """Without an interface's name behind it, and IPv4 without the clothes of IPv6."""
    return text.partition("%")[0].removeprefix("::ffff:")


def opens(state: State) -> list[Row]:
    """One row for each open file, directory or stream. ``access`` and ``shared``: r, w and d for read, write and delete.

    ``lasts``: which losses it outlives: "no", "durable" and "resilient" its connection's, "persistent" the server's too. ``lost``: its
    connection is lost, and its client may come back for it for ``left`` seconds; no process has it meanwhile.
    """
    return [
        {
            "open": f"{one.file_id:x}",
            "session": f"{one.session_id:016x}",
            "user": one.user,
            "share": one.share,
            "path": _path(one),
            "access": _letters(one.access, _ACCESS),
            "shared": _letters(one.share_access, _SHARE),
            "locks": one.locks,
            "lasts": _lasts(state, one),
            "lost": one.slot == DISCONNECTED,
            "left": _left(state, one),
            "since": unix_time(one.opened),
            "pid": state.pid(one.slot),
        }
        for one in sorted(state.opens, key=lambda one: (one.share, one.path))
    ]


def _lasts(state: State, one: OpenRow) -> str:
    lasting, _ = state.promises.get(one.file_id, (0, 0))
    return next((name for bit, name in _LASTING if lasting & bit), "no")


def _left(state: State, one: OpenRow) -> float:
    """Seconds, 0 for an open that somebody has; one that is overdue ends at any moment."""
    _, deadline = state.promises.get(one.file_id, (0, 0))
    return round(max(0, deadline - time.monotonic_ns()) / 1e9, 1) if one.slot == DISCONNECTED and deadline else 0.0


def locks(state: State) -> list[Row]:
    """One row for each locked byte range."""
    owners = {(one.slot, one.file_id): one for one in state.opens}
    return [
        {
            "share": owner.share if owner else "",
            "path": _path(owner) if owner else f"inode {key.ino}",
            "user": owner.user if owner else "",
            "offset": one.offset,
            "length": one.length,
            "exclusive": bool(one.exclusive),
            "pid": state.pid(one.slot),
        }
        for key, one in state.locks
        for owner in (owners.get((one.slot, one.file_id)),)
    ]


def _path(one: OpenRow) -> str:
    """Beneath the share, with the stream's name."""
    return one.path + (f":{one.key.stream}" if one.key.stream else "")


def pools(state: State) -> list[Row]:
    """One row for each size class in use, all processes together. Leases and commitments are slabs, the rest buffers; what counts events
    counts them since the server started.
    """
    used = classes_in_use(state.rows.values())
    return [_pool(number, used, state.rows.values()) for number in used]


def classes_in_use(rows: Iterable[Reading]) -> tuple[int, ...]:
    """The classes by number that the server's row names."""
    bits = next((reading.words["pool_classes"] for reading in rows if reading.role == "master"), 0)
    return tuple(number for number in range(len(CLASSES)) if bits >> number & 1) or USUAL


def _pool(number: int, used: tuple[int, ...], rows: Iterable[Reading]) -> Row:
    sums = dict.fromkeys(("requests", "requested_bytes", *CLASS_COLUMNS), 0)
    for reading in rows:
        sums["requests"] += reading.class_requests(number, used)
        sums["requested_bytes"] += reading.class_bytes(number, used)
        for column, value in reading.classes[number].items():
            sums[column] += value
    shape = CLASSES[number]
    committed = sums["committed"]
    return {"size": shape.capacity, "buffers": committed * shape.buffers, "committed_bytes": committed * shape.slab_bytes, **sums}


def processes(state: State) -> list[Row]:
    """One row for each process, and for each thread that is a worker. ``private`` is memory that no other process shares, 0 where the
    system does not tell; a thread's is its process's. ``thread`` is the system's number of a thread, 0 for a process.
    """
    hosts = {reading.words["pid"] for reading in state.rows.values() if reading.words["thread"]}
    spent = {thread: seconds for pid in hosts for thread, seconds in _threads(pid)}
    return [_process(state, reading, spent) for _, reading in sorted(state.rows.items())]


def _process(state: State, reading: Reading, spent: Mapping[int, float]) -> Row:
    words = reading.words
    thread = words["thread"]
    found: Row = {"role": reading.role, "slot": reading.slot, "pid": words["pid"], "thread": thread}
    if thread:
        found |= _nothing() | {"title": _served(state, reading.slot), "cpu_seconds": spent.get(thread, 0.0)}
        found["since"] = round(words["started"] / 1e9, 3)
    else:
        found |= _system(words["pid"])
    shown = ("connections", "sessions", "opens", "requests", "errors", "bytes_read", "bytes_written")
    found |= {name: words[name] for name in shown}
    found["pool_bytes"] = _pool_bytes(reading)
    return found


def _served(state: State, slot: int) -> str:
    """Client and users, as they stand in the title of a worker that is a process."""
    mine = [one for one in state.sessions if one.slot == slot]
    return " ".join([*sorted({one.client for one in mine}), *sorted({one.user or "anonymous" for one in mine})])


def _threads(pid: int) -> list[tuple[int, float]]:
    """The system's numbers of a process's threads, with the processor time of each in seconds."""
    try:
        return [(one.id, round(one.user_time + one.system_time, 2)) for one in psutil.Process(pid).threads()]
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return []


def _nothing() -> Row:
    return {"title": "", "cpu_seconds": 0.0, "resident": 0, "private": 0, "since": 0.0}


def _system(pid: int) -> Row:
    """What the operating system says of a process."""
    found = _nothing()
    try:
        process = psutil.Process(pid)
        with process.oneshot():
            spent = process.cpu_times()
            found["title"] = " ".join(process.cmdline()) or process.name()
            found["cpu_seconds"] = round(spent.user + spent.system, 2)
            found["resident"] = process.memory_info().rss
            found["since"] = round(process.create_time(), 3)
            found["private"] = process.memory_full_info().uss
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        pass  # it ended between the two looks, or is another user's: what is known so far stands
    return found


SECTIONS: Mapping[str, Callable[[State], list[Row]]] = {
    "sessions": sessions,
    "channels": channels,
    "opens": opens,
    "locks": locks,
    "pools": pools,
    "processes": processes,
}
