"""The counter segment: rows, columns, attaching, one writer per row."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pools.buffer import CLASSES
from pools.counters import (
    CLASS_COLUMNS,
    CLASSES_AT,
    COMMANDS_AT,
    FIXED_COLUMNS,
    HISTOGRAM_AT,
    PID,
    REQUESTED_AT,
    ROW_WORDS,
    CounterSegment,
    Row,
    class_word,
)
from pools.layout import WireError


def test_columns_do_not_overlap() -> None:
    words = [class_word(number, column) for number in range(len(CLASSES)) for column in CLASS_COLUMNS]
    assert len(set(words)) == len(words)
    assert max(words) < ROW_WORDS
    assert min(words) == CLASSES_AT
    assert len(set(FIXED_COLUMNS)) == len(FIXED_COLUMNS) <= COMMANDS_AT


def test_named_columns() -> None:
    row = Row.private()
    row.add("requests")
    row.add("requests", 4)
    row.set("pid", 77)
    row.words[class_word(3, "misses")] += 2
    row.words[COMMANDS_AT + 8] += 1
    reading = row.read()
    assert (row.get("requests"), reading.words["requests"], reading.words["pid"]) == (5, 5, 77)
    assert reading.classes[3]["misses"] == 2
    assert reading.commands[8] == 1
    row.words[HISTOGRAM_AT + 13] += 2
    row.words[HISTOGRAM_AT + 14] += 3
    row.words[REQUESTED_AT + 14] += 40000
    assert [row.read().class_requests(number) for number in range(4)] == [0, 0, 5, 0]
    assert [row.read().class_requests(number, range(len(CLASSES))) for number in range(4)] == [0, 2, 3, 0]
    assert row.read().class_bytes(2) == 40000
    row.clear()
    assert row.words.tolist() == [0] * ROW_WORDS


def test_what_a_dead_process_counted_stays() -> None:
    segment = CounterSegment.create(None, 3)
    dead, heir = segment.row(2), segment.row(0)
    for word in (HISTOGRAM_AT + 12, REQUESTED_AT + 12, class_word(1, "waits"), class_word(1, "in_use"), PID):
        dead.words[word] = 5
    heir.inherit(dead, worker=True)
    heir.inherit(segment.row(1), worker=False)
    kept = heir.read()
    assert (kept.histogram[12], kept.requested[12], kept.classes[1]["waits"]) == (5, 5, 5)
    assert (kept.classes[1]["in_use"], kept.words["pid"], kept.words["past_workers"]) == (0, 0, 1)
    assert dead.words.tolist() == [0] * ROW_WORDS


def test_whatever_a_dead_process_has_written_is_taken_over() -> None:
    dead, heir = Row.private(), Row.private()
    for _ in range(2):
        for word in range(ROW_WORDS):
            dead.words[word] = (1 << 64) - 1
        heir.inherit(dead, worker=True)
    assert (heir.get("past_workers"), heir.get("past_requests"), heir.words[HISTOGRAM_AT]) == (2, (1 << 64) - 2, (1 << 64) - 2)
    assert dead.words.tolist() == [0] * ROW_WORDS


def test_a_row_is_whose_slot_it_is() -> None:
    rows = [Row(Row.private().words, slot) for slot in (0, 1, 3, 5, 16, 999, 4)]
    assert [row.read().role for row in rows] == ["master", "authd", "broker", "host", "worker", "worker", "unknown"]


def test_a_count_below_zero_is_a_bug() -> None:
    with pytest.raises(ValueError):
        Row.private().add("sessions", -1)


def test_create_attach_and_read(tmp_path: Path) -> None:
    path = str(tmp_path / "counters")
    segment = CounterSegment.create(path, 20)
    assert os.stat(path).st_mode & 0o777 == 0o600
    row = segment.row(17)
    row.set("pid", 4242)
    row.set("generation", 3)
    row.add("bytes_read", 1 << 40)
    monitor = CounterSegment.attach(path)
    (reading,) = monitor.read_rows()
    assert (reading.slot, reading.words["pid"], reading.words["bytes_read"]) == (17, 4242, 1 << 40)
    with pytest.raises(TypeError):
        monitor.row(17).words[PID] = 1
    assert monitor.is_alive(17, 3)
    assert not monitor.is_alive(17, 2)
    assert not monitor.is_alive(18, 0)
    assert not monitor.is_alive(20, 0)
    row.clear()
    assert not monitor.is_alive(17, 3)
    assert list(monitor.read_rows()) == []


def test_a_new_segment_replaces_the_old_file(tmp_path: Path) -> None:
    path = str(tmp_path / "counters")
    old = CounterSegment.create(path, 2)
    old.row(0).set("pid", 1)
    new = CounterSegment.create(path, 2)
    assert new.row(0).get("pid") == 0
    assert old.row(0).get("pid") == 1


@pytest.mark.parametrize("content", [b"", b"millpond", bytes(8192), b"millpond" + bytes(8192)])
def test_what_is_no_segment_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "counters"
    path.write_bytes(content)
    with pytest.raises(WireError):
        CounterSegment.attach(str(path))


def test_rows_outside_the_segment() -> None:
    segment = CounterSegment.create(None, 3)
    for slot in (-1, 3):
        with pytest.raises(IndexError):
            segment.row(slot)


def test_narrow_leaves_one_writable_row() -> None:
    segment = CounterSegment.create(None, 4)
    segment.row(1).set("pid", 11)
    reader = os.dup(segment.fileno())
    own = segment.narrow(2)
    own.set("pid", 22)
    assert segment.row(1).get("pid") == 11
    with pytest.raises(TypeError):
        segment.row(1).set("pid", 0)
    segment.row(2).add("requests")
    assert own.get("requests") == 1
    assert [row.slot for row in segment.read_rows()] == [1, 2]
    assert segment.fileno() == -1
    os.close(reader)
