"""``millpond record`` and ``millpond tune pools``: what is sampled, what the file is like, and what is proposed for which load."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pools.buffer import CAPACITIES, CLASSES, LARGEST, PDU, USUAL
from pools.counters import HISTOGRAM_AT, REQUESTED_AT, ROW_WORDS, CounterSegment, class_word
from pools.plan import make_plan
from pools.pool import MODES
from smbd.child import COUNTERS_FILE
from smbd.cli import main
from smbd.config import load
from smbd.monitor import recording
from smbd.monitor.recording import ClassSample, Head, Recording, RecordingError, Sample, Writer
from smbd.tuning import pools
from tests.server import eventually, stand_in

ROOT = Path(__file__).resolve().parents[2]
KIB, MIB = 1 << 10, 1 << 20
NOW = tuple(CAPACITIES[number] for number in USUAL)
HEAD = Head(1000.0, 1.0, "dynamic", 1 << 30, 256 * MIB, 16 * MIB, 30.0, NOW)
MEMORY = 16 << 30


def run(*_arguments: object, **_callbacks: object) -> int:
    raise AssertionError("nothing is served here")


def sample(at: float, requests: dict[int, int], classes: dict[int, ClassSample], **words: int) -> Sample:
    """Every request as large as its power of two."""
    empty = dict.fromkeys(CAPACITIES, ClassSample())
    found = {"connections": 2, "largest": 0, "leased_bytes": 0, "reserved": 0, "lease_waits": 0, "lease_refusals": 0, **words}
    requested = {size: size * count for size, count in requests.items()}
    return Sample(at=at, requests=requests, requested=requested, classes=empty | classes, **found)


def proposal(*samples: Sample, head: Head = HEAD) -> pools.Proposal:
    made = Recording(head, samples)
    return pools.propose(made, pools.usage(made), MEMORY)


def changes(found: pools.Proposal) -> dict[str, Any]:
    return {change.attribute: change.value for change in found.changes if change.value is not None}


# -- what is proposed --------------------------------------------------------------------------------------------------------------


def test_a_load_that_fits_changes_nothing() -> None:
    found = proposal(sample(0, {4096: 100, MIB: 50}, {4096: ClassSample(high_water=10, users=2), MIB: ClassSample(high_water=8, users=2)}))
    assert changes(found) == {}
    assert all(change.why for change in found.changes)
    assert found.peak_now == found.peak_then


def test_a_size_in_the_middle_of_a_class_gets_one_of_its_own() -> None:
    held = {65536: ClassSample(high_water=200, in_use=400, users=2, reserve=1)}
    found = proposal(sample(0, {32 * KIB: 100_000}, held))
    assert 32 * KIB in changes(found)["pool_classes"]
    assert found.wasted[32 * KIB] < found.given[32 * KIB] / 20
    assert found.peak_then < 0.6 * found.peak_now


def test_a_class_that_only_costs_spare_slabs_goes() -> None:
    rare = ClassSample(high_water=1, users=1000)
    one = sample(0, {MIB: 1000, 512 * KIB: 1000}, {MIB: rare, 512 * KIB: rare}, connections=1000)
    found = proposal(one)
    assert 512 * KIB not in changes(found)["pool_classes"]


@pytest.mark.parametrize("requests", [{}, {1: 5}, {1 << 23: 1}, dict.fromkeys(CAPACITIES, 7), {1 << 24: 3}])
def test_whatever_was_recorded_the_proposal_is_a_plan(requests: dict[int, int]) -> None:
    held = {size: ClassSample(high_water=50, users=2, waits=40, refusals=9) for size in CAPACITIES}
    for mode in MODES:
        found = proposal(sample(0, requests, held), head=HEAD._replace(mode=mode))
        wanted = changes(found)
        reserve = dict(wanted.get("pool_reserve_slabs", ((4096, 1), (65536, 1))))
        static = dict(wanted.get("pool_static_slabs", ((4096, 1), (65536, 1))))
        make_plan(found.classes, reserve, static)


def test_small_sizes_that_most_waited_for_are_reserved() -> None:
    held = {65536: ClassSample(high_water=9, users=2, waits=50, reserve=1), 4096: ClassSample(reserve=1)}
    found = proposal(sample(0, {65536: 1000}, held))
    assert changes(found) == {"pool_reserve_slabs": ((4096, 1), (65536, 5))}
    assert "of 1,000 requests for 64K 50 waited" in next(c.why for c in found.changes if c.value is not None)
    tight = HEAD._replace(budget=4 * MIB)
    assert "pool_reserve_slabs" not in changes(proposal(sample(0, {65536: 1000}, held), head=tight))


def test_static_slabs_are_what_was_out_at_once() -> None:
    held = {65536: ClassSample(high_water=9, users=1), MIB: ClassSample(high_water=5, users=1)}
    found = proposal(sample(0, {65536: 10, MIB: 10}, held), head=HEAD._replace(mode="static"))
    slabs = dict(changes(found)["pool_static_slabs"])
    assert (slabs[65536], slabs[MIB], slabs[8 * MIB], slabs[16 * KIB]) == (5, 5, 2, 1)


def test_a_budget_that_made_leases_wait_grows_within_the_machine() -> None:
    waited = sample(0, {MIB: 10}, {MIB: ClassSample(high_water=1, users=1)}, lease_waits=5, leased_bytes=1 << 30)
    assert changes(proposal(waited)) == {"pool_budget": 1536 * MIB}
    made = Recording(HEAD, (waited,))
    assert changes(pools.propose(made, pools.usage(made), 2 << 30)) == {}


def test_a_ceiling_that_was_reached_is_doubled() -> None:
    held = {MIB: ClassSample(high_water=250, users=1, waits=3)}
    assert changes(proposal(sample(0, {MIB: 100_000}, held, largest=250 * MIB))) == {"pool_ceiling": 512 * MIB}


def bursts(pause: int, committed: int) -> Iterator[Sample]:
    """A second of 1 MiB requests, then a pause; ten times."""
    asked = 0
    for at in range(10 * (pause + 1)):
        asked += 100 if at % (pause + 1) == 0 else 0
        yield sample(at, {MIB: asked} if asked else {}, {MIB: ClassSample(committed=committed, high_water=8, users=1)}, connections=1)


def test_decay_is_the_shortest_that_costs_nothing() -> None:
    assert changes(proposal(*bursts(20, 64), head=HEAD._replace(decay=5.0))) == {"pool_decay": 20.0}
    assert changes(proposal(*bursts(100, 64), head=HEAD._replace(decay=300.0))) == {"pool_decay": 5.0}
    assert changes(proposal(*bursts(20, 0), head=HEAD._replace(decay=30.0))) == {"pool_decay": 5.0}
    assert changes(proposal(*bursts(20, 64), head=HEAD._replace(decay=30.0))) == {}


# -- the file --------------------------------------------------------------------------------------------------------------------


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "r"
    given = [sample(at, {4096: 7, 1: 2}, {4096: ClassSample(leased=3, waits=1)}) for at in (1.0, 2.5)]
    writer = Writer(path, MIB)
    for one in given:
        writer.write(HEAD, one)
    writer.close()
    assert recording.read(path) == Recording(HEAD, tuple(given))
    with pytest.raises(FileExistsError):
        Writer(path, MIB)


def test_the_room_is_kept_and_the_newest_half_at_least(tmp_path: Path) -> None:
    path, room = tmp_path / "r", 8 * KIB
    writer = Writer(path, room)
    for at in range(200):
        writer.write(HEAD, sample(at, {4096: at}, {}))
    writer.close()
    assert sum(one.stat().st_size for one in tmp_path.iterdir()) <= room
    found = [round(one.at) for one in recording.read(path).samples]
    assert found == list(range(found[0], 200))
    assert len(found) > 10
    other = [recording.head_line(HEAD._replace(started=7.0)), recording.sample_line(sample(9, {}, {})), ""]
    path.with_name("r.1").write_text("\n".join(other))  # of another recording
    assert round(recording.read(path).samples[0].at) > found[0]


def test_a_line_that_was_cut_off_costs_only_itself(tmp_path: Path) -> None:
    path = tmp_path / "r"
    lines = [recording.head_line(HEAD), *(recording.sample_line(sample(at, {}, {})) for at in range(3))]
    path.write_text("\n".join(lines)[:-5])
    assert len(recording.read(path).samples) == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not a recording"),
        ("{}\n", "not a recording"),
        ("[1]\n", "not a recording"),
        ('{"recording": "millpond pools", "format": 99}\n', "record anew"),
        (recording.head_line(HEAD) + "\n", "without a sample"),
        (recording.head_line(HEAD) + "\n{}\n", ":2: not a sample"),
        (recording.head_line(HEAD) + "\n7\n", ":2: not a sample"),
    ],
)
def test_what_is_no_recording_is_said(tmp_path: Path, text: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "r"
    path.write_text(text)
    with pytest.raises(RecordingError, match=said):
        recording.read(path)
    assert main(["tune", "pools", str(path)], run=run) == 1
    assert capsys.readouterr().err.count("\n") == 1


# -- the commands, against counters as a server keeps them --------------------------------------------------------------------------

SERVER = """
import fcntl, os, sys
from smbd.instance import LOCK_FILE
lock = os.open(os.path.join(sys.argv[1], LOCK_FILE), os.O_RDWR | os.O_CREAT, 0o644)
fcntl.flock(lock, fcntl.LOCK_EX)
os.pwrite(lock, b"%d" % os.getpid(), 0)
print("up", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def counters(tmp_path: Path) -> CounterSegment:
    segment = CounterSegment.create(str(tmp_path / COUNTERS_FILE), 20)
    row = segment.row(0)
    words = {"pid": 1, "budget": 1 << 30, "pool_ceiling": 256 * MIB, "pool_decay": 30000}
    for column, value in words.items():
        row.set(column, value)
    row.set("pool_classes", sum(1 << number for number in USUAL))
    for slot in (16, 17):
        row = segment.row(slot)
        row.set("pid", 2)
        row.words[HISTOGRAM_AT + 15], row.words[REQUESTED_AT + 15] = 1000, 1000 * 32000
        row.words[class_word(PDU, "high_water")] = 100 + slot
        row.words[class_word(PDU, "leased")] = slot
        row.words[class_word(PDU, "reserve")] = 1
    return segment


@pytest.fixture
def server(tmp_path: Path, counters: CounterSegment) -> Iterator[subprocess.Popen[bytes]]:
    with stand_in(SERVER, tmp_path) as process:
        yield process


@pytest.fixture
def config(tmp_path: Path) -> str:
    made = tmp_path / "m.conf"
    made.write_text(f"# mine\n[global]\nlock directory = {tmp_path}\npid directory = {tmp_path}\n")
    return str(made)


def test_a_look_adds_all_rows_up(counters: CounterSegment) -> None:
    head, one = recording.look(counters, 0.0)
    assert head == Head(0.0, 0.0, "dynamic", 1 << 30, 256 * MIB, 0, 30.0, NOW)
    assert (one.connections, one.requests, one.requested) == (2, {1 << 15: 2000}, {1 << 15: 64_000_000})
    assert one.classes[65536] == ClassSample(leased=33, high_water=117, reserve=1, users=2)
    assert one.largest == 17 * CLASSES[PDU].slab_bytes
    assert one.leased_bytes == 33 * CLASSES[PDU].slab_bytes  # which the master has not written down yet
    counters.row(0).set("leased_bytes", 34 * CLASSES[PDU].slab_bytes)
    assert recording.look(counters, 0.0)[1].leased_bytes == 34 * CLASSES[PDU].slab_bytes


def test_one_that_went_wrong_spoils_its_own_figures_only(counters: CounterSegment) -> None:
    usual, _ = recording.look(counters, 0.0)
    for word in range(ROW_WORDS):
        counters.row(6).words[word] = counters.row(18).words[word] = (1 << 64) - 1
    head, one = recording.look(counters, 0.0)
    assert (head, one.connections) == (usual, 3)
    assert recording.sample_line(one)


def test_recorded_looked_at_written(
    server: subprocess.Popen[bytes], config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = str(tmp_path / "r.jsonl")
    given = ["record", "--config", config, "--output", file, "--time", "0.3", "--interval", "0.1", "--json"]
    assert main(given, run=run) == 0
    assert json.loads(capsys.readouterr().out) == {"file": file, "samples": 4, "interval": 0.1, "ended_by": "time"}
    assert main(given, run=run) == 1
    assert "is there already" in capsys.readouterr().err
    assert main(["tune", "pools", file], run=run) == 0
    assert "pool classes: stays; nothing was asked for" in capsys.readouterr().out
    assert main(["tune", "pools", file, "--config", config, "--write"], run=run) == 0
    assert "nothing to change" in capsys.readouterr().out
    # one look: sums since the server's start
    assert main(["tune", "pools", "--config", config], run=run) == 0
    said = capsys.readouterr().out
    assert "pool classes = 4K 16K 32K 64K" in said
    assert "--write" in said
    assert main(["tune", "pools", "--config", config, "--write", "--json"], run=run) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["proposal"]["parameters"]["pool reserve slabs"] == "4K:1 64K:1"
    assert Path(found["backup"]).read_text().startswith("# mine\n[global]\nlock")
    assert load(config).pool_classes == (4096, 16384, 32768, *NOW[2:])


def test_a_serve_that_was_found_has_no_file_to_write_to(
    server: subprocess.Popen[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What one server was asked for does not go into another's configuration."""
    state = tmp_path / "run" / f"millpond-{os.geteuid()}-4450"
    state.parent.mkdir(mode=0o700)
    state.mkdir(mode=0o700)
    (state / "lock").symlink_to(tmp_path)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    assert main(["tune", "pools"], run=run) == 0
    assert "--config-option" in capsys.readouterr().out
    assert main(["tune", "pools", "--write"], run=run) == 1
    assert "has no file to write to" in capsys.readouterr().err


def test_the_recording_ends_with_the_server(server: subprocess.Popen[bytes], config: str, tmp_path: Path) -> None:
    file = tmp_path / "r.jsonl"
    argv = [sys.executable, "-m", "smbd", "record", "--config", config, "--output", str(file), "--time", "1h", "--interval", "0.1"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, cwd=ROOT, text=True) as command:
        eventually(lambda: file.exists() and file.stat().st_size > 0, timeout=20)
        server.kill()
        said, _ = command.communicate(timeout=20)
    assert command.returncode == 0
    assert "until the server ended" in said
    assert recording.read(file).samples


def test_ctrl_c_keeps_what_there_is(server: subprocess.Popen[bytes], config: str, tmp_path: Path) -> None:
    file = tmp_path / "r.jsonl"
    argv = [sys.executable, "-m", "smbd", "record", "--config", config, "--output", str(file), "--time", "1h", "--interval", "0.1"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, cwd=ROOT, text=True) as command:
        eventually(lambda: file.exists() and file.stat().st_size > 0, timeout=20)
        command.send_signal(signal.SIGINT)
        said, _ = command.communicate(timeout=20)
    assert command.returncode == 0
    assert "until Ctrl-C" in said
    assert recording.read(file).samples


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["record", "--time", "soon"], "not a time"),
        (["record", "--interval", "0"], "not a time"),
        (["record", "--max-size", "1"], "not between 64K"),
        (["record", "--config", "/nowhere"], "no such file"),
        (["tune", "pools", "/nowhere"], "No such file"),
        (["tune", "pools", "--port", "1"], "no server runs"),
    ],
)
def test_errors_name_the_thing(argv: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv, run=run) in (1, 2)
    assert said in capsys.readouterr().err


def test_the_largest_class_is_always_proposed() -> None:
    assert CAPACITIES[LARGEST] in proposal(sample(0, {4096: 1}, {})).classes
