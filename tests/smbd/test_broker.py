"""The janitor and the watcher on a real shared state, with the kernel's own notifications; messages are collected instead of sent."""

from __future__ import annotations

import copy
import os
import select
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pools.port import watching as areas
from pools.port.interface import Source, Tree
from pools.port.linux import watching as linux
from pools.port.linux.watching import Fanotify, Inotify
from smbd.broker.janitor import Janitor
from smbd.broker.watcher import Watcher
from smbd.config import Config, Share
from smbd.sharing import CacheClaim, CacheKind, Doomed, FileKey, OpenClaim, Sharing, prepare
from smbd.sharing.messages import LOCK_WAKE, LOCK_WAKE_LAYOUT, NOTIFY, OPLOCK_BREAK, OPLOCK_BREAK_LAYOUT, unpack_notify
from smbd.sharing.values import Deletion, Range
from smbd.smb2.constants import FILE_ACTION_ADDED, FILE_ACTION_MODIFIED, FILE_ACTION_REMOVED, FILE_ACTION_RENAMED_OLD_NAME

DELETE, READ_DATA, SHARE_ALL = 0x10000, 0x1, 0x7
EVERYTHING = 0xFFF


class Post:
    """A Service that keeps what it is to send, and runs timers when asked."""

    def __init__(self) -> None:
        self.sent: list[tuple[int, int, bytes]] = []
        self.timers: list[Callable[[], None]] = []
        self.watched: dict[int, Callable[[], None]] = {}

    def send(self, destination: int, kind: int, payload: bytes = b"", *, id: int = 0, generation: int = 0) -> None:
        self.sent.append((destination, kind, payload))

    def tell(self, slot: int, kind: int, payload: bytes, generation: int) -> None:
        self.sent.append((slot, kind, payload))

    def after(self, seconds: float, call: Callable[[], None]) -> None:
        self.timers.append(call)

    def watch(self, fd: int, call: Callable[[], None]) -> None:
        self.watched[fd] = call

    def unwatch(self, fd: int) -> None:
        del self.watched[fd]

    def deliver(self) -> None:
        """What the kernel has to say, and the timers that follow."""
        while self.watched and select.select(list(self.watched), [], [], 0)[0]:
            for call in list(self.watched.values()):
                call()
        timers, self.timers = self.timers, []
        for timer in timers:
            timer()

    def news(self) -> list[tuple[int, str, str]]:
        """(action, name, new name) of every NOTIFY so far."""
        found = []
        for _, kind, payload in self.sent:
            if kind == NOTIFY.number:
                fixed, name, new_name = unpack_notify(payload)
                found.append((fixed.action, name, new_name))
        self.sent.clear()
        return found


@pytest.fixture
def state(tmp_path: Path) -> str:
    directory = str(tmp_path / "state")
    prepare(directory, 1 << 20)
    return directory


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made = tmp_path / "share"
    made.mkdir()
    return made


def configuration(root: Path) -> Config:
    return Config(shares={"pub": Share(name="pub", path=str(root))})


class Scene:
    """A worker's and the broker's view of one state."""

    def __init__(self, state: str) -> None:
        self.dead: set[tuple[int, int]] = set()

        def alive(slot: int, generation: int) -> bool:
            return (slot, generation) not in self.dead

        # LMDB allows one environment a process: the workers are views of the broker's under other names.
        self.broker = Sharing(state, 3, 1, None, alive)
        self.worker, self.other = copy.copy(self.broker), copy.copy(self.broker)
        self.worker.slot, self.other.slot = 16, 17
        self.post = Post()

    def close(self) -> None:
        self.broker.close_environment()


@pytest.fixture
def scene(state: str) -> Iterator[Scene]:
    made = Scene(state)
    yield made
    made.close()


def test_what_a_dead_worker_had_opened_to_delete_is_deleted(scene: Scene) -> None:
    removed: list[Doomed] = []
    key = FileKey(1, 2)
    claim = OpenClaim(7, DELETE, SHARE_ALL, "a/b.txt", share="pub", delete_on_close=True, uid=1000, gid=1000)
    scene.worker.open(key, claim)
    scene.other.watch("pub", "a", EVERYTHING, False, 5)
    scene.dead.add((16, 1))
    Janitor(scene.broker, scene.post.tell, removed.append).sweep(16, 1)
    assert [(item.delete, item.path, item.share, item.uid) for item in removed] == [(Deletion.FILE, "a/b.txt", "pub", 1000)]
    assert scene.post.news() == [(FILE_ACTION_REMOVED, "b.txt", "")]
    assert scene.broker.opens() == []


