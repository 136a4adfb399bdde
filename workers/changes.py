"""Telling watchers, and who caches a directory, what this worker changed ([MS-SMB2] 3.3.4.4, [MS-FSA] 2.1.4.12).

Owns: the way from a change to the CHANGE_NOTIFY requests it concerns, in this worker and in others.
Invariant: nothing here fails a request: a watcher that cannot be told loses the news and is told so by its own overflow.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from pools.queue import AskBusy
from smbd.sharing.messages import DOOMED, NOTIFY, pack_notify
from smbd.smb2.constants import (
    FILE_ACTION_ADDED,
    FILE_ACTION_ADDED_STREAM,
    FILE_ACTION_MODIFIED,
    FILE_ACTION_MODIFIED_STREAM,
    FILE_ACTION_REMOVED,
    FILE_ACTION_REMOVED_STREAM,
    FILE_ACTION_RENAMED_OLD_NAME,
    FILE_NOTIFY_CHANGE_ATTRIBUTES,
    FILE_NOTIFY_CHANGE_CREATION,
    FILE_NOTIFY_CHANGE_DIR_NAME,
    FILE_NOTIFY_CHANGE_FILE_NAME,
    FILE_NOTIFY_CHANGE_LAST_WRITE,
    FILE_NOTIFY_CHANGE_SIZE,
    FILE_NOTIFY_CHANGE_STREAM_NAME,
    FILE_NOTIFY_CHANGE_STREAM_SIZE,
    FILE_NOTIFY_CHANGE_STREAM_WRITE,
)

_WITH_A_RENAME = FILE_NOTIFY_CHANGE_ATTRIBUTES | FILE_NOTIFY_CHANGE_CREATION

if TYPE_CHECKING:
    from smbd.sharing import Watcher
    from smbd.smb2.names import Path
    from workers.open import Open
    from workers.tree import TreeConnect
    from workers.worker import Worker


def joined(path: Path) -> str:
    """The path as the shared state keeps it: '/' between components, ':' before a stream."""
    text = "/".join(path.components)
    return f"{text}:{path.stream}" if path.stream else text


def tell(where: tuple[Worker, TreeConnect], path: Path, action: int, change: int, new: Path | None = None) -> None:
    """``action`` happened to ``path``; ``change`` are the FILE_NOTIFY_CHANGE bits it counts as. ``new`` is a rename's second name."""
    worker, tree = where
    if not worker.sharing.is_watched():
        return
    share = tree.share.name
    for watcher in worker.sharing.watchers_of(share, joined(path), change):
        new_name = "" if new is None else joined(new)[len(joined(path)) - len(watcher.name) :]
        _pass_on(worker, watcher, action, new_name)


def doomed(worker: Worker, opened: Open) -> None:
    """An open directory is to be deleted: whoever waits for changes in it waits for nothing."""
    assert opened.path is not None
    for watcher in worker.sharing.watchers_at(opened.tree.share.name, joined(opened.path)):
        _pass_on(worker, watcher, DOOMED)


def _pass_on(worker: Worker, watcher: Watcher, action: int, new_name: str = "") -> None:
    if watcher.slot == worker.slot:
        worker.notices.deliver(watcher.watch_id, action, watcher.name, new_name)
        return
    with suppress(AskBusy):
        worker.mailbox.send(watcher.slot, NOTIFY.number, pack_notify(watcher.watch_id, action, watcher.name, new_name))


def modified(worker: Worker, opened: Open, change: int) -> None:
    """Data of an open file changed. Who caches its directory hears of it when the file is closed, as from Windows, not at each write."""
    opened.written = True
    if worker.sharing.is_watched():
        _tell_modified(worker, opened, change)


def altered(worker: Worker, opened: Open, change: int) -> None:
    """Length, times, attributes or security of an open file were set: what a listing shows is another from now on."""
    assert opened.path is not None
    opened.written = False
    _tell_modified(worker, opened, change)
    worker.breaks.directory_changed(opened.tree, opened.path, opened.parent_key)


def _tell_modified(worker: Worker, opened: Open, change: int) -> None:
    assert opened.path is not None
    action = FILE_ACTION_MODIFIED
    if opened.path.stream:
        action = FILE_ACTION_MODIFIED_STREAM
        streams = 0
        if change & FILE_NOTIFY_CHANGE_SIZE:
            streams |= FILE_NOTIFY_CHANGE_STREAM_SIZE
        if change & FILE_NOTIFY_CHANGE_LAST_WRITE:
            streams |= FILE_NOTIFY_CHANGE_STREAM_WRITE
        change = streams or change
    tell((worker, opened.tree), opened.path, action, change)


def name_change(directory: bool, stream: str) -> int:
    """The filter bit for the coming and going of a name."""
    if stream:
        return FILE_NOTIFY_CHANGE_STREAM_NAME
    return FILE_NOTIFY_CHANGE_DIR_NAME if directory else FILE_NOTIFY_CHANGE_FILE_NAME


def added(worker: Worker, tree: TreeConnect, path: Path, opened: Open) -> None:
    """A file, directory or stream was created, or another name for it, through ``opened``."""
    action = FILE_ACTION_ADDED_STREAM if path.stream else FILE_ACTION_ADDED
    tell((worker, tree), path, action, name_change(opened.is_directory, path.stream))
    worker.breaks.directory_changed(tree, path, opened.parent_key)


def removed(worker: Worker, tree: TreeConnect, path: Path, opened: Open, parent_key: bytes | None = None) -> None:
    """A file, directory or stream was deleted or moved away; ``parent_key``: see ``Breaks.directory_changed``."""
    action = FILE_ACTION_REMOVED_STREAM if path.stream else FILE_ACTION_REMOVED
    tell((worker, tree), path, action, name_change(opened.is_directory, path.stream))
    worker.breaks.directory_changed(tree, path, opened.parent_key if parent_key is None else parent_key)


def renamed(worker: Worker, opened: Open, old: Path, new: Path) -> None:
    """A name changed. Across directories watchers see a removal and an addition.

    Who watches a file's attributes and not its name hears that it was modified, as from Windows.
    """
    tree = opened.tree
    if old.components[:-1] == new.components[:-1]:
        tell((worker, tree), old, FILE_ACTION_RENAMED_OLD_NAME, name_change(opened.is_directory, ""), new)
        worker.breaks.directory_changed(tree, new, opened.parent_key)
    else:
        removed(worker, tree, old, opened)
        added(worker, tree, new, opened)
    if not opened.is_directory and worker.sharing.is_watched():
        for watcher in worker.sharing.watchers_of(tree.share.name, joined(new), _WITH_A_RENAME):
            if not watcher.filter & FILE_NOTIFY_CHANGE_FILE_NAME:
                _pass_on(worker, watcher, FILE_ACTION_MODIFIED)
