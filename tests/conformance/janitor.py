"""Clears up behind a run that has ended before its end.

Owns: a process that outlives the run, and knows the directories of its servers. When its standard input ends, which it does with the run
however that ends, it ends the processes that have to do with one of the directories, and removes mounts and directories.
Invariant: what a run in order has cleared up itself, and what is nobody's of the run, is left alone.

Usage: ``python -m tests.conformance.janitor``, with a directory in each line of standard input.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import psutil

from bench.load.account import tree
from bench.load.peers import ROOT

_ENDS_WITHIN: Final = 10.0  # seconds that a server has to end by itself
_ROUNDS: Final = 2  # what was just being started in the first is met in the second


class Janitor:
    """The running process. Leaving the context is the end of the run."""

    def __init__(self) -> None:
        # In a session of its own: what a terminal sends to the run is not meant for it.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.conformance.janitor"], stdin=subprocess.PIPE, text=True, start_new_session=True, cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip

    def learn(self, directory: Path) -> None:
        """There is a server with this directory from now on."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{directory}\n")
        self._process.stdin.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(_ROUNDS * 2 * _ENDS_WITHIN)


def clear(directories: Sequence[str]) -> None:
    """Ends and removes what there is of servers in these directories."""
    for _ in range(_ROUNDS):
        _end(directories)
        for mount in [part.mountpoint for part in psutil.disk_partitions(all=True) if part.mountpoint.startswith(tuple(directories))]:
            subprocess.run(["umount", "-l", mount], check=False)
        for directory in directories:
            shutil.rmtree(directory, ignore_errors=True)


def _end(directories: Sequence[str]) -> None:
    """SIGTERM to those who belong there, then SIGKILL for what is left of them and their descendants."""
    heads = [process for process in psutil.process_iter() if process.pid != os.getpid() and _belongs(process, directories)]
    family = {process.pid: process for head in heads for process in tree(head.pid)}
    for head in heads:
        with suppress(psutil.NoSuchProcess):
            head.terminate()
    for process in psutil.wait_procs(list(family.values()), _ENDS_WITHIN)[1]:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def _belongs(process: psutil.Process, directories: Sequence[str]) -> bool:
    """Whether it works in a directory, has its output there, or names it on its command line (which a server gives up for a title)."""
    traces: list[str] = []
    with suppress(psutil.Error, OSError):
        traces += [*process.cmdline(), process.cwd()]
        traces.append(os.readlink(f"/proc/{process.pid}/fd/1"))
    return any(directory in trace for trace in traces for directory in directories)


if __name__ == "__main__":
    known = sys.stdin.read().split("\n")[:-1]
    if known:
        clear(known)
