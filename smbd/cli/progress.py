"""How far a command has come, on a terminal.

Owns: the bar. Invariant: nothing is written where nobody looks: standard error that is not a terminal stays empty.
"""

from __future__ import annotations

import sys

_BAR = 40


def show(part: float) -> None:
    """Draw the bar anew; ``part`` of the whole, from 0 to 1."""
    if sys.stderr.isatty():
        full = round(part * _BAR)
        print(f"\r[{'#' * full}{'.' * (_BAR - full)}] {part:4.0%}", end="\n" if part >= 1 else "", file=sys.stderr, flush=True)
