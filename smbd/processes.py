"""Children of the master: the fork itself, what the child sheds before its program runs, and how an exit is read.

Owns: the border between the master and everyone else. Invariant: a program starts with default signals, its own descriptors and no others,
and never returns into the master's loop: the child ends in ``exit_now`` whatever happens.

The master's objects stay referenced in the child until it ends (the fork happened below the master's frames), so none of them is
finalised there and no descriptor that was closed by number is closed a second time by its former owner.
"""

from __future__ import annotations

import gc
import logging
import signal
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from pools import port
from smbd.child import HOST, Child, Program

log = logging.getLogger("millpond.master")

# A terminal's Ctrl-C and hang-up reach the whole process group: only the master answers them, or an orderly stop could not happen.
_IGNORED = (signal.SIGINT, signal.SIGHUP)
_DEFAULT = (signal.SIGTERM, signal.SIGCHLD, signal.SIGUSR1, signal.SIGUSR2)
_HELD = frozenset(_IGNORED + _DEFAULT)  # all that may have a handler: blocking every signal there is takes 0.36 ms, these 0.006


@dataclass(slots=True)
class Process:
    """One living child as the master sees it. ``condemned`` says why it was killed, for the log; ``host`` is a worker's client.

    ``thread``: this worker is a thread of the host, and ``pid`` the host's, 0 while it waits for one; ``doomed`` is when a condemned one
    must have ended, on the monotonic clock.
    """

    role: str
    slot: int
    generation: int
    pid: int
    started: float
    host: str = ""
    condemned: str = ""
    thread: bool = False
    doomed: float = 0.0


class Exit(NamedTuple):
    """How a process ended. ``clean``: by itself, with status 0."""

    clean: bool
    text: str


def classify(status: int) -> Exit:
    """Read a wait status."""
    code, number, dumped = port.processes.ended(status)
    if number:
        core = ", core dumped" if dumped else ""
        try:
            name = signal.Signals(number).name
        except ValueError:
            name = f"signal {number}"
        return Exit(False, f"killed by {name}{core}")
    return Exit(code == 0, f"exit status {code}")


def fork(child: Child, program: Program, keep: Iterable[int]) -> int:
    """Start ``program(child)`` in a process of its own and return its pid. ``keep``: the descriptors it inherits.

    Signals are held back around the fork: none may run the master's handler in the child, which shares its wake-up descriptor.
    """
    master = port.processes.own_pid()
    held = port.processes.hold_signals(_HELD)
    try:
        gc.freeze()
        pid = port.processes.fork()
        if pid == 0:
            _live(child, program, master, keep)
    finally:
        port.processes.release_signals(held)
    return pid


def _live(child: Child, program: Program, master: int, keep: Iterable[int]) -> None:
    """The child's whole life. Never returns."""
    code = 1
    try:
        _shed(child, master, keep)
        program(child)
        code = 0
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else 1
    except BaseException:
        # The outermost frame of a process: what arrives here is a bug, and the traceback is all that is left of it.
        log.exception("%s: unexpected error, this process ends", describe(child))
    finally:
        try:
            logging.shutdown()
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            port.processes.exit_now(code)


def _shed(child: Child, master: int, keep: Iterable[int]) -> None:
    port.processes.wake_by_signals(-1)
    port.processes.on_signals(dict.fromkeys(_DEFAULT, signal.SIG_DFL) | dict.fromkeys(_IGNORED, signal.SIG_IGN))
    port.processes.release_signals(())
    port.processes.close_others([*keep, *_log_descriptors()])
    port.sandbox.die_with_parent(master)
    gc.enable()
    # The host's threads are the workers: their rows are its own, and lie behind it.
    row = child.counters.narrow(child.slot, and_behind=child.slot == HOST)
    row.clear()
    row.set("generation", child.generation)
    row.set("started", time.time_ns())
    row.set("heartbeat", time.monotonic_ns())
    row.set("pid", port.processes.own_pid())
    port.processes.set_title(f"millpond: {child.role}" + (f" {child.address[0]}" if child.address else ""))


def describe(child: Child) -> str:
    """A child's name in the log."""
    return f"{child.role} {child.slot}.{child.generation}" + (f" of {child.address[0]}" if child.address else "")


def _log_descriptors() -> list[int]:
    """Where the log goes: a child must not lose it."""
    found = []
    for handler in logging.getLogger().handlers + logging.getLogger("millpond").handlers:
        stream = getattr(handler, "stream", None)
        if stream is not None and hasattr(stream, "fileno"):
            try:
                found.append(stream.fileno())
            except (OSError, ValueError):
                continue  # a stream without a descriptor, as in tests
    return found
