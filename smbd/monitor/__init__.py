"""Looking at a running server from outside: who is connected, what is open, what memory and processes it uses.

Owns: the snapshot and its two forms, tables and JSON. Invariant: only reads; a server is never slowed or changed by being looked at.
"""

from __future__ import annotations

from smbd.monitor.snapshot import SECTIONS, Snapshot, take
from smbd.monitor.tables import as_text

__all__ = ["SECTIONS", "Snapshot", "as_text", "take"]
