"""The error of a pool that has nothing left.

Owns: ``PoolExhausted``. A module of its own because the compiled form (see setup.py) can hold no class that derives from a builtin one.
"""

from __future__ import annotations


class PoolExhausted(MemoryError):
    """No buffer of this size now: neither free, nor leased, nor in the reserve."""

    def __init__(self, size: int) -> None:
        super().__init__(f"no buffer for {size} bytes")
        self.size = size
