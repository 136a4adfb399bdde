"""``millpond status``: a process that stands for a whole server, and what the monitor says of it."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from smbd.cli import main, status
from smbd.cli.command import Run
from smbd.config import parse
from smbd.monitor import SECTIONS, as_text, take
from smbd.monitor.snapshot import unix_time
from smbd.monitor.tables import duration, size
from tests.server import stand_in

ROOT = Path(__file__).resolve().parents[2]

# Slot 16 lives: a session with an open, locked file. Slot 17 died and was not swept yet: its records must not be seen.
SERVER = """
import fcntl, os, sys
from pools.buffer import PDU
from pools.counters import HISTOGRAM_AT, REQUESTED_AT, CounterSegment, class_word
from smbd.child import COUNTERS_FILE, SHARING_DIRECTORY
from smbd.instance import LOCK_FILE
from smbd.sharing import (CacheClaim, CacheKind, ChannelRecord, DurableClaim, FileKey, Lasting, OpenClaim, Parting, Range, SessionRecord,
                          Sharing, TreeRecord, prepare)

lock = os.open(os.path.join(sys.argv[1], LOCK_FILE), os.O_RDWR | os.O_CREAT, 0o644)
fcntl.flock(lock, fcntl.LOCK_EX)
os.pwrite(lock, b"%d" % os.getpid(), 0)
counters = CounterSegment.create(os.path.join(sys.argv[1], COUNTERS_FILE), 20)
directory = os.path.join(sys.argv[1], SHARING_DIRECTORY)
prepare(directory, 1 << 20, 16)
for slot in (0, 16):
    row = counters.row(slot)
    for column, value in (("pid", os.getpid()), ("generation", 3), ("requests", 7), ("bytes_read", 5 << 20)):
        row.set(column, value)
    row.words[class_word(PDU, "committed")] = 2
    row.words[class_word(PDU, "in_use")] = 1
    row.words[HISTOGRAM_AT + 15] = 3
    row.words[REQUESTED_AT + 15] = 60000
for slot in (16, 17):
    sharing = Sharing(directory, slot, 3, None, lambda *named: True)
    session = dict(session_id=slot << 32, slot=slot, generation=3, dialect=0x0311, started=133000000000000000, flags=0, signing=2, cipher=2,
                   uid=1000, gid=1000, client_guid=bytes(16), user="ann\\x1b[31m", domain="D", sid="S-1-5", client="10.0.0.9", machine="PC")
    sharing.add_session(SessionRecord(**session))
    for number, server in ((8, "127.0.0.1"), (9, "203.0.113.1")):
        sharing.add_channel(ChannelRecord(slot << 32, number, slot, 3, 133000000000000000, number - 8, "10.0.0.9", server))
    lost = OpenClaim(slot, 0x3, 0x7, "left", "Public", "ann", slot << 32, 1, cache=CacheClaim(CacheKind.OPLOCK, 7),
                     durable=DurableClaim(Lasting.DURABLE, 2, 3_600_000, create_guid=bytes([slot]) * 16))
    if slot == 16:
        sharing.open(FileKey(1, 99), lost)
        sharing.disconnect(FileKey(1, 99), slot, Parting())
    sharing.add_tree(TreeRecord(slot << 32, 1, slot, 3, 133000000000000000, 0, "Public"))
    key = FileKey(1, slot, "s")
    sharing.open(key, OpenClaim(5, 0x3, 0x1, "dir/file", "Public", "ann", slot << 32, 1, opened=133000000000000000))
    sharing.lock(key, 5, [Range(10, 20)])
    sharing.close_environment()
