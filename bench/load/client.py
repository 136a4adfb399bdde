"""One client: a process that makes its connection, says it is ready, and runs workloads when told to.

Owns: the loop behind a pipe. Invariant: every order is answered, a failure by its text, and the process ends when the pipe does.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from multiprocessing.connection import Connection as Pipe
from typing import NamedTuple

from bench.load.wire import MAX_REPLY, Connection, Where, WireFault
from bench.load.workloads import EVERY, Seat, Tally

BY_NAME = {workload.name: workload for workload in EVERY}


class Failure(NamedTuple):
    """Why a client could not do what it was told."""

    text: str


class Order(NamedTuple):
    """Run ``workload`` for ``seconds``."""

    workload: str
    seconds: float


class Report(NamedTuple):
    """A tally, and the CPU seconds the client itself needed for it."""

    tally: Tally
    cpu: float


def _serve(pipe: Pipe, where: Where, protection: str, number: int) -> None:
    buffer = bytearray(MAX_REPLY)
    try:
        connection = Connection(where, protection, buffer)
        connection.open()
    except (OSError, WireFault, ValueError) as error:
        pipe.send(Failure(f"{type(error).__name__}: {error}"))
        return
    pipe.send(connection.signing)
    seat = Seat(connection, where, number, bytearray(MAX_REPLY))
    while True:
        try:
            order = pipe.recv()
        except EOFError:
            return
        before = os.times()
        try:
            tally = BY_NAME[order.workload].run(seat, time.perf_counter() + order.seconds)
        except (OSError, WireFault, ValueError) as error:
            pipe.send(Failure(f"{type(error).__name__}: {error}"))
            return
        after = os.times()
        pipe.send(Report(tally, after.user + after.system - before.user - before.system))


class Client:
    """The handle of a client process."""

    def __init__(self, where: Where, protection: str, number: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, where, protection, number), daemon=True)
        self._process.start()
        theirs.close()
        self.signing = self._receive(60.0)

    def _receive(self, timeout: float) -> object:
        if not self._pipe.poll(timeout):
            return Failure(f"no answer within {timeout:.0f} s")
        try:
            answer: object = self._pipe.recv()
        except EOFError:
            return Failure("the client process died")
        return answer

    def begin(self, order: Order) -> None:
        """Sends an order."""
        self._pipe.send(order)

    def finish(self, seconds: float) -> Report | Failure:
        """The answer to an order that takes about ``seconds``."""
        answer = self._receive(seconds + 60.0)
        assert isinstance(answer, Report | Failure)
        return answer

    def close(self) -> None:
        """Ends the process."""
        self._pipe.close()
        self._process.join(2)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
