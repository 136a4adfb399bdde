"""Restart throttling: a service that keeps dying is started at growing intervals.

Owns: one service's history. Invariant: time is an argument; the delay never exceeds ``LONGEST`` and starts from nothing after a healthy
life.
"""

from __future__ import annotations

from dataclasses import dataclass

FIRST = 0.25
LONGEST = 30.0
HEALTHY = 60.0
"""Seconds a process must have lived for its death to count as the first."""


@dataclass(slots=True)
class Throttle:
    """``due`` is the time of the next start; None while the service runs."""

    failures: int = 0
    started: float = 0.0
    due: float | None = 0.0

    def start(self, now: float) -> None:
        """The service was started."""
        self.started = now
        self.due = None

    def died(self, now: float) -> float:
        """The service is gone; the delay in seconds until its next start: 0, then 0.25, 0.5, ... 30."""
        if now - self.started >= HEALTHY:
            self.failures = 0
        delay = 0.0 if self.failures == 0 else min(LONGEST, FIRST * 2.0 ** min(self.failures - 1, 16))
        self.failures += 1
        self.due = now + delay
        return delay
