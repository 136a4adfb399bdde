"""How fast a share's disk has been of late, as one worker has found it.

Owns: the judgement. Policy only: who acts on it is ``workers.patience``. Invariants: a share is slow from the first call that took too long
until none has for a while, nor does; one on a file system that asks somebody else (FUSE, a network) always is: it may wait for ever at any
call.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Final

from workers import identity

if TYPE_CHECKING:
    from workers.loop import Loop

LONG: Final = 0.020  # seconds: what waits for a disk; a call answered from memory takes a hundredth of it
OVERDUE: Final = 0.250  # of what waits for the disk at the best of times: a cold read, a sync
WHILE: Final = 10.0  # seconds without a long call until the disk is trusted again


class Disk:
    """One share's. ``errands`` are under way on its lane, or wait for their turn."""

    __slots__ = ("_changed", "_clock", "_errands", "_excuse", "_until", "always", "errands", "name", "slow")

    def __init__(
        self,
        name: str,
        changed: Callable[[Disk], None],
        *,
        always: bool = False,
        excuse: Callable[[], float] = lambda: 0.0,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """``changed(disk)`` is told when ``slow`` becomes true.

        ``excuse()``: for how many of the last seconds the loop's thread had, or wanted, a processor: no disk is to blame for those.
        """
        self.name = name
        self._errands = identity.per_thread()
        self.always = self.slow = always and self._errands
        self.errands = 0
        self._changed = changed
        self._clock = clock
        self._excuse = excuse
        self._until = 0.0

    def took(self, seconds: float) -> None:
        """A call has taken so long on a thread of its own."""
        if seconds > LONG:
            self.doubt()

    def held_up(self, seconds: float) -> None:
        """The loop's thread was held up for so long by what touched the disk, among other things. A machine with too much to do is no slow
        disk: what can be explained otherwise does not count.
        """
        if seconds > LONG and seconds - self._excuse() > LONG:
            self.doubt()

    def doubt(self) -> None:
        """It is slow, for a while from now on; never where no errand could be sent, because threads share one identity."""
        if not self._errands:
            return
        self._until = self._clock() + WHILE
        if not self.slow:
            self.slow = True
            self._changed(self)

    @property
    def calm(self) -> bool:
        """Whether it was slow and has been fast for long enough."""
        return not self.always and self._clock() >= self._until


class Overdue:
    """Watches over one call: from ``OVERDUE`` on the disk is in doubt for as long as it has not come back."""

    __slots__ = ("_disk", "_loop", "_timer")

    def __init__(self, loop: Loop, disk: Disk) -> None:
        self._loop = loop
        self._disk = disk
        self._timer = loop.later(OVERDUE, self._due)

    def _due(self) -> None:
        self._disk.doubt()
        self._timer = self._loop.later(WHILE / 2, self._due)

    def over(self) -> None:
        """It is back."""
        self._timer.cancel()
