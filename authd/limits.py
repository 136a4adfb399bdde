"""How often one may guess: the delay after a failed attempt, and when an attempt is refused without looking.

Owns: the record of recent failures by address and by user. Pure: the time is an argument.
Invariant: bounded memory; a client without recent failures of its own is never refused because of others' failures, so guessing at a name
does not lock its owner out.
"""

from __future__ import annotations

from collections import OrderedDict, deque

WINDOW = 60.0
PER_ADDRESS = 60
PER_USER = 120
REMEMBERED = 4096
MAX_FACTOR = 8


class Limiter:
    """``delay``: seconds before a refusal is sent, multiplied as failures from one address go on."""

    __slots__ = ("_addresses", "_users", "delay")

    def __init__(self, delay: float) -> None:
        self.delay = delay
        self._addresses: OrderedDict[str, deque[float]] = OrderedDict()
        self._users: OrderedDict[str, deque[float]] = OrderedDict()

    def refuses(self, address: str, user: str, now: float) -> bool:
        """Whether an attempt is turned away unseen."""
        own = _recent(self._addresses, address, now)
        return own >= PER_ADDRESS or (own > 0 and _recent(self._users, user.casefold(), now) >= PER_USER)

    def failed(self, address: str, user: str, now: float) -> float:
        """Take note of a failure; returns the seconds its answer has to wait."""
        _note(self._addresses, address, now, PER_ADDRESS)
        _note(self._users, user.casefold(), now, PER_USER)
        return self.delay * min(MAX_FACTOR, 1 + _recent(self._addresses, address, now) // 10)


def _recent(table: OrderedDict[str, deque[float]], key: str, now: float) -> int:
    times = table.get(key)
    if times is None:
        return 0
    while times and times[0] <= now - WINDOW:
        times.popleft()
    if not times:
        del table[key]
    return len(times)


def _note(table: OrderedDict[str, deque[float]], key: str, now: float, most: int) -> None:
    table.setdefault(key, deque(maxlen=most)).append(now)
    table.move_to_end(key)
    while len(table) > REMEMBERED:
        table.popitem(last=False)
