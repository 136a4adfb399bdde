"""The master's event loop: descriptors and what to do when they are ready.

Owns: the poller. Invariant: an action that was removed in this turn is not called, even if its descriptor number was taken anew meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable

from pools import port

Action = Callable[[int], None]
"""Called with the ready events of its descriptor."""


class Reactor:
    """Level-triggered; one thread uses it."""

    __slots__ = ("_actions", "_poller")

    def __init__(self) -> None:
        self._poller = port.polling.poller()
        self._actions: dict[int, Action] = {}

    def add(self, fd: int, action: Action) -> None:
        """Call ``action`` whenever ``fd`` can be read or is hung up."""
        self._poller.register(fd, port.READABLE)
        self._actions[fd] = action

    def want_write(self, fd: int, wanted: bool) -> None:
        """Whether ``fd`` being writable counts as well. Nothing happens for one that was removed."""
        if fd not in self._actions:
            return
        self._poller.modify(fd, port.READABLE | port.WRITABLE if wanted else port.READABLE)

    def remove(self, fd: int) -> None:
        """Forget ``fd``; to be called before it is closed."""
        if self._actions.pop(fd, None) is not None:
            self._poller.unregister(fd)

    def turn(self, timeout: float) -> None:
        """Wait up to ``timeout`` seconds and run what is ready."""
        ready = [(self._actions.get(fd), fd, events) for fd, events in self._poller.poll(max(0.0, timeout))]
        for action, fd, events in ready:
            if action is not None and self._actions.get(fd) is action:
                action(events)

    def close(self) -> None:
        """Give the poller back."""
        self._actions.clear()
        self._poller.close()
