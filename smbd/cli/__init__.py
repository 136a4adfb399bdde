"""The ``millpond`` command: ``main(argv, run=...)``.

Owns: the commands' words, their help and how an error is told. The server itself is handed in as ``run`` by the composition root.
Invariant: whatever an administrator can cause ends in one line on standard error that names the thing and the way out, and exit status 1.
"""

from __future__ import annotations

from smbd.cli.command import Run, main

__all__ = ["Run", "main"]
