"""A quiet client's worker sleeps: its tick comes seldom, and soon again when something is awaited."""

from __future__ import annotations

import errno
import time

import pytest

from pools import port
from smbd.smb2 import status
from tests.workers.house import House
from workers.worker import QUIET_TICK, TICK, Worker


def until_tick(worker: Worker) -> float:
    """Seconds to the next tick."""
    assert worker._ticker is not None
    return worker._ticker.due - time.monotonic()


def test_the_tick_follows_the_client(house: House) -> None:
    client = house.client()
    worker = house.worker_of(client)
    worker._tick()
    assert until_tick(worker) <= TICK  # it has just asked for things
    worker._tick()
    assert TICK < until_tick(worker) <= QUIET_TICK
    client.echo()
    worker._tick()
    assert until_tick(worker) <= TICK


def test_waiting_for_a_buffer_brings_it_forward(house: House) -> None:
    worker = house.worker_of(house.client())
    worker._tick()
    worker._tick()
    worker.hurry()
    due = worker._ticker
    assert until_tick(worker) <= TICK
    worker.hurry()
    assert worker._ticker is due  # asking often does not put it off


def test_a_tick_without_a_descriptor_left_ends_nothing(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused() -> float:
        raise OSError(errno.EMFILE, "Too many open files")

    client = house.client()
    worker = house.worker_of(client)
    monkeypatch.setattr(port.processes, "claimed", refused)
    worker._tick()
    assert worker._excuse() == 0.0
    assert client.echo().status == status.SUCCESS
