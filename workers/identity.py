"""Whose rights a thread of the worker acts with.

Owns: the calling thread's identity. Invariant: what ``assume`` says is what the kernel has, thread by thread; a failed change leaves
the thread's identity recorded as unknown, so that nobody hands it on and the next ``assume`` sets everything again.

This is the ``switch`` form: effective ids move for each request, only when they differ from the last one's. The interface says nothing of
how: a form that drops to one user for good refuses, in ``assume``, any identity but its own, and asks elsewhere for what ``as_root`` is
for.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from pools.port import credentials


class Identity(NamedTuple):
    """A Unix user as the kernel knows one: no names, no SIDs."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()


ROOT = Identity(0, 0, ())


class _State(threading.local):
    current: Identity | None = None
    unknown = False


_state = _State()
_privileged: bool | None = None


def privileged() -> bool:
    """Whether identities can be switched at all. Asked once a process; a fork inherits the answer, which a fork does not change."""
    global _privileged
    if _privileged is None:
        _privileged = credentials.can_switch()
    return _privileged


def per_thread() -> bool:
    """Whether a thread can act for one user while another acts for somebody else. Where it cannot, one thread does everything."""
    return credentials.PER_THREAD or not privileged()


def assume(identity: Identity) -> None:
    """Act as ``identity`` from here on, in this thread. Costs nothing when it already does, or when the process is not root's."""
    if identity == _state.current or not privileged():
        return
    _state.current = None
    _state.unknown = True  # until the kernel has said yes: nobody may take a half-made change for an identity
    credentials.set_effective(*identity)
    _state.current = identity
    _state.unknown = False


def current() -> Identity:
    """The identity of this thread. PermissionError after a change that failed: what the thread is then must not be handed on."""
    if _state.unknown:
        raise PermissionError(errno.EPERM, "this thread's identity is unknown: the last change failed")
    return _state.current or Identity(*credentials.effective())


@contextmanager
def as_root() -> Iterator[None]:
    """For the few calls that need it, after the user's right to the result was checked: reading and writing security.NTACL, hidden files.

    Without root's powers it does nothing: the call inside then fails or not on the serving user's own rights.
    """
    before = _state.current
    if before is None or before.uid == 0 or not privileged():
        yield
        return
    credentials.set_effective_uid(0)
    _state.current = None
    try:
        yield
    finally:
        _state.unknown = True  # should coming back fail
        credentials.set_effective_uid(before.uid)
        _state.unknown = False
        _state.current = before
