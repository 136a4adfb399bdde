"""The abstraction layer: everything that this server asks of an operating system.

``from pools.port import files, sockets`` and call ``files.open_beneath(...)``: the functions are those of the port in use (``choice``),
their contracts are in ``interface``. Nothing above this package calls os, select, fcntl, ctypes, mmap, resource, signal, socket or
threading for these things directly.
"""

from pools.port.choice import credentials, files, memory, polling, processes, sandbox, sockets, watching
from pools.port.interface import HANGUP, READABLE, WRITABLE

__all__ = [
    "HANGUP",
    "READABLE",
    "WRITABLE",
    "credentials",
    "files",
    "memory",
    "polling",
    "processes",
    "sandbox",
    "sockets",
    "watching",
]
