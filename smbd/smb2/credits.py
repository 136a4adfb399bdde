"""The window of message ids a client may use, and the credits that widen it: [MS-SMB2] 3.3.1.1, 3.3.1.2, 3.3.5.2.3, 3.3.5.2.5.

Owns: CommandSequenceWindow of one connection. Invariant: every id is used at most once; the client never holds more than ``maximum``
credits, and the span from its lowest unused id to its highest is at most twice that.
"""

from __future__ import annotations

from smbd.smb2 import status
from smbd.smb2.status import SmbError

CREDIT_SIZE = 65536


class Disconnect(Exception):
    """The specification asks to drop the connection; ``reason`` is for the log."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class CreditWindow:
    """Ids from ``low`` to ``high`` - 1 may be used, except those in ``used``, which were used out of order."""

    __slots__ = ("high", "low", "maximum", "used")

    def __init__(self, maximum: int = 8192) -> None:
        self.maximum = maximum
        self.low = 0
        self.high = 1  # 3.3.1.1: a new connection may use id 0
        self.used: set[int] = set()

    @property
    def outstanding(self) -> int:
        """Credits the client holds."""
        return self.high - self.low - len(self.used)

    def charge(self, message_id: int, credit_charge: int) -> None:
        """Take ``credit_charge`` (>= 1) consecutive ids from ``message_id`` on; ``Disconnect`` when one was not granted or is used."""
        end = message_id + credit_charge
        if message_id == self.low and end <= self.high and not self.used:
            self.low = end
            return
        if message_id < self.low or end > self.high:
            raise Disconnect(f"message id {message_id} (charge {credit_charge}) outside of the window {self.low} to {self.high - 1}")
        ids = range(message_id, end)
        if not self.used.isdisjoint(ids):
            raise Disconnect(f"message id {message_id} (charge {credit_charge}) used twice")
        self.used.update(ids)
        while self.low in self.used:
            self.used.remove(self.low)
            self.low += 1

    def give_back(self, message_id: int, credit_charge: int, granted: int) -> None:
        """Undo ``charge`` and ``grant``: the request is to be received once more, by somebody else."""
        self.high -= granted
        end = message_id + credit_charge
        if message_id < self.low:
            self.used.update(range(end, self.low))
            self.low = message_id
        else:
            self.used.difference_update(range(message_id, end))

    def grant(self, requested: int, ceiling: int = 65535, charged: int = 1) -> int:
        """Credits for the response to a request that asked for ``requested`` and was charged ``charged``; widens the window by them.

        What was charged comes back, and with it what was asked for beyond one, up to ``maximum``. ``ceiling`` is the caller's own bound
        (back-pressure). A client left without any credit gets one, or it could never speak again. An interim response grants, the final
        response that follows it does not (3.3.4.2): its caller writes 0 and does not ask here.
        """
        wanted = (requested or 1) - 1 + (charged or 1)
        high = self.high + wanted
        if wanted <= ceiling and high - self.low <= self.maximum:
            self.high = high
            return wanted
        span = self.high - self.low
        held = span - len(self.used)
        granted = min(wanted, ceiling, self.maximum - held, 2 * self.maximum - span)
        if granted <= 0:
            granted = 1 if held == 0 else 0
        self.high += granted
        return granted


def check_charge(credit_charge: int, send_size: int, expected_response_size: int) -> None:
    """3.3.5.2.5: the payload either way must be covered by CreditCharge (0 counts as 1), else INVALID_PARAMETER."""
    size = send_size if send_size > expected_response_size else expected_response_size
    if size > CREDIT_SIZE and (size - 1) // CREDIT_SIZE + 1 > (credit_charge or 1):
        raise SmbError(status.INVALID_PARAMETER)
