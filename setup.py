"""Compiles the hot rooms with mypyc when MILLPOND_COMPILE is set; everything else about the distribution is in setup.cfg.

Usage: ``make compile`` (a compiled copy of the tree in build/compiled), or ``MILLPOND_COMPILE=1 pip install --no-build-isolation .`` in an
environment that has mypy. The sources are the same: without the variable this file adds nothing.
"""

from __future__ import annotations

import os
from pathlib import Path

from setuptools import setup

PACKAGES = ("pools", "smbd/sharing", "smbd/smb2", "workers")
# Not compiled: the port, which is chosen at run time; what runs once; classes that derive from builtin ones, which mypyc does not know; and
# modules with one of MARKS.
LEFT_OUT = (
    "pools/arena.py", "pools/exhausted.py", "pools/port", "pools/record.py", "workers/host.py", "workers/main.py", "workers/rehearsal",
    "workers/vfs/interface.py",
)  # fmt: skip

MARKS = (
    "Layout(",  # wire layouts: a compiled NamedTuple does not keep its annotations
    "(threading.local)",  # a compiled class derived from it has one set of attributes: one thread's identity would be every thread's
)


def compiled_modules(root: Path) -> list[str]:
    """The files that are compiled, relative to ``root``."""
    found = []
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            name = path.relative_to(root).as_posix()
            left_out = path.name == "__init__.py" or any(name == left or name.startswith(left + "/") for left in LEFT_OUT)
            text = path.read_text(encoding="utf-8")
            if not left_out and not any(mark in text for mark in MARKS):
                found.append(name)
    return found


def extensions() -> list[object]:
    """What is to be built beside the pure modules."""
    if not os.environ.get("MILLPOND_COMPILE"):
        return []
    from mypyc.build import mypycify  # noqa: PLC0415 - a build's dependency, and only this build's

    modules = compiled_modules(Path(__file__).parent)
    # A group is one C file: several are compiled at once.
    groups = [([name for name in modules if name.startswith(package)], "millpond_" + package.replace("/", "_")) for package in PACKAGES]
    return mypycify(modules, opt_level="2", debug_level="0", separate=groups)  # type: ignore[no-any-return]


if __name__ == "__main__":
    setup(ext_modules=extensions())
