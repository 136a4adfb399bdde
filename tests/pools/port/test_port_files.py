"""Files through each port: nothing leaves the root, nothing is replaced unasked, what was stored comes back."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

from pools.port import choice
from pools.port.choice import Port
from pools.port.interface import NO_ATTRIBUTE, Place
from pools.port.posix.attributes import SideAttributes

READ = os.O_RDONLY | os.O_NONBLOCK


@pytest.fixture
def root(tmp_path: Path) -> Iterator[tuple[Path, int]]:
    """A folder with a secret beside it."""
    (tmp_path / "secret").write_text("secret")
    path = tmp_path / "root"
    (path / "a" / "b").mkdir(parents=True)
    (path / "a" / "b" / "file").write_text("inside")
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    yield path, fd
    os.close(fd)


def content(fd: int) -> bytes:
    try:
        return os.read(fd, 100)
    finally:
        os.close(fd)


# Opening beneath a root


@pytest.mark.parametrize("path", [b"a/b/file", b"a//b/./file", b"./a/b/file"])
def test_a_path_beneath(port: Port, root: tuple[Path, int], path: bytes) -> None:
    assert content(port.files.open_beneath(root[1], path, READ)) == b"inside"


@pytest.mark.parametrize("path", [b".", b"a", b"a/", b"a/."])
def test_a_directory_beneath(port: Port, root: tuple[Path, int], path: bytes) -> None:
    fd = port.files.open_beneath(root[1], path, READ | os.O_DIRECTORY)
    assert stat.S_ISDIR(os.fstat(fd).st_mode)
    assert not os.get_inheritable(fd)
    os.close(fd)


@pytest.mark.parametrize(
    ("path", "code"),
    [
        (b"..", errno.EXDEV),
        (b"../secret", errno.EXDEV),
        (b"a/../../secret", errno.EXDEV),
        (b"/etc/passwd", errno.EXDEV),
        (b"absent", errno.ENOENT),
        (b"absent/file", errno.ENOENT),
        (b"a/b/file/more", errno.ENOTDIR),
    ],
)
@pytest.mark.parametrize("follow", [False, True])
def test_what_is_not_beneath(port: Port, root: tuple[Path, int], path: bytes, code: int, follow: bool) -> None:
    with pytest.raises(OSError) as caught:
        port.files.open_beneath(root[1], path, READ, follow=follow)
    assert caught.value.errno == code


def test_a_symlink_is_followed_on_request_only(port: Port, root: tuple[Path, int]) -> None:
    path, fd = root
    (path / "link").symlink_to("a/b")
    (path / "a" / "up").symlink_to("../a/b/file")
    for name in (b"link/file", b"a/up"):
        with pytest.raises(OSError) as caught:
            port.files.open_beneath(fd, name, READ)
        assert caught.value.errno == errno.ELOOP
        assert content(port.files.open_beneath(fd, name, READ, follow=True)) == b"inside"


@pytest.mark.parametrize("target", ["../secret", "/etc/passwd", "a/../../secret", "a/out"])
def test_a_symlink_that_leads_out(port: Port, root: tuple[Path, int], target: str) -> None:
    path, fd = root
    (path / "a" / "out").symlink_to("../../secret")
    (path / "link").symlink_to(target)
    for name in (b"link", b"link/"):
        with pytest.raises(OSError) as caught:
            port.files.open_beneath(fd, name, READ, follow=True)
        assert caught.value.errno == errno.EXDEV


def test_a_circle_of_symlinks(port: Port, root: tuple[Path, int]) -> None:
    path, fd = root
    (path / "x").symlink_to("y")
    (path / "y").symlink_to("x")
    with pytest.raises(OSError) as caught:
        port.files.open_beneath(fd, b"x", READ, follow=True)
    assert caught.value.errno == errno.ELOOP


@pytest.mark.parametrize("follow", [False, True])
def test_no_race_leaves_the_root(port: Port, root: tuple[Path, int], follow: bool) -> None:
    """A directory on the way turns into a symlink out of the share and back, as fast as can be."""
    path, fd = root
    outside = path.parent / "outside"
    outside.mkdir()
    (outside / "file").write_text("secret")
    (path / "trap").symlink_to("../outside")
    (path / "turn").mkdir()
    (path / "turn" / "file").write_text("inside")
    over = threading.Event()

    def swap() -> None:
        while not over.is_set():
            os.rename(path / "turn", path / "kept")
            os.rename(path / "trap", path / "turn")
            os.rename(path / "turn", path / "trap")
            os.rename(path / "kept", path / "turn")

    thread = threading.Thread(target=swap)
    thread.start()
    found = set()
    try:
        for _ in range(3000):
            try:
                found.add(content(port.files.open_beneath(fd, b"turn/file", READ, follow=follow)))
            except OSError as error:
                found.add(errno.errorcode[error.errno].encode())
    finally:
        over.set()
        thread.join()
    assert b"secret" not in found
    assert found <= {b"inside", b"ENOENT", b"ELOOP", b"EXDEV", b"ENOTDIR"}


def test_no_descriptor_is_left(port: Port, root: tuple[Path, int]) -> None:
    path, fd = root
    (path / "link").symlink_to("a/../a/b/file")
    before = len(os.listdir("/dev/fd"))
    for name in (b"a/b/file", b"link", b"a/absent", b"../x"):
        try:
            os.close(port.files.open_beneath(fd, name, READ, follow=True))
        except OSError:
            continue
    assert len(os.listdir("/dev/fd")) == before


# The file behind a descriptor


def test_a_file_opened_anew_is_the_same(port: Port, root: tuple[Path, int]) -> None:
    path, fd = root
    named = port.files.open_beneath(fd, b"a/b/file", port.files.PATH_ONLY)
    place = Place(fd, b"a/b/file")
    again = port.files.reopen(named, os.O_RDWR, place)
    os.pwrite(again, b"I", 0)
    assert (path / "a" / "b" / "file").read_text() == "Inside"
    assert port.files.where(named, place) == b"a/b/file"
    assert port.files.where(fd, Place(fd, b"")) == b""
    assert port.files.may_access(named, os.R_OK | os.W_OK, place)
    os.close(again)
    os.close(named)


def test_another_file_of_the_name_is_never_taken_for_it(port: Port, root: tuple[Path, int]) -> None:
    path, fd = root
    named = port.files.open_beneath(fd, b"a/b/file", port.files.PATH_ONLY)
    os.rename(path / "a" / "b" / "file", path / "moved")
    (path / "a" / "b" / "file").write_text("another")
    place = Place(fd, b"a/b/file")
    assert port.files.where(named, place) in (None, b"moved")
    try:
        assert content(port.files.reopen(named, READ, place)) == b"inside"
    except FileNotFoundError:
        assert port.name == "posix"
    os.close(named)


def test_a_symlink_on_the_way_is_not_in_the_path_where_it_is(port: Port, root: tuple[Path, int]) -> None:
    path, fd = root
    (path / "link").symlink_to("a/b")
    named = port.files.open_beneath(fd, b"link/file", port.files.PATH_ONLY, follow=True)
    assert port.files.where(named, Place(fd, b"link/file")) == b"a/b/file"
    os.close(named)


def test_a_directory_can_be_opened_anew_wherever_it_is(port: Port, root: tuple[Path, int]) -> None:
    path, fd = root
    named = port.files.open_beneath(fd, b"a/b", port.files.PATH_ONLY | os.O_DIRECTORY)
    os.rename(path / "a" / "b", path / "elsewhere")
    again = port.files.reopen(named, READ | os.O_DIRECTORY, Place(fd, b"a/b"))
    assert os.listdir(again) == ["file"]
    os.close(again)
    os.close(named)


def test_what_a_file_is(port: Port, root: tuple[Path, int]) -> None:
    path, fd = root
    named = port.files.open_beneath(fd, b"a/b/file", port.files.PATH_ONLY)
    told = (path / "a" / "b" / "file").stat()
    (path / "link").symlink_to("a")
    for found in (port.files.stat_fd(named),):
        assert (found.ino, found.size, found.mode, found.nlink) == (told.st_ino, 6, told.st_mode, 1)
        assert os.makedev(found.dev_major, found.dev_minor) == told.st_dev
        assert found.mtime * 1_000_000_000 + found.mtime_ns == told.st_mtime_ns
    assert stat.S_ISLNK(port.files.stat_at(fd, b"link").mode)
    os.close(named)


def test_mode_owner_and_times(port: Port, root: tuple[Path, int]) -> None:
    path, fd = root
    named = port.files.open_beneath(fd, b"a/b/file", port.files.PATH_ONLY)
    port.files.chmod(named, 0o600)
    port.files.chown(named, os.getuid(), -1)
    port.files.set_times(named, None, 1_000_000_007)
    port.files.set_times(named, 2_000_000_009, None)
    told = (path / "a" / "b" / "file").stat()
    assert (told.st_mode & 0o777, told.st_mtime_ns, told.st_atime_ns) == (0o600, 1_000_000_007, 2_000_000_009)
    os.close(named)


# Names


@pytest.mark.parametrize("kind", ["file", "directory", "symlink"])
def test_a_renaming_replaces_nothing_unasked(port: Port, root: tuple[Path, int], kind: str) -> None:
    path, fd = root
    source = path / "source"
    {"file": source.touch, "directory": source.mkdir, "symlink": lambda: source.symlink_to("nowhere")}[kind]()
    (path / "taken").write_text("kept")
    before = source.lstat().st_ino
    with pytest.raises(FileExistsError):
        port.files.rename(fd, b"source", fd, b"taken", replace=False)
    assert (path / "taken").read_text() == "kept"
    port.files.rename(fd, b"source", fd, b"free", replace=False)
    assert (path / "free").lstat().st_ino == before
    assert not os.path.lexists(source)


def test_a_renaming_replaces_when_asked(port: Port, root: tuple[Path, int]) -> None:
    path, fd = root
    (path / "new").write_text("new")
    (path / "old").write_text("old")
    port.files.rename(fd, b"new", fd, b"old", replace=True)
    assert (path / "old").read_text() == "new"


def test_names_come_and_go(port: Port, root: tuple[Path, int]) -> None:
    path, fd = root
    port.files.mkdir(fd, b"made", 0o700)
    with pytest.raises(FileExistsError):
        port.files.mkdir(fd, b"made", 0o700)
    (path / "one").touch()
    port.files.link(fd, b"one", fd, b"two")
    assert sorted(port.files.listdir(fd)) == ["a", "made", "one", "two"]
    with port.files.scandir(fd) as entries:
        assert {entry.name for entry in entries if entry.is_dir()} == {"a", "made"}
    port.files.remove(fd, b"two")
    port.files.remove(fd, b"made", is_directory=True)
    assert sorted(port.files.listdir(fd)) == ["a", "one"]


def test_listings_of_one_descriptor_do_not_move_each_other(port: Port, root: tuple[Path, int]) -> None:
    path, fd = root
    names = {f"a_file_with_a_longer_name_{number:04}" for number in range(2000)}  # more than the system is asked for at once
    for name in names:
        (path / name).touch()
    names.add("a")
    before = len(os.listdir("/dev/fd"))
    first = port.files.scan(fd)
    begun = iter(first.__enter__())
    seen = [next(begun).name for _ in range(900)]
    with port.files.scan(fd) as second:
        listed = [next(second).name]
        with warnings.catch_warnings(action="ignore"):
            del first, begun  # unread, and not closed
        listed += [entry.name for entry in second]
    assert len(listed) == len(names)
    assert set(listed) == names
    assert set(seen) < names
    with port.files.scan(fd) as third, port.files.scan(fd) as fourth:
        assert {entry.name for entry in third if entry.is_file(follow_symlinks=False)} == names - {"a"}
        assert {entry.name for entry in fourth} == names
    assert len(os.listdir("/dev/fd")) == before


def test_a_directory_that_may_not_be_opened_any_more_is_listed_by_whoever_has_it_open(
    port: Port, root: tuple[Path, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    real_open, real_scandir = os.open, os.scandir

    def refused(path: object, *args: object, **options: object) -> int:
        if path == b".":
            raise PermissionError(errno.EACCES, "no")
        return real_open(path, *args, **options)  # type: ignore[call-overload, no-any-return]

    def scandir(path: object) -> object:
        if isinstance(path, str):
            raise PermissionError(errno.EACCES, "no")
        return real_scandir(path)  # type: ignore[call-overload]

    monkeypatch.setattr(os, "open", refused)
    monkeypatch.setattr(os, "scandir", scandir)
    for _ in range(2):
        with port.files.scan(root[1]) as entries:
            assert [entry.name for entry in entries] == ["a"]


def test_a_lock_is_between_openings(port: Port, tmp_path: Path) -> None:
    one, two = (port.files.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT) for _ in range(2))
    port.files.lock(one)
    with pytest.raises(BlockingIOError):
        port.files.lock(two)
    port.files.unlock(one)
    port.files.lock(two, shared=True)
    port.files.lock(one, shared=True)
    os.close(one)
    os.close(two)


def test_a_lock_on_a_range_is_an_openings_and_seen_by_all(tmp_path: Path) -> None:
    files = choice.load("linux").files
    one, two = (files.open(tmp_path / "file", os.O_RDWR | os.O_CREAT) for _ in range(2))
    files.lock_range(one, 10, 5, exclusive=True)
    with pytest.raises(BlockingIOError):
        files.lock_range(two, 14, 1, exclusive=False)
    with pytest.raises(BlockingIOError):
        fcntl.lockf(two, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 10)  # as programs do that know only a process' locks
    files.lock_range(two, 15, 1, exclusive=True)
    files.lock_range(one, 10, 5, exclusive=False)
    files.lock_range(two, 12, 1, exclusive=False)
    files.unlock_range(one, 10, 5)
    files.lock_range(two, 10, 5, exclusive=True)
    os.close(one)
    os.close(two)


# What only some systems can


def test_what_cannot_be_done_is_said_as_file_systems_say_it(port: Port, tmp_path: Path) -> None:
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    os.write(fd, bytes(1 << 16))
    calls = (
        lambda: port.files.preallocate(fd, 1 << 20),
        lambda: port.files.punch_hole(fd, 0, 4096),
        lambda: port.files.zero_range(fd, 0, 4096),
        lambda: port.files.copy_range(fd, fd, 4096, 0, 32768),
        lambda: port.files.lock_range(fd, 0, 1, exclusive=True),
        lambda: port.files.set_compressed(fd, True),
        lambda: port.files.preadv(fd, (bytearray(1),), 0, port.files.WARM),
    )
    for call in calls:
        try:
            call()
        except OSError as error:
            assert error.errno in (errno.EOPNOTSUPP, errno.EAGAIN)  # noqa: PT017 - either is right, here or there
    assert os.fstat(fd).st_size == 1 << 16
    port.files.reserve(fd, 1 << 17)
    assert os.fstat(fd).st_size == 1 << 17
    assert port.files.data_ranges(fd, 0, 1 << 17, 10)
    assert port.files.volume(fd).f_bsize > 0
    os.close(fd)


def test_where_less_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """macOS and OpenBSD."""
    posix = choice.load("posix")
    for name in ("posix_fallocate", "SEEK_DATA"):
        monkeypatch.delattr(os, name)
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    os.write(fd, b"kept")
    posix.files.reserve(fd, 100_000)
    assert os.pread(fd, 5, 0) == b"kept\0"
    assert os.fstat(fd).st_size == 100_000
    assert posix.files.data_ranges(fd, 10, 100, 5) == [(10, 100)]
    posix.memory.commit(fd, 100_000, 200_000)
    assert os.fstat(fd).st_size == 300_000
    assert os.fstat(fd).st_blocks * 512 >= 300_000
    os.close(fd)


# Extended attributes


@pytest.fixture
def kept(root: tuple[Path, int]) -> Path:
    try:
        os.setxattr(root[0], "user.probe", b"x")
        os.removexattr(root[0], "user.probe")
    except OSError:
        pytest.skip("this file system has no attributes for port linux")
    return root[0]


def test_attributes_are_kept(port: Port, root: tuple[Path, int], kept: Path) -> None:
    store = port.files.attributes(root[1], nullcontext)
    fd = port.files.open_beneath(root[1], b"a/b/file", READ)
    assert store.get(fd, "user.one") is None
    assert store.small(fd, b"user.one") is None
    store.set(fd, "user.one", b"1" * 256)
    store.set(fd, "user.two", b"")
    assert (store.get(fd, "user.one"), store.small(fd, b"user.one")) == (b"1" * 256, b"1" * 256)
    assert sorted(store.names(fd)) == ["user.one", "user.two"]
    directory = os.open(kept / "a" / "b", os.O_RDONLY)
    assert store.at(directory, b"file", b"user.one") == b"1" * 256
    assert store.at(directory, b"file", b"user.none") is None
    assert store.at(directory, b"absent", b"user.one") is None
    store.remove(fd, "user.one")
    with pytest.raises(OSError) as caught:
        store.remove(fd, "user.one")
    assert caught.value.errno == NO_ATTRIBUTE
    assert store.names(fd) == ["user.two"]
    os.close(directory)
    os.close(fd)


def test_attributes_go_with_the_file(port: Port, root: tuple[Path, int], kept: Path) -> None:
    store = port.files.attributes(root[1], nullcontext)
    fd = port.files.open_beneath(root[1], b"a/b/file", READ)
    store.set(fd, "user.one", b"1")
    os.rename(kept / "a" / "b" / "file", kept / "moved")
    assert store.get(fd, "user.one") == b"1"
    found = os.fstat(fd)
    os.unlink(kept / "moved")
    store.gone((found.st_dev, found.st_ino))
    os.close(fd)
    for number in range(200):  # until the number is used again, where numbers are
        fd = port.files.open_beneath(root[1], b"new%d" % number, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        store.fresh(fd)
        assert store.names(fd) == []
        os.close(fd)


def test_more_than_there_is_room_for(port: Port, root: tuple[Path, int], kept: Path) -> None:
    store = port.files.attributes(root[1], nullcontext)
    fd = port.files.open_beneath(root[1], b"a/b/file", READ)
    store.set(fd, "user.small", b"1")
    with pytest.raises(OSError) as caught:
        store.set(fd, "user.large", bytes(1 << 17))
    assert caught.value.errno in (errno.ENOSPC, errno.E2BIG, errno.ERANGE)
    assert store.get(fd, "user.small") == b"1"
    os.close(fd)


def test_many_writers_of_one_files_attributes(port: Port, root: tuple[Path, int], kept: Path) -> None:
    store = port.files.attributes(root[1], nullcontext)
    fd = port.files.open_beneath(root[1], b"a/b/file", READ)

    def write(name: str) -> None:
        for turn in range(50):
            store.set(fd, name, b"%d" % turn)

    threads = [threading.Thread(target=write, args=(f"user.{letter}",)) for letter in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {name: store.get(fd, name) for name in store.names(fd)} == {f"user.{letter}": b"49" for letter in "abcd"}
    os.close(fd)


def test_a_spoilt_record_is_an_absent_one(root: tuple[Path, int]) -> None:
    path, fd = root
    store = SideAttributes(fd, nullcontext)
    store.set(fd, "user.one", b"1")
    (record,) = (path / ".millpond" / "attributes").glob("*/*")
    whole = record.read_bytes()
    for cut in range(len(whole)):
        record.write_bytes(whole[:cut])
        assert store.get(fd, "user.one") is None
    record.write_bytes(whole)
    assert store.get(fd, "user.one") == b"1"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
@pytest.mark.parametrize("spoil", [lambda path: os.chown(path, 50_001, -1), lambda path: path.chmod(0o777)], ids=["his", "everybody's"])
@pytest.mark.parametrize("which", [".millpond", ".millpond/attributes"])
def test_records_that_others_could_have_made_count_for_nothing(root: tuple[Path, int], spoil: Callable[[Path], None], which: str) -> None:
    path, fd = root
    store = SideAttributes(fd, nullcontext)
    file = os.open(path / "a" / "b" / "file", os.O_RDONLY)
    store.set(file, "security.NTACL", b"everything to everybody")
    spoil(path / which)
    assert store.get(file, "security.NTACL") is None
    assert store.names(file) == []
    with pytest.raises(PermissionError):
        store.set(file, "security.NTACL", b"mine")
    store.fresh(file)  # nor do they keep a file from being made or removed
    os.close(file)