# Whoever looks does so beside a writer that does not come to its end.
sharing = Sharing(directory, 18, 3, None, lambda *named: True)
sharing._write(lambda transaction: (print("up", flush=True), sys.stdin.read()))
"""


@pytest.fixture
def lock_directory() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(dir="/dev/shm", prefix="millpond-test-"))
    yield made
    shutil.rmtree(made)


@pytest.fixture
def server(lock_directory: Path) -> Iterator[subprocess.Popen[bytes]]:
    with stand_in(SERVER, lock_directory) as process:
        yield process


def test_a_snapshot_holds_what_lives(server: subprocess.Popen[bytes], lock_directory: Path) -> None:
    found = take(parse(f"lock directory = {lock_directory}"), server.pid)
    (session,) = found["sessions"]
    assert (session["session"], session["dialect"], session["signing"], session["encryption"]) == (
        "0000001000000000", "3.1.1", "AES-GMAC", "AES-128-GCM",
    )  # fmt: skip
    assert (session["shares"], session["opens"], session["since"], session["pid"]) == (["Public"], 2, 1655526400.0, server.pid)
    assert session["channels"] == 2
    assert [(row["client"], row["server"], row["bound"], row["user"]) for row in found["channels"]] == [
        ("10.0.0.9", "127.0.0.1", False, "ann\x1b[31m"), ("10.0.0.9", "203.0.113.1", True, "ann\x1b[31m"),
    ]  # fmt: skip
    assert [row["interface"] for row in found["channels"]] == ["lo", ""]
    one, lost = found["opens"]
    assert (one["lasts"], one["lost"], one["left"]) == ("no", False, 0.0)
    assert (lost["path"], lost["lasts"], lost["lost"], lost["pid"]) == ("left", "durable", True, 0)
    assert 3000 < lost["left"] <= 3600
    assert (one["share"], one["path"], one["access"], one["shared"], one["locks"]) == ("Public", "dir/file:s", "rw-", "r--", 1)
    (lock,) = found["locks"]
    assert (lock["offset"], lock["length"], lock["exclusive"], lock["path"], lock["user"]) == (10, 20, True, "dir/file:s", "ann")
    pool = next(row for row in found["pools"] if row["size"] == 65536)
    assert (pool["committed"], pool["in_use"], pool["buffers"]) == (4, 2, 8)
    assert (pool["requests"], pool["requested_bytes"]) == (6, 120000)
    assert [(row["role"], row["requests"]) for row in found["processes"]] == [("master", 7), ("worker", 7)]
    assert all(row["resident"] > 0 and row["pool_bytes"] > 0 for row in found["processes"])
    json.dumps(found)


def test_status_shows_tables_and_json(
    server: subprocess.Popen[bytes], lock_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "conf"
    config.write_text(f"lock directory = {lock_directory}\n")
    assert main(["status", "--config", str(config)], run=nothing) == 0
    said = capsys.readouterr().out
    assert "\x1b" not in said
    assert "ann\\x1b[31m" in said
    assert f"process {server.pid}, up " in said
    assert "durable  yes" in said
    for heading in ("SESSION", "INTERFACE", "SHARE", "OFFSET", "COMMITTED", "ROLE"):
        assert heading in said
    assert main(["status", "--json", "pools", "locks", "--config", str(config)], run=nothing) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) & set(SECTIONS) == {"pools", "locks"}


def test_status_of_a_server_of_another_version(
    server: subprocess.Popen[bytes], lock_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (lock_directory / "counters").write_bytes(bytes(8192))
    config = tmp_path / "conf"
    config.write_text(f"lock directory = {lock_directory}\n")
    assert main(["status", "--config", str(config)], run=nothing) == 1
    assert "use the millpond command of the running server" in capsys.readouterr().err


def nothing(*_arguments: object, **_callbacks: object) -> int:
    raise AssertionError("status starts no server")


_: Run = nothing


def test_a_quiet_server_has_no_tables() -> None:
    quiet = {"version": "1", "master": 5, "started": 0, "taken": 9.0, "sessions": []}
    assert as_text(quiet) == "millpond 1, process 5, up ?\n\nno sessions\n"


def test_the_command_knows_the_sections() -> None:
    assert tuple(SECTIONS) == status.SECTIONS


def test_units() -> None:
    assert [size(value) for value in (0, 1023, 1024, 1536, 10 << 20, 3 << 40, 1 << 60)] == ["0", "1023", "1K", "1.5K", "10M", "3T", "1024P"]
    assert [duration(value) for value in (-1, 59, 61, 3700, 90000)] == ["0s", "59s", "1m01s", "1h01m", "1d01h"]
    assert (unix_time(0), unix_time(116444736000000000)) == (0.0, 0.0)
