"""Write times as Windows told them up to Server 2016 (``smbd:writetimeupdatedelay``): late, and then not again until the file is closed.

Owns: what becomes of the time of a file that is written through one open. The first WRITE is told after the delay; FLUSH, a new end of
file and any setting of attributes or times tell it at once; what is written later is told at the close, as the time of the close. The file
system always has the true time. Invariant: nothing here happens on a share without the option; what clients are told is in the shared
state, so that those of other workers are told the same.

A time that a client has set through the open stays, as ever: then nothing is held back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from smbd.sharing import FileKey
from smbd.smb2.status import SmbError
from workers.vfs.times import THAW

if TYPE_CHECKING:
    from workers.loop import Timer
    from workers.open import Open
    from workers.vfs.interface import FileInfo
    from workers.worker import Worker


class Held:
    """Of one open that was written through. ``timer``: until its first WRITE is told; ``late``: something was written after that."""

    __slots__ = ("late", "timer", "true")

    def __init__(self) -> None:
        self.timer: Timer | None = None
        self.true = 0  # the file system's, after what was written so far
        self.late = False


def told(worker: Worker, info: FileInfo) -> FileInfo:
    """What a client is told of a file."""
    sharing = worker.sharing
    time = sharing.told_write_time(FileKey(info.dev, info.ino)) if sharing.holds_write_times() else None
    return info if time is None else info._replace(last_write_time=time)


def begin(worker: Worker, opened: Open) -> None:
    """Before a WRITE: what was told of the file up to now is told for a while longer."""
    if opened.held is not None or opened.sets_write_time or opened.key is None or opened.handle is None:
        return
    time = opened.handle.info().last_write_time
    worker.sharing.hold_write_time(opened.key, opened.persistent, time)
    held = opened.held = Held()
    held.true = time
    held.timer = worker.loop.later(opened.tree.share.write_time_delay, lambda: _due(worker, opened, held))


def wrote(opened: Open) -> None:
    """After a WRITE."""
    held = opened.held
    if held is None or opened.handle is None:
        return
    if held.timer is None:
        held.late = True
    else:
        held.true = opened.handle.info().last_write_time


def _due(worker: Worker, opened: Open, held: Held) -> None:
    """The delay is over."""
    if opened.held is held and held.timer is not None and opened.key is not None:
        held.timer = None
        worker.sharing.tell_write_time(opened.key, held.true)


def tell(worker: Worker, opened: Open) -> None:
    """FLUSH, a new end of file, attributes or times that were set: what was written is told now, and what is set, to everybody."""
    held, handle = opened.held, opened.handle
    if handle is None or opened.key is None:
        return
    time = handle.info().last_write_time
    if held is not None:
        if held.timer is not None:
            held.timer.cancel()
            held.timer = None
        held.late = False
    worker.sharing.tell_write_time(opened.key, time)


def was_set(opened: Open, time: int) -> None:
    """A write time was set, frozen or thawed through the open (0: it was left alone)."""
    if time:
        opened.sets_write_time = time != THAW


def end(worker: Worker, opened: Open) -> None:
    """The open ends, whatever comes of this: the file system's time is told again, and what was written last counts as written now."""
    held, handle = opened.held, opened.handle
    if held is None or opened.key is None:
        return
    opened.held = None
    if held.timer is not None:
        held.timer.cancel()
    try:
        try:
            if held.late and handle is not None and not opened.sets_write_time:
                handle.set_times(write=worker.now())
        finally:
            worker.sharing.release_write_time(opened.key, opened.persistent)
    except (OSError, SmbError) as error:
        worker.log.warning("the write time of a file in share %s is not told at its close: %s", opened.tree.share.name, error)
