"""Threads that wait for a disk so that nobody else has to: a few for each share.

Owns: one share's threads and the jobs that wait for one of them. Invariants: jobs begin in the order in which they were handed over; a
share whose disk hangs has taken its own threads and no other's; a thread is made when there is more to do than threads, and not before.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from time import monotonic

from pools.port import files, processes

Job = Callable[[], None]
LONG = 3600.0  # seconds; any number would do that a system call takes


class Lane:
    """At most ``limit`` threads. Jobs come from one thread at a time, and raise nothing."""

    __slots__ = ("_jobs", "_limit", "_name", "_pending", "_threads", "_turn")

    def __init__(self, name: str, limit: int) -> None:
        self._name = name
        self._limit = limit
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._threads: list[Callable[[float], bool]] = []  # each waits so many seconds for its end
        self._pending = 0  # jobs that are not over, whether they have begun or not
        self._turn = threading.Lock()  # of who counts

    def submit(self, job: Job) -> None:
        """Run ``job`` on a thread. RuntimeError when there is none and the machine gives none; the job is in the queue all the same."""
        with self._turn:
            self._pending += 1
            grow = len(self._threads) < min(self._pending, self._limit)
        self._jobs.put(job)
        if grow:
            try:
                self._threads.append(processes.start_thread(f"vfs {self._name}", self._work))
            except RuntimeError:
                if not self._threads:
                    raise  # else the others will come to it

    def _work(self) -> None:
        files.may_wait()
        while (job := self._jobs.get()) is not None:
            job()
            del job  # what it was made with is not kept until there is another
            with self._turn:
                self._pending -= 1

    def close(self, until: float) -> int:
        """Let the threads end; how many had not by ``until`` (of the monotonic clock). What has not begun, does not."""
        with suppress(Empty):
            while True:  # not until it is empty: a thread may take the last one in between
                self._jobs.get_nowait()
        for _ in self._threads:
            self._jobs.put(None)
        return sum(not ended(max(0.0, until - monotonic())) for ended in self._threads)

    def outlive(self) -> None:
        """After ``close``: wait until all threads have ended, however long a disk takes."""
        for ended in self._threads:
            while not ended(LONG):
                continue