def test_what_cannot_be_deleted_is_settled_all_the_same(scene: Scene) -> None:
    def refuse(item: Doomed) -> None:
        raise PermissionError(13, "Permission denied")

    scene.worker.open(FileKey(1, 2), OpenClaim(7, DELETE, SHARE_ALL, "x", share="pub", delete_on_close=True))
    scene.dead.add((16, 1))
    janitor = Janitor(scene.broker, scene.post.tell, refuse)
    janitor.sweep(16, 1)
    janitor.sweep_dead()
    assert scene.broker.opens() == []


def test_a_janitor_that_died_before_the_deletion_is_continued(scene: Scene) -> None:
    class Killed(BaseException):
        pass

    def die(item: Doomed) -> None:
        raise Killed

    scene.worker.open(FileKey(1, 2), OpenClaim(7, DELETE, SHARE_ALL, "x", share="pub", delete_on_close=True))
    scene.dead.add((16, 1))
    with pytest.raises(Killed):
        Janitor(scene.broker, scene.post.tell, die).sweep(16, 1)
    removed: list[Doomed] = []
    Janitor(scene.broker, scene.post.tell, removed.append).sweep_dead()
    assert [item.path for item in removed] == ["x"]


def test_who_waits_for_a_dead_workers_lock_is_woken(scene: Scene) -> None:
    key = FileKey(1, 2)
    scene.worker.open(key, OpenClaim(7, READ_DATA, SHARE_ALL, "x"))
    scene.other.open(key, OpenClaim(8, READ_DATA, SHARE_ALL, "x"))
    scene.worker.lock(key, 7, [Range(0, 10)])
    assert not scene.other.lock(key, 8, [Range(0, 10)], 99)
    scene.dead.add((16, 1))
    Janitor(scene.broker, scene.post.tell, lambda item: None).sweep(16, 1)
    assert scene.post.sent == [(17, LOCK_WAKE.number, LOCK_WAKE_LAYOUT.pack(99))]


def fanotify_or_skip() -> None:
    try:
        Fanotify(frozenset).close()
    except OSError:
        pytest.skip("fanotify with names needs CAP_SYS_ADMIN")


@pytest.fixture(params=["fanotify", "inotify"])
def watching(request: pytest.FixtureRequest, scene: Scene, root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Watcher]:
    """A watcher on either source. The test itself is the outsider: its pid is not the server's."""
    if request.param == "fanotify":
        fanotify_or_skip()
    else:
        monkeypatch.setattr(areas, "sources", lambda own: [Inotify])
    made = Watcher(scene.broker, scene.post, configuration(root), frozenset)  # type: ignore[arg-type]  # Post stands in for Service
    yield made
    made.close()


def test_nothing_is_opened_while_nobody_watches(watching: Watcher, scene: Scene) -> None:
    watching.refresh()
    assert scene.post.watched == {}


def test_changes_from_outside_are_told(watching: Watcher, scene: Scene, root: Path) -> None:
    (root / "old").write_text("x")
    scene.worker.watch("pub", "", EVERYTHING, False, 5)
    watching.refresh()
    (root / "new").write_text("x")
    os.rename(root / "old", root / "older")
    (root / "new").unlink()
    scene.post.deliver()
    news = scene.post.news()
    assert (FILE_ACTION_ADDED, "new", "") in news
    assert (FILE_ACTION_MODIFIED, "new", "") in news
    assert (FILE_ACTION_RENAMED_OLD_NAME, "old", "older") in news
    assert (FILE_ACTION_REMOVED, "new", "") in news
    assert news.index((FILE_ACTION_ADDED, "new", "")) < news.index((FILE_ACTION_REMOVED, "new", ""))


def test_a_recursive_watch_sees_directories_made_later(watching: Watcher, scene: Scene, root: Path) -> None:
    scene.worker.watch("pub", "", EVERYTHING, True, 5)
    watching.refresh()
    (root / "deep").mkdir()
    scene.post.deliver()
    (root / "deep" / "file").write_text("x")
    scene.post.deliver()
    assert (FILE_ACTION_ADDED, "deep/file", "") in scene.post.news()


def test_the_reserved_directory_and_other_places_are_nobodys_business(watching: Watcher, scene: Scene, root: Path) -> None:
    (root / ".millpond").mkdir()
    scene.worker.watch("pub", "", EVERYTHING, True, 5)
    watching.refresh()
    (root / ".millpond" / "stream").write_text("x")
    (root.parent / "elsewhere").write_text("x")
    scene.post.deliver()
    assert scene.post.news() == []


