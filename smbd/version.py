"""The version of this distribution, in one place: setup.cfg reads it from here; and which form of it this is."""

from importlib.util import find_spec

VERSION = "0.1.0"


def form() -> str:
    """``compiled`` or ``pure Python``: what the interpreter finds when it looks for the hot rooms. Nothing is imported for the answer."""
    found = find_spec("pools.pool")
    return "compiled" if found is not None and (found.origin or "").endswith(".so") else "pure Python"