def test_the_source_is_closed_with_the_last_watcher(watching: Watcher, scene: Scene) -> None:
    scene.worker.watch("pub", "", EVERYTHING, False, 5)
    watching.refresh()
    assert scene.post.watched
    scene.worker.unwatch("pub", "", 5)
    watching.refresh()
    assert scene.post.watched == {}
    assert scene.broker.watched() == []


def test_fanotify_leaves_out_what_the_servers_own_processes_do(scene: Scene, root: Path) -> None:
    fanotify_or_skip()
    source = Fanotify(lambda: frozenset({os.getpid()}))
    source.cover({Tree(str(root), False)})
    (root / "mine").write_text("x")
    mine = [change for change in source.changes() if change.path.startswith(str(root))]
    source.close()
    assert mine == []


def test_inotify_news_that_a_worker_has_announced_are_not_told_again(scene: Scene, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(areas, "sources", lambda own: [Inotify])
    made = Watcher(scene.broker, scene.post, configuration(root), frozenset)  # type: ignore[arg-type]  # as above
    scene.worker.watch("pub", "", EVERYTHING, False, 5)
    made.refresh()
    (along,) = [row for row in scene.broker.watchers_of("pub", "mine", 1) if row.slot == 3]
    (root / "mine").write_text("x")
    (root / "theirs").write_text("x")
    made.announced(along.watch_id, "mine", "")
    scene.post.deliver()
    made.close()
    assert {name for _, name, _ in scene.post.news()} == {"theirs"}


def cache(scene: Scene, directory: Path) -> None:
    """A client of ``scene.worker`` caches the listing."""
    at = directory.stat()
    lease = CacheClaim(CacheKind.LEASE_V2, 3, 0, b"g" * 16, b"k" * 16)
    claim = OpenClaim(9, READ_DATA, SHARE_ALL, "", "pub", directory=True, cache=lease)
    assert scene.worker.open(FileKey(at.st_dev, at.st_ino), claim).granted == 3


def broken(scene: Scene) -> list[tuple[int, int, int]]:
    """(slot, current state, new state) of every break to be told of."""
    told = [(slot, OPLOCK_BREAK_LAYOUT.unpack(payload)) for slot, kind, payload in scene.post.sent if kind == OPLOCK_BREAK.number]
    scene.post.sent.clear()
    return [(slot, notice.current, notice.state) for slot, notice in told]


def test_a_listing_that_is_cached_ends_with_a_change_from_outside(watching: Watcher, scene: Scene, root: Path) -> None:
    cache(scene, root)
    scene.other.watch("pub", "", EVERYTHING, False, 5)
    watching.refresh()
    (root / "new").write_text("x")
    scene.post.deliver()
    kinds = [kind for _, kind, _ in scene.post.sent]
    assert kinds.index(OPLOCK_BREAK.number) < kinds.index(NOTIFY.number)  # who is told looks again
    assert broken(scene) == [(16, 3, 0)]


def test_what_a_worker_has_announced_ends_no_lease_again(scene: Scene, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(areas, "sources", lambda own: [Inotify])
    made = Watcher(scene.broker, scene.post, configuration(root), frozenset)  # type: ignore[arg-type]  # as above
    cache(scene, root)
    scene.other.watch("pub", "", EVERYTHING, False, 5)
    made.refresh()
    (along,) = [row for row in scene.broker.watchers_of("pub", "mine", 1) if row.slot == 3]
    (root / "mine").write_text("x")
    made.announced(along.watch_id, "mine", "")
    scene.post.deliver()
    made.close()
    assert broken(scene) == []


def test_a_listing_ends_with_what_the_janitor_deletes(scene: Scene, root: Path) -> None:
    cache(scene, root)
    at = root.stat()
    scene.other.open(FileKey(1, 2), OpenClaim(7, DELETE, SHARE_ALL, "x", "pub", delete_on_close=True))
    scene.dead.add((17, 1))
    Janitor(scene.broker, scene.post.tell, lambda item: FileKey(at.st_dev, at.st_ino)).sweep(17, 1)
    assert broken(scene) == [(16, 3, 0)]


def test_more_directories_than_allowed_are_left_out(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linux, "DIRECTORIES", 3)
    for name in "abcdef":
        (root / name).mkdir()
    source: Source = Inotify()
    source.cover({Tree(str(root), True)})
    started = time.monotonic()
    assert source.changes() == []
    assert time.monotonic() - started < 1
    source.close()
